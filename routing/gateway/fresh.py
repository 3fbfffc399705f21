"""What calls go by - keys, configuration, the state of the world - looked for beside them as long as calls come.

A call that finds something too old looks itself, and waits where it is older than may be trusted. For one that comes a
second after the last that was half of the time until its provider was asked.
"""

import asyncio
import time

import psycopg

from routing.configuration import snapshot
from routing.gateway.access.keys import book
from routing.loops import OfLoop
from routing.world import worlds
from ziggie.errors import ZiggieError

EVERY_SECONDS = 0.4  # before a call would look
IDLE_SECONDS = 60.0  # since the last call: nobody looks any more


class Looks:
    """Those of one event loop."""

    def __init__(self) -> None:
        self._called_at = 0.0
        self._going_on: asyncio.Task[None] | None = None

    def go_on(self) -> None:
        """A call has come: there may be more."""
        self._called_at = time.monotonic()
        if self._going_on is None:
            self._going_on = asyncio.get_running_loop().create_task(self._go_on())

    @property
    def have_ended(self) -> bool:
        return self._going_on is None

    async def _go_on(self) -> None:
        try:
            while time.monotonic() - self._called_at < IDLE_SECONDS:
                await asyncio.sleep(EVERY_SECONDS)
                await _look()
        finally:
            self._going_on = None


async def _look() -> None:
    """What cannot be seen now is no news: once what is known is too old, calls fail by it."""
    try:
        await book().look()
        await worlds.fresh(await snapshot.look())
    except (ZiggieError, psycopg.Error):
        pass


looks = OfLoop(Looks).get
