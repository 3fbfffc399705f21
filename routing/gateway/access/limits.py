"""Requests and tokens a minute of a key, over all processes, in a sliding window.

A process takes grants from the shared window and spends them from memory. A grant is as large as what the
process lately needed, or a few for the next ones of somebody who asks now and then, and never more than a small part
of what is left, so that near the limit each request is counted in the database before it is served. What is granted
is counted when it is taken and must be spent soon; so the window is longer by that time, and no limit is ever passed.

A key with a limit of tokens asks the database for each call, together with the calls of the same moment: while
the window has any tokens left a call is admitted, and its estimate is counted at once and corrected when it has
ended. So the limit is passed at most by the call that used it up, however many run at a time, and by what estimates
fell short of: those of documents may.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import orjson
from msgspec import Struct

from routing.gateway.access.keys import Key
from routing.loops import OfLoop, look_away
from routing.money.coalescing import Lane
from routing.money.lines import Line
from ziggie.errors import RateLimited
from ziggie.values import Value, replace, value

MINUTE_SECONDS = 60
GRANT_SECONDS = 2.0
CORRECTION_SECONDS = 0.25  # corrections of that time go together
PART_OF_REST = 16
MAX_GRANT = 2_000
A_FEW = 4  # the next requests of a slow client do not wait for the database twice
PATIENCE_SECONDS = 5.0
KEPT_KEYS = 10_000

TAKE = "SELECT * FROM rate_take($1::json, $2::integer)"


@value
class _Ask:
    key_id: str
    asked: int
    most: int | None
    hold: int = 0
    most_tokens: int | None = None
    tokens: int = 0
    tokens_at: int = 0
    unused: int = 0
    unused_at: int = 0


@value
class _Grant:
    granted: int
    used: int
    tokens_used: int
    oldest: int | None
    at: int


class Standing(Value):
    """A key's limits, None where it has none, and about what is left of them; `reset_seconds` until all is free."""

    requests: int | None
    requests_left: int
    tokens: int | None
    tokens_left: int
    reset_seconds: int = MINUTE_SECONDS + int(GRANT_SECONDS)


class OverLimit(RateLimited):
    """A key that has used up one of its limits."""

    def __init__(self, message: str, standing: Standing) -> None:
        super().__init__(message, retry_after_seconds=standing.reset_seconds)
        self.standing = standing


class Admission(Struct):
    """A request that was let in: the tokens held for it, in which second, and, if tokens are counted, what it came
    to use. `standing` is that of a key with limits."""

    held: int = 0
    second: int = 0
    used: int = 0
    counts_tokens: bool = False
    standing: Standing | None = None


@dataclass(slots=True)
class _Window:
    """What this process knows of one key."""

    granted: int = 0
    granted_at: int = 0  # the second it is counted in
    valid_until: float = 0.0
    used: int = 0
    spent_since: float = field(default_factory=time.monotonic)
    spent: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """The windows of one event loop."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._lane: Lane[_Ask, _Grant] = Lane(_take_batch, patience_seconds=PATIENCE_SECONDS)
        self._corrections: dict[str, dict[int, int]] = {}  # by key and second
        self._correcting: asyncio.Task[None] | None = None

    def at_once(self, key: Key) -> Admission | None:
        """Counts one request of a key without a limit of tokens, if what is in memory allows it."""
        if key.tokens_per_minute is not None:
            return None
        if key.requests_per_minute is not None:
            window = self._windows.get(key.id)
            if window is None or not _spend(window):
                return None
            window.spent += 1
            return _admission(key.requests_per_minute, window)
        return Admission()

    async def admit(self, key: Key, tokens: int = 0) -> Admission:
        """Counts one request, which will use about `tokens`. Raises OverLimit, or Unavailable where the
        database is away. `correct` tells later what it used."""
        if key.tokens_per_minute is not None:
            return await self._hold(key, tokens)
        if key.requests_per_minute is not None:
            window = self._window(key.id)
            if not _spend(window):
                async with window.lock:
                    if not _spend(window):
                        await self._take(window, key)
            window.spent += 1
            return _admission(key.requests_per_minute, window)
        return Admission()

    def correct(self, key: Key, admission: Admission) -> None:
        """Counts what a call has used instead of what was held for it: before the key's next call here is counted,
        and within half a second for the other processes."""
        difference = admission.used - admission.held
        if key.tokens_per_minute is None or difference == 0:
            return
        seconds = self._corrections.setdefault(key.id, {})
        second = admission.second if difference < 0 else 0
        seconds[second] = seconds.get(second, 0) + difference
        if self._correcting is None:
            self._correcting = asyncio.get_running_loop().create_task(self._correct())

    async def event(self, counter: str, *, most: int) -> float:
        """Counts one event of `counter` (a UUID), of which the last minute may have `most`. Gives the seconds to
        wait where it has had them, else 0."""
        grant = await self._lane.submit(_Ask(counter, 1, most))
        return 0.0 if grant.granted else _wait(grant)

    def _window(self, key_id: str) -> _Window:
        window = self._windows.get(key_id)
        if window is None:
            if len(self._windows) >= KEPT_KEYS:
                self._windows.clear()
            window = self._windows[key_id] = _Window()
        return window

    async def _hold(self, key: Key, tokens: int) -> Admission:
        most = key.tokens_per_minute
        self._tell_corrections(key.id)
        ask = _Ask(key.id, 1, key.requests_per_minute, hold=tokens, most_tokens=most)
        grant = await self._lane.submit(ask)
        if grant.granted:
            return Admission(held=tokens, second=grant.at, counts_tokens=True, standing=_standing(key, grant))
        if most is not None and grant.tokens_used >= most:
            raise OverLimit(f"this API key may use {most} tokens a minute", _standing(key, grant))
        raise _too_many(key, grant)

    async def _take(self, window: _Window, key: Key) -> None:
        grant = await self._ask(window, key)
        if grant.granted <= 0:
            raise _too_many(key, grant)
        window.granted -= 1

    def _need(self, window: _Window, key: Key) -> int:
        """As many as were spent in the last second, or a few, within a small part of what is left."""
        now = time.monotonic()
        seconds = max(now - window.spent_since, 0.05)
        lately = int(window.spent / seconds)
        window.spent, window.spent_since = 0, now
        rest = MAX_GRANT * PART_OF_REST if key.requests_per_minute is None else key.requests_per_minute - window.used
        return max(1, min(max(lately, A_FEW), rest // PART_OF_REST, MAX_GRANT))

    async def _ask(self, window: _Window, key: Key) -> _Grant:
        unused, window.granted = window.granted, 0
        ask = _Ask(key.id, self._need(window, key), key.requests_per_minute, unused=unused, unused_at=window.granted_at)
        grant = await self._lane.submit(ask)
        window.granted, window.granted_at, window.used = grant.granted, grant.at, grant.used
        window.valid_until = time.monotonic() + GRANT_SECONDS
        return grant

    async def _correct(self) -> None:
        try:
            while self._corrections:
                await asyncio.sleep(CORRECTION_SECONDS)
                for key_id in list(self._corrections):
                    self._tell_corrections(key_id)
        finally:
            self._correcting = None

    def _tell_corrections(self, key_id: str) -> None:
        """The lane keeps the order: what is asked next is answered by the corrected window. What cannot be told while
        the database is away is lost: a hold then stays counted for its minute."""
        for second, tokens in self._corrections.pop(key_id, {}).items():
            told = self._lane.submit(_Ask(key_id, 0, None, tokens=tokens, tokens_at=second))
            told.add_done_callback(look_away)


def _spend(window: _Window) -> bool:
    """Takes one from the grant in memory, if there is any that is not too old."""
    if window.granted <= 0 or time.monotonic() >= window.valid_until:
        return False
    window.granted -= 1
    return True


def _too_many(key: Key, grant: _Grant) -> OverLimit:
    return OverLimit(f"this API key may make {key.requests_per_minute} requests a minute", _standing(key, grant))


def _admission(most: int, window: _Window) -> Admission:
    return Admission(standing=Standing(most, max(most - window.used + window.granted, 0), None, 0))


def _standing(key: Key, grant: _Grant) -> Standing:
    """After one grant of a request. For who is refused, the time until something is free counts."""
    requests, tokens = key.requests_per_minute, key.tokens_per_minute
    left = Standing(requests, max((requests or 0) - grant.used, 0), tokens, max((tokens or 0) - grant.tokens_used, 0))
    return left if grant.granted else replace(left, reset_seconds=_wait(grant))


def _wait(grant: _Grant) -> int:
    """Seconds until the first one of the window has passed out of it."""
    oldest = grant.at if grant.oldest is None else grant.oldest
    return max(oldest + MINUTE_SECONDS + int(GRANT_SECONDS) - grant.at, 1)


async def _take_batch(line: Line, asks: list[_Ask], *, again: bool) -> list[_Grant]:
    operations = [
        {
            "place": place,
            "key": ask.key_id,
            "asked": ask.asked,
            "most": ask.most,
            "hold": ask.hold,
            "most_tokens": ask.most_tokens,
            "tokens": ask.tokens,
            "tokens_at": ask.tokens_at,
            "unused": ask.unused,
            "unused_at": ask.unused_at,
        }
        for place, ask in enumerate(asks)
    ]
    rows = await line.execute(TAKE, orjson.dumps(operations), b"%d" % (MINUTE_SECONDS + int(GRANT_SECONDS)))
    grants: list[_Grant | None] = [None] * len(asks)
    for row in rows:
        place, granted, used, tokens_used, oldest, at = (None if value is None else int(value) for value in row)
        grants[place or 0] = _Grant(granted or 0, used or 0, tokens_used or 0, oldest, at or 0)
    return cast("list[_Grant]", grants)  # the statement gives a row for each


limits = OfLoop(Limits).get
