"""How many calls a provider serves at once, counted across all processes.

A slot is an advisory lock of PostgreSQL, held by one connection that each event loop keeps for this. The
server gives the locks of a dead process back by itself, so kill -9 leaves no slot behind and no lease has to
run out. Calls that wait hold a lock of another class, so that every process sees how long the queue is.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg

from routing import database
from routing.types import ProviderError, ProviderSpec
from routing.walk.handover import beside, owned
from ziggie.errors import Unavailable

# Classes of advisory locks; "zg" in hexadecimal, then a number.
RUNNING, WAITING = 0x7A670001, 0x7A670002
# Lock keys are provider id * PLACES + place.
PLACES = 4_096
SAMPLED = 16
POLL_SECONDS = (0.02, 0.25)
_random = random.SystemRandom()

TAKE: LiteralString = (
    "SELECT place FROM unnest(%s::int[]) AS place WHERE pg_try_advisory_lock(%s::int, %s::int + place) LIMIT 1"
)
GIVE: LiteralString = "SELECT pg_advisory_unlock(%s::int, %s::int)"
# For the planner's one statement: how many locks of each class there are for each provider.
COUNTS: LiteralString = """
SELECT objid::bigint / %(places)s AS provider_id,
    count(*) FILTER (WHERE classid::bigint = %(running)s) AS running,
    count(*) FILTER (WHERE classid::bigint = %(waiting)s) AS waiting
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint IN (%(running)s, %(waiting)s)
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
GROUP BY 1
"""
COUNTS_PARAMETERS = {"places": PLACES, "running": RUNNING, "waiting": WAITING}


@asynccontextmanager
async def slot(provider: ProviderSpec, *, wait_seconds: float) -> AsyncIterator[None]:
    """Holds one of the provider's slots. Raises ProviderError("busy") if none comes free in time, and
    Unavailable where the database is away. A provider without a limit is not counted."""
    if provider.max_concurrency is None:
        yield
        return
    keeper = await _keeper()
    taken = await keeper.wait_for_slot(provider, wait_seconds)
    try:
        yield
    finally:
        await keeper.give_back(taken)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A lock and the connection that holds it: if that one is gone, so is the lock."""

    kind: int
    provider_id: int
    place: int
    holder: database.Connection


@dataclass(slots=True)
class _Keeper:
    """The locks of one event loop."""

    connection: database.Connection | None = None
    using: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: set[tuple[int, int, int]] = field(default_factory=set)  # (kind, provider id, place)
    queues: dict[int, asyncio.Lock] = field(default_factory=dict)  # by provider id: first come, first served
    freed: dict[int, asyncio.Event] = field(default_factory=dict)

    async def wait_for_slot(self, provider: ProviderSpec, wait_seconds: float) -> _Taken:
        queue = self.queues.setdefault(provider.id, asyncio.Lock())
        if not queue.locked() and (taken := await self.take(RUNNING, provider.id, _limit(provider))):
            return taken
        waiting = await self.take(WAITING, provider.id, PLACES)
        try:
            async with asyncio.timeout(wait_seconds), queue:
                taken = await self._poll(provider)
        except TimeoutError:
            busy = f"all {provider.max_concurrency} slots of {provider.slug} stayed taken for {wait_seconds:.1f} s"
            raise ProviderError("busy", busy, retryable=False) from None
        finally:
            if waiting is not None:
                beside(self._give_back(waiting))
        return taken

    async def _poll(self, provider: ProviderSpec) -> _Taken:
        """Tries whenever a slot of this process comes free, and now and then for those of the others."""
        freed = self.freed.setdefault(provider.id, asyncio.Event())
        pause, longest = POLL_SECONDS
        while True:
            freed.clear()
            if taken := await self.take(RUNNING, provider.id, _limit(provider)):
                return taken
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * _random.uniform(0.75, 1.25)):
                    await freed.wait()
            pause = min(pause * 1.5, longest)

    async def take(self, kind: int, provider_id: int, places: int) -> _Taken | None:
        """A free place, or None. A caller that is cancelled meanwhile leaves nothing taken."""
        return await owned(self._take(kind, provider_id, places), self._give_back)

    async def _take(self, kind: int, provider_id: int, places: int) -> _Taken | None:
        async with database.turn(self.using):
            connection = await self._connected()
            # Of a long queue's places nobody needs the first one: a few at random will do.
            wanted = range(places) if kind == RUNNING else _random.sample(range(places), SAMPLED)
            free = [place for place in wanted if (kind, provider_id, place) not in self.held]
            if not free:
                return None
            try:
                with database.patience(connection, database.TRIAL_SECONDS):
                    cursor = await connection.execute(TAKE, (free, kind, provider_id * PLACES))
                    row = await cursor.fetchone()
            except psycopg.OperationalError as error:
                raise Unavailable("the database went away") from error
            if row is None:
                return None
            self.held.add((kind, provider_id, row[0]))
            return _Taken(kind, provider_id, row[0], connection)

    async def give_back(self, taken: _Taken) -> None:
        """A caller that is cancelled here gives its slot back as well."""
        await asyncio.shield(beside(self._give_back(taken)))

    async def _give_back(self, taken: _Taken | None) -> None:
        if taken is None:
            return
        async with self.using:
            if taken.holder is not self.connection:
                return  # its connection is gone, and its locks with it
            self.held.discard((taken.kind, taken.provider_id, taken.place))
            key = taken.provider_id * PLACES + taken.place
            # One that is lost has given it back.
            with suppress(psycopg.OperationalError), database.patience(taken.holder, database.TRIAL_SECONDS):
                await taken.holder.execute(GIVE, (taken.kind, key))
        if taken.kind == RUNNING and (freed := self.freed.get(taken.provider_id)):
            freed.set()

    async def _connected(self) -> database.Connection:
        """A connection that is there. With a broken one all locks went; calls that run go on uncounted."""
        known = self.connection
        if known is not None and not known.closed and not database.is_quiet(known):
            with suppress(psycopg.OperationalError), database.patience(known, database.TRIAL_SECONDS):
                await known.execute("")  # finds out that it has ended, if it has
        if known is None or known.closed:
            self.held.clear()
            self.connection = await database.connect_soon(application_name="ziggie slots")
            return self.connection
        return known

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.close()


def _limit(provider: ProviderSpec) -> int:
    return min(provider.max_concurrency or PLACES, PLACES)


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Keeper, Any]] = WeakKeyDictionary()


def _forget_after_fork() -> None:
    _keepers.clear()  # psycopg closes no connection of another process


os.register_at_fork(after_in_child=_forget_after_fork)


async def _keeper() -> _Keeper:
    """The running loop's keeper."""
    loop = asyncio.get_running_loop()
    known = _keepers.get(loop)
    if known is None:
        keeper = _Keeper()
        guard = database.close_with_loop(keeper.close)
        known = _keepers[loop] = (keeper, guard)
        await anext(guard)
    return known[0]
