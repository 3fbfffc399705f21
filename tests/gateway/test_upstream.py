"""Connections to providers whose servers do not keep to HTTP."""

import asyncio
import gzip
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext

import pytest

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_response
from routing.gateway.providers import connections, pool, upstream
from routing.gateway.providers.dialing import Address
from routing.gateway.providers.upstream import Exchange, fetch
from routing.types import ProviderError
from tests.servers.certificates import signed

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[WireRequest]:
    """A request to a server that gives these answers to the requests that come, one after the other."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left and await reader.readuntil(b"\r\n\r\n"):
                await left.pop(0)(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield WireRequest("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        upstream.close()
        server.close()


def saying(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(parts))
        await writer.drain()

    return answer


def whole(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


async def resets(writer: asyncio.StreamWriter) -> None:
    """Ends the connection at once, without an answer."""
    end_now = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end_now)
    writer.transport.abort()


async def test_what_follows_an_answer_is_neither_its_own_nor_the_next_ones() -> None:
    both = saying(whole(b"200 OK", b"first"), whole(b"500 Oops", b"second"))
    async with serving(both, saying(whole(b"200 OK", b"third"))) as sent:
        first = await fetch(sent, idle_seconds=30)
        assert (first.status, first.body) == (200, b"first")
        assert (await fetch(sent, idle_seconds=30)).body == b"third"


async def by_exchange(sent: WireRequest) -> WireResponse:
    async with Exchange(sent, idle_seconds=30) as exchange:
        return await exchange.read()


async def by_fetch(sent: WireRequest) -> WireResponse:
    return await fetch(sent, idle_seconds=30)


@pytest.mark.parametrize("ask", [by_exchange, by_fetch])
async def test_of_a_long_refusal_the_beginning_is_read(ask: Callable[[WireRequest], Awaitable[WireResponse]]) -> None:
    echoed = b"x" * 3_000_000
    async with serving(saying(whole(b"422 Unprocessable", echoed))) as sent, asyncio.timeout(60):
        refused = await ask(sent)
    assert (refused.status, len(refused.body)) == (422, connections.MAX_REFUSAL_BYTES)


LIMITED = b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: 2000000\r\ncontent-encoding: "


@pytest.mark.parametrize("ask", [by_exchange, by_fetch])
@pytest.mark.parametrize(
    ("packing", "body", "read"),
    [
        (b"gzip", gzip.compress(b"slow down" + bytes(9_000_000))[:900], b"slow down"),  # longer, and cut
        (b"deflate", zlib.compress(b"slow down")[2:-4], b"slow down"),
        (b"gzip", b"none at all", b""),
        (b"gzip", b"", b""),
        (b"br", b"what we cannot read", b""),
    ],
)
async def test_the_status_of_a_packed_refusal_counts_though_its_body_cannot_be_read(
    ask: Callable[[WireRequest], Awaitable[WireResponse]], packing: bytes, body: bytes, read: bytes
) -> None:
    async with serving(saying(LIMITED + packing + b"\r\n\r\n", body)) as sent:
        answer = await ask(sent)
    error = error_from_response(answer, sent)
    assert (error.kind, error.retry_after_seconds) == ("rate_limited", 7.0)
    assert len(answer.body) <= connections.MAX_REFUSAL_BYTES
    assert answer.body.startswith(read)


def test_a_header_of_the_provider_takes_the_place_of_ours() -> None:
    payload = upstream.Ready.of(WireRequest("GET", "http://127.0.0.1:9/", {"user-agent": "studio"})).taken()
    assert [line for line in payload.split(b"\r\n") if line.startswith(b"user-agent")] == [b"user-agent: studio"]


@pytest.mark.filterwarnings("error")
async def test_another_protocol_than_the_one_asked_for_is_no_answer() -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with serving(saying(switching)) as sent:
        with pytest.raises(ProviderError, match="not HTTP"):
            await fetch(sent, idle_seconds=30)


async def test_a_kept_connection_that_had_been_closed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "NOTICED_BEATS", 600)
    async with serving(saying(whole(b"200 OK", b"first")), resets, saying(whole(b"200 OK", b"again"))) as sent:
        assert (await fetch(sent, idle_seconds=30)).body == b"first"
        assert (await fetch(sent, idle_seconds=30)).body == b"again"


async def test_a_kept_connection_is_replaced_once_and_by_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "NOTICED_BEATS", 600)
    served, all_asked = [], asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            served.append(writer)
            if all_asked.is_set():
                await resets(writer)
                return
            if len(served) == 5:
                all_asked.set()
            await all_asked.wait()
            writer.write(whole(b"200 OK", b"kept"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sent = WireRequest("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await asyncio.gather(*(fetch(sent, idle_seconds=30) for _ in range(5)))
    with pytest.raises(ProviderError, match="before an answer came"):
        await fetch(sent, idle_seconds=30)
    assert len(served) == 5 + 2  # and not once for each that was kept
    upstream.close()
    server.close()


async def test_a_connection_that_was_held_back_when_its_reader_left_is_not_kept() -> None:
    long = b"x" * (connections.READ_AHEAD_BYTES + 20_000)
    async with serving(saying(whole(b"200 OK", long))) as sent:
        async with Exchange(sent, idle_seconds=30) as exchange:
            connection = exchange._connection
            assert connection is not None
            while not connection.complete:
                await asyncio.sleep(0.01)
                if connection._paused and not connection.complete:  # it came in more reads than one: as one
                    connection._paused = False
                    connection.transport.resume_reading()  # type: ignore[union-attr]
            connection._paused = True
            connection.transport.pause_reading()  # type: ignore[union-attr]
        assert not connection.reusable
        assert upstream._pools.get().take(upstream.Ready.of(sent).address) is None


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SSLContext | None:
    """What a server speaks: nothing further, or TLS with a certificate that is trusted."""
    if not request.param:
        return None
    authority = signed(tmp_path, "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return signed(tmp_path, "server", by=authority).server_context()


async def test_a_connection_whose_server_has_answered_before_it_took_all_is_not_kept(tls: SSLContext | None) -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/large" not in head:
            writer.write(whole(b"200 OK", b"served"))
            return
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(whole(b"413 Too Large", b"no"))
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    large = WireRequest("POST", f"{url}/large", {}, {"text": "x" * 20_000_000})
    assert (await fetch(large, idle_seconds=30)).status == 413
    async with asyncio.timeout(60):
        assert (await fetch(WireRequest("POST", url, {}, {}), idle_seconds=90)).body == b"served"
    over.set()
    upstream.close()
    server.close()


@pytest.mark.parametrize("kept", [False, True])
async def test_a_request_that_ends_its_server_is_not_sent_to_the_next(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "NOTICED_BEATS", 0)  # so the server had it for long
    answers = [saying(whole(b"200 OK", b"first"))] if kept else []
    async with serving(*answers, resets, saying(whole(b"200 OK", b"paid twice"))) as sent:
        if kept:
            await fetch(sent, idle_seconds=30)
        with pytest.raises(ProviderError, match="before an answer came"):
            await fetch(sent, idle_seconds=30)


async def test_a_refusal_counts_though_its_body_breaks_off() -> None:
    broken = b"HTTP/1.1 503 Unavailable\r\ncontent-length: 100\r\n\r\nbusy"
    async with serving(saying(broken)) as sent:
        answer = await fetch(sent, idle_seconds=30)
    async with serving(saying(broken)) as sent, Exchange(sent, idle_seconds=30) as exchange:
        assert (await exchange.read()).body == b"busy"
    assert (answer.status, error_from_response(answer, sent).kind) == (503, "overloaded")


@pytest.mark.parametrize("packing", [b"Identity", b"", b"UTF-8"])
async def test_what_names_no_packing_is_not_packed(packing: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 2\r\n\r\n" % packing
    async with serving(saying(head, b"hi")) as sent:
        assert (await fetch(sent, idle_seconds=30)).body == b"hi"


async def test_deflate_without_its_head_is_unpacked_in_pieces_of_any_size() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(b"hi" * 500) + packer.flush()
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\ncontent-length: %d\r\n\r\n" % len(packed)

    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for byte in packed:
            writer.write(bytes([byte]))
            await writer.drain()

    async with serving(saying(head, packed), dribble) as sent:
        assert (await fetch(sent, idle_seconds=30)).body == b"hi" * 500
        async with Exchange(sent, idle_seconds=30) as exchange:
            heard = [piece async for piece in pieces(exchange)]
    assert b"".join(heard) == b"hi" * 500


async def pieces(exchange: Exchange) -> AsyncIterator[bytes]:
    while piece := await exchange.next_chunk():
        yield piece


async def test_a_packing_that_is_not_understood_is_named() -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nhi")) as sent:
        with pytest.raises(ProviderError, match=r"compressed \(br\)"):
            await fetch(sent, idle_seconds=30)


async def test_a_redirect_to_https_says_what_to_mend_and_not_where_it_leads() -> None:
    moved = b"HTTP/1.1 308 Permanent Redirect\r\nlocation: https://elsewhere.test/v1\r\ncontent-length: 0\r\n\r\n"
    async with serving(saying(moved)) as sent:
        error = error_from_response(await fetch(sent, idle_seconds=30), sent)
    assert "begin with https://" in error.message
    assert "elsewhere" not in error.message


async def test_an_answer_packed_in_very_many_parts_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    few = gzip.compress(b"hi") * 3_000
    async with serving(saying(head % len(few), few)) as sent:
        assert (await fetch(sent, idle_seconds=30)).body == b"hi" * 3_000
    many = gzip.compress(b"") * 100_000
    async with serving(saying(head % len(many), many)) as sent:
        with pytest.raises(ProviderError, match="too long when it is unpacked"):
            await fetch(sent, idle_seconds=30)


@pytest.mark.parametrize("listens", [True, False])
async def test_a_server_that_takes_a_long_request_slowly_is_not_silent(listens: bool, tls: SSLContext | None) -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = 19_000_000 if listens else 0
        while left > 0:
            left -= len(await reader.read(300_000))
            await asyncio.sleep(0.1)
        if listens:
            writer.write(whole(b"200 OK", b"read"))
        await over.wait()
        writer.transport.abort()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # what the system takes says nothing of the server
    server = await asyncio.start_server(serve, sock=listener, limit=300_000, ssl=tls)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    sent = WireRequest("POST", url, {}, {"text": "x" * 19_000_000})
    if listens:
        assert (await fetch(sent, idle_seconds=4)).body == b"read"
    else:
        with pytest.raises(ProviderError, match="silent for 1 s"):
            await fetch(sent, idle_seconds=1)
    over.set()
    upstream.close()
    server.close()


async def test_after_a_long_request_a_server_may_be_silent_for_no_longer_than_after_any() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000_000):  # all of it at once
            pass
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    clock = asyncio.get_running_loop().time
    asked_at = clock()
    with pytest.raises(ProviderError, match="silent for 4 s"):
        await fetch(WireRequest("POST", url, {}, {"text": "x" * 1_000_000}), idle_seconds=4)
    assert clock() - asked_at < 7
    server.close()


async def test_a_connection_that_opens_in_the_moment_in_which_it_is_too_late_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dial = pool.dial

    async def dialed_late(address: Address) -> connections.Connection:
        connection = await dial(address)
        time.sleep(max(until - time.monotonic(), 0.0) + 0.01)  # the loop stands still beyond the time that is left
        await asyncio.sleep(0)
        return connection

    monkeypatch.setattr(pool, "dial", dialed_late)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    kept, address = pool.Pool(), (False, "127.0.0.1", server.sockets[0].getsockname()[1])
    until = time.monotonic() + 1
    with pytest.raises(connections.Broken, match="the time that was left"):
        await kept.open(address, until)
    assert kept._idle[address]
    kept.close()
    server.close()
