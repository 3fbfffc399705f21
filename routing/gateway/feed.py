"""Tells the pages that calls were made, a few times a second however many there are."""

import asyncio

from routing.loops import OfLoop
from routing.records import receipts
from ziggie import live

PAUSE_SECONDS = 0.25


class Feed:
    """The newest call of each pause is told; pages read the sums again when they hear of any."""

    def __init__(self) -> None:
        self._latest: receipts.Outline | None = None
        self._teller: asyncio.Task[None] | None = None

    def tell(self, call: receipts.Outline) -> None:
        self._latest = call
        if self._teller is None:
            self._teller = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while self._latest is not None:
                call, self._latest = self._latest, None
                await live.apublish("usage", "usage.recorded", version=1, data=receipts.event(call))
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._teller = None


feed = OfLoop(Feed).get
