"""A record tells everything that was known of an attempt: through every dialect, of success and of failure."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from django.db import connection

from routing.configuration import snapshot
from routing.gateway import embedding
from routing.gateway.providers import pool
from routing.models import Budget, BudgetPeriod, Price, Provider, Reservation, RoutedCall, RoutingRule, UsageRecord
from routing.money import ledger
from routing.planning.pricing import usd
from routing.world import slots
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_calls import ASKED, CHAT, asked_and_left, post
from tests.ports import free_port
from tests.routing.pages_support import seen, staff_client
from tests.servers.crowded import crowded, others_at_the_door
from tests.servers.script import Reply

HINTS = {"task_kind": "analysis", "agent_level": "L2", "creator": "instasd", "run_id": "run-7"}
OPENAI: dict[str, Any] = {
    "id": "x", "object": "chat.completion", "model": "gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
}  # fmt: skip
ANTHROPIC: dict[str, Any] = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Hi"}],
}  # fmt: skip
OLLAMA: dict[str, Any] = {"model": "llama", "done": True, "message": {"role": "assistant", "content": "Hi"}}
SLOW = [{"role": "user", "content": "slow"}]
COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")


def record(gateway: Gateway) -> UsageRecord:
    gateway.settled(1)
    return UsageRecord.objects.get()


def test_every_column_of_a_successful_attempt_is_filled(gateway: Gateway) -> None:
    gateway.openai.default = Reply("One two three.", input_tokens=100, output_tokens=20, cached_tokens=40,
                                   reasoning_tokens=8, first_token=0.02)  # fmt: skip
    with httpx2.stream(
        "POST", gateway.url + CHAT, headers=gateway.headers, timeout=30,
        json={**ASKED, "stream": True, "metadata": HINTS},
    ) as answer:  # fmt: skip
        answer.read()
    row = record(gateway)
    assert str(row.call_id) == answer.headers["x-ziggie-request-id"]
    assert (row.attempt, row.role, row.outcome, row.status, row.error) == (1, "answer", "ok", 200, "")
    assert (row.model, row.provider, row.source, row.rule) == (
        "gpt",
        "openai",
        "cloud",
        answer.headers["x-ziggie-rule"],
    )
    assert (row.api_key_id, row.run_id, row.creator, row.task_kind, row.agent_level) == (
        gateway.key_id, "run-7", "instasd", "analysis", "L2",
    )  # fmt: skip
    assert [getattr(row, name) for name in COUNTS] == [100, 20, 40, None, 8]
    assert row.estimated == []
    assert row.price_id == Price.objects.get(model__slug="gpt").pk
    assert (row.cost_microusd, row.baseline_microusd, row.saved_microusd) == (200, 600, 400)
    assert 20 <= (row.first_token_ms or 0) <= row.duration_ms
    assert (datetime.now(UTC) - row.created_at).total_seconds() < 30


def test_a_failed_attempt_tells_its_status_and_error_and_the_local_one_its_energy(gateway: Gateway) -> None:
    from routing.models import Provider

    Provider.objects.filter(slug="ollama").update(power_watts=350)
    gateway.openai.default = Reply(status=503, error="overloaded just now")
    gateway.ollama.default = Reply("Hi", latency=0.05)
    assert post(gateway, model="auto").status_code == 200
    gateway.settled(1)
    failed, served = UsageRecord.objects.order_by("attempt")
    assert (failed.outcome, failed.status, served.status) == ("error", 503, 200)
    assert "overloaded just now" in failed.error
    assert (failed.input_tokens, failed.cost_microusd, failed.baseline_microusd) == (None, 0, 0)
    assert served.energy_wh > 0
    assert served.energy_microusd == round(served.energy_wh * 0.12 * 1000)
    assert served.saved_microusd == served.baseline_microusd - served.energy_microusd


@pytest.mark.parametrize(
    ("path", "model"), [(CHAT, "llama"), ("/v1/messages", "llama"), ("/v1/embeddings", "local-embedder")]
)
def test_a_machine_that_was_never_reached_has_used_no_electricity(gateway: Gateway, path: str, model: str) -> None:
    from routing.models import Provider

    watts = 1_000_000_000  # so that a millisecond would be seen
    Provider.objects.filter(slug="ollama").update(power_watts=watts, base_url=f"http://127.0.0.1:{free_port()}")
    body = {"model": model, "input": "text"} if "embeddings" in path else {**ASKED, "model": model}
    assert httpx2.post(gateway.url + path, json=body, headers=gateway.headers, timeout=30).status_code == 502
    row = record(gateway)
    assert (row.source, row.outcome, row.energy_wh, row.energy_microusd, row.saved_microusd) == (
        "local", "error", 0, 0, 0,
    )  # fmt: skip
    assert [attempt["sent"] for attempt in gateway.settled(1)[0].attempts] in ([False], [])


def test_a_machine_that_was_reached_has_used_electricity_whatever_came_of_it(gateway: Gateway) -> None:
    from routing.models import Provider

    Provider.objects.filter(slug="ollama").update(power_watts=1_000_000)
    gateway.ollama.default = Reply(status=500, error="out of memory", latency=0.05)
    assert post(gateway, model="llama").status_code == 502
    row = record(gateway)
    assert row.energy_microusd == -row.saved_microusd > 0


def test_nobody_saw_the_first_token_of_an_answer_that_came_whole(gateway: Gateway) -> None:
    answer = post(gateway, temperature=1)
    row = record(gateway)
    assert (answer.status_code, row.outcome, row.first_token_ms) == (200, "ok", None)
    receipt = gateway.settled(1)[0]
    assert [attempt["first_token_seconds"] for attempt in receipt.attempts] == [None]
    page = seen(staff_client().get(f"/usage/calls/{receipt.id}/"))
    assert "first token" not in page.lower()


@pytest.mark.parametrize(
    ("server", "body", "counts", "estimated"),
    [
        ("openai", {**OPENAI, "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details":
            {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}}, [9, 4, 3, None, 2], []),
        ("openai", {**OPENAI, "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details":
            {"cached_tokens": 0}}}, [9, 4, 0, None, None], []),
        ("openai", {**OPENAI, "usage": {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 6}},
            [9, 4, 6, None, None], []),
        ("openai", {**OPENAI, "choices": [{**OPENAI["choices"][0], "usage":
            {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 6}}]}, [9, 4, 6, None, None], []),
        ("openai", OPENAI, [1, 1, None, None, None], ["input_tokens", "output_tokens"]),
        ("openai", {**OPENAI, "usage": {"prompt_tokens": 10**15, "completion_tokens": 4}},
            [1, 4, None, None, None], ["input_tokens"]),
        ("anthropic", {**ANTHROPIC, "usage": {"input_tokens": 5, "output_tokens": 4, "cache_read_input_tokens": 7,
            "cache_creation_input_tokens": 11}}, [23, 4, 7, 11, None], []),
        ("anthropic", {**ANTHROPIC, "usage": {"input_tokens": 5, "output_tokens": 4, "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0}}, [5, 4, 0, 0, None], []),
        ("ollama", {**OLLAMA, "prompt_eval_count": 9, "eval_count": 4}, [9, 4, None, None, None], []),
        ("ollama", {**OLLAMA, "eval_count": 4}, [1, 4, None, None, None], ["input_tokens"]),
        ("ollama", {**OLLAMA, "prompt_eval_count": 9, "eval_count": 0}, [9, 0, None, None, None], []),
    ],
)  # fmt: skip
def test_token_counts_are_reported_estimated_or_missing_in_every_dialect(
    gateway: Gateway, server: str, body: dict[str, Any], counts: list[int | None], estimated: list[str]
) -> None:
    slug = {"openai": "gpt", "anthropic": "claude", "ollama": "llama"}[server]
    RoutingRule.objects.update(options={"first_token_seconds": None}, chain=[slug])
    getattr(gateway, server).default = Reply(body=body)
    assert post(gateway, model=slug).status_code == 200
    row = record(gateway)
    known = [getattr(row, name) for name in COUNTS]
    assert sorted(row.estimated) == estimated
    for name, told, expected in zip(COUNTS, known, counts, strict=True):
        assert (told is not None and told > 0) if name in estimated else told == expected, name


def test_an_embedding_tells_its_energy_status_and_baseline_too(gateway: Gateway) -> None:
    from routing.models import Provider

    Provider.objects.filter(slug="openai").update(power_watts=350)
    answer = httpx2.post(
        gateway.url + "/v1/embeddings", json={"model": "embedder", "input": "hello there"},
        headers={**gateway.headers, "x-ziggie-run-id": "run-7", "x-ziggie-creator": "instasd"},
    )  # fmt: skip
    assert answer.status_code == 200
    row = record(gateway)
    assert (row.role, row.task_kind, row.status, row.output_tokens) == ("embedding", "embeddings", 200, 0)
    assert (row.run_id, row.creator) == ("run-7", "instasd")
    assert row.energy_wh > 0
    assert row.saved_microusd == row.baseline_microusd - row.cost_microusd - row.energy_microusd


@pytest.mark.parametrize("fault", ["cut", "end_early", "error_in_stream"])
def test_a_count_from_the_middle_of_an_answer_does_not_hide_what_was_written_after_it(
    gateway: Gateway, fault: Any
) -> None:
    gateway.anthropic.default = Reply("word " * 100, fault=fault, fault_after=50)  # its first event tells 1 token out
    post(gateway, model="claude", stream=True, max_tokens=500)
    row = record(gateway)
    assert row.estimated == ["output_tokens"]
    assert 45 <= (row.output_tokens or 0) <= 60
    assert row.cost_microusd == 3 * (row.input_tokens or 0) + 15 * (row.output_tokens or 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_word_pays_its_prompt_and_what_may_be_written_unseen(
    gateway: Gateway, stream: bool
) -> None:
    gateway.openai.default = Reply("word", first_token=600)
    asked_and_left(gateway, stream=stream, pieces=False)
    row = record(gateway)
    assert row.outcome == "cancelled"
    assert row.input_tokens
    if stream:  # the provider stops when nobody listens any more
        assert (row.output_tokens, row.estimated) == (0, ["input_tokens", "output_tokens"])
        assert row.cost_microusd == row.input_tokens
    else:  # it writes on, and nobody knows how much
        assert (row.output_tokens, row.estimated) == (None, ["cost", "input_tokens"])
        assert row.cost_microusd == row.input_tokens + 5 * 50


@contextmanager
def asking(gateway: Gateway, path: str, body: Any) -> Iterator[None]:
    """A client that has asked and, at the end, leaves without its answer."""
    asked = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port or 0)) as client:
        client.sendall(f"{head}content-length: {len(asked)}\r\n\r\n".encode() + asked)
        yield


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, ASKED),
        (CHAT, {**ASKED, "stream": True}),
        ("/v1/embeddings", {"model": "embedder", "input": ["some", "texts"]}),
    ],
)
def test_a_client_that_leaves_before_its_request_could_be_sent_pays_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 60.0)
    with crowded() as port:
        Provider.objects.filter(slug="openai").update(base_url=f"http://127.0.0.1:{port}/v1")
        snapshot.forget()
        with asking(gateway, path, body):
            wait_until(lambda: others_at_the_door(port) == 1)
        row = record(gateway)
        assert (row.outcome, row.error) == ("cancelled", "given up before anything was sent to the provider")
        assert (row.input_tokens, row.output_tokens, row.estimated, row.cost_microusd) == (None, None, [], 0)
        wait_until(lambda: others_at_the_door(port) == 0)
    receipt = gateway.settled(1)[0]
    assert (receipt.outcome, receipt.cost_microusd) == ("cancelled", 0)
    assert receipt.reserved_microusd > 0
    period = BudgetPeriod.objects.get(budget__slug="cloud")
    assert (period.held_microusd, period.settled_microusd) == (0, 0)


def waiting_for_slots() -> int:
    with connection.cursor() as cursor:
        cursor.execute(slots.COUNTS, slots.COUNTS_PARAMETERS)
        return sum(waiting for _, _, waiting in cursor.fetchall())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_for_a_free_slot_pays_nothing(gateway: Gateway, stream: bool) -> None:
    Provider.objects.filter(slug="openai").update(max_concurrency=1)
    snapshot.forget()
    done = threading.Event()
    gateway.openai.default = Reply(after=done)
    with ThreadPoolExecutor(1) as others:
        first = others.submit(post, gateway)
        wait_until(lambda: len(gateway.openai.calls) == 1)
        with asking(gateway, CHAT, {**ASKED, "stream": stream}):
            wait_until(lambda: waiting_for_slots() == 1)
        wait_until(RoutedCall.objects.exists)
        done.set()
        assert first.result(60).status_code == 200
    receipt = next(receipt for receipt in gateway.settled(2) if receipt.outcome != "ok")
    assert (receipt.outcome, receipt.cost_microusd, receipt.attempts) == ("cancelled", 0, [])
    assert [(row["model"], row["reason"]) for row in receipt.candidates if row["state"] == "skipped"] == [
        ("gpt", "given up before anything was sent to the provider")
    ]
    assert len(gateway.openai.calls) == 1


UNREADABLE = {
    # what comes in an answer's place: whether it is paid
    "cut": (Reply(fault="cut", fault_after=0), True),
    "truncated": (Reply(fault="truncated", fault_after=0), True),
    "garbage": (Reply(fault="garbage", fault_after=0), True),
    "another schema": (Reply(fault="wrong_schema"), True),
    "blanks": (Reply(body="\n\n  \n"), True),  # servers that are at work send such things
    "comments": (Reply(body=": processing\n\n"), True),
    "a reset": (Reply(fault="reset"), False),
    "a page": (Reply(fault="html"), False),
    "a page that is called JSON": (Reply(body=" <!doctype html><title>Welcome</title>"), False),
    "nothing": (Reply(fault="empty"), False),
    "no HTTP": (Reply(fault="not_http"), False),
    "another address": (Reply(status=302, headers={"location": "/login"}, body=""), False),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", UNREADABLE)
def test_an_answer_that_cannot_be_read_is_paid_as_far_as_it_may_have_cost_and_what_no_model_said_is_not(
    gateway: Gateway, what: str, stream: bool
) -> None:
    gateway.openai.default, paid = UNREADABLE[what]
    answer = post(gateway, stream=stream)
    row = record(gateway)
    assert (answer.status_code, answer.headers["x-ziggie-cost-usd"]) == (502, usd(row.cost_microusd))
    assert row.outcome in ("error", "cut")
    assert row.error
    if not paid:
        assert (row.input_tokens, row.output_tokens, row.estimated, row.cost_microusd) == (None, None, [], 0)
    elif stream:  # what was said is known: nothing
        assert (row.output_tokens, row.cost_microusd) == (0, row.input_tokens)
    else:  # at the longest that it may have been
        assert (row.output_tokens, row.cost_microusd) == (None, (row.input_tokens or 0) + 5 * 50)
        assert row.estimated == ["cost", "input_tokens"]


def test_a_client_that_leaves_while_texts_are_embedded_ends_the_call_and_pays_what_the_provider_has_had(
    gateway: Gateway,
) -> None:
    gateway.openai.when(Reply(latency=600.0), contains="slow")
    asked = {
        "model": "embedder",
        "input": [*["word"] * 600, "slow", *["word"] * 600],
    }  # three requests, the second slow
    with socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port or 0)) as client:
        body = json.dumps(asked).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(gateway.openai.calls) == 2)
    row = record(gateway)
    assert (row.outcome, row.input_tokens, row.cost_microusd) == ("cancelled", 1024, 1024)
    assert row.estimated == ["input_tokens"]
    assert gateway.settled(1)[0].outcome == "cancelled"
    assert len(gateway.openai.calls) == 2


def test_texts_that_take_too_long_to_embed_are_given_up_and_paid_as_far_as_they_were_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "LONGEST_CALL_SECONDS", 1.0)
    gateway.openai.when(Reply(latency=600.0), contains="slow")
    asked = {"model": "embedder", "input": "slow"}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=gateway.headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    row = record(gateway)
    assert (row.outcome, row.cost_microusd) == ("cancelled", 1)


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        (CHAT, {"service_tier": "priority"}),
        (CHAT, {"models": ["openai/gpt-5-pro"]}),
        (CHAT, {"search_parameters": {"mode": "on"}}),
        ("/v1/messages", {"max_completion_tokens": 100_000}),
        ("/v1/messages", {"web_search_options": {}}),
    ],
)
def test_what_costs_more_than_the_price_says_is_refused(gateway: Gateway, path: str, extra: dict[str, Any]) -> None:
    answer = post(gateway, path, **extra)
    assert answer.status_code == 400
    assert next(iter(extra)) in answer.text
    assert gateway.openai.calls == []
    assert post(gateway, service_tier="flex").status_code == 200


def test_texts_that_were_embedded_before_a_failure_are_paid(gateway: Gateway) -> None:
    gateway.openai.when(Reply(status=500, error="no more"), contains="the last one")
    asked = {"model": "embedder", "input": [*["word"] * 600, "the last one"]}  # two requests of the provider
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=gateway.headers).status_code == 502
    row = record(gateway)
    assert (row.outcome, row.status, row.input_tokens, row.cost_microusd) == ("error", 500, 512, 512)


def test_a_count_that_cannot_be_is_estimated_and_the_call_is_settled_at_once(gateway: Gateway) -> None:
    gateway.openai.default = Reply(body={**OPENAI, "usage": {"prompt_tokens": 10**15, "completion_tokens": 7}})
    assert post(gateway).status_code == 200
    row = record(gateway)
    assert (row.output_tokens, row.estimated) == (7, ["input_tokens"])
    assert 0 < (row.input_tokens or 0) < 100


def test_texts_to_embed_are_a_kind_of_task_that_a_budget_may_watch(gateway: Gateway) -> None:
    Budget.objects.create(slug="vectors", scope={"task_kinds": ["embeddings"]}, limit_microusd=1_000)
    snapshot.forget()
    asked = {"model": "embedder", "input": "hello there"}
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=gateway.headers).status_code == 200
    row = record(gateway)
    assert BudgetPeriod.objects.get(budget__slug="vectors").settled_microusd == row.cost_microusd > 0
    asked = {"model": "embedder", "input": "hello " * 1_000}
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=gateway.headers).status_code == 402
    named = {**gateway.headers, "x-ziggie-task-kind": "search", "x-ziggie-agent-level": "l2"}
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=asked, headers=named).status_code == 200
    gateway.settled(2)
    assert UsageRecord.objects.filter(task_kind="search", agent_level="L2").count() == 1


def test_an_embedding_whose_gateway_dies_is_swept_with_what_was_asked(gateway: Gateway) -> None:
    gateway.openai.when(Reply(latency=600.0), contains="slow")
    with socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port or 0)) as client:
        body = json.dumps({"model": "embedder", "input": "slow"}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(gateway.openai.calls) == 1)
        assert asyncio.run(ledger.sweep(at=datetime.now(UTC) + timedelta(hours=1))) == 1
    row = record(gateway)
    assert (row.role, row.provider, row.model, row.source) == ("embedding", "openai", "embedder", "cloud")
    assert (row.rule, row.task_kind, row.estimated) == ("embeddings", "embeddings", ["cost"])
    assert row.price_id == Price.objects.get(model__slug="embedder").pk


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["", "cut"])
def test_no_estimate_takes_a_call_above_what_was_held_for_it(gateway: Gateway, fault: Any, stream: bool) -> None:
    """A house that counts nothing and writes what we would count as more tokens than it was allowed."""
    gateway.openai.default = Reply("0123456789 " * 40, usage=False, fault=fault, fault_after=90)
    Budget.objects.update(limit_microusd=2_000)
    snapshot.forget()
    for _ in range(12):  # until there is no room for one more
        post(gateway, model="gpt", max_tokens=50, stream=stream, stop=["never"])
    receipts = gateway.settled(3 if fault else 4)  # who breaks off three times is left alone for a while
    period = BudgetPeriod.objects.get()
    assert period.settled_microusd <= period.limit_microusd
    assert period.overrun_microusd == 0
    assert all(receipt.cost_microusd <= receipt.reserved_microusd for receipt in receipts)
    written = UsageRecord.objects.filter(estimated__contains=["output_tokens"]).values_list("output_tokens", flat=True)
    assert set(written) <= {50}
    assert written or (fault and not stream)  # of a whole answer that breaks off nobody has seen anything


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_what_a_process_that_dies_holds_comes_back_within_minutes(gateway: Gateway, path: str) -> None:
    """However long the call might have lasted: a hold is short, and renewed while its process lives."""
    gateway.openai.when(Reply(latency=600.0), contains="slow")
    asked = {"model": "embedder", "input": "slow"} if path != CHAT else {**ASKED, "messages": SLOW}
    with socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port or 0)) as client:
        body = json.dumps(asked).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(gateway.openai.calls) == 1)
        held = Reservation.objects.get()
        assert held.expires_at - held.created_at <= timedelta(minutes=3)


def test_a_zero_at_the_start_of_an_answer_that_breaks_off_is_no_count(gateway: Gateway) -> None:
    """LiteLLM begins messages of Anthropic's kind with a zero, and counts at their end."""
    gateway.anthropic.default = Reply("word " * 100, input_tokens=0, fault="cut", fault_after=50)
    post(gateway, model="claude", stream=True, max_tokens=500)
    row = record(gateway)
    assert (row.outcome, row.estimated) == ("cut", ["input_tokens", "output_tokens"])
    assert (row.input_tokens or 0) > 0
