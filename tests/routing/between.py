"""What stands between Ziggie and its database, and may keep what they say to itself."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from django.db import connections

from routing import database
from routing.gateway.access.keys import Key
from routing.gateway.access.streams import Streams

KEY = Key("00000000-0000-0000-0000-000000000001", "tests", frozenset(), frozenset(), None, None, 10, None)


class Between:
    """Passes on what client and database say. While it is `deaf` it takes no new client, and ends a connection instead
    of passing an answer on."""

    def __init__(self) -> None:
        self.deaf = False
        self._silent = asyncio.Event()
        self._clients: set[asyncio.StreamWriter] = set()
        self._real = connections["default"].settings_dict["HOST"]
        self._port = connections["default"].settings_dict["PORT"] or "5432"

    @asynccontextmanager
    async def standing(self, folder: Path) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, folder / f".s.PGSQL.{self._port}")
        async with server:
            yield

    def go_away(self, seconds: float) -> None:
        """Ends what there is, and takes nobody for so long, as a server does that restarts."""
        self.deaf = True
        for writer in list(self._clients):
            writer.close()
        asyncio.get_running_loop().call_later(seconds, self._come_back)

    def _come_back(self) -> None:
        self.deaf = False

    def fall_silent(self) -> None:
        """From now on nothing is heard on the connections that there are, nor of their end; new ones are served."""
        self._silent.set()
        self._silent = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent = self._silent
        self._clients.add(writer)
        if not self.deaf:
            answers, words = await asyncio.open_unix_connection(f"{self._real}/.s.PGSQL.{self._port}")
            asking = asyncio.create_task(self._pass_on(reader, words, silent))
            try:
                await self._pass_on(answers, writer, silent, is_answer=True)
            finally:
                asking.cancel()
        self._clients.discard(writer)
        writer.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        silent: asyncio.Event,
        *,
        is_answer: bool = False,
    ) -> None:
        try:
            with suppress(OSError):
                while piece := await reader.read(65536):
                    if is_answer and self.deaf:
                        break
                    if silent.is_set():
                        continue
                    writer.write(piece)
                    await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def behind(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Between]:
    """The database is reached through one who can fall silent or go away."""
    between = Between()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        async with between.standing(Path(folder)):
            with monkeypatch.context() as there:
                there.setitem(connections["default"].settings_dict, "HOST", folder)
                try:
                    yield between
                finally:
                    await database.close()


async def look() -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


async def open_stream(streams: Streams) -> None:
    async with streams.one_of(KEY):
        pass
