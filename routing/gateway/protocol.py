"""HTTP/1.1 as the gateway's own server speaks it: a connection, its requests one after another, their answers.

It takes the place of uvicorn's protocol, which writes an answer's head and body apart and wraps each step in a
message. Heads must be short and come soon; no request is begun before the one in front of it is answered, and nothing
that comes after a request takes its answer away.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from routing.gateway import http as limits
from routing.gateway.direct import DirectHttp
from routing.gateway.heads import Head, KnownHeads, read_head
from routing.gateway.http import UNDER_WAY, Headers, Http
from routing.gateway.outlet import outlet
from routing.gateway.paths import COMMON_URL_BYTES, asked_for, known_path, path_of
from routing.gateway.sockets import drop_at_close, untaken

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30.0
LINGER_SECONDS = 1.0  # for a client that still sends when it has its answer

known_heads = KnownHeads()


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
        app_state: dict[str, Any],  # also the lifespan's
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._outlet = outlet()
        self._state = server_state
        app_state[UNDER_WAY] = server_state.tasks
        self._parser = httptools.HttpRequestParser(self)
        self._address = ""
        self._transport: asyncio.Transport
        # the request that is being read
        self._url = b""
        self._headers: Headers = []
        self._expects_continue = False
        self._head_bytes = 0  # -1 within a body
        self._in_message = False  # the parser is within one, be it in the first letters of its head
        self._whole = b""  # what came in one read, if that began with a message
        self._reading: DirectHttp | None = None
        # the one that is being answered, and those that came too early
        self._current: DirectHttp | None = None
        self._early: deque[DirectHttp] = deque()
        self._idle_since = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None  # while the client reads too slowly
        self._untaken = 0  # bytes, when it was last looked at
        self._taking_timer: asyncio.TimerHandle | None = None
        self._unsent: list[bytes] = []
        self._stopping = False
        self._is_deaf = False  # what comes now is not read: the last answer is out, or will be the last one
        self._refusing: int | None = None  # what that which came after the last request is answered with, in its turn

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # it has all that uvicorn asks of one
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._start_head_timer()
        self._idle_timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        self._whole = b""
        if self._current is None and not self._in_message and self._head_bytes == 0 and not self._stopping:
            known = known_heads.find(data)
            if known is not None:
                self._serve_known(*known)
                return
            self._whole = data
        if not self._is_deaf:
            self._read(data)

    def _read(self, data: bytes) -> None:
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
        elif self._head_bytes > 0 and self._current is None:
            self._start_head_timer()
        elif self._reading is not None and self._reading is self._current and self._reading.running is None:
            self._begin(self._reading)  # its body is still on its way

    def _serve_known(self, head: Head, body: bytes) -> None:
        """A request that the parser need not see."""
        self._stop_head_timer()
        request = self._current = DirectHttp(self, head, self._address, keep_alive=True, whole=body)
        self._begin(request)

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self._give_up, 408)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_long_head(self, data: bytes) -> bool:
        """Much has come, most of which may be a body. A head that ends between two reads is left to the parser."""
        end = data.find(b"\r\n\r\n")
        return self._head_bytes - len(data) + end > MAX_HEAD_BYTES if end >= 0 else data[:1] not in (b"\r", b"\n")

    def eof_received(self) -> None:
        """The client sends no more: it has gone, or may still hear that it has not sent all of its request."""
        self._flush()
        if self._reading is self._current and (self._reading is not None or self._head_bytes > 0):
            self._give_up(400)
        self._watch_taking()  # the transport closes once all is taken

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        for timer in (self._head_timer, self._idle_timer, self._taking_timer):
            if timer is not None:
                timer.cancel()
        self._early.clear()
        self._make_room()
        if self._current is not None:
            self._current.lose_client()
        del self._parser  # it refers to this object

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()
        self._watch_taking()
        if self._current is None and not self._stopping:
            self._wait_for_room()

    def resume_writing(self) -> None:
        self._make_room()
        if self._transport.is_closing():
            return  # what is left must be taken, too
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None
        if self._current is None and not self._stopping:
            self._go_on()
            self.resume_reading()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _wait_for_room(self) -> None:
        """A client that takes no answers is not asked for more requests."""
        self._stop_head_timer()
        self._transport.pause_reading()

    def _watch_taking(self) -> None:
        """A client that takes nothing of what waits for it is left: a transport that closes waits for ever."""
        if self._taking_timer is None and self._transport.get_write_buffer_size():
            self._untaken = self._not_taken()
            self._taking_timer = self._loop.call_later(limits.SEND_SECONDS, self._look_whether_taken)

    def _look_whether_taken(self) -> None:
        self._taking_timer = None
        if self._not_taken() < self._untaken:
            self._watch_taking()
        else:
            drop_at_close(self._transport.get_extra_info("socket"))
            self._transport.abort()

    def _not_taken(self) -> int:
        """Bytes, in the transport and in the system."""
        return self._transport.get_write_buffer_size() + untaken(self._transport.get_extra_info("socket"))

    def _close(self) -> None:
        self._transport.close()
        self._watch_taking()

    def shutdown(self) -> None:
        """The server stops: what is under way is finished."""
        self._stopping = True
        if self._current is None:
            self._flush()
            self._close()

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        self._in_message = True
        self._head_bytes = max(self._head_bytes, 1)  # it may begin within what ended another one
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
        self._stop_head_timer()
        path = known_path(self._url) if len(self._url) <= COMMON_URL_BYTES else path_of(self._url)
        head = read_head(self._parser.get_method().decode("ascii"), path, self._headers)
        request = self._reading = DirectHttp(
            self,
            head,
            self._address,
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
        self._in_message = False
        request, self._reading = self._reading, None
        if request is not None:
            request.end_body()
            if self._whole and request.keep_alive and self._parser.get_http_version() == "1.1":
                known_heads.remember(self._whole, request.head, self._headers)
            self._whole = b""
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
            if self._room is not None:
                self._untaken += len(data)
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
        has_room = self._room is None or self._current is not None
        if has_room and not self._early and not self._transport.is_closing():
            self._transport.resume_reading()

    def answered(self, request: "DirectHttp") -> None:
        """The answer is written; the next request may begin."""
        self._state.tasks.discard(request.running)
        self._current = None
        self._idle_since = self._loop.time()
        self._state.total_requests += 1
        if not request.keep_alive or self._stopping:
            self._is_deaf = self._stopping = True
            self._flush()
            if request.is_whole:
                self._close()
            else:
                self._loop.call_later(LINGER_SECONDS, self._close)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """With what came while the last request was answered."""
        if self._room is not None:
            self._wait_for_room()
        elif self._early:
            self._current = self._early.popleft()
            self._begin(self._current)
            self.resume_reading()
        elif self._refusing is not None:
            self._give_up(self._refusing)
        elif self._head_bytes > 0:
            self._start_head_timer()

    def _begin(self, request: "DirectHttp") -> None:
        request.running = self._loop.create_task(request.serve())
        self._state.tasks.add(request.running)

    def _give_up(self, status: int) -> None:
        """Refuses what is being read, and closes. Requests that had come whole before it are answered first."""
        if self._transport.is_closing():
            return
        if self._current is not None and self._current.is_whole:
            if self._reading is not None:  # it waits in vain for its turn
                self._early.pop()
            self._is_deaf, self._refusing = True, status
            return
        self._flush()
        if self._current is None or not self._current.started:
            self.write(self.refusal(status, self._url))
        self._close()

    def _look_whether_idle(self) -> None:
        """One timer a connection, however many requests it serves."""
        idle_until = self._idle_since + KEEP_ALIVE_SECONDS
        busy = self._current is not None or self._head_bytes > 0 or self._room is not None
        if not busy and self._loop.time() >= idle_until:
            self._close()
            return
        again_at = max(idle_until, self._loop.time() + KEEP_ALIVE_SECONDS / 10)
        self._idle_timer = self._loop.call_at(again_at, self._look_whether_idle)
