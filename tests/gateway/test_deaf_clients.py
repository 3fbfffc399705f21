"""Clients that ask and do not read: they cost the memory of one answer, end by themselves, and harm nobody else."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import psutil
import pytest
from django.db import connection

from routing import calls
from routing.gateway.exchange import http
from routing.models import Circuit, RoutedCall, UsageRecord
from tests.gateway.conftest import Gateway, wait_until
from tests.servers.script import Reply
from tests.ziggie.live_process import database_url, web_server

CHAT = "/v1/chat/completions"
NOTHING = b"GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n"
LONG = "word " * 2_000_000  # more than all buffers of two sockets take
VERY_LONG = Reply(LONG, piece=20_000, input_tokens=10, output_tokens=2_000)  # counting would take longer than telling


@pytest.fixture
def impatient(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(http, "SEND_SECONDS", 3.0)
    return gateway


@contextmanager
def deaf(gateway: Gateway) -> Iterator[socket.socket]:
    """A client with little room for what it does not read."""
    where = urlsplit(gateway.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(60)
        client.connect((where.hostname or "", where.port or 0))
        yield client


def asked(gateway: Gateway, *, stream: bool) -> bytes:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": stream})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def is_established(client: socket.socket) -> bool:
    """Whether the server still holds its end: seen from outside, since who reads would be no deaf client."""
    mine = client.getsockname()
    return any(
        found.raddr == mine and found.status != psutil.CONN_TIME_WAIT for found in psutil.net_connections("tcp4")
    )


def read_slowly(client: socket.socket) -> bytes:
    """For longer than a client may take nothing."""
    pieces = []
    for _ in range(40):
        pieces.append(client.recv(100_000))
        time.sleep(0.1)
    while piece := client.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def check_that_it_was_the_client(gateway: Gateway, calls: int) -> None:
    receipts = gateway.settled(calls)
    assert [receipt.outcome for receipt in receipts] == ["cancelled"] * calls
    assert all(receipt.cost_microusd > 0 for receipt in receipts)
    assert [record.outcome for record in UsageRecord.objects.all()] == ["cancelled"] * calls
    assert gateway.ollama.calls == []
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_a_stream_that_is_not_read_is_a_client_that_left_and_no_failure_of_the_model(impatient: Gateway) -> None:
    impatient.openai.default = VERY_LONG
    with deaf(impatient) as one, deaf(impatient) as two, deaf(impatient) as three:
        for client in (one, two, three):
            client.sendall(asked(impatient, stream=True))
        assert all(map(is_established, (one, two, three)))
        check_that_it_was_the_client(impatient, 3)
        wait_until(lambda: not any(map(is_established, (one, two, three))))


def read_next_to_nothing(client: socket.socket) -> None:
    """Until the server has had enough of it."""
    wait_until(lambda: bool(client.recv(10)) and RoutedCall.objects.exists(), seconds=90)


def test_who_takes_a_little_now_and_then_is_a_client_that_left(impatient: Gateway) -> None:
    impatient.openai.default = VERY_LONG
    with deaf(impatient) as client:
        client.sendall(asked(impatient, stream=True))
        read_next_to_nothing(client)
    check_that_it_was_the_client(impatient, 1)


def test_who_takes_a_little_now_and_then_is_a_client_that_left_in_daphne_too(mounted: Gateway) -> None:
    mounted.openai.default = VERY_LONG
    with deaf(mounted) as client:
        client.sendall(asked(mounted, stream=True))
        read_next_to_nothing(client)
    check_that_it_was_the_client(mounted, 1)


def test_who_keeps_a_stream_waiting_too_long_in_all_is_a_client_that_left(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "KEPT_WAITING_SECONDS", 2.0)
    gateway.openai.default = VERY_LONG
    with deaf(gateway) as client:
        client.sendall(asked(gateway, stream=True))
        check_that_it_was_the_client(gateway, 1)
        wait_until(lambda: not is_established(client))


def test_who_keeps_a_stream_waiting_too_long_is_a_client_that_left_in_daphne_too(gateway: Gateway) -> None:
    gateway.openai.default = VERY_LONG
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    with (
        web_server(environment=environment, application="tests.gateway.weary:application") as port,
        deaf(replace(gateway, url=f"http://127.0.0.1:{port}")) as client,
    ):
        client.sendall(asked(gateway, stream=True))
        check_that_it_was_the_client(gateway, 1)


def test_a_stream_whose_time_is_over_because_of_its_reader_is_no_failure_of_the_model(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LONGEST_CALL_SECONDS", 4.0)
    gateway.openai.default = VERY_LONG
    with deaf(gateway) as client:
        client.sendall(asked(gateway, stream=True))
        (receipt,) = gateway.settled(1)
    assert (receipt.outcome, receipt.attempts[0]["outcome"]) == ("deadline", "cancelled")
    assert "reader" in receipt.attempts[0]["error"]
    assert receipt.cost_microusd > 0
    assert gateway.ollama.calls == []
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_a_stream_whose_time_is_over_because_of_the_model_is_its_failure(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LONGEST_CALL_SECONDS", 2.0)
    gateway.openai.default = Reply("Some words, and then nothing more.", fault="stall", fault_after=2)
    with deaf(gateway) as client:
        client.sendall(asked(gateway, stream=True))
        (receipt,) = gateway.settled(1)
    assert (receipt.outcome, receipt.attempts[0]["outcome"]) == ("deadline", "timeout")
    assert Circuit.objects.filter(failures__gt=0).exists()


def test_a_whole_answer_that_is_not_read_does_not_keep_its_connection(impatient: Gateway) -> None:
    impatient.openai.default = VERY_LONG
    with deaf(impatient) as client:
        client.sendall(asked(impatient, stream=False))
        assert [receipt.outcome for receipt in impatient.settled(1)] == ["ok"]
        wait_until(lambda: not is_established(client))


def test_a_whole_answer_that_is_read_slowly_comes_whole(impatient: Gateway) -> None:
    impatient.openai.default = VERY_LONG
    with deaf(impatient) as client:
        client.sendall(asked(impatient, stream=False).replace(b"host: x", b"host: x\r\nconnection: close"))
        assert len(read_slowly(client)) > len(LONG)


def send_until_refused(client: socket.socket, *, most: int) -> int:
    """Sends the same request until the server takes no more; how many that were."""
    sent, block = 0, NOTHING * 1_000
    client.settimeout(2.0)
    with suppress(TimeoutError):
        while sent < most:
            sent += client.send(block[sent % len(NOTHING) :])
    return sent // len(NOTHING)


def test_requests_of_a_client_that_reads_no_answer_wait_until_it_does(gateway: Gateway) -> None:
    with deaf(gateway) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sent = send_until_refused(client, most=40_000_000)
        assert sent < 1_000_000, "all were taken"
        client.settimeout(60)
        answered, rest = 0, b""
        while answered < sent:
            rest += client.recv(1 << 20)
            complete = rest.count(b"HTTP/1.1 404")
            answered, rest = answered + complete, rest[-11:] if complete == 0 else rest.rpartition(b"HTTP/1.1 404")[2]
    assert answered == sent


def test_who_asks_on_and_on_and_reads_nothing_is_left(impatient: Gateway) -> None:
    with deaf(impatient) as client:
        with suppress(ConnectionError):
            send_until_refused(client, most=40_000_000)
        wait_until(lambda: not is_established(client))


def test_a_stream_that_is_not_read_waits_in_daphne_and_ends_as_a_client_that_left(mounted: Gateway) -> None:
    mounted.openai.default = VERY_LONG
    with deaf(mounted) as client:
        client.sendall(asked(mounted, stream=True))
        check_that_it_was_the_client(mounted, 1)
        wait_until(lambda: not is_established(client))


def test_a_whole_answer_that_is_not_read_does_not_keep_its_connection_to_daphne(mounted: Gateway) -> None:
    mounted.openai.default = VERY_LONG
    with deaf(mounted) as client:
        client.sendall(asked(mounted, stream=False))
        wait_until(lambda: mounted.settled(1)[0].outcome == "ok")
        wait_until(lambda: not is_established(client))


def test_a_stream_that_is_read_slowly_comes_whole_from_daphne(mounted: Gateway) -> None:
    mounted.openai.default = VERY_LONG
    with deaf(mounted) as client:
        client.sendall(asked(mounted, stream=True).replace(b"host: x", b"host: x\r\nconnection: close"))
        received = read_slowly(client)
    assert len(received) > len(LONG)
    assert b"[DONE]" in received
    assert [receipt.outcome for receipt in mounted.settled(1)] == ["ok"]
