"""Money, limits and faults of calls by way of OpenAI's responses API."""

import json
from typing import Any

import httpx2
import openai
import pytest
from django.db import transaction

from routing.configuration import snapshot
from routing.models import Budget, LanguageModel, Price, Provider, RoutedCall, UsageRecord
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.responses_support import TOOL, are_described, ask, responses
from tests.gateway.test_clients import MODELS
from tests.servers.script import Reply
from ziggie.models import create_api_key

FUNCTION: Any = {**TOOL, "strict": False}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_could_pass_the_budget_is_refused_with_402(gateway: Gateway, stream: bool) -> None:
    Budget.objects.update(limit_microusd=10)
    with pytest.raises(openai.APIStatusError, match="budget") as refused:
        responses(gateway).create(model="gpt", input="Hi.", max_output_tokens=50, stream=stream)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
    assert not gateway.openai.calls


def test_a_longest_answer_that_is_not_stated_is_clamped_to_the_budget(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=2_000)
    ask(gateway, "gpt")
    assert 256 <= gateway.openai.calls[-1].json["max_tokens"] <= 400


def test_hints_come_in_metadata_or_headers_and_are_echoed(gateway: Gateway) -> None:
    answer = ask(
        gateway, "auto", metadata={"task_kind": "analysis", "mine": "x"}, extra_headers={"x-ziggie-creator": "ada"}
    )
    assert answer.metadata == {"task_kind": "analysis", "mine": "x"}
    (receipt,) = gateway.settled(1)
    assert (receipt.task_kind, receipt.creator) == ("analysis", "ada")


@pytest.mark.parametrize("stream", [False, True])
def test_requests_a_minute_are_counted_and_told(gateway: Gateway, stream: bool) -> None:
    _, key = create_api_key("few", requests_per_minute=1)
    create = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0).responses.with_raw_response.create
    first = create(model="gpt", input="Hi.", stream=stream)
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as refused:
        create(model="gpt", input="Hi.", stream=stream)
    assert int(refused.value.response.headers["retry-after"]) > 0


def test_a_key_may_ask_for_its_own_models_alone(gateway: Gateway) -> None:
    _, key = create_api_key("one", allowed_models=["llama"])
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key).responses.create(model="gpt", input="Hi.")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="zg_wrong").responses.create(model="gpt", input="Hi.")


def test_a_stream_that_breaks_after_its_first_piece_ends_with_an_error_and_is_paid(gateway: Gateway) -> None:
    gateway.openai.default = Reply("One two three four five six.", fault="cut", fault_after=3)
    body = {"model": "gpt", "input": "Hi.", "stream": True}
    with (
        pytest.raises(openai.APIError, match="no model gave a usable answer"),
        responses(gateway).stream(model="gpt", input="Hi.") as events,
    ):
        list(events)
    answer = httpx2.post(f"{gateway.url}/v1/responses", json=body, headers=gateway.headers, timeout=30)
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    are_described(told)
    assert [event["type"] for event in told[-2:]] == ["error", "response.failed"]
    assert told[-2]["code"] == told[-2]["error"]["code"] == "all_providers_failed"
    assert (told[-1]["response"]["status"], told[-1]["response"]["error"]["code"]) == ("failed", "server_error")
    for receipt in gateway.settled(2):
        assert receipt.outcome == "all_providers_failed"
        assert receipt.cost_microusd > 0
    assert "output_tokens" in UsageRecord.objects.all()[0].estimated


def test_a_stream_that_fails_before_its_first_piece_is_served_by_the_next_model(gateway: Gateway) -> None:
    gateway.openai.default = Reply(fault="cut", fault_after=0)
    gateway.ollama.default = Reply("From the other one.")
    answer = ask(gateway, "auto", stream=True)
    assert (answer.model, answer.output_text) == ("llama", "From the other one.")


def test_a_client_that_leaves_stops_the_call_and_pays_for_what_came(gateway: Gateway) -> None:
    gateway.openai.default = Reply("word " * 400, fault="stall", fault_after=10)
    Provider.objects.filter(slug="openai").update(timeout_seconds=120)
    with responses(gateway).create(model="gpt", input="Hi.", stream=True) as events:
        assert next(iter(events)).type == "response.created"
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "cancelled"
    assert receipt.cost_microusd > 0
    wait_until(lambda: gateway.openai.disconnects == 1)


@pytest.mark.parametrize("model", MODELS)
def test_input_tokens_are_counted_before_they_are_paid(gateway: Gateway, model: str) -> None:
    counted = responses(gateway).input_tokens.with_raw_response.count(
        model=model, input="Say hello, please.", instructions="Be brief.", tools=[FUNCTION]
    )
    assert counted.headers["x-ziggie-count"] == ("reported" if model in ("claude", "flash") else "estimated")
    answer = counted.parse()
    assert (answer.object, answer.input_tokens > 5) == ("response.input_tokens", True)
    assert responses(gateway).input_tokens.count(input="Hi.").input_tokens > 0
    with pytest.raises(openai.NotFoundError):
        responses(gateway).input_tokens.count(model="nobody", input="Hi.")
    assert not RoutedCall.objects.exists()


@pytest.mark.parametrize("stream", [False, True])
def test_the_offline_model_answers_too(gateway: Gateway, stream: bool) -> None:
    with transaction.atomic():
        provider = Provider.objects.create(slug="offline", kind="offline", location="offline")
        model = LanguageModel.objects.create(slug="extractive", provider=provider, name="extractive",
                                             context_window=128_000, max_output_tokens=4096)  # fmt: skip
        Price.objects.create(model=model, input_usd_per_mtok=0, output_usd_per_mtok=0)
    snapshot.forget()
    answer = ask(gateway, "extractive", stream=stream, input="Rain falls in Oslo. Summarise it.")
    assert answer.output_text
    assert gateway.settled(1)[0].cost_microusd == 0


WAYS: dict[str, Any] = {
    "retrieve": lambda api, name: api.retrieve(name),
    "delete": lambda api, name: api.delete(name),
    "cancel": lambda api, name: api.cancel(name),
    "list what was said": lambda api, name: api.input_items.list(name),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_answer_is_stored_to_be_asked_for(gateway: Gateway, way: str) -> None:
    name = ask(gateway, "gpt").id
    with pytest.raises(openai.NotFoundError, match="stored") as refused:
        WAYS[way](responses(gateway), name)
    assert refused.value.type == "invalid_request_error"
    stranger = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="zg_wrong").responses
    with pytest.raises(openai.AuthenticationError):
        WAYS[way](stranger, name)


def _deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def _saying(more: bytes) -> bytes:
    return b'{"model": "gpt", "input": "x", ' + more + b"}"


def _holding(items: bytes) -> bytes:
    return b'{"model": "gpt", "input": [' + items + b"]}"


SPACE = b'{"type":"namespace","name":"n","tools":[' + b",".join([b'{"type":"function","name":"f"}'] * 150) + b"]}"
SEALED = b'{"type": "reasoning", "summary": [], "encrypted_content": "ziggie:' + b"W1tb" * 5_000 + b'"}'
BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "half a document": (b'{"model": "gpt", "input"', 400),
    "an array": (b"[]", 400),
    "a lone surrogate": (_saying(b'"instructions": "\\ud800"'), 400),
    "NaN": (_saying(b'"temperature": NaN'), 400),
    "a million items": (_holding(b"{}," * 999_999 + b"{}"), 413),
    "600,000 messages": (_holding(b'{"role":"user","content":"x"},' * 600_000 + b"{}"), 413),
    "a million parts": (_holding(b'{"role":"user","content":[' + b'{"type":"x"},' * 999_999 + b"{}]}"), 413),
    "300 namespaces": (_saying(b'"tools": [' + b",".join([SPACE] * 300) + b"]"), 413),
    "a schema of 900 levels": (
        _saying(b'"text": {"format": {"type": "json_schema", "schema": ' + _deep(900) + b"}}"),
        400,
    ),
    "metadata of 900 levels": (_saying(b'"metadata": ' + _deep(900)), 200),
    "a choice of 900 levels": (_saying(b'"tool_choice": {"type": "auto", "x": ' + _deep(900) + b"}"), 400),
    "a parameter of 900 levels": (_saying(b'"surprise": ' + _deep(900)), 400),
    "sealed nonsense alone": (_holding(SEALED), 400),
}


def test_what_no_honest_client_sends_is_refused_and_nothing_is_held(gateway: Gateway) -> None:
    for name, (body, status) in BODIES.items():
        for stream in (b"", b'"stream": true, ') if body.startswith(b"{") else (b"",):
            sent = body.replace(b"{", b"{" + stream, 1)
            answer = httpx2.post(f"{gateway.url}/v1/responses", content=sent, headers=gateway.headers, timeout=60)
            assert answer.status_code == status, (name, answer.text[:300])
            if status != 200:
                assert answer.json()["error"]["type"] == "invalid_request_error"
    gateway.settled(2)


def test_an_answer_is_told_beside_django_too(mounted: Gateway) -> None:
    mounted.openai.default = Reply("Hello.")
    for stream in (False, True):
        assert ask(mounted, "gpt", stream=stream).output_text == "Hello."
    with pytest.raises(openai.NotFoundError, match="stored"):
        responses(mounted).retrieve("resp_1")
    assert RoutedCall.objects.count() <= 2
