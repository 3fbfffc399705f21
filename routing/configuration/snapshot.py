"""All configuration in memory: one consistent state, hardly ever more than half a second behind the database.

Every change of configuration bumps an epoch in the database. A process looks at that one number at most
twice a second and reads everything again, in one statement, when it moved; who listens (epochs.py) has it look
at once. A call takes one snapshot and keeps it to its end, so no call sees half of a change.

    load()       the state now, past the cache
    policy()     one version of a policy, live or not
    current()    for synchronous code       acurrent()    for the event loop, which it never blocks
"""

import asyncio
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import InterfaceError, OperationalError
from django.db import connection as django_connection

from routing import database
from routing.configuration.snapshot_rows import EPOCH, EVERYTHING, POLICY, build, build_policy
from routing.loops import OfLoop, look_away
from routing.types import PolicySpec, Snapshot
from ziggie.errors import Unavailable

CHECK_SECONDS = 0.5
TRUSTED_SECONDS = 1.5  # up to then a call on an event loop goes on with what there is, while one looks beside it


def load() -> Snapshot:
    """Raises ConfigurationError where no policy is live, Unavailable where the database is away."""
    return build(str(_query(EVERYTHING)))


def policy(slug: str, version: int) -> PolicySpec | None:
    """Any version of a policy; None if there is none."""
    text = _query(POLICY, slug, version)
    return None if text is None else build_policy(str(text))


def current() -> Snapshot:
    """The snapshot of this process, at most CHECK_SECONDS old. Raises what load() raises."""
    cache = _cache
    if (known := cache.fresh()) is not None:
        return known
    with cache.lock:
        if (known := cache.fresh()) is not None:  # another thread has just looked
            return known
        asked_at = time.monotonic()
        if (known := cache.unchanged(_query(EPOCH))) is None:
            known = load()
        return cache.keep(known, asked_at)


def at_hand() -> Snapshot | None:
    """The same, where nobody has to look for it."""
    return _cache.fresh()


async def acurrent() -> Snapshot:
    """The same without a wait for any thread, and without one for the database unless what is known is older than
    TRUSTED_SECONDS. One task of a loop looks for all."""
    cache = _cache
    if (known := cache.fresh()) is not None:
        return known
    look = cache.look_of_loop()
    if (known := cache.fresh(TRUSTED_SECONDS)) is not None:
        look.add_done_callback(look_away)
        return known
    return await asyncio.shield(look)


async def look() -> Snapshot:
    """At the database, now, for those who want the next call to find a fresh one. Raises what load() raises."""
    return await asyncio.shield(_cache.look_of_loop())


def expire() -> None:
    """The configuration has changed: whoever asks next looks first."""
    cache = _cache
    if cache.state is not None:
        cache.state = cache.state[0], float("-inf")


def forget() -> None:
    """The next caller looks at the database, however short a time ago the last one did."""
    global _cache  # noqa: PLW0603 - one per process is the point
    _cache = _Cache()


@dataclass(slots=True)
class _Cache:
    """What this process knows. `state` is replaced as a whole, so that no lock is needed to read it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    looks: OfLoop[list["asyncio.Task[Snapshot]"]] = field(default_factory=lambda: OfLoop(list))
    state: tuple[Snapshot, float] | None = None

    def fresh(self, seconds: float = CHECK_SECONDS) -> Snapshot | None:
        if self.state is None:
            return None
        snapshot, checked_at = self.state
        if time.monotonic() - checked_at >= seconds or _is_over(snapshot):
            return None
        return snapshot

    def unchanged(self, epoch: int) -> Snapshot | None:
        """The known snapshot if it is still that of `epoch`. Epochs are never used twice, but two
        transactions may commit theirs in either order: any other one is a change."""
        if self.state is None or self.state[0].epoch != epoch or _is_over(self.state[0]):
            return None
        return self.state[0]

    def keep(self, snapshot: Snapshot, checked_at: float) -> Snapshot:
        self.state = (snapshot, checked_at)
        return snapshot

    def look_of_loop(self) -> "asyncio.Task[Snapshot]":
        """The look at the database that is under way on this loop; begun now if there is none."""
        looks = self.looks.get()
        if not looks:
            looks.append(asyncio.get_running_loop().create_task(self._look(looks)))
        return looks[0]

    async def _look(self, looks: "list[asyncio.Task[Snapshot]]") -> Snapshot:
        try:
            asked_at = time.monotonic()
            async with database.connection() as connection:
                row = await (await connection.execute(EPOCH)).fetchone()
                if (known := self.unchanged(row[0] if row else 0)) is None:
                    row = await (await connection.execute(EVERYTHING)).fetchone()
                    assert row is not None  # a statement without FROM gives one row
                    known = build(row[0])
            return self.keep(known, asked_at)
        finally:
            looks.clear()


_cache = _Cache()
# A child must not wait for a lock that a thread of its parent held.
os.register_at_fork(after_in_child=forget)


def _is_over(snapshot: Snapshot) -> bool:
    """A price has come into force since: no row changed, so no epoch tells."""
    return snapshot.valid_until is not None and datetime.now(UTC) >= snapshot.valid_until


def _query(sql: str, *parameters: Any) -> Any:
    """The one value that the statement gives; None where it gives no row."""
    try:
        with django_connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            row = cursor.fetchone()
            return None if row is None else row[0]
    except (OperationalError, InterfaceError) as error:
        raise Unavailable("the database does not answer") from error
