"""Answers of several models and answers from the cache, as the gateway's clients get them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from django.db import connection, transaction

from routing.configuration import snapshot
from routing.models import Budget, RoutedCall, RoutingRule
from tests.gateway.conftest import Gateway, wait_until
from tests.servers.script import Reply
from ziggie.values import replace

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ASKED: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 100,
    "temperature": 0,
    "messages": [{"role": "user", "content": "hi"}],
}
RIGHT = Reply('{"verdict": "right", "problems": []}')


def change_rule(**columns: Any) -> None:
    RoutingRule.objects.update(**columns)
    snapshot.forget()


def post(gateway: Gateway, path: str = CHAT, **changes: Any) -> httpx2.Response:
    return httpx2.post(gateway.url + path, json={**ASKED, **changes}, headers=gateway.headers, timeout=30)


def text_of(answer: httpx2.Response, path: str) -> str:
    """The text of a whole or a streamed answer of either API."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        if path == CHAT:
            return "".join((e["choices"][0]["delta"].get("content") or "") for e in events if e["choices"])
        return "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    body = answer.json()
    return str(body["choices"][0]["message"]["content"] if path == CHAT else body["content"][0]["text"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_clients_see_the_answer_of_a_pattern_and_none_of_its_parts(gateway: Gateway, path: str, stream: bool) -> None:
    change_rule(pattern="verify", roles={"verifier": "llama"})
    gateway.openai.default = Reply("The answer.")
    gateway.ollama.default = RIGHT
    answer = post(gateway, path, stream=stream)
    assert text_of(answer, path) == "The answer."
    assert (answer.headers["x-ziggie-model"], answer.headers["x-ziggie-attempts"]) == ("gpt", "2")
    assert [part["role"] for part in gateway.settled(1)[0].attempts] == ["answer", "verifier"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_equal_request_is_served_from_the_cache(gateway: Gateway, path: str, stream: bool) -> None:
    change_rule(options={"cache_ttl_seconds": 60})
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5)
    first = post(gateway, path)
    gateway.settled(1)
    second = post(gateway, path, stream=stream)
    assert [a.headers["x-ziggie-cache"] for a in (first, second)] == ["miss", "hit"]
    assert text_of(second, path) == text_of(first, path) == "The answer."
    if not stream:
        assert second.json()["usage"] == first.json()["usage"]
        assert second.headers["x-ziggie-cost-usd"] == "0.000000"
    assert len(gateway.openai.calls) == 1
    assert [call.cache for call in gateway.settled(2)] == ["miss", "hit"]


def test_money_of_an_answer_that_is_still_being_kept_is_there_for_the_next_call(gateway: Gateway) -> None:
    change_rule(options={"cache_ttl_seconds": 60, "store_bodies": True})
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=50)
    post(gateway)
    held = gateway.settled(1)[0].reserved_microusd
    Budget.objects.update(limit_microusd=2 * 260 + held)  # the third from here fits if the second holds nothing more
    answering = threading.Event()
    gateway.openai.default = replace(gateway.openai.default, after=answering)
    with ThreadPoolExecutor(1) as client:
        first = client.submit(post, gateway, messages=[{"role": "user", "content": "more"}])
        wait_until(lambda: len(gateway.openai.calls) == 2)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE routing_cachedanswer, routing_storedbody IN ACCESS EXCLUSIVE MODE")
            answering.set()
            assert first.result(60).status_code == 200
            second = post(gateway, temperature=1)  # not for the cache
    assert (second.status_code, second.headers["x-ziggie-cache"]) == (200, "off")


def test_a_request_that_may_not_be_kept_says_so(gateway: Gateway) -> None:
    change_rule(options={"cache_ttl_seconds": 60})
    assert post(gateway, temperature=1).headers["x-ziggie-cache"] == "off"


def test_equal_requests_of_many_clients_at_once_are_paid_once(gateway: Gateway) -> None:
    change_rule(options={"cache_ttl_seconds": 60})
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5, latency=0.5)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: post(gateway), range(12)))
    assert {text_of(answer, CHAT) for answer in answers} == {"The answer."}
    assert len(gateway.openai.calls) == 1
    gateway.settled(12)
    assert sorted(RoutedCall.objects.values_list("cost_microusd", flat=True)) == [0] * 11 + [35]
