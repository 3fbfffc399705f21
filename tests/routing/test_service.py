"""Routed calls through real servers and the real ledger."""

import asyncio
import json
from typing import Any

import pytest

from routing import service
from routing.models import Budget, RoutedCall
from routing.types import ChatRequest, ChatResult, Hints, Routed, Verdict, message
from routing.walk import patience
from tests.installation import Installation
from tests.servers import Reply
from ziggie.errors import BudgetExceeded, DeadlineExceeded, UnknownModel, Unsupported
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
LOW_TIER = Hints(task_kind="analysis", creator_tier="low")
HIGH_TIER = Hints(task_kind="analysis", creator_tier="high")


def ask(text: str = "What is a sprite?", **fields: Any) -> Routed:
    request = ChatRequest(messages=(message("user", text),), max_output_tokens=200, **fields)
    return service.submit(request).result(timeout=60)


def graded(result: ChatResult) -> Verdict:
    """Accepts {"confidence": N}."""
    try:
        return Verdict(ok=True, confidence=float(json.loads(result.text)["confidence"]))
    except (ValueError, KeyError, TypeError) as error:
        return Verdict(ok=False, problem=f"not graded: {error}")


def test_a_low_tier_analysis_is_answered_locally_and_costs_nothing(here: Installation) -> None:
    here.ollama.default = Reply(text='{"confidence": 90}', input_tokens=1000, output_tokens=400)
    routed = ask(hints=LOW_TIER, accept=graded)
    assert (routed.model, routed.source, routed.cost_microusd) == ("llama3.2", "local", 0)
    assert routed.confidence == 90
    record = here.records()[0]
    assert (record.input_tokens, record.output_tokens, record.estimated) == (1000, 400, [])
    # What Sonnet would have cost, less the electricity: 1,000 x $3 + 400 x $15 a million.
    assert record.baseline_microusd == 9000
    assert record.saved_microusd == 9000 - record.energy_microusd
    here.assert_books_are_closed()


def test_a_high_tier_analysis_goes_to_cloud_and_is_paid(here: Installation) -> None:
    here.anthropic.default = Reply(text='{"confidence": 95}', input_tokens=10_000, output_tokens=4_000)
    routed = ask(hints=HIGH_TIER, accept=graded)
    assert (routed.model, routed.source, routed.cost_microusd) == ("claude-sonnet-4-5", "cloud", 90_000)
    assert not any(received.path == "/api/chat" for received in here.ollama.requests)
    here.assert_books_are_closed()


def test_an_unsure_local_answer_is_redone_on_cloud(here: Installation) -> None:
    here.ollama.default = Reply(text='{"confidence": 40}')
    here.anthropic.default = Reply(text='{"confidence": 88}')
    routed = ask(hints=LOW_TIER, accept=graded)
    assert routed.source == "cloud"
    assert here.outcomes() == [("llama3.2", "low_confidence"), ("claude-haiku-4-5", "ok")]
    here.assert_books_are_closed()


def test_an_unsure_local_answer_is_kept_when_the_cloud_fails(here: Installation) -> None:
    here.ollama.default = Reply(text='{"confidence": 40}')
    here.anthropic.default = Reply(status=529, error="Overloaded", error_type="overloaded_error")
    routed = ask(hints=LOW_TIER, accept=graded)
    assert (routed.source, routed.confidence) == ("local", 40)
    here.assert_books_are_closed()


def test_an_answer_that_does_not_pass_is_repaired_once_then_redone_elsewhere(here: Installation) -> None:
    here.ollama.default = Reply(text="I would rather not.")
    here.anthropic.default = Reply(text='{"confidence": 88}')
    routed = ask(hints=LOW_TIER, accept=graded)
    assert routed.source == "cloud"
    assert here.outcomes() == [("llama3.2", "invalid"), ("llama3.2", "invalid"), ("claude-haiku-4-5", "ok")]
    repair = here.ollama.requests[-1].json["messages"]
    assert repair[-2]["content"] == "I would rather not."
    assert "not graded" in repair[-1]["content"]


def test_a_repaired_answer_serves(here: Installation) -> None:
    here.ollama.queue(Reply(text="Oops"), Reply(text='{"confidence": 90}'))
    assert ask(hints=LOW_TIER, accept=graded).source == "local"


def test_a_failing_local_model_is_tried_three_times_before_cloud(here: Installation) -> None:
    here.ollama.default = Reply(status=500, error="out of memory")
    here.anthropic.default = Reply(text='{"confidence": 88}')
    routed = ask(hints=LOW_TIER, accept=graded)
    assert [attempt.model for attempt in routed.attempts] == ["llama3.2"] * 3 + ["claude-haiku-4-5"]


def test_the_offline_model_is_the_last_resort(here: Installation) -> None:
    here.ollama.default = Reply(status=404, error="model not found")
    here.anthropic.default = Reply(status=401, error="invalid x-api-key", error_type="authentication_error")
    routed = ask("The shop opens at nine.\n\nWhen does the shop open?", hints=LOW_TIER)
    assert routed.source == "offline"
    assert "nine" in routed.result.text
    here.assert_books_are_closed()


def test_a_model_asked_for_by_name_serves_alone(here: Installation) -> None:
    here.ollama.default = Reply(text="hello")
    assert ask(model="llama3.2:3b").model == "llama3.2:3b"
    here.ollama.default = Reply(status=400, error="no")
    with pytest.raises(Unsupported, match="no"):
        ask(model="llama3.2:3b")
    here.assert_books_are_closed()


def test_a_model_that_nobody_knows_is_refused(here: Installation) -> None:
    with pytest.raises(UnknownModel):
        ask(model="no-such-model")


@pytest.mark.parametrize(
    "fault", ["reset", "garbage", "cut", "error_in_stream", "html", "empty", "wrong_schema", "end_early"]
)
def test_every_fault_of_the_first_provider_is_survived(here: Installation, fault: Any) -> None:
    here.ollama.default = Reply(fault=fault)
    here.anthropic.default = Reply(text="from the cloud")
    routed = ask(hints=Hints(task_kind="nl_query"))
    assert routed.result.text == "from the cloud"
    assert here.records()[0].outcome in ("error", "cut")
    here.assert_books_are_closed()


def test_a_model_that_falls_silent_in_its_answer_is_left_for_another(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SILENCE_SECONDS", 0.5)
    here.change_rule("system query", options={"first_token_seconds": 0.5})
    here.ollama.default = Reply(text="it begins and then says nothing more", fault="stall", fault_after=2)
    here.anthropic.default = Reply(text="the whole answer")
    routed = ask(hints=Hints(task_kind="nl_query"), deadline_seconds=60)
    assert (routed.result.text, routed.attempts[0].outcome) == ("the whole answer", "timeout")


def test_an_answer_that_goes_on_slowly_is_waited_for(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SILENCE_SECONDS", 6.0)
    here.change_rule("system query", options={"first_token_seconds": 6.0})
    here.ollama.default = Reply(text="slow and sure and then the end of it all", per_piece=0.7)
    assert ask(hints=Hints(task_kind="nl_query")).source == "local"


def test_a_model_without_a_first_token_in_time_is_left_for_another(here: Installation) -> None:
    here.change_rule("system query", options={"first_token_seconds": 0.3})
    here.ollama.default = Reply(text="too late", first_token=30)
    here.anthropic.default = Reply(text="in time")
    routed = ask(hints=Hints(task_kind="nl_query"))
    assert routed.result.text == "in time"
    assert here.outcomes()[0] == ("llama3.2", "timeout")


def test_nobody_is_hurried_where_only_the_offline_model_would_follow(here: Installation) -> None:
    here.change_provider("anthropic", enabled=False)
    here.change_rule("system query", options={"first_token_seconds": 0.3})
    here.ollama.default = Reply(text="slow but real", first_token=1.0)
    assert ask(hints=Hints(task_kind="nl_query")).result.text == "slow but real"


def test_the_clients_deadline_is_kept(here: Installation) -> None:
    here.ollama.default = Reply(text="late", first_token=30)
    with pytest.raises(DeadlineExceeded):
        ask(model="llama3.2", deadline_seconds=0.5)
    here.assert_books_are_closed()


def test_a_cancelled_call_is_settled_with_what_is_known(here: Installation) -> None:
    here.anthropic.default = Reply(text="word " * 200, per_piece=0.05)

    async def scenario() -> None:
        said = asyncio.Event()
        request = ChatRequest(
            messages=(message("user", "Tell me a long story."),),
            model="claude-haiku-4-5",
            max_output_tokens=500,
            on_output=lambda characters: said.set() if characters > 40 else None,
        )
        task = asyncio.create_task(service.complete(request))
        await said.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    record = here.records()[0]
    assert record.outcome == "cancelled"
    assert record.cost_microusd > 0
    assert RoutedCall.objects.get().outcome == "cancelled"
    here.assert_books_are_closed()


def test_a_spent_budget_sends_the_work_to_what_costs_nothing(here: Installation) -> None:
    Budget.objects.update(limit_microusd=100)
    here.ollama.default = Reply(text='{"confidence": 90}')
    routed = ask(hints=HIGH_TIER, accept=graded)
    assert routed.source == "local"
    assert RoutedCall.objects.get().candidates[-1]["state"] in ("dropped", "fallback")
    here.assert_books_are_closed()


def test_a_spent_budget_that_denies_refuses_the_call(here: Installation) -> None:
    Budget.objects.update(limit_microusd=100, on_exhausted="deny")
    with pytest.raises(BudgetExceeded):
        ask(model="claude-sonnet-4-5")
    assert not here.anthropic.requests
    here.assert_books_are_closed()


def test_a_call_that_is_sent_again_is_answered_and_paid_once(here: Installation) -> None:
    here.anthropic.default = Reply(text='{"confidence": 95}', input_tokens=1000, output_tokens=100)
    call_id = uuid7()
    first = ask(hints=HIGH_TIER, accept=graded, call_id=call_id)
    again = ask(hints=HIGH_TIER, accept=graded, call_id=call_id)
    assert again.result.text == first.result.text
    assert again.cost_microusd == first.cost_microusd
    assert len([r for r in here.anthropic.requests if r.path.startswith("/v1/messages")]) == 1
    assert len(here.records()) == 1
    service.forget(call_id)
    assert RoutedCall.objects.get().bodies is None
    here.assert_books_are_closed()


def test_the_receipt_tells_what_was_decided_and_why(here: Installation) -> None:
    here.ollama.default = Reply(text='{"confidence": 90}')
    ask(hints=LOW_TIER, accept=graded)
    call = RoutedCall.objects.get()
    assert (call.policy, call.rule, call.outcome) == ("default", "medium and low analysis", "ok")
    states = {candidate["model"]: candidate["state"] for candidate in call.candidates}
    assert states["llama3.2"] == "chosen"
    assert states["offline"] == "fallback"
    assert all(candidate["reason"] for candidate in call.candidates)
    assert "complexity" in call.features["estimated"]
    assert call.attempts[0]["outcome"] == "ok"


def test_fifty_calls_at_once_survive_the_loss_of_the_first_provider(here: Installation) -> None:
    here.ollama.default = Reply(fault="reset")
    here.anthropic.default = Reply(text="cloud")

    async def flood() -> list[Routed]:
        request = ChatRequest(
            messages=(message("user", "Hello"),), hints=Hints(task_kind="nl_query"), max_output_tokens=50
        )
        return list(await asyncio.gather(*(service.complete(request) for _ in range(50))))

    answers = asyncio.run(flood())
    assert {answer.result.text for answer in answers} == {"cloud"}
    here.assert_books_are_closed()
