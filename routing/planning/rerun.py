"""PURE: a decision made again from its receipt.

A receipt keeps the request as the planner saw it (demand.py) and the circumstances: whatever else decided.
With the policy version that it names, the planner must come to the same decision, long after the moment
is gone.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from routing.planning.budgets import envelope_budget
from routing.types import ENVELOPE, BudgetState, ModelSpec, Snapshot, World
from ziggie.values import replace

RECORDED_KEY = "as recorded"  # nobody is called with it
JUDGED_BEFORE_KEYS = frozenset({"disabled", "switch", "withheld"})  # kinds of reasons: screening.py

Circumstances = dict[str, Any]  # JSON-like; what is not mentioned was empty, healthy or unspent


def circumstances(snapshot: Snapshot, world: World, allowed_models: Collection[str] = ()) -> Circumstances:
    """What a decision depends on beside the request and the policy, without what says nothing.

    `budgets` maps ids to [left, limit] in micro-dollars, `circuits` are [provider, model or "", why], `envelope`
    is [name, limit] of the one that the call draws from.
    """
    limits = {budget.id: budget.limit_microusd for budget in snapshot.budgets}
    envelope = next((budget for budget in snapshot.budgets if budget.id == ENVELOPE), None)
    said: Circumstances = {
        "budgets": {
            str(budget): [state.left_microusd, state.limit_microusd]
            for budget, state in world.budgets.items()
            if budget in limits and state.left_microusd != limits[budget]
        },
        "circuits": [[provider, model, why] for (provider, model), why in world.open_circuits.items()],
        "busy": {provider: calls for provider, calls in world.busy.items() if calls},
        "today": {provider: calls for provider, calls in world.requests_today.items() if calls},
        "local_queue": world.local_queue,
        "allowed_models": sorted(allowed_models),
        "envelope": envelope and [envelope.slug, envelope.limit_microusd],
    }
    return {"epoch": snapshot.epoch} | {name: value for name, value in said.items() if value}


def world_of(kept: Mapping[str, Any], at: datetime) -> World:
    """The world that `circumstances` was taken from, as far as it decides anything."""
    return World(
        at=at,
        budgets={int(budget): BudgetState(left, limit) for budget, (left, limit) in kept.get("budgets", {}).items()},
        open_circuits={(provider, model): why for provider, model, why in kept.get("circuits", ())},
        busy=kept.get("busy", {}),
        requests_today=kept.get("today", {}),
        local_queue=kept.get("local_queue", 0),
    )


def snapshot_of(kept: Mapping[str, Any], snapshot: Snapshot) -> Snapshot:
    """The configuration as the call of these circumstances saw it."""
    if "envelope" in kept:
        spec = envelope_budget(*kept["envelope"])
        snapshot = replace(snapshot, budgets=(*snapshot.budgets, spec))
    return limited(snapshot, kept.get("allowed_models", ()))


def keys_seen(candidates: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """By provider, whether the process that decided had its API key, as far as the decision shows that. Keys may stand
    in the environment, which is not every process's."""
    seen: dict[str, bool] = {}
    for each in candidates:
        if each["provider"] and each.get("kind") not in JUDGED_BEFORE_KEYS:
            seen[each["provider"]] = each.get("kind") != "key"
    return seen


def with_keys(snapshot: Snapshot, keys: Mapping[str, bool]) -> Snapshot:
    """The configuration where these providers have their keys, or lack them; the same one where that is so."""
    providers = {model.provider.slug: model.provider for model in snapshot.models.values()}
    changed = {
        slug: replace(provider, api_key=RECORDED_KEY if keys[slug] else "")
        for slug, provider in providers.items()
        if provider.needs_api_key and slug in keys and bool(provider.api_key) != keys[slug]
    }
    if not changed:
        return snapshot

    def now(model: ModelSpec) -> ModelSpec:
        return replace(model, provider=changed.get(model.provider.slug, model.provider))

    return replace(
        snapshot,
        models={slug: now(model) for slug, model in snapshot.models.items()},
        by_name={name: tuple(map(now, models)) for name, models in snapshot.by_name.items()},
    )


def limited(snapshot: Snapshot, allowed_models: Collection[str]) -> Snapshot:
    """The configuration as a caller who may use only some models sees it; an empty collection allows all."""
    if not allowed_models:
        return snapshot
    return replace(
        snapshot,
        models={slug: model for slug, model in snapshot.models.items() if slug in allowed_models},
        by_name={
            name: tuple(model for model in models if model.slug in allowed_models)
            for name, models in snapshot.by_name.items()
        },
        withheld={slug: model for slug, model in snapshot.models.items() if slug not in allowed_models},
    )
