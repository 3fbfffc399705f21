"""HTTP/1.1 to providers with as little as possible between the socket and a codec.

What a codec needs is a request's bytes out and an answer's bytes in; redirects, cookies and proxies are not needed, and
compression is not asked for.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import make_error
from routing.adapters.reading.wire import dumps
from routing.adapters.sending.delivery import not_begun
from routing.gateway.providers.connections import MAX_REFUSAL_BYTES, Broken, Connection
from routing.gateway.providers.dialing import Address
from routing.gateway.providers.pool import Pool
from routing.gateway.providers.unpacking import NOT_PACKED, PACKINGS, Unpacker, beginning
from routing.loops import OfLoop
from routing.types import ProviderError, Usage

LINGER_SECONDS = 0.1
FORBIDDEN = frozenset("\r\n\0")

_pools = OfLoop(Pool)


def expect(address: Address) -> None:
    """A request is about to go there: a connection is opened beside, if none is kept."""
    _pools.get().expect(address)


def close() -> None:
    """Closes this loop's kept connections."""
    pool = _pools.pop()
    if pool is not None:
        pool.close()


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
    try:
        head = _head(sent.method, path, host, tuple(sent.headers.items()))
    except ValueError:
        raise make_error("auth", "the key or a header holds characters HTTP forbids", sent, retryable=False) from None
    if sent.body is None:
        return head + b"\r\n"
    body = dumps(sent.body)
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


@lru_cache(maxsize=512)
def _head(method: str, path: str, host: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The same for all calls of a provider. Raises ValueError for a header that HTTP forbids."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept-encoding: identity\r\n"
    for name, said in ({"user-agent": "ziggie"} | dict(headers)).items():
        if not FORBIDDEN.isdisjoint(said) or not FORBIDDEN.isdisjoint(name):
            raise ValueError(name)
        head += f"{name}: {said}\r\n"
    return head.encode("latin-1")


class Ready(Struct):
    """A request as its bytes, and where they go. The bytes can be taken once: an answer may take minutes, and nobody
    needs them any more."""

    address: Address
    payload: bytes

    def taken(self) -> bytes:
        payload, self.payload = self.payload, b""
        return payload

    @classmethod
    def of(cls, sent: WireRequest) -> "Ready":
        """Raises ProviderError for an address or a header that cannot be."""
        try:
            address, path, host = _target(sent.url)
        except ValueError:
            raise make_error("connection", "the address is not a usable URL", sent, retryable=False) from None
        return cls(address, _payload(sent, path, host))


async def fetch(
    sent: WireRequest, *, idle_seconds: float, until: float | None = None, ready: Ready | None = None
) -> WireResponse:
    """One request and its whole answer, which may be no longer silent and no later than said, the time to connect
    included. Raises ProviderError."""
    ready, pool = ready or Ready.of(sent), _pools.get()
    connection = await _asked(pool, sent, ready, streaming=False, idle_seconds=idle_seconds, until=until)
    assert connection.head is not None
    status, headers = connection.head
    body = connection.taken()
    connection.done()
    pool.give_back(ready.address, connection)
    return WireResponse(status, headers, _unpacked(body, headers, sent, refused=connection.is_refusal))


async def _asked(
    pool: Pool, sent: WireRequest, ready: Ready, *, streaming: bool, idle_seconds: float, until: float | None
) -> Connection:
    """The connection on which the answer has come, or its head if it streams. Raises ProviderError."""
    is_replaced = False  # once, and by a new one: the next kept one may end in the same way, and the one behind it
    while True:
        kept = connection = None if is_replaced else pool.take(ready.address)
        try:
            if connection is None:
                connection = await pool.open(ready.address, until)
            connection.send(ready.taken(), streaming=streaming, idle_seconds=idle_seconds, until=until)
            while not (connection.complete or (streaming and connection.head is not None)):
                await connection.news()
            return connection
        except Broken as broken:
            _drop(connection)
            if connection is not None and connection.is_refusal:
                return connection  # its status says enough
            if kept is None or not broken.clean or not kept.had_been_closed:
                raise _translated(broken, sent) from None
        except BaseException:
            _drop(connection)
            raise
        not_begun()  # the server had closed a kept connection meanwhile: it never saw the request
        ready, is_replaced = Ready.of(sent), True


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        connection.done()
        connection.close()


def _translated(broken: Broken, sent: WireRequest, usage: Usage | None = None) -> ProviderError:
    return make_error(broken.kind, broken.text, sent, usage=usage, unbilled=broken.unbilled)


def _packing(headers: Mapping[str, str]) -> str:
    """How an answer was packed unasked; "" for one that was not."""
    packing = headers.get("content-encoding")
    return "" if not packing or (packing := packing.strip().lower()) in NOT_PACKED else packing


def _unpacked(body: bytes, headers: Mapping[str, str], sent: WireRequest, *, refused: bool) -> bytes:
    """Raises ProviderError for an answer that cannot be read. The status of a refusal says enough without its body."""
    if refused:
        packing = _packing(headers)
        plain = beginning(body, MAX_REFUSAL_BYTES) if packing in PACKINGS else b"" if packing else body
        return plain[:MAX_REFUSAL_BYTES]
    unpacker = _unpacker(headers, sent)
    try:
        return body if unpacker is None else unpacker.whole(body)
    except Broken as broken:
        raise _translated(broken, sent) from None


def _unpacker(headers: Mapping[str, str], sent: WireRequest) -> Unpacker | None:
    """For an answer that was packed unasked. Raises ProviderError."""
    if not (packing := _packing(headers)):
        return None
    if packing not in PACKINGS:
        raise make_error("protocol", f"the answer is compressed ({packing[:40]}), which was not asked for", sent)
    return Unpacker()


class Exchange:
    """One request and its answer, piece by piece. Use as an async context manager; leaving it early closes the
    connection."""

    def __init__(self, sent: WireRequest, *, idle_seconds: float, ready: Ready | None = None) -> None:
        self._sent = sent
        self._ready = ready
        self._idle_seconds = idle_seconds
        self._pool = _pools.get()
        self._connection: Connection | None = None
        self._unpacker: Unpacker | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> "Exchange":
        """Sends the request and waits for the answer's head. Raises ProviderError."""
        ready = self._ready = self._ready or Ready.of(self._sent)
        connection = await _asked(
            self._pool, self._sent, ready, streaming=True, idle_seconds=self._idle_seconds, until=None
        )
        assert connection.head is not None
        self.status, self.headers = connection.head
        try:
            self._unpacker = None if connection.is_refusal else _unpacker(self.headers, self._sent)
        except ProviderError:
            _drop(connection)
            raise
        self._connection = connection
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._connection is not None and self._ready is not None:
            self._connection.done()
            self._pool.give_back(self._ready.address, self._connection)
            self._connection = None

    async def read(self) -> WireResponse:
        """The whole answer. Raises ProviderError."""
        connection, pieces = self._connection, []
        assert connection is not None
        try:
            while piece := await connection.next_chunk():
                pieces.append(piece)
        except Broken as broken:
            if not connection.is_refusal:
                raise _translated(broken, self._sent) from None
        body = _unpacked(b"".join(pieces), self.headers, self._sent, refused=connection.is_refusal)
        return WireResponse(self.status, self.headers, body)

    async def next_chunk(self, *, usage: Usage | None = None) -> bytes:
        """What has come since the last time; b"" at the end. Raises ProviderError, which bears `usage`:
        the best that is known of what a broken answer has cost."""
        assert self._connection is not None
        try:
            chunk = await self._connection.next_chunk()
            while self._unpacker is not None and chunk:
                plain = self._unpacker.feed(chunk)
                if plain:
                    return plain
                chunk = await self._connection.next_chunk()
            return chunk
        except Broken as broken:
            raise _translated(broken, self._sent, usage) from None

    async def linger(self) -> None:
        """Reads the few bytes after the end of an answer, so that the connection can be used again."""
        if self._connection is None or self._connection.complete:
            return
        with contextlib.suppress(TimeoutError, Broken):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._connection.next_chunk()
