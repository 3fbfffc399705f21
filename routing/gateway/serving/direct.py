"""One exchange on a connection of the gateway's own server."""

import asyncio
import time
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Protocol

from routing.gateway.exchange import http as limits
from routing.gateway.exchange.heads import Head
from routing.gateway.exchange.http import END_CONNECTION, MAX_BODY_BYTES, ClientGone, Headers, Http, too_large
from routing.gateway.exchange.leaving import COMMENT, CONTINUE, Prelude

SMALL_BYTES = 1024  # pieces of a body that are smaller are put together: each would take more memory than it holds
READ_AHEAD_BYTES = 256 * 1024  # of a body, before anybody has said that it is wanted
VERSION = b"HTTP/1.1"
STATUS_LINES = {status.value: b"%b %d %b" % (VERSION, status, status.phrase.encode()) for status in HTTPStatus}
_line = b": ".join  # of a header: a comprehension takes five times as long
CLOSE = b"connection: close\r\n"
COMMENT_CHUNK = b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT)


class Carrier(Protocol):
    """What an exchange needs of the connection that it is on."""

    @property
    def is_stopping(self) -> bool: ...

    @property
    def room(self) -> "asyncio.Future[None] | None":
        """To be waited for before more is written."""

    def serve(self, http: Http) -> Awaitable[None]: ...

    def answered(self, request: "DirectHttp") -> None: ...

    def write(self, data: bytes) -> None: ...

    def write_soon(self, data: bytes) -> None: ...

    def leave(self) -> None:
        """Ends the connection, whatever the client has not taken."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class DirectHttp(Http):
    """Its bytes come from the connection and go out by it."""

    running: "asyncio.Task[None] | None" = None
    _is_chunked = False
    _ended = False
    _more: "asyncio.Future[None] | None" = None
    _prelude: Prelude | None = None

    def __init__(
        self,
        connection: Carrier,
        head: Head,
        address: str,
        *,
        keep_alive: bool,
        may_chunk: bool = True,
        expects_continue: bool = False,
        whole: bytes | None = None,
    ) -> None:
        """`whole`: the body, if it has come with the head."""
        super().__init__(head, address)
        self.head = head
        self.keep_alive = keep_alive
        self.is_whole = whole is not None
        self._connection = connection
        self._may_chunk = may_chunk
        self._expects_continue = expects_continue
        self._received: list[bytes | bytearray] = [] if whole is None else [whole]
        self._size = 0 if whole is None else len(whole)

    # --- the connection's side ---

    async def serve(self) -> None:
        try:
            await self._connection.serve(self)
        finally:
            if not self._ended:  # an answer that broke off must not look whole
                self._ended = True
                self.keep_alive = False
            self._received.clear()
            self._connection.answered(self)

    def take(self, body: bytes) -> None:
        """A part of the body. What nobody wants any more is let go, but not without end."""
        self._size += len(body)
        if self._ended:
            if self._size > 2 * MAX_BODY_BYTES:
                self._connection.leave()
            return
        if self._size <= MAX_BODY_BYTES:
            self._keep(body)
        if self._size > READ_AHEAD_BYTES and self._more is None:
            self._connection.pause_reading()
        self._wake()

    def _keep(self, body: bytes) -> None:
        if len(body) >= SMALL_BYTES or not self._received:
            self._received.append(body)
        elif isinstance(last := self._received[-1], bytearray):
            last += body
        else:
            self._received.append(bytearray(body))

    def end_body(self) -> None:
        self.is_whole = True
        self._wake()

    def lose_client(self) -> None:
        self._client_went()
        self._wake()

    def knock(self) -> None:
        """Writes what says nothing, for a client that may have gone."""
        if self._ended:
            return
        if self.started:
            self._connection.write_soon(COMMENT_CHUNK if self._is_chunked else COMMENT)
        else:
            if self._prelude is None:
                self._prelude = Prelude(VERSION, may_continue=self._may_chunk)
            self._connection.write_soon(self._prelude.next())

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # --- the endpoint's side ---

    def watch(self) -> None:
        self._task = self.running
        if self.gone:
            self._client_went()

    async def body(self) -> bytes:
        if self.is_whole and self._size <= MAX_BODY_BYTES and not self._encoding:  # nearly always
            if self._size > READ_AHEAD_BYTES:
                self._connection.resume_reading()
            return b"".join(self._received)
        return await super().body()

    async def _read_body(self) -> bytes:
        if self._expects_continue and not self.is_whole:
            self._connection.write(CONTINUE)
        self._connection.resume_reading()
        loop = asyncio.get_running_loop()
        while not self.is_whole and self._size <= MAX_BODY_BYTES:
            if self.gone:
                raise ClientGone
            self._more = loop.create_future()
            await self._more
        if self._size > MAX_BODY_BYTES:
            raise too_large()
        return b"".join(self._received)

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        self.started = True
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        self._connection.write_soon(head if self.method == "HEAD" else head + body)
        self._end()

    async def start_stream(self, headers: Headers) -> None:
        self.started = True
        self._is_chunked = self._may_chunk
        if not self._may_chunk:
            self.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        self._connection.write_soon(self._head(200, headers, framing))

    async def send_piece(self, piece: bytes, *, last: bool = False) -> None:
        if self._connection.room is not None:
            await self._wait_for_room()
        if self._is_chunked:
            piece = (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + (b"0\r\n\r\n" if last else b"")
        self._connection.write_soon(piece)
        if last:
            self._end()

    async def _wait_for_room(self) -> None:
        """The connection ends if that takes too long."""
        began = time.monotonic()
        most = max(limits.KEPT_WAITING_SECONDS - self.kept_waiting, 0.0)
        leaving = asyncio.get_running_loop().call_later(most, self._connection.leave)
        try:
            while (room := self._connection.room) is not None:
                await asyncio.shield(room)
        finally:
            leaving.cancel()
            self.kept_waiting += time.monotonic() - began

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if END_CONNECTION in headers:
            self.keep_alive = False
            headers = [header for header in headers if header != END_CONNECTION]
        if self.rates:
            headers = [*headers, *self.rates]
        lines = b"\r\n".join([STATUS_LINES[status], *map(_line, headers)])
        ending = b"\r\n" if self.keep_alive and not self._connection.is_stopping else CLOSE + b"\r\n"
        head = b"%b\r\n%b%b" % (lines, framing, ending)
        return head if self._prelude is None else head[self._prelude.length :]

    def _end(self) -> None:
        """The answer is whole. The rest of a body that nobody read is passed over, so that the client hears us out."""
        self._ended = True
        self._received.clear()
        if not self.is_whole or self._size > READ_AHEAD_BYTES:
            self._connection.resume_reading()
