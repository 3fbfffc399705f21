"""Hears of a change of configuration once it is committed. Without it the next poll tells, half a second later."""

import asyncio
from collections.abc import Callable

import psycopg

from routing import database, snapshot
from routing.loops import OfLoop
from ziggie.errors import Unavailable

LISTEN = "LISTEN ziggie_config"
AGAIN_SECONDS = 1.0


class Ear:
    """A connection of an event loop that listens once somebody follows, until the loop ends."""

    def __init__(self) -> None:
        self._followers: list[Callable[[], None]] = []
        self._listening: asyncio.Task[None] | None = None

    def follow(self, changed: Callable[[], None]) -> None:
        """From now on `changed` is called after every change, and whenever one may have been missed. The snapshot
        follows by itself."""
        self._followers.append(changed)
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            try:
                connection = await database.connect(application_name="ziggie epochs")
                try:
                    await connection.execute(LISTEN)
                    self._tell()
                    async for _ in connection.notifies():
                        self._tell()
                finally:
                    await connection.close()
            except (Unavailable, psycopg.Error):
                await asyncio.sleep(AGAIN_SECONDS)

    def _tell(self) -> None:
        snapshot.expire()
        for changed in self._followers:
            changed()


ear = OfLoop(Ear).get
