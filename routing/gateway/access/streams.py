"""How many streams a key has open at a time, over all processes.

A key's limit is dealt out in blocks, each of them an advisory lock of PostgreSQL, held by one connection that each
event loop keeps for this. A process takes a block when its own are full and counts the streams within them in
memory, so that few streams ask the database; of a limit that is dealt out in larger ones it keeps a block for the next
stream. The server gives the locks of a dead process back by itself: kill -9
leaves no stream counted.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg

from routing import database
from routing.gateway.access.keys import Key
from routing.loops import OfLoop
from routing.walk.handover import beside
from ziggie.errors import RateLimited, Unavailable

MOST_BLOCKS = 256
IDLE_SECONDS = 1.0  # what is not needed for so long goes back,
KEPT_SECONDS = 60.0  # but for one block of several streams

TAKE: LiteralString = """
SELECT place FROM unnest(%s::int[]) AS place
WHERE pg_try_advisory_lock(hashtextextended('streams:' || %s::text || ':' || place, 0)) LIMIT 1
"""
GIVE: LiteralString = """
SELECT pg_advisory_unlock(hashtextextended('streams:' || %s::text || ':' || place, 0)) FROM unnest(%s::int[]) AS place
"""


@dataclass(slots=True)
class _Held:
    """What this process has of one key: streams open, and the blocks that they are counted in (place -> size)."""

    open: int = 0
    blocks: dict[int, int] = field(default_factory=dict)
    most: int = 0  # the key's limit when they were dealt out
    ended_at: float = 0.0  # the last stream

    @property
    def room(self) -> int:
        return sum(self.blocks.values()) - self.open

    def unneeded(self) -> list[int]:
        """Blocks that the open streams would not miss, the last ones first."""
        room, places = self.room, []
        for place in sorted(self.blocks, reverse=True):
            if room >= self.blocks[place]:
                room -= self.blocks[place]
                places.append(place)
        return places


class Streams:
    """The open streams of one event loop."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._connection: database.Connection | None = None
        self._using = asyncio.Lock()
        self._giving: set[str] = set()

    @asynccontextmanager
    async def one_of(self, key: Key) -> AsyncIterator[None]:
        """Counts one stream of the key while it is open. Raises RateLimited, or Unavailable where the database is
        away."""
        held = self._held.setdefault(key.id, _Held())
        held.open += 1  # first of all, so that what is given back meanwhile leaves room for it
        try:
            if held.room < 0 or held.most != key.max_streams or not self._is_connected():
                await self._make_room(key, held)
            yield
        finally:
            held.open -= 1
            held.ended_at = time.monotonic()
            self._give_back_soon(key, held)

    def _is_connected(self) -> bool:
        """With a broken connection its locks have gone, and others may have taken them."""
        return self._connection is not None and not self._connection.closed and database.is_quiet(self._connection)

    async def _make_room(self, key: Key, held: _Held) -> None:
        async with database.turn(self._using):
            if not self._is_connected():
                await self._connect()
            if held.most != key.max_streams:
                await self._let_go(key, held, list(held.blocks))
                held.most = key.max_streams
            size, larger = divmod(key.max_streams, MOST_BLOCKS)
            sizes = [size + (place < larger) for place in range(min(key.max_streams, MOST_BLOCKS))]
            while held.room < 0:
                free = [place for place in range(len(sizes)) if place not in held.blocks]
                place = await self._ask(TAKE, (free, key.id))
                if place is None:
                    raise RateLimited(f"this API key may have {key.max_streams} streams open at a time")
                held.blocks[place] = sizes[place]

    async def _connect(self) -> None:
        self.close()
        for held in self._held.values():
            held.blocks.clear()  # streams that go on are counted again with the next one
        self._connection = await database.connect_soon(application_name="ziggie streams")
        (await database.pool()).keep(self)

    async def _ask(self, statement: LiteralString, parameters: tuple[object, ...]) -> Any:
        """The first value of the answer. An answer that did not come may have taken a lock: then all are let go."""
        assert self._connection is not None
        try:
            with database.patience(self._connection, database.TRIAL_SECONDS):
                row = await (await self._connection.execute(statement, parameters)).fetchone()
        except BaseException as error:
            self.close()
            if isinstance(error, psycopg.Error):
                raise Unavailable("the database went away") from error
            raise
        return row and row[0]

    def close(self) -> None:
        """Lets all blocks go; the next stream takes them anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    # --- giving back ---

    def _give_back_soon(self, key: Key, held: _Held) -> None:
        if key.id not in self._giving and (held.unneeded() or not held.blocks):
            self._giving.add(key.id)
            beside(self._give_back(key, held))

    async def _give_back(self, key: Key, held: _Held) -> None:
        """Of a small limit at once: there each stream is a block, which another process may wait for."""
        try:
            while held.unneeded():
                kept = 0
                if held.most > MOST_BLOCKS:
                    await asyncio.sleep(IDLE_SECONDS)
                    kept = int(time.monotonic() - held.ended_at < KEPT_SECONDS)
                await self._give(key, held, kept)
        finally:
            self._giving.discard(key.id)
            if not held.open and not held.blocks:
                self._held.pop(key.id, None)

    async def _give(self, key: Key, held: _Held, kept: int) -> None:
        async with self._using:
            unneeded = held.unneeded()
            with suppress(Unavailable):
                await self._let_go(key, held, unneeded[: len(unneeded) - kept])

    async def _let_go(self, key: Key, held: _Held, places: list[int]) -> None:
        for place in places:
            del held.blocks[place]
        if places and self._is_connected():  # else they have gone by themselves
            await self._ask(GIVE, (key.id, places))


streams = OfLoop(Streams).get
