"""What no honest client sends: the right error of the API that was called, soon, and no money held."""

import http.client
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from routing.gateway.serving import protocol
from routing.gateway.wire.reading import MAX_IMAGES, MAX_PARTS
from routing.models import Budget, LanguageModel, RoutedCall
from tests.gateway.conftest import Gateway

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TURN = {"role": "user", "content": "hi"}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "gpt", "messages": [TURN]},
    MESSAGES: {"model": "gpt", "max_tokens": 10, "messages": [TURN]},
}
TOOL = {"type": "function", "function": {"name": "t", "parameters": {}}}


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _cited(by: Any) -> dict[str, Any]:
    return {"type": "text", "text": "so it is", "citations": [{"type": "char_location", "cited_text": by}]}


def post(gateway: Gateway, path: str, body: bytes, **headers: str) -> httpx2.Response:
    return httpx2.post(gateway.url + path, content=body, headers={**gateway.headers, **headers}, timeout=60)


def refusal(answer: httpx2.Response, path: str) -> str:
    """The error's message, in the shape of the API called."""
    body = answer.json()
    if path == MESSAGES:
        assert body["type"] == "error"
    assert body["error"]["type"]
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff\xfe{}", 400),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 5}', 400),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "x"}], "max_tokens": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"{}", 400),
    ],
)
def test_a_body_that_is_not_json_is_refused(gateway: Gateway, path: str, body: bytes, status: int) -> None:
    answer = post(gateway, path, body)
    assert answer.status_code == status
    assert refusal(answer, path)
    assert not RoutedCall.objects.exists()


CHANGES: list[dict[str, Any]] = [
    {"messages": None},
    {"messages": []},
    {"messages": {}},
    {"messages": [1]},
    {"messages": [{"role": "pirate", "content": "x"}]},
    {"messages": [{"role": ["user"], "content": "x"}]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": 7}]},
    {"messages": [{"role": "user", "content": []}]},
    {"metadata": {"pattern": "nope"}},
    {"messages": [{"role": "user", "content": [{"type": "teapot"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
    {"messages": [{"role": "user"}]},
    {"model": 5},
    {"model": ""},
    {"model": "x" * 1000},
    {"max_tokens": -1},
    {"max_tokens": 0},
    {"max_tokens": "many"},
    {"max_tokens": True},
    {"max_tokens": 1.5},
    {"max_tokens": 10**30},
    {"temperature": "hot"},
    {"temperature": -1},
    {"stream": "yes"},
    {"tools": "hammer"},
    {"tools": [{"type": "function"}]},
    {"tools": [{"name": 1, "function": {"name": 1}}]},
    {"tool_choice": 4},
    {"metadata": {"complexity": "NaN"}},
    {"metadata": {"complexity": "2"}},
    {"metadata": {"task_kind": 7}},
    {"metadata": "x"},
]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: json.dumps(change)[:50])
def test_a_field_of_the_wrong_kind_is_refused_and_named(gateway: Gateway, path: str, change: dict[str, Any]) -> None:
    answer = post(gateway, path, json.dumps({**GOOD[path], **change}).encode())
    assert answer.status_code == 400
    assert refusal(answer, path)
    assert not RoutedCall.objects.exists()


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
@pytest.mark.parametrize("within", [{}, {"source": 7.5}, {"source": []}, {"source": {"type": "content", "content": 7}}])
@pytest.mark.parametrize("holder", ["result", "turn"])
def test_a_document_that_is_none_is_refused(gateway: Gateway, path: str, within: Any, holder: str) -> None:
    block: Any = {"type": "document", **within}
    if holder == "result":
        block = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    call = {"type": "tool_use", "id": "a", "name": "t", "input": {}}
    turns = [TURN, {"role": "assistant", "content": [call]}, {"role": "user", "content": [block]}]
    answer = post(gateway, path, json.dumps({**GOOD[MESSAGES], "messages": turns}).encode())
    assert answer.status_code == 400
    assert refusal(answer, path)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 17},
        {"top_logprobs": 3},
        {"functions": [{}]},
        {"modalities": ["audio"]},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": deep(100)}}},
        {"tools": [TOOL] * 600},
        {"stop": ["x"] * 100},
        {"seed": 2**80},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [*GOOD[CHAT]["messages"], {"role": "assistant", "content": "It is", "prefix": True}]},
        {"messages": [*GOOD[CHAT]["messages"], {"role": "assistant", "content": "It is", "partial": True}]},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_what_cannot_be_done_is_refused_and_not_dropped(gateway: Gateway, change: dict[str, Any]) -> None:
    answer = post(gateway, CHAT, json.dumps({**GOOD[CHAT], **change}).encode())
    assert answer.status_code in (400, 413)
    assert not gateway.openai.requests


def test_parameters_that_no_provider_could_read_are_asked_of_none(gateway: Gateway) -> None:
    """One test for all: each needs no database of its own, since nothing may be held for any."""
    function: Any = {"type": "function", "function": {"name": "look_up"}}
    tool: Any = {"name": "look_up", "input_schema": {"type": "object"}}
    for path, change in (
        *((path, {"top_p": "much"}) for path in (CHAT, MESSAGES)),
        *((path, {"top_p": 5}) for path in (CHAT, MESSAGES)),
        *((path, {"top_k": "few"}) for path in (CHAT, MESSAGES)),
        *((path, {"anthropic_beta": "context-1m-2025-08-07"}) for path in (CHAT, MESSAGES)),
        (CHAT, {"presence_penalty": 100}),
        (CHAT, {"frequency_penalty": [1]}),
        (CHAT, {"logit_bias": "none"}),
        (CHAT, {"n": True}),
        (CHAT, {"n": "1"}),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}),
        (CHAT, {"messages": [{"role": "user", "content": "x", "name": 7}]}),
        (CHAT, {"response_format": {"type": "json_schema"}}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
        (CHAT, {"response_format": {"json_schema": {"name": "n", "schema": {}}}}),
        (CHAT, {"tool_choice": "required"}),
        (CHAT, {"tool_choice": function}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "other"}}], "tool_choice": function}),
        (MESSAGES, {"tool_choice": {"type": "any"}}),
        (MESSAGES, {"tools": [{**tool, "name": "other"}], "tool_choice": {"type": "tool", "name": "look_up"}}),
        (MESSAGES, {"tools": [{"name": "look_up"}]}),
        (MESSAGES, {"tools": [tool, tool]}),
        (MESSAGES, {"tools": [{**tool, "input_examples": [{"city": "Oslo"}]}]}),
        (MESSAGES, {"tools": [{**tool, "defer_loading": "yes"}]}),
        *((path, {"anything": deep(500)}) for path in (CHAT, MESSAGES)),
        (MESSAGES, {"messages": [TURN, {"role": "assistant", "content": [_cited(deep(500))]}, TURN]}),
        *((MESSAGES, {"system": value}) for value in (False, 0, {})),
        (MESSAGES, {"thinking": "hard"}),
        (MESSAGES, {"thinking": {"type": "enabled"}}),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": "all"}}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}),
        *((path, {"metadata": {"agent_level": "L9"}}) for path in (CHAT, MESSAGES)),
        *((path, {"metadata": {"creator_tier": "famous"}}) for path in (CHAT, MESSAGES)),
    ):
        answer = post(gateway, path, json.dumps({**GOOD[path], **change}).encode())
        assert (answer.status_code, bool(refusal(answer, path))) == (400, True), (path, change, answer.text)
    assert not RoutedCall.objects.exists()
    assert not gateway.openai.requests


def test_what_a_provider_cannot_express_is_refused_with_400(gateway: Gateway) -> None:
    answer = post(gateway, CHAT, json.dumps({**GOOD[CHAT], "model": "claude", "seed": 7}).encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
    gateway.settled(1)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_parameters_that_are_passed_on_have_a_limit(gateway: Gateway, path: str) -> None:
    """A hundred thousand would take a third of a second, in which nobody else is served."""
    answer = post(gateway, path, json.dumps({**GOOD[path], **{f"x{place}": 1 for place in range(300)}}).encode())
    assert answer.status_code == 413
    assert "256 parameters" in refusal(answer, path)
    assert not RoutedCall.objects.exists()


def test_a_million_messages_are_too_many(gateway: Gateway) -> None:
    answer = post(gateway, CHAT, b'{"model":"gpt","messages":[' + b"{}," * 999_999 + b"{}]}")
    assert answer.status_code == 413
    assert "at most" in refusal(answer, CHAT)


def asked(gateway: Gateway, path: str, **changes: Any) -> httpx2.Response:
    return httpx2.post(gateway.url + path, json={**GOOD[path], **changes}, headers=gateway.headers, timeout=60)


def picture(path: str) -> dict[str, Any]:
    if path == MESSAGES:
        return {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    return {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("turns", [1, 2])
def test_a_request_has_at_most_so_many_images(gateway: Gateway, path: str, turns: int) -> None:
    LanguageModel.objects.filter(slug="gpt").update(context_window=10_000_000)
    Budget.objects.update(limit_microusd=100_000_000)

    def ask(images: int) -> httpx2.Response:
        first = [picture(path)] * (images // turns)
        turn = {"role": "user", "content": [picture(path)] * (images - len(first) * (turns - 1))}
        return asked(gateway, path, messages=[{"role": "user", "content": first}] * (turns - 1) + [turn])

    answer = ask(MAX_IMAGES + 1)
    assert answer.status_code == 413
    assert f"at most {MAX_IMAGES} images are accepted, and there are {MAX_IMAGES + 1}" in refusal(answer, path)
    assert not gateway.openai.calls
    assert ask(MAX_IMAGES).status_code == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_message_has_at_most_so_many_parts(gateway: Gateway, path: str) -> None:
    part = {"type": "text", "text": "x"}
    turn = {"role": "user", "content": [part] * (MAX_PARTS + 1)}
    answer = asked(gateway, path, messages=[turn])
    assert answer.status_code == 413
    assert f"content: at most {MAX_PARTS} are accepted, and there are {MAX_PARTS + 1}" in refusal(answer, path)
    assert not gateway.openai.calls
    assert asked(gateway, path, messages=[{"role": "user", "content": [part] * MAX_PARTS}]).status_code == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("content", [7, {}, [7], ["text"], [{}], [{"type": "text"}], [{"type": "hologram"}]])
def test_parts_that_are_none_are_refused(gateway: Gateway, path: str, content: Any) -> None:
    answer = asked(gateway, path, messages=[{"role": "user", "content": content}])
    assert answer.status_code == 400
    assert "messages[0]" in refusal(answer, path)
    assert not gateway.openai.calls


def test_a_body_of_100_megabytes_is_refused_before_it_is_read(gateway: Gateway) -> None:
    where = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest("POST", MESSAGES)
    connection.putheader("x-api-key", gateway.key)
    connection.putheader("content-length", str(100 * 1024 * 1024))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["type"] == "request_too_large"


def test_a_chunked_body_that_grows_too_large_is_cut_off(gateway: Gateway) -> None:
    def pieces() -> Any:
        for _ in range(25):
            yield b" " * 1024 * 1024

    answer = httpx2.post(gateway.url + CHAT, content=pieces(), headers=gateway.headers, timeout=60)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("POST", "/v1/nothing", 404), ("GET", "/v1/", 404)],
)
def test_wrong_doors_say_so(gateway: Gateway, method: str, path: str, status: int) -> None:
    assert httpx2.request(method, gateway.url + path, headers=gateway.headers).status_code == status


def raw_exchange(gateway: Gateway, sent: bytes, *, half_close: bool = False, seconds: float = 60) -> bytes:
    where = urlsplit(gateway.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=seconds) as client:
        client.sendall(sent)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    return received


def test_a_client_that_dribbles_its_head_is_sent_away(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    assert raw_exchange(gateway, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n").startswith(b"HTTP/1.1 408")


def test_a_head_without_end_is_refused(gateway: Gateway) -> None:
    answer = raw_exchange(gateway, b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 100_000)
    assert answer.startswith(b"HTTP/1.1 431")


def test_a_long_head_is_refused_even_if_all_of_it_comes_at_once(gateway: Gateway) -> None:
    for long in (b"/v1/" + b"a" * 90_000, b"/healthz HTTP/1.1\r\n" + b"a: b\r\n" * 15_000 + b"x:"):
        assert raw_exchange(gateway, b"GET " + long + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 431")


def test_a_long_body_that_comes_with_its_head_is_no_long_head(gateway: Gateway) -> None:
    body = json.dumps({**GOOD[CHAT], "messages": [{"role": "user", "content": "x" * 150_000}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nx-api-key: {gateway.key}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    for split in range(1, 5):  # of the four bytes between head and body so many come later, together with the body
        where = urlsplit(gateway.url)
        whole = f"{head}\r\n".encode() + body
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(whole[: len(head) + 2 - split])
            time.sleep(0.05)
            client.sendall(whole[len(head) + 2 - split :])
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_a_client_that_sends_no_more_hears_what_is_missing_and_holds_nothing(gateway: Gateway, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {gateway.key}\r\ncontent-length: 50\r\n\r\n"
    for part in (head.encode() + b'{"model"', head.encode()[:-2]):
        answer = raw_exchange(gateway, part, half_close=True)
        assert answer.startswith(b"HTTP/1.1 400")
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert told["error"]["type"] == "invalid_request_error"
        assert ("request_id" in told) is (path == "/v1/messages")
    assert not RoutedCall.objects.exists()


def test_a_rule_or_model_name_cannot_smuggle_headers(gateway: Gateway) -> None:
    from routing.models import RoutingRule

    RoutingRule.objects.update(name="x\r\nset-cookie: a=b")
    answer = post(gateway, CHAT, json.dumps({**GOOD[CHAT], "model": "auto"}).encode())
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/v1/messages", ": the address to ask is that of /v1/messages"),
        ("/chat/completions", ": the address to ask is that of /v1/chat/completions"),
        ("/v1/nowhere", ""),
    ],
)
def test_who_asks_at_another_address_hears_which_one_was_meant(gateway: Gateway, path: str, hint: str) -> None:
    answer = post(gateway, path, b"{}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"there is no endpoint {path!r}{hint}"


@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/embeddings/"])
def test_a_client_that_was_given_an_address_without_v1_hears_it_beside_pages_too(mounted: Gateway, path: str) -> None:
    answer = post(mounted, path, b"{}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert f"is that of /v1{path.rstrip('/')}" in answer.json()["error"]["message"]
