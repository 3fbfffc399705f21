"""The state of the world for planning, and what keeps it true: circuits, slots, daily counts, a cheap check.

world(snapshot)            what the planner needs to know, in one statement
slot(provider, model)      around every call: the probe of an open circuit, concurrency, requests a day
record_failure(...), record_success(...)     after every call
check_providers(snapshot)  now and then: who is there, which models are pulled and loaded
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, LiteralString

import psycopg

from routing import database
from routing.adapters import transport
from routing.adapters.base import ProviderStatus
from routing.configuration.snapshot import acurrent
from routing.money.ledger import BALANCES
from routing.types import (
    REFUSALS,
    BudgetState,
    ModelSpec,
    ProviderError,
    ProviderSpec,
    Snapshot,
    Source,
    World,
)
from routing.walk.reaching import Requests
from routing.world import circuits, slots
from routing.world.circuits import Known, probing, record_failure, record_success, remember
from ziggie.errors import Unavailable

__all__ = ["check_providers", "record_failure", "record_success", "slot", "world"]

LOCAL_CHECK_SECONDS = 2.0
CLOUD_CHECK_SECONDS = 5.0
CHECKS_AT_ONCE = 8

_CIRCUITS: LiteralString = """
SELECT json_agg(json_build_array(provider_id, model_slug, state, reason, greatest(0, coalesce(
    extract(epoch FROM CASE state WHEN 'open' THEN open_until WHEN 'half_open' THEN probe_until END - now()), 0))))
FROM routing_circuit WHERE state <> 'closed' OR failures > 0
"""
_LOADED: LiteralString = """
SELECT json_agg(json_build_array(provider_id, loaded_models))
FROM routing_circuit WHERE model_slug = '' AND loaded_models <> '{}'
"""
_TODAY: LiteralString = """
SELECT json_agg(json_build_array(provider_id, requests))
FROM routing_providerday WHERE day = (now() AT TIME ZONE %(time_zone)s)::date
"""
_SLOTS: LiteralString = """
SELECT json_agg(json_build_array(provider_id, running, waiting)) FROM counted WHERE %(counts_slots)s
"""
_BUDGETS: LiteralString = "SELECT json_agg(json_build_array(id, upper_limit, used, held)) FROM balances"
WORLD: LiteralString = (
    f"WITH counted AS ({slots.COUNTS}), balances(id, upper_limit, used, held) AS ({BALANCES})"
    f" SELECT json_build_object('circuits', ({_CIRCUITS}), 'loaded', ({_LOADED}), 'today', ({_TODAY}),"
    f" 'budgets', ({_BUDGETS}), 'slots', ({_SLOTS}))::text"
)
COUNT: LiteralString = """
INSERT INTO routing_providerday AS d (provider_id, day, requests)
SELECT id, (now() AT TIME ZONE %(time_zone)s)::date, %(requests)s FROM routing_provider
WHERE id = %(provider)s AND %(requests)s::int <= %(limit)s::int
ON CONFLICT (provider_id, day) DO UPDATE SET requests = d.requests + EXCLUDED.requests
WHERE d.requests + EXCLUDED.requests <= %(limit)s
RETURNING day
"""
GIVE_BACK: LiteralString = """
UPDATE routing_providerday SET requests = greatest(requests - %(requests)s, 0)
WHERE provider_id = %(provider)s AND day = %(day)s
"""


async def world(snapshot: Snapshot) -> World:
    """The state of this moment. Budgets are shown as the database has them: what is planned on it is admitted or
    refused there."""
    providers = {model.provider.id: model.provider for model in snapshot.models.values()}
    parameters = {
        "counts_slots": any(provider.max_concurrency is not None for provider in providers.values()),
        "time_zone": snapshot.settings.time_zone,
        **slots.COUNTS_PARAMETERS,
    }
    async with database.connection() as connection:
        row = await (await connection.execute(WORLD, parameters, prepare=True)).fetchone()
    assert row is not None  # a statement without FROM gives one row
    return _build(json.loads(row[0]), providers)


def _build(rows: dict[str, Any], providers: dict[int, ProviderSpec]) -> World:
    unclean = [row for row in rows["circuits"] or () if row[0] in providers]
    due = frozenset((row[0], row[1]) for row in unclean if row[2] != "closed" and not row[4])
    remember(Known(frozenset((row[0], row[1]) for row in unclean), due))
    counts = [row for row in rows["slots"] or () if row[0] in providers]
    return World(
        at=datetime.now(UTC),
        budgets={row[0]: BudgetState(row[1] - row[2], row[1], row[3]) for row in rows["budgets"] or ()},
        open_circuits={
            (providers[provider].slug, model): reason if state == "open" else f"{reason} (one call is trying it)"
            for provider, model, state, reason, seconds in unclean
            if seconds
        },
        reopening={(providers[provider].slug, model): seconds for provider, model, _, _, seconds in unclean if seconds},
        busy={providers[provider].slug: running + waiting for provider, running, waiting in counts},
        requests_today={
            providers[provider].slug: requests for provider, requests in rows["today"] or () if provider in providers
        },
        loaded={
            providers[provider].slug: tuple(names) for provider, names in rows["loaded"] or () if provider in providers
        },
        local_queue=sum(waiting for provider, _, waiting in counts if providers[provider].location is Source.LOCAL),
    )


# --- around a call -------------------------------------------------------------------------------


def is_held_back(provider: ProviderSpec, model: ModelSpec) -> bool:
    """Whether a slot, a probe or a day's count stands between a call and its provider; else it needs no `slot`."""
    limited = provider.max_concurrency is not None or provider.max_requests_per_day is not None
    return limited or circuits.is_due(provider, model)


@asynccontextmanager
async def slot(
    provider: ProviderSpec,
    model: ModelSpec | None = None,
    *,
    wait_seconds: float | None = None,
    requests: Requests | None = None,
) -> AsyncIterator[None]:
    """To be held while the provider is called. Waits for a free slot, as long as the provider's own
    timeout if nothing else is said. `requests`: those of a day's to take this one from.

    Raises ProviderError("busy") if none came free, if another call is trying a provider or model that had
    failed, or if the provider has had its requests of today: nobody was called then.
    """
    patience = provider.timeout_seconds if wait_seconds is None else wait_seconds
    async with slots.slot(provider, wait_seconds=patience), probing(provider, model):
        if provider.max_requests_per_day is not None:
            await _count_request(provider, provider.max_requests_per_day, requests or Requests(1))
        yield


async def _count_request(provider: ProviderSpec, limit: int, requests: Requests) -> None:
    """This one, and with the first of several all of them. Raises ProviderError("busy")."""
    async with requests.counting:
        if requests.give_back is None or not requests.left:
            day = None if requests.is_refused else await _counted(provider, limit, requests.left or 1)
            if day is None:
                requests.is_refused = True
                has = "has had" if requests.left <= 1 else f"has not {requests.left} left of"
                raise ProviderError("busy", f"{provider.slug} {has} its {limit} requests of today", retryable=False)
            requests.give_back = partial(_give_back, provider, day)
        requests.left = max(requests.left - 1, 0)


async def _counted(provider: ProviderSpec, limit: int, requests: int) -> date | None:
    """The day of which these are; None where it has not so many left."""
    zone = (await acurrent()).settings.time_zone
    async with database.connection() as connection:
        parameters = {"provider": provider.id, "limit": limit, "time_zone": zone, "requests": requests}
        row = await (await connection.execute(COUNT, parameters)).fetchone()
    return None if row is None else row[0]


async def _give_back(provider: ProviderSpec, day: date, requests: int) -> None:
    with suppress(Unavailable, psycopg.Error):  # then the provider is asked less often today
        async with database.connection() as connection:
            await connection.execute(GIVE_BACK, {"provider": provider.id, "day": day, "requests": requests})


# --- the background check ------------------------------------------------------------------------


async def check_providers(snapshot: Snapshot) -> None:
    """Asks every provider that may be called for its cheapest sign of life. Never raises for one that fails."""
    by_provider: dict[int, list[ModelSpec]] = {}
    for model in snapshot.models.values():
        by_provider.setdefault(model.provider.id, []).append(model)
    at_once = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(models: list[ModelSpec]) -> None:
        async with at_once:
            await _check(models[0].provider, models)

    await asyncio.gather(
        *(check(models) for models in by_provider.values() if _is_called(models[0].provider, snapshot))
    )


def _is_called(provider: ProviderSpec, snapshot: Snapshot) -> bool:
    if not provider.enabled or provider.kind == "offline" or (provider.needs_api_key and not provider.api_key):
        return False
    return not provider.switch or bool(getattr(snapshot.settings, f"{provider.switch}_enabled", False))


async def _check(provider: ProviderSpec, models: Iterable[ModelSpec]) -> None:
    knows_key = True
    seconds = LOCAL_CHECK_SECONDS if provider.location is Source.LOCAL else CLOUD_CHECK_SECONDS
    try:
        async with asyncio.timeout(seconds):
            status = await transport.status(provider)
    except TimeoutError:
        late = ProviderError("timeout", f"no sign of life within {seconds:g} s", retryable=True)
        await circuits.record_failure(provider, None, late, threshold=2)  # a busy machine may be late once
        return
    except ProviderError as error:
        if error.kind not in ("not_found", "rate_limited", *REFUSALS) and not may_not_ask(error):
            await circuits.record_failure(provider, None, error, threshold=1)
            return
        status, knows_key = ProviderStatus(), False  # it answers, though not this question
    await circuits.confirm(provider, loaded=status.loaded, knows_key=knows_key)
    if provider.kind == "ollama" and status.models is not None:
        present, missing = found(models, status.models)
        await circuits.set_missing(provider, missing, present)


def may_not_ask(error: ProviderError) -> bool:
    """True for a key that may not read the list of models, as OpenAI's restricted ones: it may call them."""
    return error.kind == "auth" and (error.status == HTTPStatus.FORBIDDEN or "Missing scopes" in error.message)


def found(models: Iterable[ModelSpec], listed: Iterable[str]) -> tuple[set[str], set[str]]:
    """Models (slugs) that a server's list has, and that it has not and would have to have."""
    pulled = {_tagged(name) for name in listed}
    names = {model.slug: model.name for model in models}
    present = {slug for slug, name in names.items() if _tagged(name) in pulled}
    return present, {slug for slug, name in names.items() if _has_to_be_pulled(name)} - present


def _has_to_be_pulled(name: str) -> bool:
    """False for what Ollama passes on to its cloud: it serves that whether or not its list shows it."""
    return not name.endswith((":cloud", "-cloud"))


def _tagged(name: str) -> str:
    """Ollama's name of a model, in full, and as it compares them: by no more than their letters."""
    name = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
