"""Clients that close their half of the connection once they have asked: who waits is answered, who has gone is not."""

import json
import re
import socket
import threading
from urllib.parse import urlsplit

import pytest

from routing.gateway.exchange import leaving
from routing.models import Circuit
from tests.gateway.conftest import Gateway, wait_until
from tests.servers.script import Reply

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture(params=["alone", "beside Django"])
def either(transactional_db: None, request: pytest.FixtureRequest) -> Gateway:
    """The gateway alone, and beside Django."""
    found: Gateway = request.getfixturevalue("gateway" if request.param == "alone" else "mounted")
    return found


def asked(gateway: Gateway, path: str = CHAT, *, version: str = "1.1", **fields: object) -> bytes:
    body = json.dumps({"model": "gpt", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], **fields})
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def connected(gateway: Gateway) -> socket.socket:
    where = urlsplit(gateway.url)
    return socket.create_connection((where.hostname or "", where.port or 0), timeout=60)


def told(gateway: Gateway, sent: bytes) -> bytes:
    """All that a client is answered that sends this, closes its half and reads to the end."""
    with connected(gateway) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65_536):
            received += piece
    return received


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_who_has_asked_and_sends_no_more_is_answered(either: Gateway, path: str, stream: bool) -> None:
    either.openai.default = Reply("Here it is.", latency=0.3, input_tokens=10, output_tokens=5)
    answer = told(either, asked(either, path, stream=stream))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Here" in answer
    assert (b"[DONE]" if path == CHAT else b"message_stop") in answer or not stream
    assert [(call.outcome, call.cost_microusd) for call in either.settled(1)] == [("ok", 35)]


def test_requests_that_came_together_before_the_end_are_all_answered(either: Gateway) -> None:
    answer = told(either, asked(either) * 3)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert [call.outcome for call in either.settled(3)] == ["ok"] * 3


def test_half_a_request_behind_a_whole_one_is_refused_after_its_answer(either: Gateway) -> None:
    for half in (asked(either)[:-5], b"POST /v1/chat/completions HTTP/1.1\r\nhost: x"):
        assert re.findall(rb"HTTP/1.1 (\d+)", told(either, asked(either) + half)) == [b"200", b"400"]
    either.settled(2)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_half_a_request_is_refused_in_the_words_of_its_api(either: Gateway, path: str) -> None:
    answer = told(either, asked(either, path)[:-5])
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "bad",
    [
        b"BAD\x01\r\n",
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
        b"GET / HTTP/1.1\r\nno header\r\nnor here\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\nBAD\x01\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/mess",
        b"POST",
    ],
)
def test_what_cannot_be_read_is_refused_once(either: Gateway, bad: bytes) -> None:
    for sent, statuses in ((bad, [b"400"]), (asked(either) + bad, [b"200", b"400"])):
        assert re.findall(rb"HTTP/1.1 (\d+)", told(either, sent)) == statuses
    either.settled(1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_half_a_first_line_is_refused_in_the_words_of_its_api(either: Gateway, path: str) -> None:
    error = json.loads(told(either, f"POST {path} HT".encode()).partition(b"\r\n\r\n")[2])
    assert (error.get("type") == "error") is (path == MESSAGES)


def test_requests_behind_one_that_is_answered_at_once_are_answered_too(mounted: Gateway) -> None:
    unreadable = b"GET / HTTP/1.1\r\nhost: x\r\nx-odd: a\x0bb\r\n\r\n"
    answer = told(mounted, asked(mounted) + unreadable + asked(mounted) + b"POST")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400", b"200", b"400"]
    mounted.settled(2)


def test_a_client_without_chunks_is_answered_too(either: Gateway) -> None:
    answer = told(either, asked(either, version="1.0", stream=True))
    assert answer.rstrip().endswith(b"data: [DONE]")
    assert [call.outcome for call in either.settled(1)] == ["ok"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_long_is_asked_whether_he_is_there_and_answered(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(leaving, "LONGEST_SECONDS", 0.02)
    gate = threading.Event()
    gateway.openai.default = Reply("Here it is.", after=gate)
    with connected(gateway) as client:
        client.sendall(asked(gateway, stream=stream))
        client.shutdown(socket.SHUT_WR)
        received = b""
        while not received.endswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP"):
            received += client.recv(1)
        gate.set()
        while piece := client.recv(65_536):
            received += piece
    answer = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert [call.outcome for call in gateway.settled(1)] == ["ok"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_waits_hears_the_first_letters_of_the_answer_once(either: Gateway, version: str) -> None:
    gate = threading.Event()
    either.openai.default = Reply("Here it is.", after=gate)
    with connected(either) as client:
        client.sendall(asked(either, version=version))
        client.shutdown(socket.SHUT_WR)
        received = client.recv(1) + client.recv(1) + client.recv(1)
        assert received == b"HTT"
        gate.set()
        while piece := client.recv(65_536):
            received += piece
    assert re.match(rb"HTTP/1\.[01] 200 OK\r\n", received)
    assert received.count(b"HTTP/") == 1


def test_one_that_waits_without_knowing_interim_answers_is_told_no_more_than_the_answers_first_letters() -> None:
    prelude = leaving.Prelude(b"HTTP/1.1", may_continue=False)
    assert b"".join(prelude.next() for _ in range(100)) == b"HTTP/1.1"


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_gone_is_noticed_and_the_call_ends(either: Gateway, stream: bool) -> None:
    gate = threading.Event()
    either.openai.default = Reply("Nobody hears it.", after=gate)
    with connected(either) as client:
        client.sendall(asked(either, stream=stream))
        wait_until(lambda: len(either.openai.calls) == 1)
    assert [call.outcome for call in either.settled(1)] == ["cancelled"]
    gate.set()
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_who_has_gone_after_several_requests_is_charged_for_none_that_had_not_begun(either: Gateway) -> None:
    gate = threading.Event()
    either.openai.default = Reply("Nobody hears it.", after=gate)
    with connected(either) as client:
        client.sendall(asked(either) * 3 + asked(either)[:-5])
        wait_until(lambda: len(either.openai.calls) == 1)
    assert [call.outcome for call in either.settled(1)] == ["cancelled"]
    gate.set()
    assert len(either.openai.calls) == 1


def test_who_leaves_a_stream_that_is_silent_is_noticed(either: Gateway) -> None:
    either.openai.default = Reply("Some words, and then nothing more.", fault="stall", fault_after=2)
    with connected(either) as client:
        client.sendall(asked(either, stream=True))
        received = b""
        while b"Some" not in received:
            received += client.recv(65_536)
    assert [call.outcome for call in either.settled(1)] == ["cancelled"]


def test_who_waits_within_a_silent_stream_hears_comments_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "FIRST_LOOK_SECONDS", 0.01)
    gateway.openai.default = Reply("Some words, and then nothing more.", fault="stall", fault_after=2)
    with connected(gateway) as client:
        client.sendall(asked(gateway, stream=True))
        client.shutdown(socket.SHUT_WR)
        received = b""
        while b"\r\n3\r\n:\n\n\r\n" not in received:
            received += client.recv(65_536)
    assert [call.outcome for call in gateway.settled(1)] == ["cancelled"]


def test_who_leaves_between_requests_leaves_nothing(either: Gateway) -> None:
    assert told(either, b"") == b""


def test_a_page_of_the_web_server_is_answered_too(mounted: Gateway) -> None:
    assert told(mounted, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")
