"""Read-only figures for pages and reports. Money comes out as dollar strings."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q, Sum
from django.utils import timezone

from routing.models import Budget, BudgetPeriod, Circuit, Provider, RoutedCall
from routing.pricing import usd


@dataclass(frozen=True, slots=True)
class Totals:
    """What routed calls did since a moment. `local_share` is in percent of answered calls; None without any."""

    calls: int
    failed: int
    cost_usd: str
    saved_usd: str
    local_share: float | None


def totals_since(moment: datetime) -> Totals:
    answered = Q(outcome="ok")
    sums = RoutedCall.objects.filter(created_at__gte=moment).aggregate(
        calls=Count("id"),
        answered=Count("id", filter=answered),
        local=Count("id", filter=answered & Q(source__in=("local", "offline"))),
        cost=Sum("cost_microusd", default=0),
        saved=Sum("saved_microusd", default=0),
    )
    return Totals(
        calls=sums["calls"],
        failed=sums["calls"] - sums["answered"],
        cost_usd=usd(sums["cost"]),
        saved_usd=usd(sums["saved"]),
        local_share=100 * sums["local"] / sums["answered"] if sums["answered"] else None,
    )


def budgets_now() -> list[dict[str, Any]]:
    """Each enabled budget with its counters in the current period."""
    now = timezone.now()
    current = {
        period.budget_id: period
        for period in BudgetPeriod.objects.filter(starts_at__lte=now).filter(Q(ends_at=None) | Q(ends_at__gt=now))
    }
    rows = []
    for budget in Budget.objects.filter(enabled=True):
        period = current.get(budget.pk)
        used = period.settled_microusd + period.held_microusd if period else 0
        rows.append(
            {
                "slug": budget.slug,
                "period": budget.period,
                "limit_usd": usd(budget.limit_microusd),
                "settled_usd": usd(period.settled_microusd if period else 0),
                "held_usd": usd(period.held_microusd if period else 0),
                "left_usd": usd(max(budget.limit_microusd - used, 0)),
                "percent": min(100, round(100 * used / budget.limit_microusd)) if budget.limit_microusd else 100,
                "hard": budget.hard,
            }
        )
    return rows


def providers_now() -> list[dict[str, Any]]:
    """Each enabled provider with what its circuit says."""
    circuits = {circuit.provider_id: circuit for circuit in Circuit.objects.filter(model_slug="")}
    rows = []
    for provider in Provider.objects.filter(enabled=True):
        circuit = circuits.get(provider.pk)
        rows.append(
            {
                "slug": provider.slug,
                "location": provider.location,
                "state": circuit.state if circuit else "closed",
                "reason": circuit.reason if circuit else "",
                "checked_at": circuit.checked_at if circuit else None,
                "loaded": circuit.loaded_models if circuit else [],
            }
        )
    return rows


def last_thirty_days() -> datetime:
    return timezone.now() - timedelta(days=30)
