"""Fields of the admin's forms, in the clothes of its theme."""

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from routing.models import choices


class NamesField(forms.CharField):
    """Names separated by commas or line ends <-> a list, in its order."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        return [name.strip() for name in text.replace("\n", ",").split(",") if name.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool([str(name) for name in initial or []] != self.to_python(data))


class LinesField(NamesField):
    """One entry a line <-> a list: entries may hold commas."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = forms.CharField.to_python(self, value) or ""
        return [line.strip() for line in text.splitlines() if line.strip()]


def one_of_many(names: tuple[str, ...], **kwargs: Any) -> forms.MultipleChoiceField:
    widget = UnfoldAdminCheckboxSelectMultipleWidget()
    return forms.MultipleChoiceField(choices=choices(names), required=False, widget=widget, **kwargs)


def number(**kwargs: Any) -> forms.DecimalField:
    return forms.DecimalField(required=False, widget=UnfoldAdminDecimalFieldWidget(), **kwargs)


def count(**kwargs: Any) -> forms.IntegerField:
    return forms.IntegerField(required=False, widget=UnfoldAdminIntegerFieldWidget(), **kwargs)


def switch(**kwargs: Any) -> forms.BooleanField:
    return forms.BooleanField(required=False, widget=UnfoldBooleanSwitchWidget(), **kwargs)


def text(**kwargs: Any) -> forms.CharField:
    return forms.CharField(required=False, widget=UnfoldAdminTextInputWidget(), **kwargs)
