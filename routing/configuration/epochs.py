"""Hears of a change of configuration once it is committed. Without it the next poll tells, half a second later. Hears
also which keys other processes have served, and from where (ziggie/guesses.py)."""

import asyncio
from collections.abc import Callable
from typing import LiteralString

import psycopg

from routing import database
from routing.configuration import snapshot
from routing.loops import OfLoop
from ziggie.errors import Unavailable
from ziggie.guesses import SEEN_CHANNEL, gate

LISTEN: LiteralString = f"LISTEN ziggie_config; LISTEN {SEEN_CHANNEL}"
AGAIN_SECONDS = 1.0
QUIET_SECONDS = 20.0


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
                    await self._hear(connection)
                finally:
                    await connection.close()
            except (Unavailable, psycopg.Error):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self, connection: database.Connection) -> None:
        """Until the connection fails; one that is quiet is asked whether it lives."""
        with database.patience(connection):
            await connection.execute(LISTEN)
        self._tell()
        while True:
            async for told in connection.notifies(timeout=QUIET_SECONDS):
                if told.channel == SEEN_CHANNEL:
                    gate.hear(told.payload)
                else:
                    self._tell()
            with database.patience(connection):
                await connection.execute("")

    def _tell(self) -> None:
        snapshot.expire()
        for changed in self._followers:
            changed()


ear = OfLoop(Ear).get
