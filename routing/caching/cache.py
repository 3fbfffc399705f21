"""Answers that equal requests may share: an exact cache, and one upstream call for equal requests in flight.

The key holds everything that can change an answer, and the API key of the caller. The first call that asks
claims the key with a lease that it keeps alive; equal calls in any process wait for its answer, each within its
own deadline. A leader that dies loses its lease, and one of those who wait takes over; one that fails lets the
others go their own way. Nothing here can fail a call: without the cache it is answered as if there were none.
"""

import asyncio
import hashlib
import json
import logging
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import psycopg
from msgspec import Struct
from msgspec.structs import asdict

from routing import database
from routing.caching.statements import BEAT, CLAIM, EVICT_EXPIRED, EVICT_OLDEST, GIVE_UP, LOOK, READ, RELEASE, STORE
from routing.records.kept_answers import answer_json, result_from_json
from routing.records.receipts import task_usage
from routing.types import CacheState, ChatRequest, ChatResult, Plan, Snapshot, Source
from routing.walk.attempts import Answer, Walk
from routing.walk.handover import owned
from ziggie.errors import DeadlineExceeded, Unavailable
from ziggie.values import Value, replace

logger = logging.getLogger(__name__)

FORMAT = 2  # counts up when what is kept changes its meaning
LEASE_SECONDS = 10.0
BEAT_SECONDS = 3.0
FIRST_POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.15
MAX_ROWS = 20_000
MAX_BYTES = 256 * 1024 * 1024
MAX_ENTRY_BYTES = 1024 * 1024
EVICT_EVERY = 32  # stores of one process


class Entry(Value):
    """A kept answer: what was said, which model of ours said it, how sure it was, and in which call."""

    result: ChatResult
    model: str
    confidence: float | None
    findings: dict[str, Any]
    call_id: str
    cost_microusd: int


# --- whether and under which key -----------------------------------------------------------------


def is_wanted(request: ChatRequest, plan: Plan) -> bool:
    """A rule must say how long. A temperature that nobody set is the provider's own, which is above 0. What is kept
    has no log probabilities, and is one answer."""
    if not plan.options.cache_ttl_seconds or request.logprobs is not None or request.choices != 1:
        return False
    return request.temperature == 0 or plan.options.cache_any_temperature


def key_of(request: ChatRequest, plan: Plan, snapshot: Snapshot) -> str:
    """A digest of all that can change the answer. Which models may serve just now is not part of it, what they
    are is: an answer is still good when the model that gave it is down."""
    asked = {
        "format": FORMAT,
        "api_key": request.api_key_id or "",
        "model": request.model,
        "messages": [[m.role, m.name, [[type(p).__name__, asdict(p)] for p in m.parts]] for m in request.messages],
        "hints": asdict(request.hints),
        "parameters": [request.max_output_tokens, request.temperature, request.stop, request.seed, request.choices],
        "tools": [asdict(tool) for tool in request.tools],
        "tool_choice": [request.tool_choice, request.parallel_tool_calls],
        "output": [request.json_schema, request.json_schema_name, request.json_schema_strict, request.json_object],
        "reasoning": request.reasoning_effort,
        "extra": request.extra,
        "policy": [plan.policy, plan.version, plan.rule, plan.pattern, plan.roles, asdict(plan.options)],
        "models": _models(plan, snapshot),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=_plain).encode()).hexdigest()


def _models(plan: Plan, snapshot: Snapshot) -> list[list[Any]]:
    slugs = {candidate.model.slug for candidate in (*plan.candidates, *plan.parts)}
    slugs |= {dropped.model for dropped in plan.dropped}
    known = [snapshot.models[slug] for slug in sorted(slugs) if slug in snapshot.models]
    return [[m.slug, m.name, m.provider.kind, m.provider.base_url, m.provider.options] for m in known]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset | set) else repr(value)


def may_be_kept(answer: Answer) -> bool:
    """Complete answers that the rule was content with. What the offline model says costs nothing to say again,
    and must not outlast the trouble that made it speak."""
    return (
        answer.sound
        and answer.verdict.ok
        and answer.result.stop_reason in ("stop", "tool_calls")
        and answer.candidate.model.source is not Source.OFFLINE
    )


# --- one call's turn -----------------------------------------------------------------------------


class Landed(Protocol):
    def __call__(self, entry: Entry | None, *, given_up: bool) -> None: ...


class Turn(Struct):
    """What the cache means to one call: nothing (off), an answer (hit), or that it has to be got (miss).

    A miss that has `claimed` the key holds a lease on it until `keep` or `release`.
    """

    state: CacheState = "off"
    entry: Entry | None = None
    key: str = ""
    rule: str = ""  # whose answer may be kept under this key
    ttl_seconds: int = 0
    owner: UUID | None = None
    claimed: bool = False
    landed: "Landed | None" = None  # tells this process's own waiters
    beat: "asyncio.Task[None] | None" = None

    async def keep(self, walk: Walk, answer: Answer) -> None:
        """Keeps the answer for others, if it may be kept. Never raises for the database."""
        if not (self.claimed and may_be_kept(answer)):
            return
        try:
            entry = await self._store(walk, answer)
        except (Unavailable, psycopg.Error) as error:
            logger.warning("an answer could not be kept in the cache: %s", type(error).__name__)
        else:
            if entry is not None:
                self._end(entry, given_up=False)

    async def release(self, *, given_up: bool = False) -> None:
        """Ends a claim that was not kept, so that those who wait go on. Never raises for the database.

        `given_up`: the caller went away, which says nothing of what others may get.
        """
        if not self.claimed:
            return
        try:
            await _execute(GIVE_UP if given_up else RELEASE, self.key, self.owner)
        except (Unavailable, psycopg.Error) as error:
            logger.warning("a claim of the cache runs out by itself: %s", type(error).__name__)
        finally:
            self._end(None, given_up=given_up)

    def _end(self, entry: Entry | None, *, given_up: bool) -> None:
        self.claimed = False
        if self.beat is not None:
            self.beat.cancel()
        if self.landed is not None:
            self.landed(entry, given_up=given_up)

    async def _store(self, walk: Walk, answer: Answer) -> Entry | None:
        kept = replace(answer, result=replace(answer.result, usage=task_usage(walk, answer)))
        cost = sum(attempt.cost_microusd for attempt in walk.attempts)
        about = {"model_slug": answer.candidate.model.slug, "call_id": str(self.owner), "cost_microusd": cost}
        text = json.dumps(answer_json(kept) | about)
        if len(text) > MAX_ENTRY_BYTES:
            return None
        await _execute(STORE, text, len(text), self.ttl_seconds, self.key, self.owner)
        await _evict_now_and_then()
        return _entry(text)


async def enter(request: ChatRequest, plan: Plan, snapshot: Snapshot, *, owner: UUID, until: float) -> Turn:
    """Looks for an equal request's answer, waits for one that is under way, or claims the key.

    `until` is the caller's deadline on time.monotonic's clock. Raises DeadlineExceeded while waiting.
    """
    if not is_wanted(request, plan):
        return Turn()
    key = key_of(request, plan, snapshot)
    alone = Turn("miss", key=key)
    try:
        turn = await _first_in_process(key, owner, until)
    except (Unavailable, psycopg.Error) as error:
        logger.warning("the cache does not answer: %s", type(error).__name__)
        return alone
    turn.rule = plan.rule
    turn.ttl_seconds = plan.options.cache_ttl_seconds or 0
    if turn.entry is not None and not _serves(turn.entry, request, snapshot):
        return alone
    return turn


def _serves(entry: Entry, request: ChatRequest, snapshot: Snapshot) -> bool:
    """Callers may judge differently what is the same request to a model."""
    if entry.model not in snapshot.models:
        return False
    return request.accept is None or request.accept(entry.result).ok


# --- equal requests of this process ----------------------------------------------------------------


class _Again(Exception):
    """The one that went first was cancelled: somebody else has to go."""


@dataclass(slots=True)
class _Flights:
    """Equal requests of one event loop: the first of them deals with the database, the others wait for it."""

    going: dict[str, "asyncio.Future[Entry | None]"] = field(default_factory=dict)


_flights_of: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Flights]" = weakref.WeakKeyDictionary()


async def _first_in_process(key: str, owner: UUID, until: float) -> Turn:
    flights = _flights_of.setdefault(asyncio.get_running_loop(), _Flights())
    while (going := flights.going.get(key)) is not None:
        try:
            entry = await _within(until, asyncio.shield(going))
        except _Again:
            continue
        return Turn("miss" if entry is None else "hit", entry, key)
    landed: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
    landed.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody may be waiting
    flights.going[key] = landed

    def end(entry: Entry | None, *, given_up: bool) -> None:
        flights.going.pop(key, None)
        if given_up:
            landed.set_exception(_Again())
        else:
            landed.set_result(entry)

    try:
        turn = await _first_of_all(key, owner, until)
    except BaseException:
        end(None, given_up=True)
        raise
    if turn.claimed:
        turn.landed = end
    else:
        end(turn.entry, given_up=False)
    return turn


async def _within(until: float, waiting: "asyncio.Future[Entry | None]") -> Entry | None:
    try:
        async with asyncio.timeout(max(until - time.monotonic(), 0)):
            return await waiting
    except TimeoutError:
        raise _too_late() from None


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("an equal request was still being answered when this one's time was over")


# --- equal requests of all processes ---------------------------------------------------------------


async def _first_of_all(key: str, owner: UUID, until: float) -> Turn:
    while True:
        row = await _fetch(READ, key)
        if row is None and await owned(_claim(key, owner), partial(_unclaim, key, owner)):
            turn = Turn("miss", key=key, owner=owner, claimed=True)
            turn.beat = asyncio.create_task(_keep_alive(key, owner, until))
            return turn
        if row is not None and row[0] is not None:
            return Turn("hit", _entry(row[0]), key)
        if await _over(key, until):
            continue
        return Turn("miss", key=key)


async def _claim(key: str, owner: UUID) -> bool:
    return bool(await _fetch(CLAIM, {"key": key, "owner": owner, "lease": LEASE_SECONDS}))


async def _unclaim(key: str, owner: UUID, claimed: bool) -> None:
    """The caller was cancelled while it claimed the key."""
    if claimed:
        with suppress(Unavailable, psycopg.Error):  # then the lease runs out
            await _execute(GIVE_UP, key, owner)


async def _over(key: str, until: float) -> bool:
    """Waits while another process gets the answer. True: look again, an answer is there or the leader has died.
    False: it has failed, and an equal call may well fail in the same way: all try for themselves."""
    pause = FIRST_POLL_SECONDS
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
        row = await _fetch(LOOK, key)
        if row is None:
            return False
        if row[0]:
            return True
    raise _too_late()


async def _keep_alive(key: str, owner: UUID, until: float) -> None:
    """Extends the lease while the call goes on, at most to its deadline."""
    while time.monotonic() < until:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await _execute(BEAT, LEASE_SECONDS, key, owner)
        except (Unavailable, psycopg.Error) as error:
            logger.warning("a claim of the cache could not be extended: %s", type(error).__name__)


def _entry(text: str) -> Entry:
    kept = json.loads(text)
    return Entry(
        result=result_from_json(kept),
        model=kept["model_slug"],
        confidence=kept["confidence"],
        findings=kept["findings"],
        call_id=kept["call_id"],
        cost_microusd=kept["cost_microusd"],
    )


# --- bounds ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Count:
    stores: int = 0


_count = _Count()


async def _evict_now_and_then() -> None:
    _count.stores += 1
    if _count.stores % EVICT_EVERY == 1:
        await evict()


async def evict() -> None:
    """Drops what has expired and, beyond MAX_ROWS and MAX_BYTES, what was stored first. Raises Unavailable."""
    await _execute(EVICT_EXPIRED, LEASE_SECONDS)
    await _execute(EVICT_OLDEST, MAX_ROWS, MAX_BYTES)


async def _fetch(sql: str, parameters: str | dict[str, Any]) -> Any:
    async with database.connection() as connection:
        cursor = await connection.execute(sql, parameters if isinstance(parameters, dict) else (parameters,))
        return await cursor.fetchone()


async def _execute(sql: str, *parameters: Any) -> None:
    async with database.connection() as connection:
        await connection.execute(sql, parameters)
