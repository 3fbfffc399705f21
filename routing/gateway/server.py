"""The gateway as a server of its own: uvicorn on uvloop, with bounds on heads that uvicorn does not have."""

import asyncio
import gc
import os
from typing import Any

import django
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.settings")
django.setup()

from routing.gateway import app  # noqa: E402 - needs the app registry
from routing.gateway.http import Receive, Scope, Send  # noqa: E402 - the same

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 20
BACKLOG = 2048
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


# A request makes some hundreds of short-lived objects and no cycles. With Python's own thresholds the collector
# walks all of Django's objects again and again, which costs a quarter of the time.
COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER = 20_000, 20, 100


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The gateway in a process of its own."""
    if scope["type"] == "lifespan":
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER)
    await app.application(scope, receive, send)


class BoundedProtocol(HttpToolsProtocol):
    """Heads must be short and come soon; everything else is uvicorn's."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
        super().data_received(data)
        # Still negative after this if a head was completed; a body may have come with it.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        self._forget_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._refuse, TOO_SLOW)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def serve(*, host: str, port: int, workers: int) -> None:
    """Runs until SIGINT or SIGTERM; calls that are under way are finished first."""
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "http": BoundedProtocol,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": STOP_SECONDS,
        "backlog": BACKLOG,
    }
    uvicorn.run("routing.gateway.server:application", **options)
