"""The live layer across real processes: workers, web servers, databases that die."""

import asyncio
import contextlib
import json
import os
import signal
import socket as sockets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from tests.flows.system import until
from tests.servers.redis_server import running_redis
from tests.ziggie.live_process import Child, database_url, listener, publisher, tireless_publisher, web_server
from ziggie import embedded, live
from ziggie.embedded_disk import Place
from ziggie.models import create_api_key

pytestmark = pytest.mark.flow
# Generous: others may use this machine. What it must not be is the length of the fault.
LONGEST_PUBLISH_SECONDS = live.PUBLISH_SECONDS + 20
RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(django_db_setup: None) -> Environment:
    return {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}


@pytest.fixture(params=["postgres", pytest.param("redis", marks=pytest.mark.redis)])
def transport(request: pytest.FixtureRequest, environment: Environment) -> Iterator[Environment]:
    if request.param == "postgres":
        yield environment
        return
    with running_redis() as url:
        yield environment | {"REDIS_URL": url}


@pytest.fixture(scope="module")
def port(environment: Environment) -> Iterator[int]:
    """A web server of the module, with a keepalive that a test can wait for."""
    with web_server("--ping-interval", "1", "--ping-timeout", "10", environment=environment) as started:
        yield started


@pytest.fixture
def cookie(transactional_db: None) -> str:
    client = Client()
    client.force_login(User.objects.create_user("ada", password="x", is_staff=True))
    return f"sessionid={client.cookies['sessionid'].value}"


def events(documents: list[dict[str, Any]]) -> list[int]:
    return [document["version"] for document in documents if document["type"] == "live.event"]


def gaps(documents: list[dict[str, Any]]) -> int:
    return sum(document["type"] == "layer.gap" for document in documents)


def test_what_one_process_publishes_arrives_once_and_in_order_in_others(transport: Environment) -> None:
    with listener("live.runs", transport) as first, listener("live.runs", transport) as second:
        with publisher(20, RUN, transport) as worker:
            worker.end()
        for listening in (first, second):
            until(lambda heard=listening: 19 in events(heard.documents()), 60)
            assert events(listening.documents()) == list(range(20))


def assert_events_arrive_again(worker: Child, listening: Child) -> None:
    """Some that are published from now on, by a worker that no fault has held up."""
    published = len(worker.documents())
    until(lambda: max(events(listening.documents()), default=0) > published, 60)
    assert max(document["seconds"] for document in worker.documents()) < LONGEST_PUBLISH_SECONDS


@contextlib.contextmanager
def own_database(folder: Path) -> Iterator[tuple[Path, Environment]]:
    home = folder / "home"
    embedded.ensure_running(home, durable=False)
    try:
        url = database_url(embedded.connection_settings(home))
        yield home, {"DATABASE_URL": url, "ZIGGIE_HOME": str(home)}
    finally:
        embedded.stop(home)


def postmaster(home: Path) -> int:
    return int((Place.of(home).data / "postmaster.pid").read_text().split()[0])


def test_listeners_and_workers_go_on_after_the_database_was_killed_and_started_again(tmp_path: Path) -> None:
    with (
        own_database(tmp_path) as (home, environment),
        listener("live.runs", environment) as listening,
        tireless_publisher(RUN, environment) as worker,
    ):
        worker.line('"sent": 3')
        os.kill(postmaster(home), signal.SIGKILL)
        embedded.ensure_running(home, durable=False)
        listening.line('"layer.gap"', 60)
        assert_events_arrive_again(worker, listening)


def test_a_database_that_stands_still_delays_no_worker_for_long_and_is_used_again(tmp_path: Path) -> None:
    with (
        own_database(tmp_path) as (home, environment),
        listener("live.runs", environment) as listening,
        tireless_publisher(RUN, environment) as worker,
    ):
        worker.line('"sent": 3')
        backends = children_of(postmaster(home))
        for process in backends:
            os.kill(process, signal.SIGSTOP)
        try:
            worker.line('"sent": 100')
        finally:
            for process in backends:
                os.kill(process, signal.SIGCONT)
        assert_events_arrive_again(worker, listening)


def children_of(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.redis
def test_listeners_and_workers_go_on_after_redis_was_restarted(environment: Environment) -> None:
    with running_redis() as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        environment |= {"REDIS_URL": url}
        with listener("live.runs", environment) as listening, tireless_publisher(RUN, environment) as worker:
            worker.line('"sent": 3')
            stop_redis(port)
            worker.line('"sent": 100')
            with running_redis(port):
                assert_events_arrive_again(worker, listening)


def stop_redis(port: int) -> None:
    with sockets.create_connection(("127.0.0.1", port), 60) as admin:
        admin.sendall(b"SHUTDOWN NOSAVE\r\n")
        admin.recv(100)
    deadline = time.monotonic() + 60
    with contextlib.suppress(ConnectionRefusedError):
        while time.monotonic() < deadline:
            sockets.create_connection(("127.0.0.1", port), 1).close()


# --- a real web server -------------------------------------------------------------------------


def address(port: int, topics: str = "runs") -> str:
    return f"ws://127.0.0.1:{port}/ws/live/?topics={topics}"


async def hear(port: int, cookie: str, environment: Environment) -> list[dict[str, Any]]:
    """The frames that a socket of the web server gets while a worker publishes three events."""
    headers, origin = {"Cookie": cookie}, websockets.Origin(f"http://127.0.0.1:{port}")
    async with websockets.connect(
        address(port, f"runs,run:{RUN}"), additional_headers=headers, origin=origin, open_timeout=60
    ) as socket:
        with publisher(3, RUN, environment):
            return [json.loads(await asyncio.wait_for(socket.recv(), 60)) for _ in range(3)]


async def test_an_event_of_a_worker_reaches_a_socket_of_the_web_server(
    port: int, cookie: str, environment: Environment
) -> None:
    frames = await hear(port, cookie, environment)
    assert [frame["version"] for frame in frames] == [0, 1, 2]
    assert {frame["topic"] for frame in frames} == {"runs"}


def end_live_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'ziggie live' AND datname = current_database()"
        )


@pytest.mark.redis
async def test_events_reach_sockets_by_redis_as_well(cookie: str, environment: Environment) -> None:
    with running_redis() as url, web_server(environment=environment | {"REDIS_URL": url}) as port:
        frames = await hear(port, cookie, environment | {"REDIS_URL": url})
    assert [frame["version"] for frame in frames] == [0, 1, 2]


async def test_an_open_socket_outlives_its_servers_connections_and_is_told_of_the_gap(
    port: int, cookie: str, environment: Environment
) -> None:
    async with websockets.connect(address(port), additional_headers={"Cookie": cookie}, open_timeout=60) as socket:
        await sync_to_async(end_live_connections)()
        assert json.loads(await asyncio.wait_for(socket.recv(), 30))["type"] == "live.gap"
        with publisher(1, RUN, environment):
            assert json.loads(await asyncio.wait_for(socket.recv(), 60))["type"] == "run.changed"


async def test_a_browser_learns_why_it_was_closed_and_strangers_get_403(port: int, cookie: str) -> None:
    key, good = await sync_to_async(make_keys)()
    for headers in ({}, {"Cookie": "sessionid=wrong"}, {"Authorization": "Bearer zg_wrong"}):
        assert await handshake(port, headers) == 403
    assert await handshake(port, {"Cookie": cookie, "Origin": "https://evil.example"}) == 403
    assert await close_code(port, "nonsense", {"Cookie": cookie}) == 4403
    assert await close_code(port, "runs", {"Authorization": f"Bearer {key}"}) == 4403
    assert await close_code(port, "runs", {"Cookie": cookie}, says="x" * 5000) == 4413
    offered = [websockets.Subprotocol("ziggie.live"), websockets.Subprotocol(good)]
    async with websockets.connect(address(port, "runs"), subprotocols=offered, open_timeout=60) as socket:
        assert socket.subprotocol == "ziggie.live"
        await socket.send('{"type": "ping"}')
        assert json.loads(await asyncio.wait_for(socket.recv(), 60)) == {"type": "pong"}


def make_keys() -> list[str]:
    return [create_api_key(scope, scopes=[scope])[1] for scope in ("gateway", "coordinator")]


async def handshake(port: int, headers: dict[str, str]) -> int:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(address(port), additional_headers=headers, open_timeout=60):
            pass
    return refused.value.response.status_code


async def close_code(port: int, topics: str, headers: dict[str, str], says: str = "") -> int:
    async with websockets.connect(address(port, topics), additional_headers=headers, open_timeout=60) as socket:
        if says:
            await socket.send(says)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 60)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


UPGRADE = (
    "GET /ws/live/?topics=runs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\nCookie: {cookie}\r\n\r\n"
)


def test_a_client_that_reads_nothing_is_dropped(port: int, cookie: str, environment: Environment) -> None:
    with sockets.create_connection(("127.0.0.1", port)) as deaf:
        deaf.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        deaf.sendall(UPGRADE.format(port=port, cookie=cookie).encode())
        assert b"101" in deaf.recv(12)
        with publisher(200, RUN, environment) as worker:
            worker.end()
        assert dropped(deaf)
    with sockets.create_connection(("127.0.0.1", port), 60) as stranger:
        stranger.sendall(UPGRADE.format(port=port, cookie="none=").encode())
        assert b"403" in stranger.recv(12)


def dropped(client: sockets.socket) -> bool:
    client.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        while client.recv(65536):
            pass
    return True
