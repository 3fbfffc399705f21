"""Runs that a rule with `batch: true` takes: they wait for its window, or go by a provider's batch."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from agents import runner, tasks, waiting
from agents.asking import request_of
from agents.models import AgentRun
from agents.seeding import seed as seed_agents
from routing import service
from routing.batches import batching
from routing.configuration import snapshot
from routing.models import BatchItem, BudgetPeriod, ProviderBatch, RoutedCall
from tests.agents.test_run_budgets import run_of
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.ids import uuid7
from ziggie.models import ApiKey, create_api_key
from ziggie.queue import pending
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)
LOCAL_RULE, CLOUD_RULE = "L3 agents", "L1 strategic"  # by what the prompt speaks of, not by hints alone
RUNS = "/api/agents/runs"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        seed_agents()
        installation.ollama.default = Reply(text="done")
        installation.anthropic.default = Reply(text="a decision", input_tokens=10_000, output_tokens=2_000)
        yield installation


@pytest.fixture
def key(here: Installation) -> str:
    return create_api_key("coordinator", scopes=["coordinator"])[1]


def window(*, is_open: bool) -> str:
    begins = datetime.now(UTC) + timedelta(hours=-1 if is_open else 10)
    return f"{begins:%H:%M}-{begins + timedelta(hours=2):%H:%M}"


def micro_task(key: str, model: str) -> AgentRun:
    return run_of(key, agent="assistant", model=model)


def director(key: str, **fields: Any) -> AgentRun:
    return run_of(key, **{"prompt": "Choose our strategy.", "model": "auto", **fields})


def tick() -> None:
    """A minute later."""
    snapshot.forget()
    ProviderBatch.objects.update(checked_at=timezone.now() - timedelta(minutes=2))
    batching.tick()


def post(key: str, run: AgentRun, action: str) -> Any:
    return Client().post(f"{RUNS}/{run.pk}/{action}", headers={"Authorization": f"Bearer {key}"})


def by_batch(here: Installation, *, is_open: bool = True) -> None:
    here.change_rule(CLOUD_RULE, options={"batch": True, "batch_window": window(is_open=is_open)})


def test_a_run_waits_for_the_window_of_its_rule(here: Installation, key: str) -> None:
    closed = window(is_open=False)
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": closed})
    run = micro_task(key, "auto")
    for _ in range(8):  # looking costs none of its tries
        assert not runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.tries, run.started_at) == ("queued", 0, None)
    assert run.waits_for == f"the time between {closed}"
    here.change_rule(LOCAL_RULE, options={"batch_window": window(is_open=True)})
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.answer, run.waits_for) == ("completed", "done", "")


def test_a_run_that_names_its_model_waits_for_no_rule(here: Installation, key: str) -> None:
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    run = micro_task(key, "llama3.2")
    assert runner.execute(str(run.pk))


def test_a_run_goes_by_a_providers_batch_at_half_price(here: Installation, key: str) -> None:
    by_batch(here)
    run = director(key)
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.waits_for, run.tries) == ("queued", waiting.IN_A_BATCH, 0)
    tick()
    assert not runner.execute(str(run.pk))
    assert not waiting.sweepable().exists()
    assert len(here.anthropic.batches["msgbatch_1"]) == 1
    tick()
    tasks.sweep()
    assert pending() >= 1
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.answer, run.model) == ("completed", "a decision", "claude-sonnet-4-5")
    assert run.cost_microusd == 30_000  # 10,000 in and 2,000 out would be $0.06
    assert (run.input_tokens, run.output_tokens) == (10_000, 2_000)
    call = RoutedCall.objects.get()
    assert (call.pk, call.run_id, call.bodies) == (run.call_id, str(run.pk), None)
    assert not [request for request in here.anthropic.requests if request.path == "/v1/messages"]
    here.assert_books_are_closed()


def test_a_batch_waits_for_its_window_itself(here: Installation, key: str) -> None:
    by_batch(here, is_open=False)
    run = director(key)
    assert runner.execute(str(run.pk))
    tick()
    assert not runner.execute(str(run.pk))
    run.refresh_from_db()
    assert run.waits_for.endswith(", then the answer of a batch")
    assert BatchItem.objects.get().state == "queued"
    assert not here.anthropic.batches


def test_what_a_batch_could_not_answer_the_run_asks_itself_within_the_window(here: Installation, key: str) -> None:
    by_batch(here)
    here.anthropic.batch_kinds = {"": "errored"}
    run = director(key)
    runner.execute(str(run.pk))
    for _ in range(3):
        tick()
    by_batch(here, is_open=False)
    assert not runner.execute(str(run.pk))
    run.refresh_from_db()
    assert run.waits_for.startswith("the time between")
    by_batch(here)
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.cost_microusd) == ("completed", 60_000)
    here.assert_books_are_closed()


def test_a_batch_that_expires_is_sent_once_more_and_the_run_waits_on(here: Installation, key: str) -> None:
    by_batch(here)
    here.anthropic.batch_kinds = {"": "expired"}
    run = director(key)
    runner.execute(str(run.pk))
    tick()
    tick()
    assert len(here.anthropic.batches) == 2
    assert not runner.execute(str(run.pk))
    here.anthropic.batch_kinds = {}
    tick()
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.cost_microusd) == ("completed", 30_000)
    here.assert_books_are_closed()


def test_the_budget_of_a_run_holds_for_its_batch_too(here: Installation, key: str) -> None:
    by_batch(here)
    poor = director(key, budget_usd="0.001")
    rich = director(key, budget_usd="0.50")
    for run in (poor, rich):
        runner.execute(str(run.pk))
    tick()
    tick()
    for run in (poor, rich):
        runner.execute(str(run.pk))
        run.refresh_from_db()
    assert (poor.status, poor.error_code) == ("failed", "budget_exceeded")
    assert (rich.status, rich.cost_microusd) == ("completed", 30_000)
    here.assert_books_are_closed()


def test_what_is_spent_in_a_runs_name_before_its_batch_is_none_of_the_batchs(here: Installation, key: str) -> None:
    by_batch(here)
    run = director(key, budget_usd="0.50")
    spent = service.submit(replace(request_of(run), call_id=uuid7())).result(timeout=60).cost_microusd
    assert spent
    assert runner.execute(str(run.pk))
    assert BatchItem.objects.get().limit_microusd == 500_000 - spent


def test_a_cancelled_run_takes_its_work_back_and_bears_what_its_batch_costs(here: Installation, key: str) -> None:
    by_batch(here)
    waiting_still, sent = director(key), director(key, prompt="Another strategy?")
    runner.execute(str(sent.pk))
    tick()
    runner.execute(str(waiting_still.pk))
    for run in (waiting_still, sent):
        assert post(key, run, "cancel").json()["status"] == "cancelled"
    tick()
    tasks.sweep()
    for run in (waiting_still, sent):
        run.refresh_from_db()
    assert (waiting_still.cost_microusd, sent.cost_microusd) == (0, 30_000)  # it had been answered
    assert len(here.anthropic.batches) == 1
    assert not waiting.count_late_costs()
    here.assert_books_are_closed()


def test_a_run_that_waits_is_hurried(here: Installation, key: str) -> None:
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    run = micro_task(key, "auto")
    assert post(key, run, "hurry").status_code == 409  # nobody has looked at it yet
    runner.execute(str(run.pk))
    answer = post(key, run, "hurry")
    assert (answer.status_code, answer.json()["waits_for"]) == (202, "")
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert run.status == "completed"


def test_a_run_whose_batch_is_out_is_answered_now_and_both_are_paid(here: Installation, key: str) -> None:
    by_batch(here)
    here.anthropic.batches_end = False
    run = director(key)
    runner.execute(str(run.pk))
    tick()
    assert post(key, run, "hurry").status_code == 202
    assert runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.cost_microusd) == ("completed", 60_000)
    here.anthropic.batches_end = True  # it answers although nobody waits
    tick()
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.cost_microusd) == ("completed", 90_000)
    assert BudgetPeriod.objects.get().settled_microusd == 90_000
    here.assert_books_are_closed()


def test_a_run_with_a_budget_is_not_paid_twice_from_it(here: Installation, key: str) -> None:
    by_batch(here)
    run = director(key, budget_usd="0.50")
    runner.execute(str(run.pk))
    tick()
    refused = post(key, run, "hurry")
    assert (refused.status_code, "may still be paid" in refused.json()["error"]["message"]) == (409, True)
    tick()
    assert runner.execute(str(run.pk))


def test_a_run_is_served_by_the_models_that_its_key_may_use(here: Installation, key: str) -> None:
    ApiKey.objects.update(allowed_models=["llama3.2"])
    by_batch(here)
    run = director(key)
    runner.execute(str(run.pk))
    tick()
    runner.execute(str(run.pk))
    run.refresh_from_db()
    assert (run.status, run.model) == ("completed", "llama3.2")
    assert not here.anthropic.calls


def test_staff_see_what_waits_and_hurry_it(here: Installation, key: str, admin_client: Client) -> None:
    here.change_rule(LOCAL_RULE, options={"batch": True, "batch_window": window(is_open=False)})
    run = micro_task(key, "auto")
    runner.execute(str(run.pk))
    assert f"/runs/{run.pk}/" in admin_client.get("/policies/waiting/").content.decode()
    assert "Answer now" in admin_client.get(f"/runs/{run.pk}/").content.decode()
    admin_client.post(f"/runs/{run.pk}/hurry/")
    assert runner.execute(str(run.pk))
    assert "Answer now" not in admin_client.get(f"/runs/{run.pk}/").content.decode()
