"""HTTP/1.1 as the gateway's own server speaks it: a connection, its requests one after another, their answers.

It takes the place of uvicorn's protocol, which writes an answer's head and body apart and wraps each step in a
message. Heads must be short and come soon; no request is begun before the one in front of it is answered, and nothing
that comes after a request takes its answer away.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable
from typing import Any, NoReturn

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from routing.gateway.access.crowd import TOLD_SECONDS, crowd
from routing.gateway.exchange.heads import Head, KnownHeads, is_long_head, only_framing, read_head
from routing.gateway.exchange.http import UNDER_WAY, Headers, Http
from routing.gateway.exchange.leaving import Watch
from routing.gateway.paths import COMMON_URL_BYTES, asked_for, known_path, path_of
from routing.gateway.serving.direct import DirectHttp
from routing.gateway.serving.outgoing import Outgoing

MAX_HEAD_BYTES = 64 * 1024  # also of what is no body between two pieces of one, and behind the last
SLICE_BYTES = 8 * 1024  # read at a time: the shortest requests, of 18 bytes each, would fill the memory otherwise
UNREAD_BYTES = 64 * 1024  # behind a request that came too early; until then it is heard when the client leaves
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30.0
VERSIONS = frozenset({"1.0", "1.1"})

known_heads = KnownHeads()


class Connection(Outgoing, ABC):
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
        super().__init__(_loop or asyncio.get_running_loop())
        self._state = server_state
        app_state[UNDER_WAY] = server_state.tasks
        self._parser = httptools.HttpRequestParser(self)
        self._address = ""
        # the request that is being read
        self._url = b""
        self._headers: Headers = []
        self._expects_continue = False
        self._head_bytes = 0  # -1 within a body
        self._framing_bytes = 0  # within a body, since the last byte of it
        self._in_message = False  # the parser is within one, be it in the first letters of its head
        self._whole = b""  # what came in one read, if that began with a message
        self._reading: DirectHttp | None = None
        # the one that is being answered, and those that came too early
        self._current: DirectHttp | None = None
        self._early: deque[DirectHttp] = deque()
        self._unread = b""  # what came behind those; nothing, if there are none
        self._idle_since = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self.is_stopping = False
        self._has_place = True
        self._is_deaf = False  # what comes now is not read: the last answer is out, or will be the last one
        self._leaving: Watch | None = None  # once the client sends no more
        self._to_go_on = b""  # what a new parser is told of a request that the last one would not read on
        self._goes_on = False  # it is being told so
        self._wrong = 400  # what is said of what the parser stops at
        self._refusing: int | None = None  # what that which came after the last request is answered with, in its turn

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # it has all that uvicorn asks of one
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._crowd = crowd()
        self._has_place = self._crowd.enter(self, self._address)
        if not self._has_place:
            self._find_no_place()
            return
        self._start_head_timer()
        self._idle_timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._look_whether_idle)

    def _find_no_place(self) -> None:
        self.is_stopping = True
        if self._crowd.turn_away(self):
            self._head_timer = self._loop.call_later(TOLD_SECONDS, self._close)
        else:
            self._transport.abort()

    @property
    def keeps_a_place(self) -> bool:
        """Whether nothing is asked on it, and nothing of an answer is on its way."""
        return self._current is None and not self._unsent and not self._transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        self._whole = b""
        if self._current is None and not self._in_message and self._head_bytes == 0 and not self.is_stopping:
            known = known_heads.find(data)
            if known is not None:
                self._serve_known(*known)
                return
            self._whole = data
        self._read_on(data)

    def _read_on(self, data: bytes) -> None:
        """Until a request has come too early: what is behind it waits."""
        data, self._unread = self._unread + data, b""
        for start in range(0, len(data), SLICE_BYTES):
            if self._early:
                self._unread = data[start:]
                if len(self._unread) > UNREAD_BYTES:
                    self.pause_reading()
                return
            if not self._is_deaf:
                self._read(data[start : start + SLICE_BYTES])

    def _read(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and is_long_head(self._head_bytes, data, MAX_HEAD_BYTES):
                self._url = self._url or asked_for(data)
                self._give_up(431)
                return
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as at:
            self._read_without_upgrade(data[at.args[0] :])
            return
        except httptools.HttpParserError:
            self._url = self._url or asked_for(data)
            self._give_up(self._wrong)
            return
        if self._head_bytes > MAX_HEAD_BYTES or (self._head_bytes < 0 and self._framing_bytes > MAX_HEAD_BYTES):
            self._give_up(431)
        elif self._head_bytes > 0 and self._current is None:
            self._start_head_timer()
        elif self._reading is not None and self._reading is self._current and self._reading.running is None:
            self._begin(self._reading)  # its body is still on its way

    def _read_without_upgrade(self, data: bytes) -> None:
        """No other protocol is spoken here: what follows is the request's body, as if it had not asked for one. Java's
        client does so, unasked, with the first request of a connection."""
        head, self._to_go_on = self._to_go_on, b""
        if not head:
            self.is_stopping = True  # CONNECT: nothing can follow that is understood
            return
        self._parser = httptools.HttpRequestParser(self)
        self._goes_on = True
        self._read(head + data)

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

    def eof_received(self) -> bool:
        """The client sends no more. What has come whole is answered, and of the rest it hears that it is not all."""
        self._flush()
        if not self._early and (self._reading is not None or self._head_bytes > 0):
            self._give_up(400)
        last = self._current
        if last is None or self._has_parted or self._transport.is_closing():
            self._watch_taking()  # the transport closes once all is taken
            return False
        if not self._early:  # else it is looked at again once what came behind them is read
            last.keep_alive = last.keep_alive and self._refusing is not None
        if self._leaving is None:
            client = self._transport.get_extra_info("socket")
            self._leaving = Watch(client, knock=self._knock, leave=self._transport.abort)
        return True

    def _knock(self) -> None:
        if self._current is not None:
            self._current.knock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._crowd.leave(self)
        for timer in (self._head_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._forget_taking()
        if self._leaving is not None:
            self._leaving.stop()
            self._leaving = None  # it refers to this object
        self._early.clear()
        self._unread = b""
        self._make_room()
        if self._current is not None:
            self._current.lose_client()
            if self._current.running is None:
                self._current = None  # it refers to this object, as do the next two
        self._reading, self._whole = None, b""
        del self._parser

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()
        self._watch_taking()
        if self._current is None and not self.is_stopping:
            self._wait_for_room()

    def resume_writing(self) -> None:
        self._make_room()
        if self._transport.is_closing():
            return  # what is left must be taken, too
        self._forget_taking()
        if self._current is None and not self.is_stopping:
            self._go_on()
            self.resume_reading()

    def _wait_for_room(self) -> None:
        """A client that takes no answers is not asked for more requests."""
        self._stop_head_timer()
        self.pause_reading()

    def shutdown(self) -> None:
        """The server stops: what is under way is finished."""
        self.is_stopping = True
        if self._current is None:
            self._flush()
            self._close()

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        if self._goes_on:
            return
        self._in_message = True
        self._head_bytes = max(self._head_bytes, 1)  # it may begin within what ended another one
        self._url, self._headers, self._expects_continue = b"", [], False

    def on_url(self, url: bytes) -> None:
        if not self._goes_on:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_bytes < 0:  # behind a body, where it says nothing that is needed
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        if self._goes_on:
            self._goes_on = False
            return
        self._head_bytes, self._framing_bytes = -1, 0
        self._stop_head_timer()
        version = self._parser.get_http_version()
        if not self._has_place:
            self._refuse(503)
        if version not in VERSIONS:
            self._refuse(505)
        if [name for name, _ in self._headers].count(b"host") > 1:  # none is no matter: nothing here depends on it
            self._refuse(400)
        path = known_path(self._url) if len(self._url) <= COMMON_URL_BYTES else path_of(self._url)
        head = read_head(self._parser.get_method().decode("ascii"), path, self._headers)
        request = self._reading = DirectHttp(
            self,
            head,
            self._address,
            keep_alive=self._parser.should_keep_alive() and not self.is_stopping,
            may_chunk=version == "1.1",
            expects_continue=self._expects_continue,
        )
        if self._parser.should_upgrade() and head.method != "CONNECT":
            self._to_go_on = only_framing(self._headers)
        if self._current is None:
            self._current = request
        else:
            self._early.append(request)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self._reading is not None:
            self._reading.take(body)

    def on_message_complete(self) -> None:
        if self._to_go_on:
            return
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

    def _refuse(self, status: int) -> NoReturn:
        """Out of the parser, which then reads no further."""
        self._wrong = status
        raise httptools.HttpParserError

    # --- the exchange's side ---

    def pause_reading(self) -> None:
        if self._leaving is None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        has_room = (self._room is None or self._current is not None) and len(self._unread) <= UNREAD_BYTES
        if has_room and self._leaving is None and not self._transport.is_closing():
            self._transport.resume_reading()

    def answered(self, request: "DirectHttp") -> None:
        """The answer is written; the next request may begin."""
        self._state.tasks.discard(request.running)
        self._current = None
        self._idle_since = self._loop.time()
        self._state.total_requests += 1
        if not request.keep_alive or self.is_stopping:
            self._is_deaf = self.is_stopping = True
            self._flush()
            if request.is_whole:
                self._close()
            else:
                self._part()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """With what came while the last request was answered."""
        if self._room is not None:
            self._wait_for_room()
        elif self._early:
            self._current = self._early.popleft()
            self._begin(self._current)
            self._read_on(b"")
            if self._leaving is not None:
                self.eof_received()
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
                self._reading = None
            self._is_deaf, self._refusing = True, self._refusing or status
            return
        self._flush()
        unanswered = self._current or self._reading
        if unanswered is None or not unanswered.started:
            self.write(self.refusal(status, self._url))
        self._is_deaf = self.is_stopping = True
        self._part()
        if self._current is not None:
            self._current.lose_client()

    def _look_whether_idle(self) -> None:
        """One timer a connection, however many requests it serves."""
        idle_until = self._idle_since + KEEP_ALIVE_SECONDS
        busy = self._current is not None or self._head_bytes > 0 or self._room is not None
        if not busy and self._loop.time() >= idle_until:
            self._close()
            return
        again_at = max(idle_until, self._loop.time() + KEEP_ALIVE_SECONDS / 10)
        self._idle_timer = self._loop.call_at(again_at, self._look_whether_idle)
