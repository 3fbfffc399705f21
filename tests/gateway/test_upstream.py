"""Connections to providers whose servers do not keep to HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from routing.adapters.base import WireRequest
from routing.gateway import upstream
from routing.gateway.upstream import Exchange, fetch
from routing.types import ProviderError

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


async def test_what_follows_an_answer_is_neither_its_own_nor_the_next_ones() -> None:
    both = saying(whole(b"200 OK", b"first"), whole(b"500 Oops", b"second"))
    async with serving(both, saying(whole(b"200 OK", b"third"))) as sent:
        first = await fetch(sent, idle_seconds=30)
        assert (first.status, first.body) == (200, b"first")
        assert (await fetch(sent, idle_seconds=30)).body == b"third"


async def test_a_long_refusal_of_a_stream_is_read_to_its_end() -> None:
    echoed = b"x" * 3_000_000
    async with (
        serving(saying(whole(b"422 Unprocessable", echoed))) as sent,
        asyncio.timeout(60),
        Exchange(sent, idle_seconds=30) as exchange,
    ):
        refused = await exchange.read()
    assert (refused.status, len(refused.body)) == (422, len(echoed))


@pytest.mark.filterwarnings("error")
async def test_another_protocol_than_the_one_asked_for_is_no_answer() -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with serving(saying(switching)) as sent:
        with pytest.raises(ProviderError, match="not HTTP"):
            await fetch(sent, idle_seconds=30)
