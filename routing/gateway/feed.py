"""Tells the pages that calls were made, a few times a second however many there are."""

import asyncio

from routing import receipts
from routing.loops import OfLoop
from ziggie import live

PAUSE_SECONDS = 0.25


class Feed:
    """The newest call of each pause is told; pages read the sums again when they hear of any."""

    def __init__(self) -> None:
        self._latest: receipts.Books | None = None
        self._teller: asyncio.Task[None] | None = None

    def tell(self, books: receipts.Books) -> None:
        self._latest = books
        if self._teller is None:
            self._teller = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while self._latest is not None:
                books, self._latest = self._latest, None
                event = receipts.event(books.call, books.records)
                await live.apublish("usage", "usage.recorded", version=1, data=event)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._teller = None


feed = OfLoop(Feed).get
