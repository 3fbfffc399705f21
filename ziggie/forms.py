"""Forms of staff that take nothing back which somebody else has changed since they were opened."""

from hashlib import sha256
from typing import Any

from django import forms
from django.core.exceptions import ValidationError


class _Seen(forms.CharField):
    """What the row was when the form was opened. Nobody edits it."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


class CarefulForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A form that is sent twice, or that changes nothing, takes nothing back either way, and is no mistake."""

    seen = _Seen(required=False, widget=forms.HiddenInput)
    compared: tuple[str, ...] | None = None  # None: all that may be edited

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["seen"] = "" if self.instance._state.adding else self._mark(self.instance)
        for field in self.fields.values():
            field.show_hidden_initial = False  # what has changed is told from the row, not from what the page showed

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("seen") and self.changed_data and not self.instance._state.adding:
            # Read again: whoever waited for the configuration's lock holds an older one.
            row = type(self.instance)._base_manager.get(pk=self.instance.pk)
            if cleaned["seen"] != self._mark(row):
                raise ValidationError("somebody has changed this since the page was opened; open it again")
        return cleaned

    def _mark(self, row: Any) -> str:
        plain = forms.model_to_dict(row, fields=self.compared, exclude=["api_key"])
        return sha256(repr(plain).encode()).hexdigest()[:16]
