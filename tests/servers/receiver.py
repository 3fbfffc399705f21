"""Takes callbacks: keeps what comes, answers as it is told."""

import asyncio
import json
import threading
import time
from collections import deque
from typing import Self

from tests.servers.http import Exchange, HTTPServer
from tests.servers.script import Received


class Receiver:
    """`answers` are (status, headers) of the next requests, then 200; "endless" and "silent" misbehave instead."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: deque[tuple[int, dict[str, str]] | str] = deque()
        self._lock = threading.Lock()
        self._server = HTTPServer(self._handle)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def url(self) -> str:
        return self._server.url

    async def _handle(self, exchange: Exchange) -> None:
        with self._lock:
            self.received.append(
                Received(
                    exchange.method,
                    exchange.path,
                    exchange.headers,
                    exchange.body,
                    json.loads(exchange.body),
                    time.time(),
                )
            )
            answer = self.answers.popleft() if self.answers else (200, {})
        if answer == "silent":
            await asyncio.sleep(3600)
        elif answer == "endless":
            await exchange.begin_chunks("text/plain")
            while True:
                await exchange.chunk(b"x" * 65536)
        else:
            status, headers = answer
            await exchange.send(int(status), b"taken", headers)  # type: ignore[arg-type]
