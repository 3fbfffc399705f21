"""A run with a budget of its own: what it may spend, and where the rest goes, however it ends."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import Q
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import run_budgets, runner, tasks, waiting
from agents.asking import MAX_OUTPUT_TOKENS, request_of
from agents.models import AgentRun
from agents.seeding import seed as seed_agents
from routing import service
from routing.configuration import snapshot
from routing.models import Budget, BudgetPeriod, Envelope, LanguageModel, Reservation, RoutedCall
from routing.money import envelopes
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.background import background_loop
from ziggie.errors import Unavailable
from ziggie.ids import uuid7
from ziggie.models import create_api_key
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)
RUNS = "/api/agents/runs"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        seed_agents()
        installation.anthropic.default = Reply(text="a decision", input_tokens=100, output_tokens=200)  # $0.0033
        yield installation


@pytest.fixture
def key(here: Installation) -> str:
    return create_api_key("coordinator", scopes=["coordinator"])[1]


def ask(key: str, **changes: Any) -> Any:
    body = {"agent": "director", "prompt": "Weigh it.", "model": "claude-sonnet-4-5", **changes}
    return Client().post(
        RUNS, data=json.dumps(body), content_type="application/json", headers={"Authorization": f"Bearer {key}"}
    )


def run_of(key: str, **changes: Any) -> AgentRun:
    answer = ask(key, **changes)
    assert answer.status_code == 201, answer.content
    return AgentRun.objects.get(pk=answer.json()["id"])


def finished(run: AgentRun) -> AgentRun:
    runner.execute(str(run.pk))
    run.refresh_from_db()
    return run


def left_microusd(run: AgentRun) -> int:
    return Envelope.objects.get(pk=run.pk).left_microusd


def test_a_run_draws_from_its_budget_and_the_rest_returns(here: Installation, key: str) -> None:
    run = finished(run_of(key, budget_usd="0.50"))
    assert (run.status, run.cost_microusd, left_microusd(run)) == ("completed", 3_300, 496_700)
    body = Client().get(f"{RUNS}/{run.pk}", headers={"Authorization": f"Bearer {key}"}).json()
    assert (body["budget_usd"], body["cost_usd"]) == ("0.500000", "0.003300")
    assert not Envelope.objects.filter(closed_at=None).exists()
    here.assert_books_are_closed()


def test_what_others_spend_in_its_name_before_it_begins_is_none_of_its_money(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    other, _ = create_api_key("other", scopes=["gateway"])
    request = replace(request_of(run), call_id=uuid7(), api_key_id=str(other.pk))
    assert service.submit(request).result(timeout=60).cost_microusd == 3_300
    run = finished(run)
    assert (run.status, run.cost_microusd, left_microusd(run)) == ("completed", 3_300, 496_700)


def test_what_its_own_key_spends_in_its_name_before_it_begins_is_of_its_money(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    announced = Envelope.objects.get(pk=run.pk)
    assert (announced.limit_microusd, announced.amounts_microusd, announced.api_key_id) == (500_000, [], run.api_key_id)
    request = replace(request_of(run), call_id=uuid7())
    assert service.submit(request).result(timeout=60).cost_microusd == 3_300
    run = finished(run)
    assert (run.status, run.cost_microusd, left_microusd(run)) == ("completed", 6_600, 493_400)
    here.assert_books_are_closed()


def test_a_run_that_is_cancelled_before_it_begins_is_over_for_its_calls(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    Client().post(f"{RUNS}/{run.pk}/cancel", headers={"Authorization": f"Bearer {key}"})
    envelope = background_loop().submit(envelopes.look(run.pk)).result()
    assert envelope is not None
    assert (envelope.is_open, envelope.is_to_come) == (False, False)


def test_the_sweep_ends_what_was_only_announced(here: Installation, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, waits = run_of(key, budget_usd="0.50"), run_of(key, budget_usd="0.50")
    with monkeypatch.context() as away:
        away.setattr(service, "close_envelope", unavailable)
        Client().post(f"{RUNS}/{run.pk}/cancel", headers={"Authorization": f"Bearer {key}"})
    looks = [background_loop().submit(envelopes.look(pk)).result() for pk in (run.pk, waits.pk)]
    assert [look is not None and look.is_to_come for look in looks] == [True, True]
    assert (run_budgets.close_left_open(), run_budgets.close_left_open()) == (1, 0)
    looks = [background_loop().submit(envelopes.look(pk)).result() for pk in (run.pk, waits.pk)]
    assert [look is not None and look.is_to_come for look in looks] == [False, True]


def unavailable(envelope_id: object) -> bool:
    raise Unavailable("the database went away")


def test_a_call_that_outlasts_its_run_is_counted_on_it_all_the_same(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    request = replace(request_of(run), call_id=uuid7())
    run = finished(run)
    assert service.submit(request).result(timeout=60).cost_microusd == 3_300
    assert (run.cost_microusd, waiting.count_late_costs()) == (3_300, 1)
    run.refresh_from_db()
    assert run.cost_microusd == 6_600
    assert not waiting.count_late_costs()


def test_a_run_that_is_cancelled_says_at_once_what_was_paid_until_then(here: Installation, key: str) -> None:
    run = run_of(key)
    service.submit(replace(request_of(run), call_id=uuid7())).result(timeout=60)
    answer = Client().post(f"{RUNS}/{run.pk}/cancel", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["cost_usd"]) == (200, "0.003300")


def test_many_runs_that_are_over_are_looked_at_together(here: Installation, key: str) -> None:
    agent = run_of(key).agent
    over = {"status": "completed", "finished_at": timezone.now()}
    AgentRun.objects.bulk_create([AgentRun(agent=agent, level="L1", prompt="x", **over) for _ in range(200)])
    with CaptureQueriesContext(connection) as asked:
        assert not waiting.count_late_costs()
    assert len(asked) < 10


def test_while_it_works_its_whole_budget_is_held_once(here: Installation, key: str) -> None:
    looked = threading.Event()
    here.anthropic.default = Reply(text="a decision", after=looked)
    run = run_of(key, budget_usd="0.50")
    worker = threading.Thread(target=finished, args=(run,))
    worker.start()
    while not here.anthropic.calls:
        worker.join(0.02)
    held = [period.held_microusd for period in BudgetPeriod.objects.all()]
    taken = Reservation.objects.get()
    looked.set()
    worker.join()
    assert held == [500_000]
    assert (taken.envelope_id, taken.drawn_microusd) == (run.pk, taken.amounts_microusd)
    here.assert_books_are_closed()


def test_a_run_that_cannot_afford_its_call_fails_and_says_so(here: Installation, key: str) -> None:
    run = finished(run_of(key, budget_usd="0.001"))
    assert (run.status, run.error_code, run.cost_microusd) == ("failed", "budget_exceeded", 0)
    assert f"the budget of run {run.pk} has $0.001000 left" in run.error
    assert not here.anthropic.calls
    here.assert_books_are_closed()


def test_a_shorter_answer_is_allowed_to_fit_the_budget_unless_the_caller_refuses_that(
    here: Installation, key: str
) -> None:
    run = finished(run_of(key, budget_usd="0.02"))
    assert run.status == "completed"
    assert here.anthropic.calls[0].json["max_tokens"] < MAX_OUTPUT_TOKENS
    run = finished(run_of(key, budget_usd="0.02", budget_fit="refuse"))
    assert (run.status, run.error_code) == ("failed", "budget_exceeded")


def test_a_budget_caps_a_run_where_no_other_budget_does(here: Installation, key: str) -> None:
    Budget.objects.all().delete()
    snapshot.forget()
    assert finished(run_of(key, budget_usd="0.001")).error_code == "budget_exceeded"
    run = finished(run_of(key, budget_usd="0.20"))
    assert (run.status, left_microusd(run)) == ("completed", 196_700)


def test_a_free_run_needs_no_money(here: Installation, key: str) -> None:
    here.ollama.default = Reply(text="done")
    run = finished(run_of(key, agent="assistant", model="auto", budget_usd=0))
    assert (run.status, run.source) == ("completed", "local")


def test_a_cancelled_run_gives_its_budget_back(here: Installation, key: str) -> None:
    here.anthropic.default = Reply(fault="hang")
    run = run_of(key, budget_usd="0.50")
    worker = threading.Thread(target=runner.execute, args=(str(run.pk),))
    worker.start()
    while not here.anthropic.calls:
        worker.join(0.02)
    Client().post(f"{RUNS}/{run.pk}/cancel", headers={"Authorization": f"Bearer {key}"})
    worker.join(60)
    assert AgentRun.objects.get().status == "cancelled"
    assert not Envelope.objects.filter(closed_at=None).exists()
    until = time.monotonic() + 60
    while Reservation.objects.exists() and time.monotonic() < until:  # its call is settled beside all this
        time.sleep(0.02)
    here.assert_books_are_closed()


def test_a_run_whose_worker_died_goes_on_with_what_is_left_of_its_budget(here: Installation, key: str) -> None:
    here.anthropic.default = Reply(fault="hang")
    run = run_of(key, budget_usd="0.10")
    dying = _begin_and_die(run)
    assert dying.left_microusd < 100_000  # its call still holds money
    here.anthropic.default = Reply(text="a decision", input_tokens=100, output_tokens=200)
    AgentRun.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    run = finished(run)
    assert (run.status, run.tries) == ("completed", 2)
    assert left_microusd(run) == 100_000 - RoutedCall.objects.get().cost_microusd
    here.assert_books_are_closed()


def _begin_and_die(run: AgentRun) -> Envelope:
    """What a worker leaves that is killed during its call."""
    from routing.calls import open_call
    from ziggie import queue

    fence = queue.claim(AgentRun.objects.all(), run.pk, waiting=Q(status="queued"), status="working")
    assert fence is not None
    request = request_of(run)
    request = runner.replace(request, envelope_id=runner.open_budget(run, request))
    background_loop().submit(open_call(request)).result()
    return Envelope.objects.get()


def test_the_sweep_closes_the_budget_of_a_run_that_ended_without_closing_it(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    runner.open_budget(run, request_of(run))
    AgentRun.objects.update(status="failed")
    tasks.sweep()
    assert not Envelope.objects.filter(closed_at=None).exists()
    assert BudgetPeriod.objects.get().held_microusd == 0


def test_an_envelope_that_nobody_closes_expires(here: Installation, key: str) -> None:
    run = run_of(key, budget_usd="0.50")
    runner.open_budget(run, request_of(run))
    closed = background_loop().submit(envelopes.sweep(at=timezone.now() + timedelta(hours=3))).result()
    assert (closed, BudgetPeriod.objects.get().held_microusd) == (1, 0)


def test_a_run_gets_no_more_than_the_budgets_have(here: Installation, key: str) -> None:
    Budget.objects.update(limit_microusd=70_000, on_exhausted="deny")
    LanguageModel.objects.filter(slug="claude-sonnet-4-5").update(max_output_tokens=4000)
    snapshot.forget()
    run = finished(run_of(key, budget_usd="5"))
    assert run.status == "completed"
    assert BudgetPeriod.objects.get().settled_microusd == run.cost_microusd
    here.assert_books_are_closed()


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "1e12", "0.0000001", "ten", [], {"a": 1}, True])
def test_an_amount_that_is_none_is_refused(here: Installation, key: str, amount: Any) -> None:
    answer = ask(key, budget_usd=amount)
    assert answer.status_code == 400
    assert "budget_usd" in answer.json()["error"]["message"]
    assert not AgentRun.objects.exists()
