"""Bytes that no honest client sends, to both ways in which the gateway is served: alone, and mounted beside Django."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from routing.gateway.exchange import http as gateway_http
from routing.gateway.serving import server
from routing.models import RoutedCall
from tests.gateway.bad_requests import BODIES, CHAT, HEADS, MESSAGES, BadRequest, asked
from tests.gateway.conftest import Gateway
from tests.ziggie.live_process import database_url, web_server


@pytest.fixture(scope="module")
def mounted(django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """daphne, as `manage.py up` runs it, on the database of this test."""
    with django_db_blocker.unblock():
        url = database_url(connection.settings_dict)
    environment = {
        "DATABASE_URL": url,
        "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"],
        "DJANGO_SETTINGS_MODULE": "ziggie.settings",
    }
    with web_server(environment=environment) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def slow_daphne(django_db_setup: None) -> Iterator[str]:
    """daphne with little patience."""
    url = database_url(connection.settings_dict)
    environment = {"DATABASE_URL": url, "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    with web_server(environment=environment, application="tests.gateway.impatient:application") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["alone", "mounted"])
def served(request: pytest.FixtureRequest, gateway: Gateway) -> Gateway:
    """The same rows, keys and providers behind either server."""
    if request.param == "alone":
        return gateway
    return dataclasses.replace(gateway, url=request.getfixturevalue("mounted"))


def exchange(gateway: Gateway, sent: bytes, *, seconds: float = 60.0) -> bytes:
    """What comes back until the server closes."""
    where = urlsplit(gateway.url)
    received = b""
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=seconds) as client:
        with contextlib.suppress(ConnectionError):  # refused while we still send
            client.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(65536):
                received += chunk
    return received


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split(" ")[1]), headers, body


def is_alive(gateway: Gateway) -> bool:
    return read(exchange(gateway, BadRequest("", (), b"", verb="GET").encoded("/v1/models", gateway.key)))[0] == 200


def test_every_bad_request_gets_its_own_error_and_holds_nothing(served: Gateway) -> None:
    for bad in (*BODIES, *HEADS):
        for path in (CHAT, MESSAGES):
            answer = exchange(served, bad.encoded(path, served.key))
            if not answer and bad.may_hang_up:
                continue
            assert answer, bad.name
            status, headers, body = read(answer)
            assert status in bad.statuses, (bad.name, path, answer[:300])
            if headers.get("content-type", "").startswith("application/json") and status != 200:
                error = json.loads(body)
                assert error["error"]["message"], bad.name
                assert (error.get("type") == "error") == (path == MESSAGES), bad.name
                assert headers["request-id" if path == MESSAGES else "x-request-id"], bad.name
            else:
                assert bad in HEADS or status == 200, (bad.name, answer[:300])
    assert is_alive(served)
    served.settled(RoutedCall.objects.count())


# --- connections that behave oddly ---------------------------------------------------------------


def head(gateway: Gateway, *lines: str, version: str = "1.1", path: str = CHAT) -> bytes:
    given = [f"POST {path} HTTP/{version}", "host: x", f"x-api-key: {gateway.key}", *lines, "", ""]
    return "\r\n".join(given).encode()


def once_served(gateway: Gateway) -> None:
    """The other process may not have seen this test's rows yet."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        answer = exchange(gateway, BadRequest("", (), asked()).encoded(CHAT, gateway.key))
        if read(answer)[0] == 200:
            return
        time.sleep(0.1)
    raise AssertionError(answer)


def test_a_length_of_100_megabytes_is_refused_before_anything_is_read(served: Gateway) -> None:
    answer = exchange(served, head(served, f"content-length: {100 << 20}", path=MESSAGES) + b"{")
    assert read(answer)[0] == 413
    assert json.loads(read(answer)[2])["error"]["type"] == "request_too_large"


def test_a_client_that_asks_first_is_told_to_go_on(served: Gateway) -> None:
    once_served(served)
    where = urlsplit(served.url)
    body = asked()
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        client.sendall(head(served, f"content-length: {len(body)}", "expect: 100-continue", "connection: close"))
        assert client.recv(1024).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    assert b"200 OK" in received


@pytest.mark.parametrize("framing", ["length", "chunks", "nothing"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_client_that_would_rather_speak_another_protocol_is_answered_in_this_one(
    served: Gateway, framing: str, pieces: int
) -> None:
    """As Java's client asks for HTTP/2 with its first request."""
    once_served(served)
    body, asks = asked(), ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB")
    if framing == "length":
        first, then = head(served, f"content-length: {len(body)}", *asks), body
    elif framing == "chunks":
        first, then = head(served, "transfer-encoding: chunked", *asks), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        first, then = head(served, *asks).replace(b"POST " + CHAT.encode(), b"GET /v1/models"), b""
    last = head(served, "content-length: 2", "connection: close") + b"{}"
    where = urlsplit(served.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        for piece in [first, then + last] if pieces == 2 else [first + then + last]:
            client.sendall(piece)
            time.sleep(0.05)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"400"]


@pytest.mark.parametrize("length", [10, 100 << 20])
def test_who_asks_whether_to_send_a_body_that_is_not_wanted_hears_no_more_than_that(
    served: Gateway, length: int
) -> None:
    nobody = served if length > 10 else dataclasses.replace(served, key="zg_wrong")
    where = urlsplit(served.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        client.sendall(head(nobody, f"content-length: {length}", "expect: 100-continue"))
        answer = client.recv(65536)
        if length == 10 and answer.startswith(b"HTTP/1.1 100"):  # daphne reads bodies before it looks at keys
            client.sendall(b" " * length)
            answer = client.recv(65536)
        client.shutdown(socket.SHUT_WR)
        while chunk := client.recv(65536):
            answer += chunk
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"413" if length > 10 else b"401"]


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_is_answered_and_closed(served: Gateway, stream: bool) -> None:
    if stream and not hasattr(server, "GatewayConnection"):
        pytest.skip("uvicorn's own protocol sends chunks whatever the version")
    once_served(served)
    body = asked(stream=stream)
    answer = exchange(served, head(served, f"content-length: {len(body)}", version="1.0") + body)
    status, headers, text = read(answer)
    assert status == 200
    assert "transfer-encoding" not in headers
    assert text.endswith(b"data: [DONE]\n\n") if stream else json.loads(text)["choices"]


def test_requests_sent_without_waiting_are_answered_in_their_order(served: Gateway) -> None:
    once_served(served)
    good = asked()
    sent = head(served, f"content-length: {len(good)}") + good
    sent += head(served, "content-length: 2") + b"{}"
    sent += head(served, f"content-length: {len(good)}", "connection: close", path=MESSAGES) + good
    answer = exchange(served, sent)
    kinds = [answer.index(mark) for mark in (b'"chat.completion"', b"invalid_request_error", b'"type":"message"')]
    assert kinds == sorted(kinds)
    assert answer.count(b"HTTP/1.1 ") == 3


def test_no_second_request_is_smuggled_in(served: Gateway) -> None:
    """A length and chunks at once: whatever is believed, the body is no request of its own."""
    hidden = BadRequest("", (), b"", verb="GET").encoded("/v1/models", served.key)
    body = b"0\r\n\r\n" + hidden
    answer = exchange(served, head(served, f"content-length: {len(body)}", "transfer-encoding: chunked") + body)
    assert b'"owned_by"' not in answer


@pytest.mark.parametrize("framing", [
    b"0\r\n" + b"a: b\r\n" * 20_000, b"0\r\na: " + b"b" * 200_000, b"1;a=" + b"b" * 200_000
], ids=["many trailers", "a long trailer", "a long extension"])  # fmt: skip
@pytest.mark.parametrize(("key", "statuses"), [("", (b"431",)), ("zg_wrong", (b"401", b"431"))])
def test_what_stands_beside_a_body_has_a_limit(
    gateway: Gateway, key: str, statuses: tuple[bytes, ...], framing: bytes
) -> None:
    given = dataclasses.replace(gateway, key=key or gateway.key)
    answer = exchange(given, head(given, "transfer-encoding: chunked") + b"1\r\n{\r\n" + framing)
    (status,) = re.findall(rb"HTTP/1.1 (\d+)", answer)  # either may be first, and nothing is said after it
    assert status in statuses
    assert is_alive(gateway)


def test_what_stands_behind_a_body_says_nothing(served: Gateway) -> None:
    once_served(served)
    body = asked()
    sent = head(served, "transfer-encoding: chunked", "connection: close") + b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    answer = exchange(served, sent + b"x-api-key: zg_wrong\r\nx-ziggie-agent-level: L9\r\n\r\n")
    assert read(answer)[0] == 200


def test_a_body_may_come_in_chunks_of_one_byte(served: Gateway) -> None:
    once_served(served)
    body = asked(messages=[{"role": "user", "content": "x" * 20_000}])
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    answer = exchange(served, head(served, "transfer-encoding: chunked", "connection: close") + chunks + b"0\r\n\r\n")
    assert read(answer)[0] == 200
    assert served.openai.calls[-1].json["messages"][0]["content"] == "x" * 20_000


def test_the_rest_of_a_body_that_nobody_wants_is_not_passed_over_without_end(gateway: Gateway) -> None:
    where, chunk = urlsplit(gateway.url), b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    nobody = dataclasses.replace(gateway, key="zg_wrong")
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
        client.sendall(head(nobody, "transfer-encoding: chunked"))
        assert client.recv(65536).startswith(b"HTTP/1.1 401")
        with pytest.raises(ConnectionError):
            client.sendall(chunk * 200)


def test_a_whole_address_may_be_asked_for(served: Gateway) -> None:
    once_served(served)
    body = asked()
    lines = f"content-length: {len(body)}", "connection: close"
    assert read(exchange(served, head(served, *lines, path="http://x/v1/messages?beta=true") + body))[0] == 200
    status, _, said = read(exchange(served, head(served, *lines, path="http://x/v1/messages") + b" " * len(body)))
    assert (status, json.loads(said)["type"]) == (400, "error")


@pytest.mark.parametrize(("verb", "path", "allowed"), [
    ("OPTIONS", CHAT, "POST"), ("GET", MESSAGES, "POST"), ("DELETE", "/v1/models", "GET"),
])  # fmt: skip
def test_another_method_hears_which_one_is_taken(served: Gateway, verb: str, path: str, allowed: str) -> None:
    status, headers, _ = read(exchange(served, BadRequest("", (), b"", verb=verb).encoded(path, served.key)))
    assert (status, headers["allow"]) == (405, allowed)


def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing(served: Gateway) -> None:
    before = RoutedCall.objects.count()
    where = urlsplit(served.url)
    for lines, part in ((["content-length: 500"], b'{"model"'), (["transfer-encoding: chunked"], b'5\r\n{"mo')):
        for half in (False, True):
            with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as client:
                client.sendall(head(served, *lines) + part)
                if half:
                    client.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        client.settimeout(1)
                        client.recv(1024)
    assert is_alive(served)
    assert RoutedCall.objects.count() == before


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_body_in_chunks_without_end_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(gateway_http, "BODY_SECONDS", 0.5)
    answer = exchange(gateway, head(gateway, "transfer-encoding: chunked", path=path) + b'5\r\n{"mod\r\n')
    assert read(answer)[0] == 408
    assert json.loads(read(answer)[2])["error"]["code"] == "request_timeout"


def test_what_a_client_names_is_in_no_header_of_its_answer(served: Gateway) -> None:
    once_served(served)
    body = asked(model="nobody\r\nset-cookie: a=b")
    answer = exchange(served, head(served, f"content-length: {len(body)}", "connection: close") + body)
    assert read(answer)[0] == 404
    assert "set-cookie" not in read(answer)[1]


@pytest.mark.parametrize(("verb", "path", "status"), [
    ("GET", "/v1/nothing", 404), ("POST", "/v1/models", 405), ("DELETE", "/v1/models/gpt", 405), ("GET", "/v1/", 404),
    ("OPTIONS", CHAT, 405), ("PUT", MESSAGES, 405), ("GET", "/v1/%2e%2e/admin", 404), ("GET", "/v1//models", 404),
])  # fmt: skip
def test_wrong_doors_say_so(served: Gateway, verb: str, path: str, status: int) -> None:
    found, _, body = read(exchange(served, BadRequest("", (), b"", verb=verb).encoded(path, served.key)))
    assert found == status
    assert json.loads(body)["error"]["code"]


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
@pytest.mark.parametrize("drop", [b"G", b"GET / HTTP/1.1\r\nx-a: b"])
def test_daphne_closes_a_connection_on_which_a_request_comes_drop_by_drop(
    gateway: Gateway, slow_daphne: str, before: bytes, drop: bytes
) -> None:
    where = urlsplit(slow_daphne)
    received = b""
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=0.2) as client:
        client.sendall(before)
        until = time.monotonic() + 30
        with contextlib.suppress(ConnectionError):
            client.sendall(drop)
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    if not (piece := client.recv(65536)):
                        break
                    received += piece
                client.sendall(b"x")
    assert time.monotonic() < until, "it is open for ever"
    assert received.count(b"HTTP/1.1 200") == (1 if before else 0)
    assert received.count(b"HTTP/1.1 408") == 1


def test_daphne_closes_a_connection_on_which_nothing_comes(gateway: Gateway, slow_daphne: str) -> None:
    status, headers, _ = read(exchange(dataclasses.replace(gateway, url=slow_daphne), b""))
    assert (status, headers["connection"]) == (408, "close")


def test_daphne_gives_up_a_request_that_does_not_arrive(gateway: Gateway, slow_daphne: str) -> None:
    at = dataclasses.replace(gateway, url=slow_daphne)
    for sent in (b"POST /v1/messages HTTP/1.1\r\nx-slow: ", head(at, "content-length: 50", path=MESSAGES) + b"{"):
        status, headers, body = read(exchange(at, sent))
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
