"""Memory stays where it is: what a call has said goes when the call is over, without the help of the collector."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx2
import pytest

from routing.adapters.base import WireRequest
from routing.configuration import snapshot
from routing.gateway.providers import connections, pool, upstream
from routing.gateway.serving.direct import DirectHttp
from routing.gateway.serving.server import GatewayConnection
from routing.models import Budget, Provider
from routing.types import ChatRequest
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_calls import asked_and_left, post
from tests.ports import free_port
from tests.servers.script import Call, Fault, Reply

Deed = Callable[[Gateway], object]
THOUGHTFUL = Reply("One two three.", reasoning="Hm.", calls=(Call("n__f", {"a": 1}),))


def asked(reply: Reply, *, stream: bool, n: int = 1) -> Deed:
    def deed(gateway: Gateway) -> None:
        gateway.openai.default = gateway.ollama.default = reply
        assert post(gateway, model="auto", stream=stream, n=n).content

    return deed


def broken(fault: Fault, *, stream: bool = False, n: int = 1) -> Deed:
    return asked(Reply("One two three four.", fault=fault), stream=stream, n=n)


def responded(reply: Reply, *, stream: bool) -> Deed:
    """By OpenAI's other chat API."""

    def deed(gateway: Gateway) -> None:
        gateway.openai.default = gateway.ollama.default = reply
        asked = {"model": "auto", "input": [{"role": "user", "content": "hi"}], "stream": stream}
        tools = [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}]
        asked |= {"tools": tools, "instructions": "Be brief."}
        assert httpx2.post(f"{gateway.url}/v1/responses", json=asked, headers=gateway.headers, timeout=30).content

    return deed


def refused(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=1)
    assert post(gateway).status_code == 402


def one_fails(*, stream: bool) -> Deed:
    def deed(gateway: Gateway) -> None:
        gateway.openai.default = Reply("word " * 40, fault="stall", fault_after=3)
        gateway.openai.queue(Reply(status=400, error="refused"))
        assert b"refused" in post(gateway, stream=stream, n=3).content

    return deed


def left(*, stream: bool, n: int = 1) -> Deed:
    def deed(gateway: Gateway) -> None:
        gateway.openai.default = Reply("word " * 400, fault="stall", fault_after=10 if stream else 0)
        asked_and_left(gateway, stream=stream, n=n)

    return deed


def sent(data: bytes) -> Deed:
    """As it is, up to the end of what the client sends."""

    def deed(gateway: Gateway) -> None:
        where = urlsplit(gateway.url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
            client.sendall(data.replace(b"KEY", gateway.key.encode()))
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while client.recv(65_536):
                    pass

    return deed


POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
HALF = POST + b"content-length: 5000\r\n\r\n" + b"x" * 4000


def nobody_there(gateway: Gateway) -> None:
    Provider.objects.update(base_url=f"http://127.0.0.1:{free_port()}")
    snapshot.forget()
    assert post(gateway).status_code == 502
    asked = {"model": "embedder", "input": "hello"}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=gateway.headers, timeout=30)
    assert answer.status_code in (502, 503)


def in_memory() -> list[object]:
    """Requests, and connections to providers. By their types alone: isinstance wakes lazy objects."""
    kinds = (ChatRequest, WireRequest, DirectHttp, GatewayConnection, connections.Connection)
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


@pytest.fixture
def known() -> Iterator[list[object]]:
    """What was there before, in constants and by earlier calls. From now on the collector does not help."""
    gc.collect()
    gc.disable()
    yield in_memory()
    gc.enable()


def left_in_memory(known: list[object]) -> list[object]:
    """Requests, and connections that are closed."""
    before = set(map(id, known))
    return [thing for thing in in_memory() if id(thing) not in before and not is_open(thing)]


def is_open(thing: object) -> bool:
    if isinstance(thing, GatewayConnection):
        return not thing._transport.is_closing()
    return isinstance(thing, connections.Connection) and thing.transport is not None


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param(asked(Reply(), stream=False), id="answered"),
        pytest.param(asked(Reply(), stream=True), id="streamed"),
        pytest.param(responded(THOUGHTFUL, stream=False), id="responded"),
        pytest.param(responded(THOUGHTFUL, stream=True), id="responded in a stream"),
        pytest.param(responded(replace(THOUGHTFUL, fault="cut"), stream=True), id="a cut stream of responses"),
        pytest.param(refused, id="refused by a budget"),
        pytest.param(nobody_there, id="without a provider"),
        pytest.param(asked(Reply(status=500), stream=False), id="failed"),
        pytest.param(asked(Reply(status=500), stream=True), id="failed stream"),
        pytest.param(broken("reset"), id="reset"),
        pytest.param(broken("garbage"), id="garbage"),
        pytest.param(broken("cut"), id="cut"),
        pytest.param(broken("cut", stream=True), id="cut stream"),
        pytest.param(broken("error_in_stream", stream=True), id="error in a stream"),
        pytest.param(asked(Reply(), stream=False, n=3), id="several answers"),
        pytest.param(asked(Reply(), stream=True, n=3), id="several streamed"),
        pytest.param(asked(Reply(status=500), stream=False, n=3), id="several failed"),
        pytest.param(broken("cut", stream=True, n=3), id="several cut in a stream"),
        pytest.param(one_fails(stream=False), id="one of several failed"),
        pytest.param(one_fails(stream=True), id="one of several failed in a stream"),
        pytest.param(left(stream=False, n=3), id="several left"),
        pytest.param(left(stream=True, n=3), id="several left in a stream"),
        pytest.param(left(stream=False), id="left"),
        pytest.param(left(stream=True), id="left stream"),
        pytest.param(sent(HALF), id="half a body, no key"),
        pytest.param(sent(HALF.replace(b"host", b"x-api-key: KEY\r\nhost")), id="half a body"),
        pytest.param(sent(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" + HALF), id="half a request behind one"),
        pytest.param(sent(POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n"), id="a bad chunk"),
    ],
)
def test_nothing_stays_of_a_call_that_is_over(gateway: Gateway, known: list[object], deed: Deed) -> None:
    deed(gateway)
    wait_until(lambda: not left_in_memory(known))


def test_a_connection_that_nobody_uses_any_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEP_SECONDS", 0.05)

    async def work() -> None:
        closed = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            closed.set()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(30):
            port = server.sockets[0].getsockname()[1]
            sent = WireRequest("GET", f"http://127.0.0.1:{port}/", {}, None)
            assert (await upstream.fetch(sent, idle_seconds=30.0)).body == b"{}"
            await closed.wait()

    asyncio.run(work())
