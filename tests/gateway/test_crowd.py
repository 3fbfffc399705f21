"""Who may be connected: a limit in all and for each address, and room for those who ask something."""

import asyncio
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection
from pytest_django import Settings

from routing.gateway.access import crowd as crowds
from routing.gateway.access.crowd import MOST_TOLD, NEW_SECONDS, Crowd, crowd
from routing.gateway.exchange.sockets import most_files
from tests.gateway.conftest import Gateway, Serving, wait_until
from tests.gateway.test_calls import post
from tests.gateway.test_choices import change_rule
from tests.servers.script import Reply
from tests.ziggie.live_process import database_url, web_server
from ziggie.checks import check_numbers
from ziggie.models import create_api_key

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
Limit = Callable[[int, int], None]


class Visitor:
    """A connection that only tells what becomes of it."""

    def __init__(self, *, is_busy: bool = False) -> None:
        self.is_busy = is_busy
        self.has_left = False

    @property
    def keeps_a_place(self) -> bool:
        return not self.is_busy

    def make_room(self) -> None:
        self.has_left = True


@pytest.fixture(autouse=True)
def nobody_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "NEW_SECONDS", -1.0)


@pytest.fixture
def limit(gateway: Gateway, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Sets how many may come, in all and from one address."""

    async def found() -> Crowd:
        return crowd()

    of_gateway = asyncio.run_coroutine_threadsafe(found(), serving.loop).result(60)

    def limited(most: int, most_of_one: int) -> None:
        monkeypatch.setattr(of_gateway, "_most", most)
        monkeypatch.setattr(of_gateway, "_most_of_one", most_of_one)

    return limited


def connected(gateway: Gateway) -> socket.socket:
    where = urlsplit(gateway.url)
    return socket.create_connection((where.hostname or "", where.port or 0), timeout=60)


def request(gateway: Gateway, path: str = CHAT, **changes: Any) -> bytes:
    body = json.dumps({"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **changes})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def answered(client: socket.socket, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    client.sendall(sent)
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += client.recv(65_536)
    return int(first.split(" ")[1]), headers, body


@contextmanager
def served(gateway: Gateway) -> Iterator[None]:
    """A connection that has found a place: at once, or when those before it are no longer new."""
    for _ in range(600):
        with connected(gateway) as client:
            if answered(client, request(gateway))[0] == 200:
                yield
                return
        time.sleep(0.05)
    pytest.fail("there is no place")


def asking(gateway: Gateway, number: int) -> socket.socket:
    """A connection with the call under way that has this number; tried again while those before it are still new."""
    for _ in range(600):
        client = connected(gateway)
        client.sendall(request(gateway))
        for _ in range(1500):
            if len(gateway.openai.calls) == number:
                return client
            if select.select([client], [], [], 0.02)[0]:
                break
        client.close()
    pytest.fail("there is no place")


@contextmanager
def busy(gateway: Gateway, calls: int) -> Iterator[None]:
    """So many connections whose calls are under way."""
    gate = threading.Event()
    gateway.openai.default = Reply(after=gate)
    with ExitStack() as stack:
        clients = [stack.enter_context(asking(gateway, number)) for number in range(1, calls + 1)]
        try:
            yield
        finally:
            gate.set()
        for client in clients:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")


def refused(gateway: Gateway, path: str) -> None:
    """One that comes hears in the words of its API that there is no place, and is let go."""
    with connected(gateway) as client:
        status, headers, body = answered(client, request(gateway, path))
        error = json.loads(body)
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert error["error"]["code"] == "too_many_connections"
        assert (error.get("type") == "error") is (path == MESSAGES)
        assert client.recv(1) == b""


def test_connections_on_which_nothing_is_asked_make_room_for_one_that_comes(gateway: Gateway, limit: Limit) -> None:
    with ExitStack() as stack:
        limit(3, 100)
        idle, half, asked = (stack.enter_context(connected(gateway)) for _ in range(3))
        half.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x")
        assert answered(asked, request(gateway))[0] == 200
        one = stack.enter_context(connected(gateway))
        assert answered(one, request(gateway))[0] == 200
        two = stack.enter_context(connected(gateway))
        assert answered(two, request(gateway))[0] == 200
        for left in (idle, half):
            while left.recv(65_536):  # until its end; a slow machine may have told it before that its time is over
                pass
        assert answered(asked, request(gateway))[0] == 200
    gateway.settled(4)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("limits", [(2, 100), (100, 2)])
def test_who_comes_while_all_places_are_taken_by_calls_is_told_so(
    gateway: Gateway, limit: Limit, limits: tuple[int, int], path: str
) -> None:
    limit(*limits)
    with busy(gateway, 2):
        refused(gateway, path)
    with connected(gateway) as client:
        assert answered(client, request(gateway))[0] == 200
    assert [call.outcome for call in gateway.settled(3)] == ["ok"] * 3


def test_a_proxy_of_ours_is_many_callers(gateway: Gateway, limit: Limit, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.0/8"]
    limit(100, 1)
    with busy(gateway, 3):
        pass
    gateway.settled(3)


def test_who_has_no_place_and_asks_nothing_is_left(
    gateway: Gateway, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.gateway.serving.protocol.TOLD_SECONDS", 0.1)
    limit(2, 2)
    with busy(gateway, 2), connected(gateway) as client:
        assert client.recv(1) == b""
    gateway.settled(2)


def test_so_many_are_told_and_no_more() -> None:
    full = Crowd(1, 1)
    assert full.enter(Visitor(is_busy=True), "192.0.2.1")
    visitors = [Visitor() for _ in range(MOST_TOLD + 1)]
    assert not any(full.enter(visitor, "192.0.2.2") for visitor in visitors)
    assert [full.turn_away(visitor) for visitor in visitors] == [True] * MOST_TOLD + [False]
    full.leave(visitors[0])
    assert full.turn_away(visitors[-1])


def test_who_has_just_come_makes_no_room_before_it_can_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "NEW_SECONDS", 600.0)
    small, first, second = Crowd(1, 1), Visitor(), Visitor()
    assert small.enter(first, "192.0.2.1")
    assert not small.enter(second, "192.0.2.2")
    monkeypatch.setattr(crowds, "NEW_SECONDS", -1.0)
    assert small.enter(second, "192.0.2.2")
    assert (first.has_left, second.has_left) == (True, False)


def test_one_address_takes_places_from_itself_alone() -> None:
    full = Crowd(10, 2)
    other, *own = Visitor(), Visitor(), Visitor(is_busy=True), Visitor()
    assert full.enter(other, "192.0.2.1")
    assert all(full.enter(visitor, "2001:db8::1") for visitor in own[:2])
    assert full.enter(own[2], "2001:db8::2")  # of the same network
    assert [visitor.has_left for visitor in (other, *own)] == [False, True, False, False]


def test_who_has_left_has_no_place() -> None:
    small = Crowd(1, 1)
    for _ in range(3):
        visitor = Visitor(is_busy=True)
        assert small.enter(visitor, "192.0.2.1")
        small.leave(visitor)
        small.leave(visitor)


def test_the_limits_are_those_of_the_settings_and_at_most_what_the_system_allows(settings: Settings) -> None:
    def limits() -> tuple[int, int]:
        made = crowds._made()
        return made._most, made._most_of_one

    usual, half = limits()
    assert (usual, half) == ((most_files() - crowds.OTHER_FILES) // 2, usual // 2)
    settings.MAX_CONNECTIONS, settings.MAX_CONNECTIONS_PER_ADDRESS = 100, 30
    assert limits() == (100, 30)
    settings.MAX_CONNECTIONS, settings.MAX_CONNECTIONS_PER_ADDRESS = 10**9, 10**9
    assert limits() == (most_files() - crowds.OTHER_FILES,) * 2
    settings.MAX_CONNECTIONS = -1
    assert [found.id for found in check_numbers(None)] == ["ziggie.E008"]


def test_the_web_server_has_the_same_limits(gateway: Gateway) -> None:
    with narrow_web_server(gateway) as mounted:
        with connected(mounted) as idle, connected(mounted) as half:
            half.sendall(b"POST /v1/messages HTTP/1.1\r\n")
            with served(mounted), served(mounted):
                for left in (idle, half):
                    while left.recv(65_536):
                        pass
        mounted.openai.requests.clear()
        with busy(mounted, 2):
            refused(mounted, CHAT)
            refused(mounted, MESSAGES)
        gateway.settled(4)


@contextmanager
def narrow_web_server(gateway: Gateway) -> Iterator[Gateway]:
    """The same gateway beside Django, with two places."""
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    limits = {"MAX_CONNECTIONS": "2", "MAX_CONNECTIONS_PER_ADDRESS": "2"}
    with web_server(environment=environment | limits) as port:
        yield replace(gateway, url=f"http://127.0.0.1:{port}")


def test_who_has_no_place_in_the_web_server_and_does_not_ask_is_told_so_soon(gateway: Gateway) -> None:
    """While the calls run that have the places: for no longer than a provider may be silent, 10 s."""
    with narrow_web_server(gateway) as mounted, busy(mounted, 2), ExitStack() as stack:
        clients = [stack.enter_context(connected(mounted)) for _ in range(4)]
        for client, sent in zip(
            clients, (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET", b""), strict=True
        ):
            client.sendall(sent)
        for client in clients:
            status, headers, body = answered(client, b"")
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            assert b"too many connections" in body
    gateway.settled(2)


@pytest.mark.parametrize("closes", [False, True])
def test_who_is_refused_keeps_no_place_from_others(gateway: Gateway, closes: bool) -> None:
    two_hosts = b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n"
    too_long = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
    with narrow_web_server(gateway) as mounted, ExitStack() as stack:
        for sent, status in ((two_hosts, 400), (too_long, 413)):
            client = stack.enter_context(connected(mounted))
            assert answered(client, sent)[0] == status
            if closes:
                client.close()
        time.sleep(2 * NEW_SECONDS)
        for _ in range(2):
            assert answered(stack.enter_context(connected(mounted)), request(mounted))[0] == 200
    gateway.settled(2)


def test_a_live_socket_takes_no_place(gateway: Gateway) -> None:
    _, key = create_api_key("pages", scopes=["coordinator"])
    asks = f"GET /ws/live/?topics=usage HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
    asks += "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    asks += "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    limits = {"MAX_CONNECTIONS": "1", "MAX_CONNECTIONS_PER_ADDRESS": "1"}
    with web_server(environment=environment | limits) as port:
        mounted = replace(gateway, url=f"http://127.0.0.1:{port}")
        with ExitStack() as stack:
            for _ in range(3):
                live = stack.enter_context(connected(mounted))
                live.sendall(asks.encode())
                assert live.recv(65_536).startswith(b"HTTP/1.1 101")
            with busy(mounted, 1):
                refused(mounted, CHAT)
    gateway.settled(1)


@pytest.mark.parametrize("stream", [False, True])
def test_where_no_place_is_left_several_answers_are_made_one_after_the_other(
    gateway: Gateway, limit: Limit, stream: bool
) -> None:
    limit(1, 1)
    gateway.openai.at_most = 1
    answer = post(gateway, n=4, stream=stream)
    assert answer.status_code == 200
    (receipt,) = gateway.settled(1)
    assert [attempt["outcome"] for attempt in receipt.attempts] == ["ok"] * 4  # none was one too many


def test_several_answers_leave_places_for_those_who_come(gateway: Gateway, limit: Limit) -> None:
    """Five at a time: one by the place of the client, four by the two that it is lent, a quarter of all."""
    limit(8, 8)
    with ThreadPoolExecutor(1) as client:
        for round_ in range(2):  # what was lent is there again
            gate = threading.Event()
            gateway.openai.default = Reply(after=gate)
            several = client.submit(post, gateway, n=8)
            wait_until(lambda before=8 * round_: len(gateway.openai.calls) == before + 5)
            with connected(gateway) as another:
                assert answered(another, request(gateway, model="llama"))[0] == 200
            assert len(gateway.openai.calls) == 8 * round_ + 5
            gate.set()
            assert len(several.result(60).json()["choices"]) == 8
    gateway.settled(4)


def test_the_members_of_an_ensemble_take_no_more_places_than_there_are(gateway: Gateway, limit: Limit) -> None:
    limit(1, 1)
    change_rule(chain=["gpt"], pattern="ensemble", roles={"members": ["gpt", "gpt", "gpt"]})
    gateway.openai.at_most = 1
    assert post(gateway, model="auto").status_code == 200
    (receipt,) = gateway.settled(1)
    assert [attempt["outcome"] for attempt in receipt.attempts] == ["ok"] * 3


def test_a_call_that_is_left_gives_back_what_it_was_lent(gateway: Gateway, limit: Limit) -> None:
    limit(8, 8)
    gate = threading.Event()
    gateway.openai.default = Reply(after=gate)
    for calls in (1, 2):
        with connected(gateway) as client:
            client.sendall(request(gateway, n=5))
            wait_until(lambda calls=calls: len(gateway.openai.calls) == 5 * calls)
        gateway.settled(calls)
    gate.set()


def test_a_quarter_of_the_places_is_lent_and_of_those_of_an_address() -> None:
    places = Crowd(8, 4)
    assert [places.lend("192.0.2.1") for _ in range(3)] == [True, True, False]  # one place
    assert [places.lend("192.0.2.2") for _ in range(3)] == [True, True, False]
    assert not places.lend("192.0.2.3")
    assert [places.enter(Visitor(is_busy=True), "192.0.2.1") for _ in range(4)] == [True] * 3 + [False]
    assert [places.enter(Visitor(is_busy=True), f"192.0.2.{number}") for number in range(5, 9)] == [True] * 3 + [False]
    for _ in range(2):
        places.take_back("192.0.2.1")
    assert places.enter(Visitor(is_busy=True), "192.0.2.1")
    assert not places.lend("192.0.2.4")  # all are taken
