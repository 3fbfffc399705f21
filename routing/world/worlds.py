"""The state of the world for many calls at once: seen by one of them, good for all for half a second.

A call that finds it older than that sets a new look going and goes on with what there is; only a world that is
too old to be trusted is waited for. Admission never relies on any of this.
"""

import asyncio
import time

from routing.loops import OfLoop, look_away
from routing.types import Snapshot, World
from routing.world import health

FRESH_SECONDS = 0.5
TRUSTED_SECONDS = 2.0


class _Sight:
    """What one event loop has seen last."""

    def __init__(self) -> None:
        self._seen: tuple[Snapshot, World, float] | None = None
        self._looking: asyncio.Task[World] | None = None

    def at_hand(self, snapshot: Snapshot) -> World | None:
        seen = self._seen
        is_fresh = seen is not None and seen[0] is snapshot and time.monotonic() - seen[2] < FRESH_SECONDS
        return seen[1] if is_fresh and seen is not None else None

    async def recent(self, snapshot: Snapshot) -> World:
        seen = self._seen
        age = time.monotonic() - seen[2] if seen is not None and seen[0] is snapshot else float("inf")
        if seen is None or age >= TRUSTED_SECONDS:
            return await self._next(snapshot, since=float("-inf"))
        if age >= FRESH_SECONDS:
            self._look(snapshot).add_done_callback(look_away)
        return seen[1]

    async def fresh(self, snapshot: Snapshot) -> World:
        """One that was looked for from now on. Those who wait at the same time share it."""
        return await self._next(snapshot, since=time.monotonic())

    async def _next(self, snapshot: Snapshot, *, since: float) -> World:
        """What the next look sees that began `since` then. The one under way may be for another configuration."""
        while True:
            await asyncio.shield(self._look(snapshot))
            if self._seen is not None and self._seen[0] is snapshot and self._seen[2] >= since:
                return self._seen[1]

    def _look(self, snapshot: Snapshot) -> "asyncio.Task[World]":
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._see(snapshot))
        return self._looking

    async def _see(self, snapshot: Snapshot) -> World:
        try:
            asked_at = time.monotonic()
            world = await health.world(snapshot)
            self._seen = (snapshot, world, asked_at)
            return world
        finally:
            self._looking = None


_sights = OfLoop(_Sight)


async def fresh(snapshot: Snapshot) -> World:
    """The world as it is seen from now on. Raises Unavailable."""
    return await _sights.get().fresh(snapshot)


def at_hand(snapshot: Snapshot) -> World | None:
    """The world of this moment, where nobody has to look for it."""
    return _sights.get().at_hand(snapshot)


async def recent(snapshot: Snapshot) -> World:
    """The world of this moment, or one seen at most TRUSTED_SECONDS ago. Raises Unavailable."""
    return await _sights.get().recent(snapshot)
