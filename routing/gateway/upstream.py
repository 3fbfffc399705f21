"""HTTP/1.1 to providers with as little as possible between the socket and a codec.

One protocol object a connection, kept and reused for each address and event loop. What a codec needs is a
request's bytes out and an answer's bytes in; redirects, cookies, proxies and compression are not needed.
"""

import asyncio
import contextlib
import ssl
import time
import weakref
from collections import deque
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import certifi
import httptools

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.errors import make_error
from routing.adapters.wire import dumps
from routing.types import ErrorKind, ProviderError, Usage

KEEP_SECONDS = 4.0  # shorter than any server's own, so that a request seldom meets a connection being closed
KEPT_CONNECTIONS = 512  # of one address
CONNECT_SECONDS = 5.0
LINGER_SECONDS = 0.1
MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_STREAM_BYTES = 256 * 1024 * 1024
READ_AHEAD_BYTES = 256 * 1024  # of a stream that the client reads more slowly than the provider writes
FORBIDDEN = frozenset("\r\n\0")

Address = tuple[bool, str, int]  # TLS, host, port


class _Broken(Exception):
    """The connection cannot serve this exchange; `clean`: not a byte of an answer had come."""

    def __init__(self, kind: ErrorKind, text: str, *, clean: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.clean = clean


class Connection(asyncio.Protocol):
    """One exchange at a time. The head resolves a future, the body is collected or handed on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.reused = False
        self._heard_at = 0.0
        self._idle_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._keep_alive = False
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._limit = MAX_ANSWER_BYTES
        self._streaming = False
        self._complete = False
        self._error: _Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self.head: tuple[int, dict[str, str]] | None = None

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, always

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._heard_at = self.loop.time()
        if self._received > self._limit:
            self._fail(_Broken("protocol", "the answer is too long"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(_Broken("protocol", "the answer is not HTTP"))
        if self.head is None and self._received > MAX_HEAD_BYTES:  # a first read may hold much of the body, too
            self._fail(_Broken("protocol", "the head of the answer is too long"))
        if self._streaming and self._buffered > READ_AHEAD_BYTES and not self._paused and self.transport:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._complete or self._error is not None:
            return
        if self.head is not None and "content-length" not in self._headers and "transfer-encoding" not in self._headers:
            self._complete = True  # an answer that ends with its connection
            self._wake()
            return
        if self.head is not None:
            self._fail(_Broken("cut", "the connection broke before the answer ended"))
        else:
            clean = self._received == 0
            self._fail(_Broken("connection", "the connection broke before an answer came", clean=clean))

    # --- the parser's side ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = {}
            return
        self.head = (status, self._headers)
        if self._streaming:
            self._limit = MAX_STREAM_BYTES
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._buffered += len(body)
        if self._streaming:
            self._wake()

    def on_message_complete(self) -> None:
        if self.head is not None:
            self._keep_alive = self._parser.should_keep_alive()
            self._complete = True
            self._wake()

    # --- the exchange's side ---

    def send(self, payload: bytes, *, streaming: bool, idle_seconds: float) -> None:
        if self.reused:
            self._reset()
        self._streaming = streaming
        self._idle_seconds = idle_seconds
        self._heard_at = self.loop.time()
        self._timer = self.loop.call_later(idle_seconds, self._check_silence)
        if self.transport is None or self.transport.is_closing():
            raise _Broken("connection", "the connection broke before an answer came", clean=True)
        self.transport.write(payload)

    def _check_silence(self) -> None:
        """One timer an exchange: it looks back when it fires, instead of being set anew by every piece."""
        at = self._heard_at + self._idle_seconds
        if self._paused or at > self.loop.time() + 0.001:
            self._timer = self.loop.call_at(max(at, self.loop.time() + 0.1), self._check_silence)
        else:
            self._fail(_Broken("timeout", f"the provider was silent for {self._idle_seconds:g} s"))

    def done(self) -> None:
        """The exchange is over, however it ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait_head(self) -> tuple[int, dict[str, str]]:
        while self.head is None:
            await self._wait()
        return self.head

    async def wait_all(self) -> bytes:
        while not self._complete:
            await self._wait()
        return self._taken()

    async def next_chunk(self) -> bytes:
        """What has come since the last time, at least a byte; b"" at the end."""
        while not self._body:
            if self._complete:
                return b""
            await self._wait()
        taken = self._taken()
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return taken

    def _taken(self) -> bytes:
        taken = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        return taken

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: _Broken) -> None:
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.close()

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def reusable(self) -> bool:
        return self._complete and self.transport is not None and not self.transport.is_closing() and self._keep_alive

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Pool:
    """Kept connections of one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Address, deque[Connection]] = {}

    def take(self, address: Address) -> Connection | None:
        """The connection used last, if one is still fresh."""
        idle = self._idle.get(address)
        oldest = time.monotonic() - KEEP_SECONDS
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                if connection.idle_since > oldest:
                    return connection
                connection.close()
        return None

    async def open(self, address: Address) -> Connection:
        tls, host, port = address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    Connection, host, port, ssl=_ssl_context() if tls else None
                )
        except TimeoutError:
            raise _Broken("connection", "nobody answered in time") from None
        except ssl.SSLError as error:
            raise _Broken("connection", f"TLS failed: {error.reason}") from None
        except (OSError, UnicodeError):
            raise _Broken("connection", "no connection to the provider") from None
        return connection

    def give_back(self, address: Address, connection: Connection) -> None:
        if not connection.reusable:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        connection.reused = True
        idle = self._idle.setdefault(address, deque())
        idle.append(connection)
        while idle and (len(idle) > KEPT_CONNECTIONS or idle[0].idle_since < connection.idle_since - KEEP_SECONDS):
            idle.popleft().close()

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.popleft().close()


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def _pool() -> Pool:
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
    return pool


def close() -> None:
    """Closes this loop's kept connections."""
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        pool.close()


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


@lru_cache(maxsize=512)
def _target(url: str) -> tuple[Address, str, str]:
    """Address, path with query, and Host header of a URL. Raises ValueError for one that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(url)
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return (tls, parts.hostname, parts.port or (443 if tls else 80)), path, parts.netloc.rpartition("@")[2]


def _payload(sent: WireRequest, path: str, host: str) -> bytes:
    """The request's bytes. Raises ProviderError for a header that HTTP forbids."""
    body = dumps(sent.body) if sent.body is not None else b""
    head = f"{sent.method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: ziggie\r\naccept-encoding: identity\r\n"
    for name, value in sent.headers.items():
        if not FORBIDDEN.isdisjoint(value) or not FORBIDDEN.isdisjoint(name):
            raise make_error("auth", "the key or a header holds characters HTTP forbids", sent, retryable=False)
        head += f"{name}: {value}\r\n"
    if sent.body is not None:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    try:
        return head.encode("latin-1") + b"\r\n" + body
    except UnicodeError:
        raise make_error("auth", "the key or a header holds characters HTTP forbids", sent, retryable=False) from None


class Exchange:
    """One request and its answer. Use as an async context manager; leaving it early closes the connection."""

    def __init__(self, sent: WireRequest, *, streaming: bool, idle_seconds: float) -> None:
        self._sent = sent
        self._idle_seconds = idle_seconds
        self._streaming = streaming
        self._pool = _pool()
        self._connection: Connection | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> "Exchange":
        """Sends the request and waits for the answer's head. Raises ProviderError."""
        try:
            self._address, path, host = _target(self._sent.url)
        except ValueError:
            raise make_error("connection", "the address is not a usable URL", self._sent, retryable=False) from None
        payload = _payload(self._sent, path, host)
        while True:
            kept = self._pool.take(self._address)
            try:
                self._connection = kept or await self._pool.open(self._address)
                self._connection.send(payload, streaming=self._streaming, idle_seconds=self._idle_seconds)
                self.status, self.headers = await self._connection.wait_head()
            except _Broken as broken:
                self._drop()
                if kept is not None and broken.clean:
                    continue  # the server had closed it meanwhile: it never saw the request
                raise self._translated(broken) from None
            except BaseException:
                self._drop()
                raise
            break
        if self.headers.get("content-encoding", "identity") != "identity":
            self._drop()
            raise make_error("protocol", "the answer is compressed, which was not asked for", self._sent)
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._connection is not None:
            self._connection.done()
            self._pool.give_back(self._address, self._connection)
            self._connection = None

    async def read(self) -> WireResponse:
        """The whole answer. Raises ProviderError."""
        assert self._connection is not None
        try:
            return WireResponse(self.status, self.headers, await self._connection.wait_all())
        except _Broken as broken:
            raise self._translated(broken) from None

    async def next_chunk(self, *, usage: Usage | None = None) -> bytes:
        """What has come since the last time; b"" at the end. Raises ProviderError, which bears `usage`:
        the best that is known of what a broken answer has cost."""
        assert self._connection is not None
        try:
            return await self._connection.next_chunk()
        except _Broken as broken:
            translated = self._translated(broken)
            translated.usage = usage
            raise translated from None

    async def linger(self) -> None:
        """Reads the few bytes after the end of an answer, so that the connection can be used again."""
        if self._connection is None or self._connection.complete:
            return
        with contextlib.suppress(TimeoutError, _Broken):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._connection.next_chunk()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.done()
            self._connection.close()
            self._connection = None

    def _translated(self, broken: _Broken) -> ProviderError:
        return make_error(broken.kind, broken.text, self._sent)
