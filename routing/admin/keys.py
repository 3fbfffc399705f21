"""API keys, as the base registers them, with what only routing knows: which models there are."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from routing.models import LanguageModel
from routing.planning.pricing import usd
from routing.reporting import usage
from ziggie.admin import ApiKeyAdmin, ApiKeyForm
from ziggie.models import ApiKey

admin.site.unregister(ApiKey)


class KeyForm(ApiKeyForm):
    def clean_allowed_models(self) -> list[str]:
        """Names that are new here must be slugs; what stood there before may stay, so that a model that is gone keeps
        nobody from changing the rest."""
        names: list[str] = self.cleaned_data["allowed_models"]
        before = self.instance.allowed_models if self.instance.pk else ()
        added = [name for name in names if name not in before]
        known = set(LanguageModel.objects.filter(slug__in=added).values_list("slug", flat=True))
        wrong = [_unknown(name) for name in added if name not in known]
        if wrong:
            raise ValidationError(wrong)
        return names


def _unknown(name: str) -> str:
    named = LanguageModel.objects.filter(Q(name=name) | Q(aliases__contains=[name])).order_by("slug")
    slugs = ", ".join(named.values_list("slug", flat=True))
    return f"{name!r} is another name of {slugs}: write the slug" if slugs else f"there is no model {name!r}"


@admin.register(ApiKey)
class KeyAdmin(ApiKeyAdmin):
    form = KeyForm
    list_display = (*ApiKeyAdmin.list_display, "spent")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        self.spent_by = _spent_this_month()
        return super().get_queryset(request)  # type: ignore[no-any-return]

    @admin.display(description="spent this month, $")
    def spent(self, key: ApiKey) -> str:
        return usd(self.spent_by.get(str(key.pk), 0))


def _spent_this_month() -> dict[str, Any]:
    """Micro-dollars by key, from the rollups: the thousand keys that spent most, since the staff's month began."""
    first = datetime.now(ZoneInfo(usage.time_zone())).date().replace(day=1)
    return {key: sums.cost_microusd for key, sums in usage.group_sums(usage.period(first.isoformat(), ""), "api_key")}
