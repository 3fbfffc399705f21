"""A cheap draft, and money only where it is not sure; what a stated confidence is worth."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import database, service
from routing.models import ReviewedOutcome, RoutedCall
from routing.types import ChatResult, Verdict
from routing.walk import calibration
from tests.installation import Installation, installed
from tests.routing.test_patterns import ask, parts, prompt_of, roles
from tests.servers import Reply
from ziggie.errors import AllProvidersFailed, Conflict, InvalidInput, NotFound
from ziggie.ids import uuid7

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    calibration.forget()
    with installed() as installation:
        yield installation


def drafted(answer: str, confidence: Any) -> Reply:
    return Reply(text=json.dumps({"answer": answer, "confidence": confidence}))


def test_a_sure_draft_is_used_and_costs_nothing(here: Installation) -> None:
    here.ollama.default = drafted("Bern", 92)
    routed = ask("cascade")
    assert (routed.result.text, routed.model, routed.cost_microusd) == ("Bern", "phi3", 0)
    assert routed.confidence == 92
    assert routed.findings["draft"] == {
        "by": "phi3",
        "stated": 92.0,
        "log_probability": None,
        "raw": 92.0,
        "confidence": 92.0,
        "calibrated_on": 0,
        "used": True,
    }
    assert routed.attempts[0].note == "confidence 92 (the raw figure; raw 92)"
    assert not here.anthropic.calls
    here.assert_books_are_closed()


@pytest.mark.parametrize("confidence", [0, 60, 85])
def test_an_unsure_draft_is_refined_on_cloud(here: Installation, confidence: int) -> None:
    here.ollama.default = drafted("Zurich?", confidence)
    here.anthropic.default = Reply(text="Bern")
    routed = ask("cascade")
    assert (routed.result.text, routed.model) == ("Bern", "claude-haiku-4-5")
    assert roles(routed) == ["draft", "refiner"]
    assert "Zurich?" in prompt_of(here.anthropic.calls[0])
    assert routed.findings["draft"]["used"] is False
    here.assert_books_are_closed()


@pytest.mark.parametrize(
    "text",
    [
        "Bern",
        '{"answer": "Bern"}',
        '{"answer": "Bern", "confidence": 180}',
        '{"answer": "Bern", "confidence": 0.9}',
        '{"answer": "Bern", "confidence": "very"}',
        '{"answer": "Bern", "confidence": true}',
        '{"answer": "Bern", "confidence": NaN}',
        '{"answer": "Bern", "confidence": Infinity}',
        '{"answer": "", "confidence": 99}',
        '{"answer": {"city": "Bern"}, "confidence": 99}',
    ],
)
def test_a_confidence_that_is_none_is_not_believed(here: Installation, text: str) -> None:
    here.ollama.default = Reply(text=text)
    here.anthropic.default = Reply(text="Bern, from the cloud")
    routed = ask("cascade")
    assert routed.result.text == "Bern, from the cloud"
    assert [part[2] for part in parts(routed)] == ["invalid", "invalid", "ok"]
    here.assert_books_are_closed()


def test_low_token_probabilities_belie_a_sure_draft(here: Installation) -> None:
    body = {
        "model": "phi3",
        "created_at": "2026-11-21T00:19:55Z",
        "message": {"role": "assistant", "content": json.dumps({"answer": "Bern", "confidence": 99})},
        "logprobs": [{"logprob": -0.7, "token": "Bern", "bytes": []}] * 4,
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 10,
        "eval_count": 4,
    }
    here.ollama.when(Reply(body=json.dumps(body) + "\n"), model="phi3")
    here.anthropic.default = Reply(text="Bern, from the cloud")
    routed = ask("cascade")
    assert here.ollama.calls[0].json["logprobs"] is True
    assert routed.findings["draft"]["log_probability"] == pytest.approx(49.7)
    assert routed.findings["draft"]["raw"] == pytest.approx(49.7)
    assert routed.model == "claude-haiku-4-5"


def test_the_callers_own_judge_says_how_sure_a_json_draft_is(here: Installation) -> None:
    def accept(result: ChatResult) -> Verdict:
        return Verdict(ok=True, confidence=json.loads(result.text)["sure"])

    schema = {"type": "object", "properties": {"sure": {"type": "number"}}, "required": ["sure"]}
    here.ollama.default = Reply(text='{"sure": 90}')
    routed = ask("cascade", json_schema=schema, accept=accept)
    assert (routed.model, routed.confidence) == ("phi3", 90)
    assert here.ollama.calls[0].json["format"] == schema


def test_a_json_draft_may_state_its_confidence_in_a_field_of_its_schema(here: Installation) -> None:
    confidence = {"type": "number", "maximum": 1}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "confidence": confidence}}
    here.ollama.default = Reply(text='{"city": "Bern", "confidence": 0.93}')
    routed = ask("cascade", json_schema=schema)
    assert routed.model == "phi3"
    assert routed.confidence == pytest.approx(93)
    assert json.loads(routed.result.text) == {"city": "Bern", "confidence": 0.93}


def test_a_draft_without_any_confidence_is_refined(here: Installation) -> None:
    here.ollama.default = Reply(text='{"city": "Zurich"}')
    here.anthropic.default = Reply(text='{"city": "Bern"}')
    routed = ask("cascade", json_schema=CITY)
    assert json.loads(routed.result.text) == {"city": "Bern"}
    assert routed.findings["draft"]["confidence"] is None


def test_an_unsure_draft_is_better_than_none(here: Installation) -> None:
    here.ollama.when(drafted("Bern, I think", 50), model="phi3", times=1)
    here.ollama.default = Reply(status=500, error="no")
    here.anthropic.default = Reply(status=529, error="Overloaded", error_type="overloaded_error")
    routed = ask("cascade")
    assert (routed.result.text, routed.confidence) == ("Bern, I think", 50)
    here.assert_books_are_closed()


def test_without_a_draft_the_refiner_answers_the_task_itself(here: Installation) -> None:
    here.ollama.default = Reply(status=404, error="model not found")
    here.anthropic.default = Reply(text="Bern")
    assert ask("cascade").result.text == "Bern"
    assert "draft" not in prompt_of(here.anthropic.calls[0])


def test_the_offline_model_drafts_nothing_and_answers_last(here: Installation) -> None:
    here.change_rule("draft, then refine", chain=["claude-haiku-4-5", "offline"], roles={})
    here.anthropic.default = Reply(status=500, error="no")
    routed = ask("cascade", "The shop opens at nine.\n\nWhen does the shop open?")
    assert routed.source == "offline"
    assert roles(routed) == ["refiner", "answer"]


# --- calibration ---------------------------------------------------------------------------------


def reviewed(count: int, *, good_above: float, kind: str = "cascade", model: str = "phi3") -> None:
    """Outcomes at every confidence from 0 to 100; those above a figure were good."""
    stated = [100 * place / (count - 1) for place in range(count)]
    ReviewedOutcome.objects.bulk_create(
        ReviewedOutcome(call_id=uuid7(), task_kind=kind, model=model, confidence=raw, good=raw > good_above)
        for raw in stated
    )
    calibration.forget()


def test_fifty_reviewed_outcomes_calibrate_what_a_draft_claims(here: Installation) -> None:
    reviewed(60, good_above=95)
    here.ollama.default = drafted("Zurich", 92)
    here.anthropic.default = Reply(text="Bern")
    routed = ask("cascade")
    assert routed.model == "claude-haiku-4-5"
    found = routed.findings["draft"]
    assert (found["raw"], found["confidence"], found["calibrated_on"]) == (92.0, 0.0, 60)
    assert "calibrated on 60 reviewed outcomes" in routed.attempts[0].note
    assert routed.attempts[0].confidence == 92


def test_fewer_than_fifty_outcomes_change_nothing(here: Installation) -> None:
    reviewed(49, good_above=99)
    here.ollama.default = drafted("Bern", 92)
    routed = ask("cascade")
    assert routed.model == "phi3"
    assert routed.findings["draft"]["calibrated_on"] == 0


def test_a_draft_is_given_though_its_confidence_cannot_be_looked_up(here: Installation) -> None:
    here.ollama.default = drafted("Bern", 92)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with (
        psycopg.connect(**database.connection_parameters()) as busy,
        psycopg.connect(**database.connection_parameters(), autocommit=True) as killer,
        ThreadPoolExecutor() as pool,
    ):
        busy.execute("LOCK TABLE routing_reviewedoutcome")
        asked = pool.submit(ask, "cascade")
        while not asked.done() and not killer.execute(end, ("%routing_reviewedoutcome%",)).fetchall():
            time.sleep(0.02)
        routed = asked.result(60)
    assert (routed.model, routed.confidence) == ("phi3", 92)
    assert routed.findings["draft"]["calibrated_on"] == 0
    here.assert_books_are_closed()


def test_outcomes_of_another_kind_of_task_do_not_count(here: Installation) -> None:
    reviewed(60, good_above=99, kind="analysis")
    here.ollama.default = drafted("Bern", 92)
    assert ask("cascade").model == "phi3"


def test_other_models_outcomes_count_until_a_model_has_enough_of_its_own(here: Installation) -> None:
    reviewed(60, good_above=99, model="mistral")
    here.ollama.default = drafted("Bern", 92)
    here.anthropic.default = Reply(text="Bern, from the cloud")
    assert ask("cascade").model == "claude-haiku-4-5"
    reviewed(60, good_above=30)
    assert ask("cascade").model == "phi3"


def test_a_modest_model_that_is_always_right_is_believed(here: Installation) -> None:
    reviewed(60, good_above=30)
    here.ollama.default = drafted("Bern", 60)
    routed = ask("cascade")
    assert (routed.model, routed.confidence) == ("phi3", 100)


def test_a_persons_review_of_a_call_becomes_an_outcome(here: Installation) -> None:
    here.ollama.default = drafted("Bern", 92)
    routed = ask("cascade")
    service.review(routed.call_id, good=False)
    service.review(routed.call_id, good=True)
    outcome = ReviewedOutcome.objects.get()
    assert (outcome.task_kind, outcome.model, outcome.confidence, outcome.good) == ("cascade", "phi3", 92, True)
    with pytest.raises(NotFound):
        service.review(uuid7(), good=True)


def test_reviews_of_answers_without_a_confidence_are_kept_and_calibrate_nothing(here: Installation) -> None:
    here.ollama.default = Reply(text="Bern")
    routed = ask("nl_query")
    assert service.review(routed.call_id, good=False, note=" wrong city ", by="nina").confidence is None
    kept = service.newest_review([routed.call_id])
    assert kept is not None
    assert (kept.note, kept.reviewed_by, kept.good) == ("wrong city", "nina", False)
    assert calibration.outcomes_known("nl_query", routed.model) == (0, 0)
    ReviewedOutcome.objects.bulk_create(
        ReviewedOutcome(call_id=uuid7(), task_kind="cascade", model="phi3", confidence=None, good=False)
        for _ in range(60)
    )
    calibration.forget()
    here.ollama.default = drafted("Bern", 92)
    assert ask("cascade").findings["draft"]["calibrated_on"] == 0


def test_a_review_is_taken_back(here: Installation) -> None:
    here.ollama.default = drafted("Bern", 92)
    routed = ask("cascade")
    service.review(routed.call_id, good=True)
    assert service.withdraw([routed.call_id]) == 1
    assert service.withdraw([routed.call_id]) == 0


def test_a_call_without_an_answer_cannot_be_reviewed(here: Installation) -> None:
    here.ollama.default = here.anthropic.default = Reply(status=500)
    here.change_rule("system query", chain=["llama3.2"])
    with pytest.raises(AllProvidersFailed):
        ask("nl_query")
    with pytest.raises(Conflict):
        service.review(RoutedCall.objects.get().pk, good=True)
    with pytest.raises(InvalidInput):
        service.review(RoutedCall.objects.get().pk, good=True, note="x" * 501)


def test_what_a_pattern_found_is_on_the_receipt(here: Installation) -> None:
    here.ollama.default = drafted("Bern", 92)
    routed = ask("cascade")
    kept = RoutedCall.objects.get(pk=routed.call_id)
    assert kept.findings == routed.findings
    here.ollama.default = Reply(text="Bern")
    assert RoutedCall.objects.get(pk=ask("nl_query").call_id).findings is None


figures = st.floats(0, 100, allow_nan=False)


@given(st.lists(st.tuples(figures, st.booleans()), min_size=1, max_size=80), figures, figures)
def test_a_curve_never_falls_and_stays_within_its_bounds(
    outcomes: list[tuple[float, bool]], one: float, other: float
) -> None:
    curve = calibration.isotonic(outcomes)
    low, high = curve.at(min(one, other)), curve.at(max(one, other))
    assert -1e-9 <= low <= high + 1e-9 <= 100 + 2e-9
    assert curve.outcomes == len(outcomes)


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.booleans()), min_size=1, max_size=60))
def test_a_curve_keeps_the_share_of_good_answers(outcomes: list[tuple[float, bool]]) -> None:
    curve = calibration.isotonic(outcomes)
    assert sum(curve.at(raw) for raw, _ in outcomes) == pytest.approx(100 * sum(good for _, good in outcomes))


def test_neighbours_that_fall_are_pooled() -> None:
    curve = calibration.isotonic([(10, False), (20, True), (30, False), (40, True)])
    assert [curve.at(raw) for raw in (0, 10, 20, 25, 30, 40, 100)] == [0, 0, 50, 50, 50, 100, 100]
    assert curve.at(15) == 25
