"""A connection to a provider: HTTP/1.1, one exchange at a time."""

import asyncio
import math
import time
from collections import deque
from functools import lru_cache
from operator import methodcaller

import httptools

from routing.adapters.sending.deadlines import TO_BE_PATIENT
from routing.adapters.sending.delivery import Delivery, under_way
from routing.gateway.exchange.outlet import outlet
from routing.gateway.exchange.sockets import taken, untaken
from routing.gateway.providers.pulse import Pulse, pulse
from routing.types import ErrorKind

MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_REFUSAL_BYTES = 256 * 1024  # of which it is enough to have the beginning
MAX_STREAM_BYTES = 256 * 1024 * 1024
NOTICED_BEATS = Pulse.LASTING  # after a request: until then it is heard of that the server had closed a kept connection
LONG_BYTES = 256 * 1024  # a request that its server may be seen to take little by little
LOOKS = 8  # at how much of that is taken, in the time for which a server may be silent
READ_AHEAD_BYTES = 256 * 1024  # of a stream that the client reads more slowly than the provider writes


_text = methodcaller("decode", "latin-1")


@lru_cache(maxsize=64)  # a server sends the same ones again and again
def _names(raw: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple([name.decode("latin-1").lower() for name in raw])


class Broken(Exception):
    """The connection cannot serve this exchange; `clean`: not a byte of an answer had come; `unbilled` as of
    ProviderError."""

    def __init__(self, kind: ErrorKind, text: str, *, clean: bool = False, unbilled: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.clean = clean
        self.unbilled = unbilled

    def anew(self) -> "Broken":
        """To be raised. What was raised refers to all that waited for it, and must not be kept by any of that."""
        return Broken(self.kind, self.text, clean=self.clean, unbilled=self.unbilled)


class Connection(asyncio.Protocol):
    """One exchange at a time. Whoever waits hears of the head and of each piece where it streams, else of the end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._outlet = outlet()
        self._pulse = pulse()
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.reused = False
        self._heard_at = 0.0
        self._asked_at = 0  # in beats
        self._idle_seconds = 0.0
        self._until = math.inf
        self._is_asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._parser: httptools.HttpResponseParser  # while there is a transport: it refers to this object
        self._keep_alive = False
        self._payload = b""
        self._taken = 0  # bytes that the server had acknowledged when it was last looked at
        self._is_long = False  # the request: it may take a while to be taken
        self._was_sent = False
        self._delivery: Delivery | None = None
        self._raw_headers: dict[bytes, bytes] = {}
        self.on_header = self._raw_headers.__setitem__  # the parser's call for each header, without a function of ours
        self._reset()

    def _reset(self) -> None:
        self._raw_headers.clear()
        self._headers: dict[str, str] = {}
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._limit = MAX_ANSWER_BYTES
        self._streaming = False
        self.complete = False  # the answer is whole
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self.head: tuple[int, dict[str, str]] | None = None

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, always
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:  # nobody's answer: it must not become a part of the next one's
            self.close()
            return
        self._received += len(data)
        self._heard_at = self.loop.time()
        if self._received > self._limit:
            self._fail(Broken("protocol", "the answer is too long"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            another_language = self._received == len(data) and not data.startswith(b"HTTP/")
            self._fail(Broken("protocol", "the answer is not HTTP", unbilled=another_language))
        if self.head is None and self._received > MAX_HEAD_BYTES:  # a first read may hold much of the body, too
            self._fail(Broken("protocol", "the head of the answer is too long"))
        if self._streaming and self._buffered > READ_AHEAD_BYTES and not self._paused and self.transport:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        del self._parser
        self._forget_timer()
        if self.complete or self._error is not None:
            return
        if self.head is not None and "content-length" not in self._headers and "transfer-encoding" not in self._headers:
            self.complete = True  # an answer that ends with its connection
            self._wake()
            return
        if self.head is not None:
            self._fail(Broken("cut", "the connection broke before the answer ended"))
        else:
            clean = self._received == 0
            self._fail(Broken("connection", "the connection broke before an answer came", clean=clean))

    # --- the parser's side ---

    def on_headers_complete(self) -> None:
        if self.complete:  # what follows an answer is nobody's
            self.close()
            return
        status = self._parser.get_status_code()
        if status >= 200:
            raw = self._raw_headers
            self._headers = dict(zip(_names(tuple(raw)), map(_text, raw.values()), strict=True))
            self.head = (status, self._headers)
            if status >= 300:
                self._limit = 2 * MAX_REFUSAL_BYTES  # what is too much is left as it came: a read is as long as one
            elif self._streaming:
                self._limit = MAX_STREAM_BYTES
            if self._streaming:
                self._wake()
        self._raw_headers.clear()

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._body.append(body)
        self._buffered += len(body)
        if self._streaming:
            self._wake()

    def on_message_complete(self) -> None:
        if self.head is not None and not self.complete:
            self._keep_alive = self._parser.should_keep_alive()
            self.complete = True
            self._wake()

    # --- the exchange's side ---

    def send(self, payload: bytes, *, streaming: bool, idle_seconds: float, until: float | None = None) -> None:
        """`idle_seconds` is the longest silence; the answer has to be whole by `until` (time.monotonic's)."""
        if self.reused:
            self._reset()
        self._streaming = streaming
        self._idle_seconds = idle_seconds
        self._heard_at = now = self.loop.time()
        self._until = math.inf if until is None else now + until - time.monotonic()  # loops have clocks of their own
        self._is_asked, self._was_sent = True, False
        self._asked_at = self._pulse.count()
        self._is_long = len(payload) > LONG_BYTES
        look_at = min(now + (idle_seconds / LOOKS if self._is_long else idle_seconds), self._until)
        if self._timer is None or self._timer_at > look_at:
            self._look_at(look_at)
        if self.transport is None or self.transport.is_closing():
            raise Broken("connection", "the connection broke before an answer came", clean=True)
        self._payload, self._delivery = payload, under_way()
        self._outlet.soon(self._write)

    def _write(self) -> None:
        if self.transport is not None and not self.transport.is_closing():  # its loss is heard of otherwise
            if self._delivery is not None:
                self._delivery.has_begun = True
            self._was_sent = True
            self._taken = taken(self.transport.get_extra_info("socket")) if self._is_long else 0
            self.transport.write(self._payload)
        self._payload, self._delivery = b"", None

    def _check_silence(self) -> None:
        """One timer, which looks back when it fires, instead of being set anew by every exchange and piece."""
        self._timer = None
        if not self._is_asked:
            return
        now = self.loop.time()
        if self._is_long and self.transport is not None:  # who had to listen until now was not silent
            before, self._taken = self._taken, taken(self.transport.get_extra_info("socket"))
            if self._taken > before:
                self._heard_at = now
        at = min(self._heard_at + self._idle_seconds, self._until)
        if self._paused or at > now + 0.001:
            if self._is_long and self.head is None:
                at = min(at, now + self._idle_seconds / LOOKS)
            self._look_at(max(at, now + (0.1 if self._paused else 0.0)))
        elif at == self._until:
            self._fail(Broken("timeout", "the answer was not whole in time"))
        else:
            self._fail(Broken("timeout", f"the provider was silent for {self._idle_seconds:g} s; {TO_BE_PATIENT}"))

    def _look_at(self, at: float) -> None:
        self._forget_timer()
        self._timer, self._timer_at = self.loop.call_at(at, self._check_silence), at

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def done(self) -> None:
        """The exchange is over, however it ended."""
        self._is_asked = False

    def news(self) -> asyncio.Future[None]:
        """Done once there is a head or another piece, or the end: whoever waits looks which. Raises Broken, now or
        when it is waited for."""
        if self._error is not None:
            raise self._error.anew()
        waiter = self._waiter = self.loop.create_future()
        return waiter

    async def next_chunk(self) -> bytes:
        """What has come since the last time, at least a byte; b"" at the end."""
        while not self._body:
            if self.complete:
                return b""
            await self.news()
        taken = self.taken()
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return taken

    def taken(self) -> bytes:
        """What has come of the body since the last time."""
        taken = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        return taken

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Broken) -> None:
        self._error = error
        waiter, self._waiter = self._waiter, None  # what it is told refers to all that waited
        if waiter is not None and not waiter.done():
            waiter.set_exception(error.anew())
        self.close()

    @property
    def had_been_closed(self) -> bool:
        """For one that broke before a byte came: whether the server had closed it before it was asked. One that is new,
        or was waited for, broke for the request's sake, which may have been served and must not be sent twice."""
        return not self._was_sent or (self.reused and self._pulse.beats - self._asked_at < NOTICED_BEATS)

    @property
    def is_refusal(self) -> bool:
        return self.head is not None and self.head[0] >= 300

    @property
    def reusable(self) -> bool:
        """False also for one that is held back, or whose server has not taken all of what it has answered already."""
        if self.transport is None or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        if self._is_long and untaken(self.transport.get_extra_info("socket")):
            return False
        return self.complete and self._keep_alive and not self._paused

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
