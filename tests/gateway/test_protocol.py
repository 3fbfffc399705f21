"""The gateway's own HTTP/1.1: connections, framing, clients that come early, leave or read slowly."""

import gc
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command

from routing.configuration import snapshot
from routing.gateway.access import keys
from routing.gateway.exchange import http
from routing.gateway.serving import outgoing, protocol, server
from routing.gateway.serving.direct import DirectHttp
from routing.models import RoutedCall
from tests.gateway.conftest import Gateway, wait_until
from tests.servers.script import Reply
from ziggie.errors import ConfigurationError
from ziggie.models import ApiKey

CHAT = "/v1/chat/completions"


@contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    where = urlsplit(gateway.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        yield client


def request(gateway: Gateway, *, version: str = "1.1", headers: str = "", stream: bool = False) -> bytes:
    body = json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "hello"}], "stream": stream})
    head = f"POST {CHAT} HTTP/{version}\r\nhost: x\r\nx-api-key: {gateway.key}\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def read_answer(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an answer that says how long it is."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += client.recv(65536)
    assert len(body) == length
    return head, body


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def statuses(received: bytes) -> list[int]:
    return [int(answer[:3]) for answer in received.split(b"HTTP/1.1 ")[1:]]


def test_one_connection_serves_many_requests(gateway: Gateway) -> None:
    with connected(gateway) as client:
        for _ in range(3):
            client.sendall(request(gateway))
            head, body = read_answer(client)
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" not in head
            assert json.loads(body)["choices"]


def test_requests_that_come_before_their_turn_are_answered_in_order(gateway: Gateway) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\n\r\n".encode()
    with connected(gateway) as client:
        client.sendall(request(gateway) + head + request(gateway, headers="connection: close\r\n"))
        received = read_all(client)
    kinds = [json.loads(part.partition(b"\r\n\r\n")[2])["object"] for part in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert kinds == ["chat.completion", "list", "chat.completion"]


def test_a_head_that_was_seen_before_is_known_only_by_itself(gateway: Gateway) -> None:
    """The same bytes mean the same; what follows them, or comes before they end, is read as ever."""
    known = request(gateway)
    other = known.replace(b"hello", b"howdy")
    with connected(gateway) as client:
        for sent in (known, known, other):
            client.sendall(sent)
            assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        client.sendall(known[:-7])
        time.sleep(0.1)
        client.sendall(known[-7:])
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        client.sendall(known.replace(gateway.key.encode(), b"x" * len(gateway.key)))
        assert read_answer(client)[0].startswith(b"HTTP/1.1 401")
        client.sendall(known + other + request(gateway, headers="connection: close\r\n"))
        assert read_all(client).count(b"HTTP/1.1 200") == 3
    said = [r.json["messages"][-1]["content"] for r in gateway.openai.requests]
    assert said == ["hello", "hello", "howdy", "hello", "hello", "howdy", "hello"]


def test_a_known_head_within_another_head_is_a_part_of_that(gateway: Gateway) -> None:
    known = request(gateway)
    with connected(gateway) as client:
        client.sendall(known)
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        client.sendall(known + b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-ziggie-a: ")
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        client.sendall(known)
        assert client.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 401"))
    assert len(gateway.openai.requests) == 2  # it was a header's value, not a request


def test_a_connection_goes_on_after_a_large_body_that_came_at_once(gateway: Gateway) -> None:
    long = json.dumps({"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 300_000}]})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: {len(long)}\r\n\r\n"
    with connected(gateway) as client:
        for sent in (head + long, head + long, head.replace(gateway.key, "x" * 9) + long):
            client.sendall(sent.encode())
            assert read_answer(client)
        client.sendall(request(gateway))
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")


def test_a_body_may_come_in_pieces_and_late(gateway: Gateway) -> None:
    sent = request(gateway)
    with connected(gateway) as client:
        for place in range(0, len(sent), 40):
            client.sendall(sent[place : place + 40])
            time.sleep(0.005)
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")


def test_a_client_that_asks_whether_to_send_its_body_is_told_to(gateway: Gateway) -> None:
    head, _, body = request(gateway, headers="expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connected(gateway) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")


def test_an_answer_to_head_has_no_body(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = read_all(client)
    assert received.startswith(b"HTTP/1.1 405")
    assert received.endswith(b"\r\n\r\n")


def test_a_client_of_http_1_0_gets_its_stream_unchunked_and_then_the_end(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(request(gateway, version="1.0", stream=True))
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"data: ")
    assert body.endswith(b"data: [DONE]\n\n")


def test_what_is_not_http_is_refused(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert read_all(client).startswith(b"HTTP/1.1 400")


def test_a_length_and_chunks_together_are_refused(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(request(gateway, headers="transfer-encoding: chunked\r\n"))
        assert read_all(client).startswith(b"HTTP/1.1 400")
    assert not RoutedCall.objects.exists()


def test_the_rest_of_a_body_that_nobody_reads_is_passed_over(gateway: Gateway) -> None:
    body = b"x" * 3_000_000
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: wrong\r\ncontent-length: {len(body)}\r\n\r\n"
    with connected(gateway) as client:
        client.sendall(head.encode())
        client.sendall(body)
        assert read_answer(client)[0].startswith(b"HTTP/1.1 401")
        client.sendall(request(gateway))
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")


@contextmanager
def being_answered(gateway: Gateway, client: socket.socket, **changes: str) -> Iterator[None]:
    """Within it the provider thinks about the client's first request."""
    thought = threading.Event()
    gateway.openai.default = Reply(after=thought)
    client.sendall(request(gateway, **changes))
    wait_until(lambda: len(gateway.openai.calls) == 1)
    try:
        yield
    finally:
        thought.set()


@pytest.mark.parametrize("is_finished", [True, False])
def test_half_a_head_behind_a_request_waits_for_its_answer_and_has_its_time_then(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    following = request(gateway)
    with connected(gateway) as client:
        with being_answered(gateway, client):
            monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
            client.sendall(following[:30])
            time.sleep(1.0)
            monkeypatch.setattr(protocol, "HEAD_SECONDS", 60.0 if is_finished else 0.2)
        if is_finished:
            assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
            client.sendall(following[30:])
            assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        else:
            assert statuses(read_all(client)) == [200, 408]
    assert [receipt.outcome for receipt in gateway.settled(1 + is_finished)] == ["ok"] * (1 + is_finished)


def test_half_a_head_in_one_piece_with_a_request_has_no_longer_than_any_other(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "KEEP_ALIVE_SECONDS", 600.0)
    with connected(gateway) as client:
        client.sendall(request(gateway) + request(gateway)[:30])
        assert statuses(read_all(client)) == [200, 408]


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (b"\x16\x03\x01 no request\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nx: " + b"x" * 70_000, 431),
        (b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_what_cannot_be_read_behind_a_request_is_refused_behind_its_answer(
    gateway: Gateway, behind: bytes, status: int
) -> None:
    with connected(gateway) as client:
        with being_answered(gateway, client):
            client.sendall(behind)
            time.sleep(0.2)
        assert statuses(read_all(client)) == [200, status]
    assert [receipt.outcome for receipt in gateway.settled(1)] == ["ok"]


def test_what_cannot_be_read_behind_a_request_is_refused_once_though_its_client_sends_no_more(
    gateway: Gateway,
) -> None:
    behind = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    with connected(gateway) as client:
        with being_answered(gateway, client):
            client.sendall(behind)
            time.sleep(0.2)
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
        assert statuses(read_all(client)) == [200, 400]
    assert [receipt.outcome for receipt in gateway.settled(1)] == ["ok"]


def test_what_comes_behind_a_request_that_is_to_be_the_last_is_neither_served_nor_in_its_way(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(request(gateway, headers="connection: close\r\n") + request(gateway))
        assert statuses(read_all(client)) == [200]
    assert len(gateway.settled(1)) == len(gateway.openai.calls) == 1


def test_a_request_behind_one_whose_answer_ended_the_connection_is_neither_served_nor_charged(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1_000)
    monkeypatch.setattr(outgoing, "LINGER_SECONDS", 3.0)
    large = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: 2000\r\n\r\n"
    with connected(gateway) as client:
        client.sendall(large.encode())
        assert read_answer(client)[0].startswith(b"HTTP/1.1 413")
        client.sendall(b"x" * 2_000 + request(gateway))
        client.sendall(request(gateway))
        assert read_all(client) == b""
    assert gateway.openai.calls == []
    assert not RoutedCall.objects.exists()


def test_an_idle_connection_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEEP_ALIVE_SECONDS", 2.0)
    with connected(gateway) as client:
        client.sendall(request(gateway))
        read_answer(client)
        assert client.recv(1) == b""


def test_a_change_is_heard_at_once_and_not_at_the_next_look(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(gateway) as client:
        client.sendall(request(gateway))
        assert read_answer(client)[0].startswith(b"HTTP/1.1 200")
        for module in (snapshot, keys):
            monkeypatch.setattr(module, "CHECK_SECONDS", 60.0)
        monkeypatch.setattr(snapshot, "TRUSTED_SECONDS", 60.0)
        monkeypatch.setattr(keys, "STALE_SECONDS", 60.0)
        ApiKey.objects.filter(pk=gateway.key_id).update(enabled=False)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            client.sendall(request(gateway))
            if read_answer(client)[0].startswith(b"HTTP/1.1 401"):
                return
    pytest.fail("the key still works")


def test_a_port_that_is_taken_is_one_line_and_exit_1(db: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: Address") as no:
            call_command("gateway", "--port", str(port))
    assert no.value.exit_code == 1


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", r"\[::1\]")])
def test_the_address_that_is_told_is_the_one_that_is_served(
    db: None, monkeypatch: pytest.MonkeyPatch, host: str, shown: str
) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(server, "serve", lambda **where: served.update(where))
    monkeypatch.setattr(snapshot, "load", lambda: None)
    told = StringIO()
    call_command("gateway", "--host", host, "--port", "0", stdout=told)
    assert served["port"] > 0
    assert re.search(f"http://{shown}:{served['port']}/v1 ", told.getvalue())


def test_thousands_of_requests_in_one_piece_are_not_all_taken_in_before_their_turn(gateway: Gateway) -> None:
    shortest, many = b"GET / HTTP/1.1\r\n\r\n", 10_000
    gate = threading.Event()
    gateway.openai.default = Reply("Hi.", after=gate)
    with connected(gateway) as client:
        client.sendall(request(gateway) + shortest * many)
        wait_until(lambda: len(gateway.openai.calls) == 1)
        assert sum(type(found) is DirectHttp for found in gc.get_objects()) < many / 10
        gate.set()
        client.shutdown(socket.SHUT_WR)
        received = read_all(client)
    assert (received.count(b"HTTP/1.1 200"), received.count(b"HTTP/1.1 404")) == (1, many)
