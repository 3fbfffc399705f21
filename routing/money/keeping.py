"""Holds of calls that last longer than was thought are renewed while their process has them.

The sweep takes a hold that has expired for one whose process died. Whoever holds money says so here until the call
ends; most calls end before anybody looks.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
from msgspec import Struct

from routing import database
from routing.loops import OfLoop
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
LONGEST_SECONDS = 4 * 3600.0  # from its admission; nobody keeps money away from others for ever
MOST_AT_ONCE = 10_000
# Rows that somebody has locked are being settled just now.
RENEW = """
UPDATE routing_reservation r SET expires_at = greatest(r.expires_at, now() + make_interval(secs => renewed.seconds))
FROM (
    SELECT held.id, due.seconds FROM routing_reservation held
    JOIN unnest(%s::uuid[], %s::float8[]) AS due(id, seconds) ON due.id = held.id
    ORDER BY held.id FOR UPDATE OF held SKIP LOCKED
) AS renewed WHERE r.id = renewed.id
"""


class _Kept(Struct):
    """A hold, on time.monotonic's clock. It is renewed for its whole term when most of that is over."""

    since: float
    term: float
    renew_at: float


@dataclass(slots=True)
class Keeper:
    """What one event loop holds."""

    holding: dict[UUID, _Kept] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None
    _renewing: asyncio.Task[None] | None = None

    def keep(self, call_id: UUID, *, seconds: float) -> None:
        """The hold was admitted for so many seconds."""
        now = time.monotonic()
        self.holding[call_id] = _Kept(now, seconds, now + seconds / 2)
        if self._timer is None:
            self._look_later()

    def let_go(self, call_id: UUID) -> None:
        """The call ends, or is left to the sweep."""
        self.holding.pop(call_id, None)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for call_id in [call_id for call_id, kept in self.holding.items() if now > kept.since + LONGEST_SECONDS]:
            del self.holding[call_id]
        due = [call_id for call_id, kept in self.holding.items() if now >= kept.renew_at][:MOST_AT_ONCE]
        if due and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.get_running_loop().create_task(self._renew(due))
        if self.holding:
            self._look_later()

    async def _renew(self, due: list[UUID]) -> None:
        terms = {call_id: self.holding[call_id].term for call_id in due if call_id in self.holding}
        try:
            async with database.connection() as connection:
                await connection.execute(RENEW, (list(terms), list(terms.values())))
        except (Unavailable, psycopg.Error) as error:
            logger.warning("holds of long calls could not be renewed; they are tried again: %s", error)
            return
        now = time.monotonic()
        for call_id, term in terms.items():
            if call_id in self.holding:
                self.holding[call_id].renew_at = now + term / 2


keeper = OfLoop(Keeper).get
