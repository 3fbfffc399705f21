"""Requests and tokens a minute of a key, over all processes, in a sliding window.

A process takes grants from the shared window and spends them from memory. A grant is as large as what the
process lately needed and never more than a small part of what is left, so that near the limit each request
is counted in the database before it is served. What is granted is counted when it is taken and must be
spent soon; so the window is longer by that time, and no limit is ever passed.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import orjson

from routing.coalescing import Lane
from routing.gateway.keys import Key
from routing.lines import Line
from routing.loops import OfLoop
from ziggie.errors import RateLimited

MINUTE_SECONDS = 60
GRANT_SECONDS = 2.0
TOKEN_LOOK_SECONDS = 0.5  # how old our view of others' tokens may be
PART_OF_REST = 16
MAX_GRANT = 2_000
PATIENCE_SECONDS = 5.0
KEPT_KEYS = 10_000

TAKE = "SELECT * FROM rate_take($1::json, $2::integer)"


@dataclass(frozen=True, slots=True)
class _Ask:
    key_id: str
    asked: int
    most: int | None
    tokens: int
    unused: int
    unused_at: int


@dataclass(frozen=True, slots=True)
class _Grant:
    granted: int
    used: int
    tokens_used: int
    oldest: int | None
    at: int


@dataclass(slots=True)
class _Window:
    """What this process knows of one key."""

    granted: int = 0
    granted_at: int = 0  # the second it is counted in
    valid_until: float = 0.0
    tokens_used: int = 0
    looked_at: float = float("-inf")
    used: int = 0
    oldest: int | None = None
    pending_tokens: int = 0
    spent_since: float = field(default_factory=time.monotonic)
    spent: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """The windows of one event loop."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._lane: Lane[_Ask, _Grant] = Lane(_take_batch, patience_seconds=PATIENCE_SECONDS)
        self._flushing: asyncio.Task[None] | None = None

    async def admit(self, key: Key) -> None:
        """Counts one request. Raises RateLimited, or Unavailable where the database is away."""
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return
        window = self._window(key.id)
        if not self._spend(window, key):
            async with window.lock:
                if not self._spend(window, key):
                    await self._take(window, key)
        window.spent += 1

    def count_tokens(self, key: Key, tokens: int) -> None:
        """Counts what a call has used; other processes learn of it within half a second."""
        self._window(key.id).pending_tokens += tokens
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    def _window(self, key_id: str) -> _Window:
        window = self._windows.get(key_id)
        if window is None:
            if len(self._windows) >= KEPT_KEYS:
                self._windows.clear()
            window = self._windows[key_id] = _Window()
        return window

    def _spend(self, window: _Window, key: Key) -> bool:
        """Takes one from the grant in memory, if that may be done without a look at the database."""
        now = time.monotonic()
        if window.granted <= 0 or now >= window.valid_until:
            return False
        if key.tokens_per_minute is not None:
            if now - window.looked_at > TOKEN_LOOK_SECONDS:
                return False
            if window.tokens_used + window.pending_tokens >= key.tokens_per_minute:
                return False
        window.granted -= 1
        return True

    async def _take(self, window: _Window, key: Key) -> None:
        grant = await self._ask(window, key.id, self._need(window, key), key.requests_per_minute)
        if grant.granted <= 0:
            raise RateLimited(
                f"this API key may make {key.requests_per_minute} requests a minute",
                retry_after_seconds=_wait(grant),
            )
        if key.tokens_per_minute is not None and grant.tokens_used >= key.tokens_per_minute:
            raise RateLimited(
                f"this API key may use {key.tokens_per_minute} tokens a minute", retry_after_seconds=_wait(grant)
            )
        window.granted -= 1

    def _need(self, window: _Window, key: Key) -> int:
        """As many as were spent in the last second, within a small part of what is left."""
        now = time.monotonic()
        seconds = max(now - window.spent_since, 0.05)
        lately = int(window.spent / seconds)
        window.spent, window.spent_since = 0, now
        rest = MAX_GRANT * PART_OF_REST if key.requests_per_minute is None else key.requests_per_minute - window.used
        return max(1, min(lately, rest // PART_OF_REST, MAX_GRANT))

    async def _ask(self, window: _Window, key_id: str, asked: int, most: int | None) -> _Grant:
        tokens, window.pending_tokens = window.pending_tokens, 0
        unused, window.granted = window.granted, 0
        try:
            grant = await self._lane.submit(_Ask(key_id, asked, most, tokens, unused, window.granted_at))
        except BaseException:
            window.pending_tokens += tokens
            raise
        now = time.monotonic()
        window.granted, window.granted_at = grant.granted, grant.at
        window.valid_until = now + GRANT_SECONDS
        window.used, window.tokens_used, window.looked_at = grant.used, grant.tokens_used, now
        return grant

    async def _flush(self) -> None:
        try:
            await asyncio.sleep(TOKEN_LOOK_SECONDS / 2)
            for key_id, window in list(self._windows.items()):
                if window.pending_tokens:
                    async with window.lock:
                        await self._ask(window, key_id, 0, None)
        finally:
            self._flushing = None


def _wait(grant: _Grant) -> float:
    """Until the first second of the window has passed out of it."""
    oldest = grant.at if grant.oldest is None else grant.oldest
    return float(max(oldest + MINUTE_SECONDS + int(GRANT_SECONDS) - grant.at, 1))


async def _take_batch(line: Line, asks: list[_Ask], *, again: bool) -> list[_Grant]:
    operations = [
        {
            "place": place,
            "key": ask.key_id,
            "asked": ask.asked,
            "most": ask.most,
            "tokens": ask.tokens,
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
