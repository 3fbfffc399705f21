"""A connection of a lane whose server goes away: whoever waits for an answer hears of it, on every event loop."""

import asyncio
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop
from django.db import connections

from routing import database
from routing.money.lines import Line

pytestmark = pytest.mark.django_db(transaction=True)


BEGINS_AN_ERROR = b"E\x00\x00\x00\x64SFATAL\x00"


class Between:
    """Passes on what clients and database say. Once it `breaks`, the next word of a client is left unread and the
    connection ends in the middle of an answer: there is something to read, and an error of the client's socket. uvloop
    calls a reader once for both."""

    def __init__(self, folder: Path) -> None:
        known = connections["default"].settings_dict
        name = f".s.PGSQL.{known['PORT'] or 5432}"
        self.breaks = threading.Event()
        self._real = f"{known['HOST']}/{name}"
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / name))
        self._door.listen()

    @contextmanager
    def standing(self) -> Iterator[None]:
        threading.Thread(target=self._serve, daemon=True).start()
        try:
            yield
        finally:
            self._door.shutdown(socket.SHUT_RDWR)
            self._door.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as real:
                real.connect(self._real)
                self._pass_on(client, real)

    def _pass_on(self, client: socket.socket, real: socket.socket) -> None:
        to = {client: real, real: client}
        while True:
            for ready in select.select([*to], [], [])[0]:
                if ready is client and self.breaks.is_set():
                    client.sendall(BEGINS_AN_ERROR)
                    return
                piece = ready.recv(65536)
                if not piece:
                    return
                to[ready].sendall(piece)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_statement_whose_server_ends_fails_and_the_next_one_is_answered(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(between: Between) -> None:
        line = Line()
        assert await line.execute("SELECT 1::text") == [[b"1"]]
        async with asyncio.timeout(60):
            between.breaks.set()
            with pytest.raises(psycopg.OperationalError):
                await line.execute("SELECT 1::text")
            between.breaks.clear()
            assert await line.execute("SELECT 2::text") == [[b"2"]]
        line.close()
        await database.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        between = Between(Path(folder))
        monkeypatch.setitem(connections["default"].settings_dict, "HOST", folder)
        with between.standing():
            run(work(between))
