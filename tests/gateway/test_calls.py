"""Money, limits and faults on the way through the gateway."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from django.core.management import call_command
from django.db import IntegrityError

from routing.configuration import snapshot
from routing.models import (
    Budget,
    BudgetPeriod,
    Circuit,
    LanguageModel,
    Price,
    Provider,
    RoutedCall,
    RoutingRule,
    UsageRecord,
)
from tests.flows.system import until
from tests.gateway.conftest import Gateway
from tests.ports import free_port
from tests.routing.pages_support import seen, staff_client
from tests.servers.script import Reply
from ziggie.models import ApiKey, create_api_key, rotate

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ASKED: dict[str, Any] = {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


def post(gateway: Gateway, path: str = CHAT, *, key: str = "", **changes: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key or gateway.key}"}
    return httpx2.post(gateway.url + path, json={**ASKED, **changes}, headers=headers, timeout=30)


def asked_and_left(gateway: Gateway, *, stream: bool, pieces: bool = True, n: int = 1) -> None:
    """A client that leaves before it has its answer: of a stream with `pieces` once it has some of it, else once the
    provider has been asked."""
    with ThreadPoolExecutor(1) as client:
        leaving, body = threading.Event(), {**ASKED, "stream": stream, "n": n}
        calling = client.submit(asyncio.run, _leave(gateway, body, leaving, after_a_piece=stream and pieces))
        until(lambda: gateway.openai.calls, 60)
        leaving.set()
        calling.result(60)


async def _leave(gateway: Gateway, body: Any, leaving: threading.Event, *, after_a_piece: bool) -> None:
    async def call() -> None:
        async with (
            httpx2.AsyncClient(timeout=60) as client,
            client.stream("POST", gateway.url + CHAT, json=body, headers=gateway.headers) as answer,
        ):
            async for _ in answer.aiter_bytes():
                if after_a_piece:
                    return

    calling = asyncio.create_task(call())
    while not calling.done() and (after_a_piece or not leaving.is_set()):
        await asyncio.sleep(0.02)
    calling.cancel()
    await asyncio.wait([calling])


def code(answer: httpx2.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_a_call_that_could_pass_the_budget_is_refused_with_402(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=100)
    for path in (CHAT, MESSAGES):
        answer = post(gateway, path)
        assert (answer.status_code, code(answer)) == (402, "budget_exceeded")
    assert not gateway.openai.requests


def test_an_exhausted_budget_that_says_local_turns_to_what_is_free(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=100, on_exhausted="local")
    answer = post(gateway, model="auto")
    assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "llama")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
def test_a_named_model_beyond_a_budget_that_says_local_is_answered_by_what_is_free_and_says_so(
    gateway: Gateway, path: str, stream: bool
) -> None:
    Budget.objects.update(limit_microusd=100, on_exhausted="local")
    answer = post(gateway, path, model="claude", stream=stream)
    assert answer.status_code == 200
    told = {name: answer.headers[f"x-ziggie-{name}"] for name in ("model", "source", "rule", "attempts")}
    assert told == {"model": "llama", "source": "local", "rule": "explicit", "attempts": "1"}
    assert b'"model":"llama"' in answer.content
    assert not gateway.anthropic.requests
    (receipt,) = gateway.settled(1)
    assert (receipt.model, receipt.cost_microusd, receipt.reserved_microusd) == ("llama", 0, 0)
    chosen, asked_for = receipt.candidates
    assert (chosen["state"], chosen["reason"]) == (
        "chosen",
        "costs nothing, from the rule 'everything': the model asked for is beyond a budget",
    )
    assert (asked_for["model"], asked_for["kind"]) == ("claude", "budget")


def test_a_key_that_may_use_no_free_model_is_refused_beyond_a_budget(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=100, on_exhausted="local")
    _, key = create_api_key("only claude", allowed_models=["claude"])
    answer = post(gateway, key=key, model="claude")
    assert (answer.status_code, code(answer)) == (402, "budget_exceeded")


def test_a_picture_that_no_free_model_can_see_is_refused_for_the_budget_that_is_used_up(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=100, on_exhausted="local")
    LanguageModel.objects.filter(slug="llama").update(capabilities=["chat"])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = post(gateway, model="auto", messages=[{"role": "user", "content": [picture]}])
    assert (answer.status_code, code(answer)) == (402, "budget_exceeded")
    assert [(each["model"], each["kind"]) for each in answer.json()["error"]["details"]] == [
        ("gpt", "budget"),
        ("llama", "capability"),
    ]


def test_many_calls_at_once_never_pass_a_budget_that_fits_only_some(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=3_000)
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=50, latency=0.05)
    with ThreadPoolExecutor(40) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: post(gateway), range(80))]
    assert set(statuses) == {200, 402}
    gateway.settled(statuses.count(200))
    period = BudgetPeriod.objects.get()
    assert period.settled_microusd == 260 * statuses.count(200) <= 3_000


def test_a_long_request_is_held_and_paid_at_the_price_of_its_tier(gateway: Gateway) -> None:
    above = {"above_input_tokens": 2_000, "input_usd_per_mtok": "2.00", "output_usd_per_mtok": "20.00"}
    Price.objects.filter(model__slug="gpt").update(input_tiers=[above])
    snapshot.forget()
    gateway.openai.default = Reply("x", input_tokens=2_001, output_tokens=50)
    answer = post(gateway, messages=[{"role": "user", "content": "y" * 2_100}])
    assert answer.headers["x-ziggie-cost-usd"] == "0.005002"
    (receipt,) = gateway.settled(1)
    assert receipt.reserved_microusd == 2 * (2_100 + 16) + 20 * 50
    assert "price above 2,000 input tokens" in seen(staff_client().get(f"/usage/calls/{receipt.pk}/"))


def test_a_provider_that_counts_more_than_it_was_allowed_is_paid_found_out_and_ends_the_budget(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    Budget.objects.update(limit_microusd=300)
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=80)  # of 50
    assert post(gateway).headers["x-ziggie-cost-usd"] == "0.000410"
    gateway.settled(1)
    period = BudgetPeriod.objects.get()
    assert (period.settled_microusd, period.held_microusd, period.overrun_microusd) == (410, 0, 110)
    assert post(gateway).status_code == 402
    call_command("usage", "check", "--json")
    (overrun,) = json.loads(capsys.readouterr().out)["overruns"]
    assert (overrun["budget"], overrun["microusd"], overrun["calls"]) == ("cloud", 110, 1)
    assert overrun["beyond_microusd"] == 410 - RoutedCall.objects.get().reserved_microusd
    call_command("usage", "check")
    assert "cloud, from " in capsys.readouterr().out
    with pytest.raises(IntegrityError):  # what is not found out cannot be there
        BudgetPeriod.objects.update(overrun_microusd=109)


def test_what_a_call_has_not_spent_is_there_for_the_next_one_at_once(gateway: Gateway) -> None:
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=50)
    assert post(gateway).status_code == 200
    held = gateway.settled(1)[0].reserved_microusd
    Budget.objects.update(limit_microusd=4 * 260 + held)  # the fourth from here fits if the third holds nothing more
    assert [post(gateway).status_code for _ in range(5)] == [200, 200, 200, 200, 402]


@pytest.mark.parametrize("said", [{"max_tokens": 4096}, {"max_tokens": None}])
def test_what_the_last_call_held_neither_sends_the_next_one_elsewhere_nor_cuts_it_short(
    gateway: Gateway, said: dict[str, Any]
) -> None:
    Budget.objects.update(limit_microusd=30_000, on_exhausted="local")  # one of the longest answers at a time
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=10, latency=0.2)
    for _ in range(3):
        time.sleep(0.6)  # so that the world is looked at while the first of the two holds its money
        answers = [post(gateway, **said), post(gateway, **said)]
        assert [answer.headers["x-ziggie-model"] for answer in answers] == ["gpt", "gpt"]
    assert {request.json["max_tokens"] for request in gateway.openai.requests} == {4096}
    assert not gateway.ollama.calls


def test_what_the_last_call_held_refuses_no_call_while_what_is_free_is_away(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=30_000, on_exhausted="local")
    away = datetime.now(UTC) + timedelta(hours=1)
    ollama = Provider.objects.get(slug="ollama")
    Circuit.objects.create(provider=ollama, state="open", reason="refused", open_until=away)
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=10, latency=0.2)
    for _ in range(3):
        time.sleep(0.6)  # so that the world is looked at while the first of the two holds its money
        answers = [post(gateway, model="auto", max_tokens=4096), post(gateway, model="auto", max_tokens=4096)]
        assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    Budget.objects.update(limit_microusd=100)
    snapshot.forget()
    assert post(gateway, model="auto", max_tokens=4096).status_code == 503


def test_a_key_with_its_own_budget_is_stopped_by_it_and_others_are_not(gateway: Gateway) -> None:
    Budget.objects.create(slug="narrow", scope={"api_keys": [gateway.key_id]}, limit_microusd=1, on_exhausted="deny")
    _, other = create_api_key("other")
    assert post(gateway).status_code == 402
    assert post(gateway, key=other).status_code == 200


def test_when_every_model_fails_all_attempts_are_listed(gateway: Gateway) -> None:
    gateway.openai.default = gateway.ollama.default = Reply(status=500, error="broken")
    answer = post(gateway, model="auto")
    assert (answer.status_code, code(answer)) == (502, "all_providers_failed")
    assert [attempt["model"] for attempt in answer.json()["error"]["details"]] == ["gpt", "llama"]
    assert answer.headers["x-ziggie-request-id"] == str(gateway.settled(1)[0].id)


def told(answer: httpx2.Response) -> tuple[str | None, ...]:
    names = ("model", "provider", "source", "rule", "attempts", "cache")
    return tuple(answer.headers.get(f"x-ziggie-{name}") for name in names)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_error_answer_says_which_way_the_call_went(gateway: Gateway, path: str, stream: bool) -> None:
    gateway.openai.default = gateway.ollama.default = Reply(status=500, error="broken")
    answer = post(gateway, path, model="auto", stream=stream)
    assert (answer.status_code, *told(answer)) == (502, "llama", "ollama", "local", "everything", "2", "off")
    Budget.objects.update(limit_microusd=100)
    answer = post(gateway, path, stream=stream)
    assert (answer.status_code, *told(answer)) == (402, "gpt", "openai", "cloud", "explicit", "0", "off")


def test_an_error_answer_of_a_call_for_the_cache_says_so(gateway: Gateway) -> None:
    RoutingRule.objects.update(options={"cache_ttl_seconds": 60})
    gateway.openai.default = gateway.ollama.default = Reply(status=500, error="broken")
    answer = post(gateway, model="auto", temperature=0)
    assert (answer.status_code, *told(answer)[-2:]) == (502, "2", "miss")


def test_texts_that_nobody_embedded_say_who_was_asked(gateway: Gateway) -> None:
    Provider.objects.filter(slug="openai").update(base_url=f"http://127.0.0.1:{free_port()}")
    body = {"model": "embedder", "input": "text"}
    answers = [httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers, timeout=30)]
    Budget.objects.update(limit_microusd=0)
    answers.append(httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers, timeout=30))
    assert [answer.status_code for answer in answers] == [502, 402]
    assert [told(answer)[4] for answer in answers] == ["1", "0"]
    assert {told(answer)[:4] + told(answer)[5:] for answer in answers} == {
        ("embedder", "openai", "cloud", "embeddings", "off")
    }


def test_what_nobody_knows_is_left_out_of_an_error_answer(gateway: Gateway) -> None:
    assert told(post(gateway, key="zg_wrong")) == (None,) * 6
    assert told(post(gateway, messages=7)) == (None,) * 6
    assert told(post(gateway, model="nobody"))[:4] == (None,) * 4


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_what_the_provider_refuses_for_its_own_sake_is_the_clients_mistake(gateway: Gateway, path: str) -> None:
    """A client that is told 502 sends the same again and again."""
    gateway.openai.default = Reply(status=400, error="images: cannot be read", error_type="invalid_request_error")
    answer = post(gateway, path)
    assert (answer.status_code, code(answer)) == (400, "unsupported")
    assert "images: cannot be read" in answer.json()["error"]["message"]
    gateway.ollama.default = Reply(status=500, error="broken")
    assert post(gateway, path, model="auto").status_code == 502
    gateway.settled(2)


def test_no_rule_for_a_request_is_503(gateway: Gateway) -> None:
    RoutingRule.objects.update(task_kinds=["analysis"])
    answer = post(gateway, model="auto")
    assert (answer.status_code, code(answer)) == (503, "no_route")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_stream_that_breaks_after_its_first_piece_ends_with_an_error_and_is_paid(gateway: Gateway, path: str) -> None:
    gateway.openai.default = Reply("One two three four five six.", fault="cut", fault_after=3)
    with httpx2.stream("POST", gateway.url + path, json={**ASKED, "stream": True}, headers=gateway.headers) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["error"]["code"] == "all_providers_failed"
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "all_providers_failed"
    assert receipt.cost_microusd > 0
    assert "output_tokens" in UsageRecord.objects.get().estimated


def test_a_stream_that_fails_before_its_first_piece_is_served_by_the_next_model(gateway: Gateway) -> None:
    gateway.openai.default = Reply(fault="cut", fault_after=0)
    gateway.ollama.default = Reply("From the other one.")
    with httpx2.stream(
        "POST", gateway.url + CHAT, json={**ASKED, "model": "auto", "stream": True}, headers=gateway.headers
    ) as answer:
        assert answer.headers["x-ziggie-model"] == "llama"
        text = "".join(answer.iter_text())
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_call_and_pays_for_what_came(gateway: Gateway, stream: bool) -> None:
    gateway.openai.default = Reply("word " * 400, fault="stall", fault_after=10 if stream else 0)
    Provider.objects.filter(slug="openai").update(timeout_seconds=120)
    asked_and_left(gateway, stream=stream)
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "cancelled"
    assert UsageRecord.objects.get().outcome == "cancelled"
    if stream:
        assert receipt.cost_microusd > 0


def test_a_key_without_the_scope_is_forbidden(gateway: Gateway) -> None:
    _, key = create_api_key("tools", scopes=["tools"])
    assert post(gateway, key=key).status_code == 403


def test_a_key_may_ask_for_its_own_models_alone(gateway: Gateway) -> None:
    _, key = create_api_key("local only", allowed_models=["llama"])
    assert post(gateway, key=key, model="gpt").status_code == 403
    answer = post(gateway, key=key, model="auto")
    assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "llama")


def test_a_key_stops_working_within_two_seconds_of_its_end(gateway: Gateway) -> None:
    made, key = create_api_key("short", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert post(gateway, key=key).status_code == 200
    ApiKey.objects.filter(pk=made.pk).update(enabled=False)
    time.sleep(2.0)
    assert post(gateway, key=key).status_code == 401


def test_a_renewed_key_works_at_once(gateway: Gateway) -> None:
    key = ApiKey.objects.get(pk=gateway.key_id)
    fresh = rotate(key, grace=timedelta())
    assert post(gateway, key=fresh).status_code == 200


def test_requests_a_minute_are_counted_exactly(gateway: Gateway) -> None:
    _, key = create_api_key("slow", requests_per_minute=10)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(gateway, key=key), range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 10
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert code(refused) == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 62


def test_tokens_a_minute_stop_a_key_that_has_used_them(gateway: Gateway) -> None:
    gateway.openai.default = Reply("x", input_tokens=50, output_tokens=20)
    _, key = create_api_key("small", tokens_per_minute=120)
    assert [post(gateway, key=key).status_code for _ in range(3)] == [200, 200, 429]


def test_the_gateway_answers_503_while_the_database_is_away_and_never_calls_a_provider(gateway: Gateway) -> None:
    from unittest import mock  # of settings, not of our code: the address of the database

    from django.db import connections

    from routing.gateway.access import keys

    before = len(gateway.openai.requests)
    with mock.patch.dict(connections["default"].settings_dict, {"HOST": "127.0.0.1", "PORT": "1"}):
        _terminate_pooled_connections()
        time.sleep(keys.STALE_SECONDS + 0.1)
        answer = post(gateway)
    assert answer.status_code == 503
    assert len(gateway.openai.requests) == before


def _terminate_pooled_connections() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'ziggie' AND datname = current_database()"
        )
