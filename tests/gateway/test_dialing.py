"""Reaching a provider's server: names with several addresses, names that nobody knows, certificates."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest

from routing.adapters import transport
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.sending.deadlines import Timeouts
from routing.gateway.providers import dialing, upstream
from routing.types import ProviderError
from tests.routing.adapters_support import provider
from tests.servers.certificates import signed

Fetch = Callable[[WireRequest], Awaitable[WireResponse]]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture(autouse=True)
async def none_kept() -> AsyncIterator[None]:
    yield
    upstream.close()
    await transport.close()


@asynccontextmanager
async def server(*, tls: SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that answers every request alike."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()


@asynccontextmanager
async def deaf(port: int, address: str = "127.0.0.2") -> AsyncIterator[None]:
    """An address whose host answers no handshake: its backlog is full."""
    with socket.socket() as full:
        full.bind((address, port))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex((address, port))
        yield
        for client in waiting:
            client.close()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives the name provider.test these addresses."""

    def name(*addresses: str) -> None:
        ours = socket.getaddrinfo

        def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host not in ("provider.test", b"provider.test"):
                return ours(host, port, *rest, **more)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return name


async def by_own(sent: WireRequest) -> WireResponse:
    return await upstream.fetch(sent, idle_seconds=30)


async def by_package(sent: WireRequest) -> WireResponse:
    return await transport.fetch(provider("openai"), sent, Timeouts(total_seconds=30))


@pytest.fixture(params=[by_own, by_package])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    fetcher: Fetch = request.param
    return fetcher


async def failed(fetch: Fetch, url: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await fetch(WireRequest("GET", url))
    return caught.value


async def test_an_address_that_does_not_answer_keeps_nobody_from_the_next(
    named: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.gateway.providers.pool.CONNECT_SECONDS", 60.0)
    named("127.0.0.2", "127.0.0.1")
    async with server() as port, deaf(port), asyncio.timeout(30):
        assert (await by_own(WireRequest("GET", f"http://provider.test:{port}/"))).body == b"hi"


async def test_an_address_that_refuses_is_followed_by_the_next(named: Callable[..., None]) -> None:
    named("127.0.0.3", "127.0.0.2", "127.0.0.1")
    async with server() as port:
        assert (await by_own(WireRequest("GET", f"http://provider.test:{port}/"))).body == b"hi"


async def test_where_all_addresses_refuse_that_is_said(named: Callable[..., None]) -> None:
    named("127.0.0.3", "127.0.0.2")
    async with server() as port:
        error = await failed(by_own, f"http://provider.test:{port}/")
    assert (error.kind, error.retryable, "connection refused" in error.message) == ("connection", True, True)


async def test_a_name_whose_servers_say_nothing_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))  # as many as uvloop has for this
    ours, is_over = socket.getaddrinfo, threading.Event()
    asked = []

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "silent.test":
            asked.append(host)
            is_over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ours(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with server() as port:
        silent = [asyncio.create_task(failed(by_own, f"http://silent.test:{port}/")) for _ in range(8)]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert (await by_own(WireRequest("GET", f"http://localhost:{port}/"))).body == b"hi"
        is_over.set()
        assert {error.message for error in await asyncio.gather(*silent)} == {
            "no connection to the provider: its name cannot be looked up"
        }
    assert len(asked) == 1  # for all of them


async def test_a_name_that_nobody_knows_is_told_from_a_server_that_is_down(named: Callable[..., None]) -> None:
    named()
    error = await failed(by_own, "http://provider.test/")
    assert error.kind == "connection"
    assert "name cannot be looked up" in error.message


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_a_word_on_what_to_do(
    fetch: Fetch, tmp_path: Path
) -> None:
    async with server(tls=signed(tmp_path, "alone").server_context()) as port:
        error = await failed(fetch, f"https://localhost:{port}/")
    assert error.kind == "connection"
    assert "self-signed certificate" in error.message
    assert "SSL_CERT_FILE" in error.message


async def test_an_authority_of_ones_own_is_trusted_where_ssl_cert_file_names_it(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = signed(tmp_path, "authority")
    async with server(tls=signed(tmp_path, "server", by=authority).server_context()) as port:
        assert "certificate" in (await failed(fetch, f"https://localhost:{port}/")).message
        upstream.close()
        await transport.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert (await fetch(WireRequest("GET", f"https://localhost:{port}/"))).body == b"hi"


async def test_certificates_that_cannot_be_read_are_named(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    error = await failed(fetch, "https://localhost:9/")
    assert error.kind == "connection"
    assert "SSL_CERT_FILE" in error.message


async def test_a_folder_of_certificates_that_is_not_there_is_named(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nothing"))
    assert "SSL_CERT_DIR names no folder" in (await failed(fetch, "https://localhost:9/")).message


async def test_certificates_that_cannot_be_read_keep_nobody_from_a_server_without_tls(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    async with server() as port:
        assert (await fetch(WireRequest("GET", f"http://127.0.0.1:{port}/"))).body == b"hi"


async def test_a_server_without_tls_is_told_from_one_with_a_wrong_certificate() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    plain = await asyncio.start_server(refuse, "127.0.0.1", 0)
    error = await failed(by_own, f"https://localhost:{plain.sockets[0].getsockname()[1]}/")
    plain.close()
    assert "http:// instead" in error.message


async def test_an_address_that_was_reached_is_the_one_that_tls_is_spoken_with(
    named: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.gateway.providers.dialing.NEXT_SECONDS", 60.0)
    named("127.0.0.1", "127.0.0.2", "127.0.0.3")
    came = []

    async def shake_no_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer.get_extra_info("sockname")[0])
        await reader.read(1)  # of the client's hello
        writer.close()

    broken = await asyncio.start_server(shake_no_hands, "0.0.0.0", 0)
    error = await failed(by_own, f"https://provider.test:{broken.sockets[0].getsockname()[1]}/")
    broken.close()
    assert (error.kind, came) == ("connection", ["127.0.0.1"])


@pytest.mark.parametrize("dead", [8, 20])
async def test_however_many_addresses_refuse_the_one_that_answers_is_reached(
    named: Callable[..., None], dead: int
) -> None:
    named(*(f"127.0.0.{number}" for number in range(20, 20 + dead)), "127.0.0.1")
    async with server() as port:
        assert (await by_own(WireRequest("GET", f"http://provider.test:{port}/"))).body == b"hi"


async def test_both_kinds_of_addresses_are_tried_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[Any, ...]] = [(socket.AF_INET6, 1, 6, "", (f"fe80::{one}", 9, 0, 3)) for one in (1, 2)]
    rows += [(socket.AF_INET, 1, 6, "", (f"127.0.0.{one}", 9)) for one in (1, 1, 2, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    places = [place for _, (place, _) in await dialing._looked_up("provider.test", 9)]
    assert places == ["fe80::1%3", "127.0.0.1", "fe80::2%3", "127.0.0.2", "127.0.0.3"]
