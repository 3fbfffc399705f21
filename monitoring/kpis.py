"""Read-only figures for pages and reports."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, Sum
from django.utils import timezone

from routing import snapshot
from routing.balances import balances
from routing.models import Circuit, RoutedCall
from routing.types import ProviderSpec, SettingsSpec, Source

CIRCUIT_WORDS = {"closed": "up", "open": "down", "half_open": "trying"}


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


def providers_now() -> list[dict[str, Any]]:
    """Each enabled provider and whether it can be called: up, down, trying, no key, off, or not checked yet; with
    those of its models that are not called for now (`models`: slug, state, reason)."""
    configuration = snapshot.current()
    usable = {model.slug: model for model in configuration.models.values() if model.enabled and model.provider.enabled}
    specs = {model.provider.slug: model.provider for model in configuration.models.values() if model.provider.enabled}
    circuits: dict[int, Circuit] = {}
    models: dict[int, list[dict[str, Any]]] = {}
    for circuit in Circuit.objects.order_by("model_slug"):
        if not circuit.model_slug:
            circuits[circuit.provider_id] = circuit
        elif circuit.state != "closed" and circuit.model_slug in usable:
            told = {"slug": circuit.model_slug, "state": CIRCUIT_WORDS[circuit.state], "reason": circuit.reason}
            models.setdefault(circuit.provider_id, []).append(told)
    return [
        _provider(spec, circuits.get(spec.id), configuration.settings) | {"models": models.get(spec.id, [])}
        for _, spec in sorted(specs.items())
    ]


def _provider(spec: ProviderSpec, circuit: Circuit | None, settings: SettingsSpec) -> dict[str, Any]:
    state, reason = "not checked", ""
    if spec.location == Source.OFFLINE:
        state = "up"
    elif spec.switch and not getattr(settings, f"{spec.switch}_enabled"):
        state, reason = "off", "switched off in the settings"
    elif spec.needs_api_key and not spec.api_key:
        state = "no key"
    elif circuit is not None:
        state, reason = CIRCUIT_WORDS[circuit.state], circuit.reason
    return {"slug": spec.slug, "location": spec.location, "state": state, "reason": reason}


def last_thirty_days() -> datetime:
    return timezone.now() - timedelta(days=30)
