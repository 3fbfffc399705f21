"""One HTTP exchange with a client: limits on what comes in, headers on what goes out.

`Http` is what endpoints see. Its bytes come and go through ASGI (asgi.py's server) or through a connection of
the gateway's own server (protocol.py).
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from routing.gateway.exchange.heads import Head, read_head
from ziggie.errors import TooLarge, ZiggieError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 20 * 1024 * 1024
BODY_SECONDS = 30.0
SEND_SECONDS = 60.0
SEND_BYTES = 16 * 1024  # a client that takes less in that time of what waits for it is gone
KEPT_WAITING_SECONDS = 180.0  # of one stream, in all: who reads slowly keeps a provider's place from others
WATCH_AFTER_SECONDS = 0.2  # most answers are out before a client could have gone
JSON_TYPE = (b"content-type", b"application/json")
UNDER_WAY = "under_way"  # in the server's state: the tasks that answer requests
END_CONNECTION = (b"connection", b"close")


class RequestTimeout(ZiggieError):
    """A client that sends too slowly."""

    code, http_status = "request_timeout", 408


class Compressed(ZiggieError):
    """A body that would have to be unpacked first, to an unknown size."""

    code, http_status = "unsupported_encoding", 415


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Http(ABC):
    """A request and the way to answer it."""

    started = False
    gone = False
    rates: Sequence[tuple[bytes, bytes]] = ()  # what the key has left of its limits, for every answer
    kept_waiting = 0.0  # seconds for which the client kept a stream waiting
    _task: asyncio.Task[Any] | None = None

    def __init__(self, head: Head, address: str) -> None:
        self.method = head.method
        self.path = head.path
        self.address = address
        self.hints = head.hints
        self.raw_key = head.raw_key
        self.forwarded = head.forwarded
        self.speaks_anthropic = head.speaks_anthropic
        self._length = head.length
        self._encoding = head.encoding

    async def body(self) -> bytes:
        """The whole body. Raises TooLarge, Compressed, RequestTimeout, ClientGone."""
        if self._encoding not in (b"", b"identity"):
            raise Compressed("a compressed body is not read here: send it without content-encoding")
        if self._length > MAX_BODY_BYTES:
            raise too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read_body()
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {BODY_SECONDS:g} s") from None

    @abstractmethod
    async def _read_body(self) -> bytes: ...

    def watch(self) -> None:
        """From now on the running task is cancelled when the client goes away; `gone` then says so."""
        self._task = asyncio.current_task()

    def stop_watching(self) -> None:
        self._task = None

    def let_task_go_on(self) -> None:
        """The running task has caught the cancellation that said that the client has gone."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()

    def _client_went(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    @abstractmethod
    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """A complete answer."""

    @abstractmethod
    async def start_stream(self, headers: Headers) -> None: ...

    @abstractmethod
    async def send_piece(self, piece: bytes, *, last: bool = False) -> None:
        """Returns once there is room for more. Who takes less than SEND_BYTES in SEND_SECONDS, or keeps a stream
        waiting for KEPT_WAITING_SECONDS, is cut off by the server, and goes away like any other client."""


class AsgiHttp(Http):
    """An exchange as ASGI tells it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        super().__init__(read_head(scope["method"], scope["path"], scope["headers"]), client[0] if client else "")
        self._receive = receive
        self._send = send
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def _read_body(self) -> bytes:
        message = await self._next_message()
        received: bytes | bytearray = message.get("body", b"")
        while message.get("more_body"):
            message = await self._next_message()
            received = bytearray(received) if isinstance(received, bytes) else received
            received += message.get("body", b"")
            if len(received) > MAX_BODY_BYTES:
                raise too_large()
        return bytes(received)

    async def _next_message(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    def watch(self) -> None:
        super().watch()
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start_watching)

    def _start_watching(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_went()

    def stop_watching(self) -> None:
        super().stop_watching()
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        self.started = True
        length = (b"content-length", b"%d" % len(body))
        headers = [*headers, *self.rates, length]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*headers, *self.rates]})

    async def send_piece(self, piece: bytes, *, last: bool = False) -> None:
        began = time.monotonic()
        try:
            await self._send({"type": "http.response.body", "body": piece, "more_body": not last})
        finally:
            self.kept_waiting += time.monotonic() - began


def too_large() -> TooLarge:
    return TooLarge(f"a body may have at most {MAX_BODY_BYTES} bytes")


def header_text(value: str) -> bytes:
    """A value that no header can be smuggled in with."""
    return "".join(c if c.isprintable() else " " for c in value).encode("latin-1", "replace")[:300]
