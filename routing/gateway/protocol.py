"""HTTP/1.1 as the gateway's own server speaks it: a connection, its requests one after another, their answers.

It takes the place of uvicorn's protocol, which writes an answer's head and body apart and wraps each step in a
message. Heads must be short and come soon; no request is begun before the one in front of it is answered.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from routing.gateway.http import END_CONNECTION, MAX_BODY_BYTES, ClientGone, Headers, Http, too_large
from routing.gateway.outlet import outlet
from routing.gateway.paths import COMMON_URL_BYTES, asked_for, known_path, path_of

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30.0
READ_AHEAD_BYTES = 256 * 1024  # of a body, before anybody has said that it is wanted
LINGER_SECONDS = 1.0  # for a client that still sends when it has its answer
STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"connection: close\r\n"


class Connection(asyncio.Protocol, ABC):
    """A client's connection. uvicorn makes it, and tells it when the server stops."""

    @abstractmethod
    def serve(self, http: Http) -> Awaitable[None]:
        """Answers one request; never raises what the request is to blame for."""

    @abstractmethod
    def refusal(self, status: int, url: bytes) -> bytes:
        """A whole answer to what is no request, or not all of one: 400, 408 or 431."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._outlet = outlet()
        self._state = server_state
        self._parser = httptools.HttpRequestParser(self)
        self._address = ""
        self._transport: asyncio.Transport
        # the request that is being read
        self._url = b""
        self._headers: Headers = []
        self._expects_continue = False
        self._head_bytes = 0  # -1 within a body
        self._reading: DirectHttp | None = None
        # the one that is being answered, and those that came too early
        self._current: DirectHttp | None = None
        self._early: deque[DirectHttp] = deque()
        self._idle_since = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None  # while the client reads too slowly
        self._unsent: list[bytes] = []
        self._stopping = False

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # it has all that uvicorn asks of one
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._head_timer = self._loop.call_later(HEAD_SECONDS, self._give_up, 408)
        self._idle_timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and self._is_long_head(data):
                self._url = self._url or asked_for(data)
                self._give_up(431)
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stopping = True  # no other protocol is spoken here: this request is the last one
        except httptools.HttpParserError:
            self._url = self._url or asked_for(data)
            self._give_up(400)
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(431)
        elif self._head_bytes > 0 and self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self._give_up, 408)
        elif self._reading is not None and self._reading is self._current and self._reading.running is None:
            self._begin(self._reading)  # its body is still on its way

    def _is_long_head(self, data: bytes) -> bool:
        """Much has come, most of which may be a body. A head that ends between two reads is left to the parser."""
        end = data.find(b"\r\n\r\n")
        return self._head_bytes - len(data) + end > MAX_HEAD_BYTES if end >= 0 else data[:1] not in (b"\r", b"\n")

    def eof_received(self) -> None:
        """The client sends no more: it has gone, or may still hear that it has not sent all of its request."""
        if self._reading is self._current and (self._reading is not None or self._head_bytes > 0):
            self._give_up(400)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        for timer in (self._head_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._early.clear()
        self.resume_writing()
        if self._current is not None:
            self._current.lose_client()
        del self._parser  # it refers to this object

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def shutdown(self) -> None:
        """The server stops: what is under way is finished."""
        self._stopping = True
        if self._current is None:
            self._transport.close()

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        self._url, self._headers, self._expects_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        request = self._reading = DirectHttp(
            self,
            self._parser.get_method().decode("ascii"),
            known_path(self._url) if len(self._url) <= COMMON_URL_BYTES else path_of(self._url),
            self._address,
            self._headers,
            keep_alive=self._parser.should_keep_alive() and not self._stopping,
            may_chunk=self._parser.get_http_version() != "1.0",
            expects_continue=self._expects_continue,
        )
        if self._current is None:
            self._current = request
        else:
            self._early.append(request)
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.take(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        request, self._reading = self._reading, None
        if request is not None:
            request.end_body()
            if request is self._current and request.running is None:
                self._begin(request)

    # --- the exchange's side ---

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    @property
    def room(self) -> "asyncio.Future[None] | None":
        """To be waited for before more is written."""
        return self._room

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def write_soon(self, data: bytes) -> None:
        """Together with what else is written before the event loop turns: what came together goes out together."""
        if not self._unsent:
            self._outlet.soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        if self._unsent:
            self.write(b"".join(self._unsent))
            self._unsent.clear()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._early and not self._transport.is_closing():
            self._transport.resume_reading()

    def answered(self, request: "DirectHttp") -> None:
        """The answer is written; the next request may begin."""
        self._state.tasks.discard(request.running)
        self._current = None
        self._idle_since = self._loop.time()
        self._state.total_requests += 1
        if not request.keep_alive or self._stopping:
            self._flush()
            if request.is_whole:
                self._transport.close()
            else:
                self._loop.call_later(LINGER_SECONDS, self._transport.close)
        elif self._early:
            self._current = self._early.popleft()
            self._begin(self._current)
            self.resume_reading()

    def _begin(self, request: "DirectHttp") -> None:
        request.running = self._loop.create_task(request.serve())
        self._state.tasks.add(request.running)

    def _give_up(self, status: int) -> None:
        if not self._transport.is_closing():
            if self._current is None or not self._current.started:
                self._transport.write(self.refusal(status, self._url))
            self._transport.close()

    def _look_whether_idle(self) -> None:
        """One timer a connection, however many requests it serves."""
        idle_until = self._idle_since + KEEP_ALIVE_SECONDS
        busy = self._current is not None or self._head_bytes > 0
        if not busy and self._loop.time() >= idle_until:
            self._transport.close()
            return
        again_at = max(idle_until, self._loop.time() + KEEP_ALIVE_SECONDS / 10)
        self._idle_timer = self._loop.call_at(again_at, self._look_whether_idle)


class DirectHttp(Http):
    """An exchange on a Connection."""

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        address: str,
        headers: Headers,
        *,
        keep_alive: bool,
        may_chunk: bool,
        expects_continue: bool,
    ) -> None:
        super().__init__(method, path, address, headers)
        self.keep_alive = keep_alive
        self.is_whole = False
        self.running: asyncio.Task[None] | None = None
        self._connection = connection
        self._may_chunk = may_chunk
        self._expects_continue = expects_continue
        self._received: list[bytes] = []
        self._size = 0
        self._is_chunked = False
        self._ended = False
        self._more: asyncio.Future[None] | None = None

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
        """A part of the body. What nobody wants any more is let go."""
        if self._ended:
            return
        self._size += len(body)
        if self._size <= MAX_BODY_BYTES:
            self._received.append(body)
        if self._size > READ_AHEAD_BYTES and self._more is None:
            self._connection.pause_reading()
        self._wake()

    def end_body(self) -> None:
        self.is_whole = True
        self._wake()

    def lose_client(self) -> None:
        self._client_went()
        self._wake()

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
            await super().send_piece(piece, last=last)
        else:
            self._write_piece(piece, last=last)

    async def _send_piece(self, piece: bytes, *, last: bool) -> None:
        while (room := self._connection.room) is not None:
            await asyncio.shield(room)
        self._write_piece(piece, last=last)

    def _write_piece(self, piece: bytes, *, last: bool) -> None:
        if self._is_chunked:
            piece = (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + (b"0\r\n\r\n" if last else b"")
        self._connection.write_soon(piece)
        if last:
            self._end()

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if END_CONNECTION in headers:
            self.keep_alive = False
            headers = [header for header in headers if header != END_CONNECTION]
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        ending = b"\r\n" if self.keep_alive and not self._connection.is_stopping else CLOSE + b"\r\n"
        return STATUS_LINES[status] + lines + framing + ending

    def _end(self) -> None:
        """The answer is whole. The rest of a body that nobody read is passed over, so that the client hears us out."""
        self._ended = True
        self._received.clear()
        if not self.is_whole:
            self._connection.resume_reading()
