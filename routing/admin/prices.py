"""Prices below their model in the admin: added, never edited, so that old records keep their arithmetic."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from pydantic import ValidationError as WrongEntry
from unfold.admin import TabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from routing.configuration import rows
from routing.configuration.shape import MAX_TIERS, TierEntry
from routing.models import Price
from routing.reporting.price_list import COLUMNS

NONE = "-"
EXAMPLE = "200000: 6 / 22.5 / 0.6 / 7.5"
HOW = f"One a line, rising: above how many input tokens: input / output / cached / written, as in {EXAMPLE}"


def tiers_text(tiers: list[dict[str, Any]]) -> str:
    """`tiers_of(tiers_text(tiers)) == tiers`."""
    lines = [f"{tier['above_input_tokens']}: {' / '.join(tier.get(name, NONE) for name in COLUMNS)}" for tier in tiers]
    return "\n".join(lines)


def tiers_of(text: str) -> list[dict[str, Any]]:
    """The tiers as a price's row keeps them. Raises ValidationError that names the line."""
    tiers: list[TierEntry] = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), start=1):
        tiers.append(_tier(number, line))
        if number > MAX_TIERS:
            raise ValidationError(f"At most {MAX_TIERS} tiers.")
        if number > 1 and tiers[-1].above_input_tokens <= tiers[-2].above_input_tokens:
            raise ValidationError(f"Line {number}: its number of tokens must be more than that of the line before.")
    return [rows.plain(tier) for tier in tiers]


def _tier(number: int, line: str) -> TierEntry:
    above, _, figures = line.partition(":")
    amounts = [None if amount.strip() in ("", NONE) else amount.strip() for amount in figures.split("/")]
    if not above.strip().isdecimal() or len(above) > 10 or not 2 <= len(amounts) <= len(COLUMNS):
        raise ValidationError(f"Line {number} should read like {EXAMPLE}")
    stated = {name: amount for name, amount in zip(COLUMNS, amounts, strict=False) if amount is not None}
    try:
        return TierEntry.model_validate({"above_input_tokens": int(above), **stated})
    except WrongEntry as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0]).removesuffix("_usd_per_mtok").replace("_", " ")
        raise ValidationError(f"Line {number}: {name}: {wrong['msg']}") from None


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    tiers = forms.CharField(
        label="For longer inputs",
        required=False,
        max_length=2000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text=HOW,
    )

    class Meta:
        model = Price
        fields = (*COLUMNS, "effective_from", "origin")

    def clean_tiers(self) -> list[dict[str, Any]]:
        return tiers_of(self.cleaned_data["tiers"])

    def save(self, commit: bool = True) -> Any:
        self.instance.input_tiers = self.cleaned_data["tiers"]
        return super().save(commit)


class PriceInline(TabularInline):  # type: ignore[misc]
    model = Price
    form = PriceForm
    extra = 0
    fields = (*COLUMNS, "tiers", "effective_from", "origin")

    @admin.display(description="For longer inputs", empty_value="none")
    def tiers(self, price: Price) -> str:
        return tiers_text(price.input_tiers)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
