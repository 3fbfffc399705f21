"""Calls through the gateway that draw on a run's own budget, and how a caller says what to do when money is short."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx2
import pytest

from routing import service
from routing.configuration import snapshot
from routing.models import Budget, BudgetPeriod, Envelope, LanguageModel, Provider, Reservation, RoutedCall
from routing.types import ChatRequest, message
from tests.gateway.conftest import Gateway
from tests.gateway.test_calls import CHAT, MESSAGES, code, post
from tests.servers.script import Reply
from ziggie.ids import uuid7
from ziggie.models import create_api_key

COST = 10 + 5 * 50  # of a call with 10 tokens in and 50 out by the model "gpt"


@pytest.fixture
def run(gateway: Gateway) -> Iterator[UUID]:
    """A run of the gateway's key, which holds five calls' worth."""
    gateway.openai.default = Reply("yes", input_tokens=10, output_tokens=50)
    run_id = uuid7()
    opened = service.open_envelope(run_id, 5 * COST, like=like(gateway), name=f"of run {run_id}", expires_in_seconds=60)
    assert sum(opened.amounts.values()) == 5 * COST
    yield run_id
    service.close_envelope(run_id)


def like(gateway: Gateway) -> ChatRequest:
    return ChatRequest((message("user", "hi"),), api_key_id=gateway.key_id)


def left(run: UUID) -> int:
    return Envelope.objects.get(pk=run).left_microusd


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_call_that_names_its_run_draws_on_the_runs_budget(gateway: Gateway, run: UUID, path: str) -> None:
    answer = post(gateway, path, metadata={"run_id": str(run)}) if path == CHAT else _by_header(gateway, path, run)
    assert answer.status_code == 200
    receipt = gateway.settled(1)[0]
    assert (receipt.run_id, receipt.cost_microusd) == (str(run), COST)
    period = BudgetPeriod.objects.get()
    assert (left(run), period.settled_microusd, period.held_microusd) == (4 * COST, COST, 4 * COST)


def _by_header(gateway: Gateway, path: str, run: UUID) -> httpx2.Response:
    headers = {**gateway.headers, "x-ziggie-run-id": str(run)}
    body = {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    return httpx2.post(gateway.url + path, json=body, headers=headers, timeout=30)


def test_a_runs_budget_that_is_used_up_refuses_and_the_others_still_pay_for_other_calls(
    gateway: Gateway, run: UUID
) -> None:
    gateway.openai.default = Reply("yes", input_tokens=60, output_tokens=50)
    statuses = [post(gateway, metadata={"run_id": str(run)}).status_code for _ in range(6)]
    refused = post(gateway, metadata={"run_id": str(run)})
    assert statuses[0] == 200
    assert (refused.status_code, code(refused)) == (402, "budget_exceeded")
    assert f"the budget of run {run} has" in refused.json()["error"]["message"]
    assert post(gateway).status_code == 200
    gateway.settled(statuses.count(200) + 1)
    assert 0 <= left(run) < 2 * COST


def test_a_run_keeps_its_money_when_others_have_used_the_budget_up(gateway: Gateway, run: UUID) -> None:
    Budget.objects.update(limit_microusd=5 * COST + 10)
    assert post(gateway).status_code == 402
    assert post(gateway, metadata={"run_id": str(run)}).status_code == 200


def test_nobody_draws_on_a_run_of_another_key(gateway: Gateway, run: UUID) -> None:
    _, other = create_api_key("other")
    answer = post(gateway, key=other, metadata={"run_id": str(run)})
    assert (answer.status_code, code(answer)) == (403, "forbidden")
    assert (left(run), RoutedCall.objects.count()) == (5 * COST, 0)


def test_a_run_that_is_over_pays_no_more(gateway: Gateway, run: UUID) -> None:
    service.close_envelope(run)
    answer = post(gateway, metadata={"run_id": str(run)})
    assert (answer.status_code, code(answer)) == (402, "budget_exceeded")
    assert answer.json()["error"]["message"] == f"the budget of run {run} is closed"


def test_embeddings_in_the_name_of_a_run_that_is_over_are_refused_even_where_they_cost_nothing(
    gateway: Gateway, run: UUID
) -> None:
    service.close_envelope(run)
    LanguageModel.objects.filter(slug="embedder").update(provider=Provider.objects.get(slug="ollama"))
    snapshot.forget()
    headers = {**gateway.headers, "x-ziggie-run-id": str(run)}
    body = {"model": "embedder", "input": "a text"}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=headers, timeout=30)
    assert (answer.status_code, code(answer)) == (402, "budget_exceeded")


@pytest.fixture
def queued(gateway: Gateway) -> UUID:
    """A run of the gateway's key that no worker has begun."""
    run_id = uuid7()
    service.announce_envelope(run_id, 5 * COST, name=f"of run {run_id}", api_key_id=gateway.key_id)
    return run_id


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_nobody_else_bears_the_name_of_a_run_that_has_not_begun(gateway: Gateway, queued: UUID, path: str) -> None:
    _, other = create_api_key("other")
    headers = {"authorization": f"Bearer {other}", "x-ziggie-run-id": str(queued)}
    body: dict[str, Any] = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
    if path != CHAT:
        body = {"model": "embedder", "input": "a text"}
    answer = httpx2.post(gateway.url + path, json=body, headers=headers, timeout=30)
    assert (answer.status_code, code(answer)) == (403, "forbidden")


def test_its_own_key_pays_from_the_budgets_until_it_begins_and_it_has_so_much_less(
    gateway: Gateway, queued: UUID
) -> None:
    gateway.openai.default = Reply("yes", input_tokens=10, output_tokens=50)
    assert post(gateway, metadata={"run_id": str(queued)}).status_code == 200
    assert gateway.settled(1)[0].run_id == str(queued)
    assert left(queued) == 5 * COST
    name = f"of run {queued}"
    opened = service.open_envelope(queued, 4 * COST, like=like(gateway), name=name, expires_in_seconds=60)
    assert (opened.left_microusd, sum(opened.amounts.values())) == (4 * COST, 4 * COST)
    assert service.close_envelope(queued)


def test_a_run_that_is_cancelled_before_it_begins_is_over(gateway: Gateway, queued: UUID) -> None:
    assert not service.close_envelope(queued)  # it held nothing
    answer = post(gateway, metadata={"run_id": str(queued)})
    assert (answer.status_code, code(answer)) == (402, "budget_exceeded")


@pytest.mark.parametrize("name", ["nightly", "01a1fcd1-45ed-722c-a363-22af4e4e2f24"])
def test_a_run_without_a_budget_is_only_a_name(gateway: Gateway, name: str) -> None:
    assert post(gateway, metadata={"run_id": name}).status_code == 200
    assert gateway.settled(1)[0].run_id == name


def test_a_budget_that_the_run_holds_nothing_in_must_have_room_as_well(gateway: Gateway, run: UUID) -> None:
    Budget.objects.create(slug="narrow", scope={"providers": ["openai"]}, limit_microusd=COST, on_exhausted="deny")
    snapshot.forget()
    gateway.openai.default = Reply("yes", input_tokens=50, output_tokens=50)
    first = post(gateway, metadata={"run_id": str(run)})
    assert (first.status_code, "budget narrow" in first.text) == (402, True)
    Budget.objects.filter(slug="narrow").update(limit_microusd=2 * COST)
    snapshot.forget()
    assert post(gateway, metadata={"run_id": str(run)}).status_code == 200
    gateway.settled(1)
    narrow = BudgetPeriod.objects.get(budget__slug="narrow")
    assert (narrow.settled_microusd, narrow.held_microusd) == (300, 0)
    assert left(run) == 5 * COST - 300


def test_embeddings_draw_on_the_runs_budget(gateway: Gateway, run: UUID) -> None:
    headers = {**gateway.headers, "x-ziggie-run-id": str(run)}
    body = {"model": "embedder", "input": ["a text of some length"]}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200
    receipt = gateway.settled(1)[0]
    assert (receipt.run_id, left(run)) == (str(run), 5 * COST - receipt.cost_microusd)
    assert receipt.cost_microusd > 0
    body["input"] = ["long " * 2000]
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=headers, timeout=30).status_code == 402


def test_a_stream_that_its_client_leaves_gives_the_rest_back_to_the_run(gateway: Gateway, run: UUID) -> None:
    gateway.openai.default = Reply("One two three four", fault="stall", fault_after=2)
    body: dict[str, Any] = {"model": "gpt", "max_tokens": 50, "stream": True, "metadata": {"run_id": str(run)}}
    body["messages"] = [{"role": "user", "content": "hi"}]
    with httpx2.stream("POST", gateway.url + CHAT, json=body, headers=gateway.headers, timeout=30) as answer:
        next(answer.iter_bytes())
    receipt = gateway.settled(1)[0]
    assert left(run) == 5 * COST - receipt.cost_microusd
    assert not Reservation.objects.exists()


def test_a_caller_chooses_between_a_shorter_answer_and_none(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=3_000)
    long = {"max_tokens": 4_000}
    assert post(gateway, **long).status_code == 402
    assert post(gateway, **long, metadata={"budget_fit": "refuse"}).status_code == 402
    assert post(gateway, **long, metadata={"budget_fit": "clamp"}).status_code == 200
    assert 256 <= gateway.openai.calls[0].json["max_tokens"] < 600
    gateway.settled(1)
    assert post(gateway, max_tokens=None, metadata={"budget_fit": "refuse"}).status_code == 402
    assert post(gateway, max_tokens=None).status_code == 200
    wrong = post(gateway, metadata={"budget_fit": "perhaps"})
    assert (wrong.status_code, "budget_fit" in wrong.text) == (400, True)
