"""Read-only figures for pages and reports."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from routing.money.balances import balances
from routing.reporting import usage
from routing.reporting.provider_states import ProviderState, provider_states


@dataclass(frozen=True, slots=True)
class Totals:
    """What routed calls did in a period. `local_share` is in percent of the calls that a model answered, local
    or in the cloud; None without any. The offline model is no model: its answers stand apart."""

    calls: int
    failed: int
    cost_microusd: int
    saved_microusd: int
    local_share: float | None
    offline: int


def totals(during: usage.Period) -> Totals:
    """From the rollups: as cheap as the period is short, however many calls there were."""
    by_source = dict(usage.group_sums(during, "source"))
    calls = sum(sums.calls for sums in by_source.values())
    answered = {source: sums.answered for source, sums in by_source.items()}
    offline = answered.get("offline", 0)
    by_models = sum(answered.values()) - offline
    return Totals(
        calls=calls,
        failed=calls - sum(answered.values()),
        cost_microusd=sum(sums.cost_microusd for sums in by_source.values()),
        saved_microusd=sum(sums.saved_microusd for sums in by_source.values()),
        local_share=100 * answered.get("local", 0) / by_models if by_models else None,
        offline=offline,
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
