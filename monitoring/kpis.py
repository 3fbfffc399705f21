"""Read-only figures for pages and reports."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, Sum
from django.utils import timezone

from routing.balances import balances
from routing.models import RoutedCall
from routing.provider_states import ProviderState, provider_states


@dataclass(frozen=True, slots=True)
class Totals:
    """What routed calls did since a moment. `local_share` is in percent of the calls that a model answered, local
    or in the cloud; None without any. The offline model is no model: its answers stand apart."""

    calls: int
    failed: int
    cost_microusd: int
    saved_microusd: int
    local_share: float | None
    offline: int


def totals_since(moment: datetime) -> Totals:
    answered = Q(outcome="ok")
    sums = RoutedCall.objects.filter(created_at__gte=moment).aggregate(
        calls=Count("id"),
        answered=Count("id", filter=answered),
        local=Count("id", filter=answered & Q(source="local")),
        offline=Count("id", filter=answered & Q(source="offline")),
        cost=Sum("cost_microusd", default=0),
        saved=Sum("saved_microusd", default=0),
    )
    by_models = sums["answered"] - sums["offline"]
    return Totals(
        calls=sums["calls"],
        failed=sums["calls"] - sums["answered"],
        cost_microusd=sums["cost"],
        saved_microusd=sums["saved"],
        local_share=100 * sums["local"] / by_models if by_models else None,
        offline=sums["offline"],
    )


def budgets_now() -> list[dict[str, Any]]:
    """Each enabled budget with its counters in the current period, and how much of it is used in percent."""
    return [budget | {"percent": _used_percent(budget)} for budget in balances()]


def _used_percent(budget: dict[str, Any]) -> int:
    limit = Decimal(budget["limit_usd"])
    return min(100, round(100 * (1 - Decimal(budget["left_usd"]) / limit))) if limit else 100


def providers_now() -> list[ProviderState]:
    """Each enabled provider and whether it can be called."""
    return provider_states()


def last_thirty_days() -> datetime:
    return timezone.now() - timedelta(days=30)
