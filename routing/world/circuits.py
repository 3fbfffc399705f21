"""Circuits: which providers and models are not called for now. Shared by all processes through the database.

closed -> (failures) -> open, for longer each time, with jitter -> one call tries it -> closed or open again.
Whoever tries is settled by one conditional UPDATE. In the common case, a call that succeeds where nothing
was wrong, nothing is read or written.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import TupleRow

from routing import database
from routing.types import ANSWERED, ErrorKind, ModelSpec, ProviderError, ProviderSpec
from routing.walk.handover import beside, owned
from ziggie import live
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

PROBE_SECONDS = 60.0  # a probe whose process died blocks nobody for longer
LONGEST_COOL_DOWN_SECONDS = 300.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
NOT_PULLED_SECONDS = 600.0
MAX_REASON_CHARACTERS = 300
MAX_LOADED = 100
_random = random.SystemRandom()

Key = tuple[int, str]  # provider id, model slug or "" for the whole provider


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a kind of error says: about the whole provider (unless the error itself tells of one model) or one model,
    after how many in a row the circuit opens, and for how long at first."""

    whole_provider: bool
    threshold: int
    seconds: float


TROUBLES: Mapping[ErrorKind, Trouble] = {
    "connection": Trouble(True, 2, 5),
    "overloaded": Trouble(True, 3, 5),
    "auth": Trouble(True, 1, 60),
    "quota": Trouble(True, 1, 120),
    # One model of a provider may be slow, broken, out of memory or at its own rate limit while others serve.
    "timeout": Trouble(False, 3, 15),
    "rate_limited": Trouble(False, 2, 5),
    "server": Trouble(False, 3, 5),
    "protocol": Trouble(False, 3, 15),
    "cut": Trouble(False, 3, 5),
    "not_found": Trouble(False, 1, 60),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What this process knows from its last look: the rows that are not closed and clean, which alone need
    to hear of a success, and of these the open ones whose time is over, so that the next call is a probe."""

    unclean: frozenset[Key] = frozenset()
    due: frozenset[Key] = frozenset()

    def opened(self, key: Key) -> "Known":
        return Known(self.unclean | {key}, self.due - {key})

    def failed(self, key: Key) -> "Known":
        return Known(self.unclean | {key}, self.due)

    def closed(self, key: Key) -> "Known":
        return Known(self.unclean - {key}, self.due - {key})


@dataclass(frozen=True, slots=True)
class _Probe:
    """The right of one call to try what was open; `until` tells it from a later one's."""

    provider_id: int
    model_slug: str
    until: datetime


_known = Known()  # replaced as a whole: loops on other threads read it

FAIL: LiteralString = """
WITH before AS (
    SELECT id, state <> 'closed' OR failures + 1 >= %(threshold)s AS opens,
        CASE WHEN state = 'closed' AND changed_at < now() - interval '10 minutes' THEN 1
            ELSE least(trips + 1, 20) END AS next_trips
    FROM routing_circuit
    WHERE provider_id = %(provider)s AND model_slug = %(model)s AND NOT (state = 'open' AND open_until > now())
    FOR UPDATE
)
UPDATE routing_circuit c SET
    failures = c.failures + 1,
    error_kind = %(kind)s,
    reason = %(reason)s,
    state = CASE WHEN opens THEN 'open' ELSE c.state END,
    trips = CASE WHEN opens THEN next_trips ELSE c.trips END,
    changed_at = CASE WHEN opens THEN now() ELSE c.changed_at END,
    probe_until = NULL,
    open_until = CASE WHEN opens THEN now() + %(jitter)s * greatest(%(at_least)s,
        least(%(longest)s, %(seconds)s * 2.0 ^ (next_trips - 1))) * interval '1 second' END
FROM before WHERE c.id = before.id
RETURNING c.state, (extract(epoch FROM c.changed_at) * 1000)::bigint
"""
NEW: LiteralString = """
INSERT INTO routing_circuit
    (provider_id, model_slug, state, failures, trips, error_kind, reason, changed_at, loaded_models)
SELECT id, %(model)s, 'closed', 0, 0, '', '', now(), '{}' FROM routing_provider WHERE id = %(provider)s
ON CONFLICT (provider_id, model_slug) DO NOTHING
"""
# An answer closes what is being tried; it says nothing against an opening that came after it was asked for.
SUCCEED: LiteralString = """
WITH before AS (
    SELECT id, state FROM routing_circuit
    WHERE provider_id = %(provider)s AND model_slug = ANY(%(models)s)
        AND (state = 'half_open' OR (state = 'open' AND open_until <= now()) OR (state = 'closed' AND failures > 0))
    FOR UPDATE
)
UPDATE routing_circuit c SET state = 'closed', failures = 0, open_until = NULL, probe_until = NULL, reason = '',
    changed_at = CASE WHEN before.state = 'closed' THEN c.changed_at ELSE now() END
FROM before WHERE c.id = before.id
RETURNING c.model_slug, (extract(epoch FROM c.changed_at) * 1000)::bigint, before.state
"""
# What a check of the provider can see to be over; a used-up quota it cannot.
CONFIRM: LiteralString = """
WITH before AS (
    SELECT id, state, state <> 'closed' AND error_kind <> ALL(%(unseen)s) AS closes FROM routing_circuit
    WHERE provider_id = %(provider)s AND model_slug = '' FOR UPDATE
)
UPDATE routing_circuit c SET
    checked_at = now(),
    loaded_models = coalesce(%(loaded)s::varchar[], c.loaded_models),
    state = CASE WHEN closes THEN 'closed' ELSE c.state END,
    failures = CASE WHEN closes THEN 0 ELSE c.failures END,
    reason = CASE WHEN closes THEN '' ELSE c.reason END,
    open_until = CASE WHEN closes THEN NULL ELSE c.open_until END,
    probe_until = CASE WHEN closes THEN NULL ELSE c.probe_until END,
    changed_at = CASE WHEN closes THEN now() ELSE c.changed_at END
FROM before WHERE c.id = before.id
RETURNING closes, (extract(epoch FROM c.changed_at) * 1000)::bigint
"""
MISSING: LiteralString = """
INSERT INTO routing_circuit AS c (provider_id, model_slug, state, failures, trips, open_until,
    error_kind, reason, changed_at, loaded_models)
SELECT %(provider)s, slug, 'open', 1, 1, now() + %(seconds)s * interval '1 second', 'not_found', %(reason)s, now(), '{}'
FROM unnest(%(missing)s::varchar[]) AS slug
ON CONFLICT (provider_id, model_slug) DO UPDATE SET state = 'open', failures = 1, open_until = EXCLUDED.open_until,
    probe_until = NULL, error_kind = EXCLUDED.error_kind, reason = EXCLUDED.reason,
    changed_at = CASE WHEN c.state = 'open' THEN c.changed_at ELSE now() END
RETURNING c.model_slug, changed_at = now(), (extract(epoch FROM changed_at) * 1000)::bigint
"""
PRESENT: LiteralString = """
UPDATE routing_circuit SET state = 'closed', failures = 0, open_until = NULL, probe_until = NULL, reason = '',
    changed_at = now()
WHERE provider_id = %(provider)s AND model_slug = ANY(%(present)s) AND state <> 'closed' AND error_kind = 'not_found'
RETURNING model_slug, true, (extract(epoch FROM changed_at) * 1000)::bigint
"""
PROBE: LiteralString = """
UPDATE routing_circuit SET state = 'half_open', probe_until = now() + %(seconds)s * interval '1 second'
WHERE provider_id = %(provider)s AND model_slug = %(model)s
    AND ((state = 'open' AND open_until <= now()) OR (state = 'half_open' AND probe_until <= now()))
RETURNING probe_until
"""
NO_VERDICT: LiteralString = """
UPDATE routing_circuit SET state = 'open', open_until = now(), probe_until = NULL
WHERE provider_id = %(provider_id)s AND model_slug = %(model_slug)s
    AND state = 'half_open' AND probe_until = %(until)s
"""
STATE: LiteralString = "SELECT state FROM routing_circuit WHERE provider_id = %(provider)s AND model_slug = %(model)s"


async def record_failure(
    provider: ProviderSpec, model: ModelSpec | None, error: ProviderError, *, threshold: int | None = None
) -> None:
    """Counts a failed call; opens the circuit of the provider or the model when it is time to.

    A refusal of this one request, or an answer that does not fit it, counts as a success: somebody answered.
    `model` is None for a check of the provider itself, which then bears all the blame; `threshold` says then how
    many checks must fail. What cannot be written down while the database is away is forgotten.
    """
    if error.kind in ANSWERED:
        await record_success(provider, model)
        return
    trouble = TROUBLES.get(error.kind)
    if trouble is None or provider.kind == "offline":
        return
    is_of_provider = trouble.whole_provider and not error.one_model
    slug = "" if model is None or is_of_provider else model.slug
    retry_after = min(error.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
    parameters = {
        "provider": provider.id,
        "model": slug,
        # Who says how long to stay away is not asked twice.
        "threshold": 1 if retry_after else threshold or trouble.threshold,
        "kind": error.kind,
        "reason": reason_of(error),
        "jitter": _random.uniform(1.0, 1.25),
        "at_least": retry_after,
        "longest": LONGEST_COOL_DOWN_SECONDS,
        "seconds": trouble.seconds,
    }
    try:
        row = await _failed(parameters)
    except (Unavailable, psycopg.Error) as away:
        logger.warning("a failure of %s is not counted: %s", provider.slug, type(away).__name__)
        return
    key = (provider.id, slug)
    if row is None or row[0] != "open":
        remember(_known.failed(key))
        return
    remember(_known.opened(key))
    await _tell(provider, slug, state="open", reason=reason_of(error), version=row[1])


async def _failed(parameters: dict[str, Any]) -> TupleRow | None:
    """The circuit's state, and since when; None if it was open already."""
    async with database.connection() as connection:
        row = await (await connection.execute(FAIL, parameters)).fetchone()
        if row is None:  # open already, or its first failure ever
            await connection.execute(NEW, parameters)
            row = await (await connection.execute(FAIL, parameters)).fetchone()
    return row


async def record_success(provider: ProviderSpec, model: ModelSpec | None) -> None:
    """Closes what was being tried and forgets lone failures. Free where nothing was wrong. An answer that is there is
    given whether or not this can be written down."""
    if not _known.unclean:
        return
    slugs = [slug for slug in dict.fromkeys(("", model.slug if model else "")) if (provider.id, slug) in _known.unclean]
    if not slugs:
        return
    try:
        async with database.connection() as connection:
            cursor = await connection.execute(SUCCEED, {"provider": provider.id, "models": slugs})
            closed = await cursor.fetchall()
    except (Unavailable, psycopg.Error) as away:
        logger.warning("an answer of %s is not counted: %s", provider.slug, type(away).__name__)
        return
    for slug, version, state_before in closed:
        remember(_known.closed((provider.id, slug)))
        if state_before != "closed":
            await _tell(provider, slug, state="closed", reason="", version=version)


def is_due(provider: ProviderSpec, model: ModelSpec) -> bool:
    """Whether the next call of it is to try what was open."""
    due = _known.due
    return bool(due) and ((provider.id, "") in due or (provider.id, model.slug) in due)


@asynccontextmanager
async def probing(provider: ProviderSpec, model: ModelSpec | None) -> AsyncIterator[None]:
    """Around a call, which may be the one that tries what was open. Raises ProviderError("busy") if another one is
    trying it just now. A call that ends without a verdict, say because its caller went away, lets the next one try."""
    won: list[_Probe] = []
    try:
        for slug in dict.fromkeys(("", model.slug if model else "")):
            if (provider.id, slug) in _known.due and (probe := await owned(_win(provider, slug), _end_probe)):
                won.append(probe)
        yield
    finally:
        for probe in won:
            await asyncio.shield(beside(_end_probe(probe)))


async def _win(provider: ProviderSpec, slug: str) -> _Probe | None:
    """The right to try it; None if there is nothing to try any more. Raises ProviderError."""
    parameters = {"provider": provider.id, "model": slug, "seconds": PROBE_SECONDS}
    async with database.connection() as connection:
        won = await (await connection.execute(PROBE, parameters)).fetchone()
        row = None if won else await (await connection.execute(STATE, parameters)).fetchone()
    if won:
        return _Probe(provider.id, slug, won[0])
    if row is None or row[0] == "closed":
        return None
    raise ProviderError("busy", f"{slug or provider.slug} had failed and another call is trying it", retryable=False)


async def _end_probe(probe: _Probe | None) -> None:
    """Changes nothing once a verdict is there."""
    if probe is not None:
        with suppress(Unavailable, psycopg.Error):  # then it runs out
            async with database.connection() as connection:
                await connection.execute(NO_VERDICT, asdict(probe))


async def confirm(provider: ProviderSpec, *, loaded: Iterable[str] | None, knows_key: bool = True) -> None:
    """A check found the provider alive. `loaded` are the models in its memory; None: it does not say. `knows_key`:
    whether it took the key; otherwise a circuit that a call opened for the key stays open."""
    names = None if loaded is None else list(loaded)[:MAX_LOADED]
    unseen = ["quota", "overloaded"] if knows_key else ["quota", "overloaded", "auth"]
    parameters = {"provider": provider.id, "model": "", "loaded": names, "unseen": unseen}
    async with database.connection() as connection:
        await connection.execute(NEW, parameters)
        row = await (await connection.execute(CONFIRM, parameters)).fetchone()
    if row is not None and row[0]:
        remember(_known.closed((provider.id, "")))
        await _tell(provider, "", state="closed", reason="", version=row[1])


async def set_missing(provider: ProviderSpec, missing: Collection[str], present: Collection[str]) -> None:
    """Models (slugs) that the server has not and has. What is missing stays open until a check finds it,
    or for a while after the last check, in case that nobody checks any more."""
    parameters = {
        "provider": provider.id,
        "missing": sorted(missing),
        "present": sorted(present),
        "reason": f"not pulled on {provider.slug}",
        "seconds": NOT_PULLED_SECONDS,
    }
    async with database.connection() as connection:
        gone = await (await connection.execute(MISSING, parameters)).fetchall() if missing else []
        found = await (await connection.execute(PRESENT, parameters)).fetchall()
    for state, rows in (("open", gone), ("closed", found)):
        reason = str(parameters["reason"]) if state == "open" else ""
        for slug, is_news, version in rows:
            if is_news:
                await _tell(provider, slug, state=state, reason=reason, version=version)


def remember(known: Known) -> None:
    """What a look at the table found (health.world), or what we have just done to it."""
    global _known  # noqa: PLW0603 - one per process is the point
    _known = known


def reason_of(error: ProviderError) -> str:
    return f"{error.kind}: {error.message}"[:MAX_REASON_CHARACTERS].replace("\0", "")


async def _tell(provider: ProviderSpec, slug: str, *, state: str, reason: str, version: int) -> None:
    """Pages show providers, and below each the models of it that are not called for now."""
    if slug:
        model: live.ModelChanged = {"model": slug, "provider": provider.slug, "state": state, "reason": reason}
        await live.apublish("providers", "model.changed", version=version, data=model)
        return
    data: live.ProviderChanged = {"provider": provider.slug, "state": state, "reason": reason}
    await live.apublish("providers", "provider.changed", version=version, data=data)
