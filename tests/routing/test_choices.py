"""Several answers to one request, for callers inside."""

import asyncio
import json
import random
from typing import Any

import pytest

from routing import service
from routing.configuration import policies
from routing.evidence import replay
from routing.models import RoutedCall, RoutingPolicy
from routing.types import ChatRequest, ChatResult, Delta, Hints, Routed, Verdict, message
from routing.walk import choices as several
from routing.walk.choice_signs import Signs
from tests.installation import Installation
from tests.servers import Reply
from tests.servers.script import Fault
from ziggie.errors import InvalidInput, RoutingError
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
LOCAL = Hints(task_kind="nl_query")
CLOUD = Hints(task_kind="analysis", creator_tier="high")
FAULTS: tuple[Fault, ...] = ("", "", "", "cut", "garbage", "reset", "truncated", "empty", "html", "error_in_stream")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one answer fails, the others have the time that they need on a busy machine."""
    monkeypatch.setattr(several, "LINGER_SECONDS", 30.0)


def request_of(choices: int = 3, **fields: Any) -> ChatRequest:
    fields = {"hints": CLOUD, "max_output_tokens": 200} | fields
    return ChatRequest(messages=(message("user", "What is a sprite?"),), choices=choices, **fields)


def ask(choices: int = 3, **fields: Any) -> Routed:
    return service.submit(request_of(choices, **fields)).result(timeout=60)


def texts(routed: Routed) -> list[str]:
    return sorted(result.text for result in (routed.result, *routed.others))


def graded(result: ChatResult) -> Verdict:
    return Verdict(ok=True, confidence=float(json.loads(result.text)["confidence"]))


def test_the_answers_are_there_beside_the_first_one(here: Installation) -> None:
    here.anthropic.queue(Reply("One."), Reply("Two."), Reply("Three."))
    routed = ask()
    assert texts(routed) == ["One.", "Three.", "Two."]
    assert [attempt.role for attempt in routed.attempts].count("choice") == 2
    here.assert_books_are_closed()


def test_a_call_that_is_sent_again_has_the_same_answers_and_is_paid_once(here: Installation) -> None:
    here.anthropic.queue(Reply("One."), Reply("Two."), Reply("Three."))
    first, again = [ask(call_id=call_id) for call_id in [uuid7()] * 2]
    assert texts(first) == texts(again)
    assert (again.cost_microusd, len(here.anthropic.calls)) == (first.cost_microusd, 3)


def test_a_stream_tells_the_first_answer_and_then_has_all(here: Installation) -> None:
    async def told() -> list[Delta | Routed]:
        return [piece async for piece in service.stream(request_of(2))]

    here.anthropic.queue(Reply("One."), Reply("Two."))
    *pieces, routed = asyncio.run(told())
    assert isinstance(routed, Routed)
    assert texts(routed) == ["One.", "Two."]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == routed.result.text


def test_answers_are_as_sure_as_the_least_sure_of_them(here: Installation) -> None:
    here.change_rule("system query", options={"min_confidence": 70}, chain=["llama3.2", "claude-haiku-4-5"])
    here.ollama.queue(Reply('{"confidence": 90}'), Reply('{"confidence": 40}'))
    here.anthropic.default = Reply('{"confidence": 88}')
    routed = ask(2, hints=LOCAL, accept=graded)
    assert (routed.source, routed.confidence) == ("cloud", 88)


def test_a_local_model_that_is_tried_again_is_asked_only_for_what_is_missing(here: Installation) -> None:
    here.change_rule("system query", options={"local_tries": 3}, chain=["llama3.2", "claude-haiku-4-5"])
    fails = Reply(status=500, error="out of memory")
    here.ollama.queue(Reply("One."), *[fails] * 4)
    here.ollama.default = Reply("Two.")
    routed = ask(2, hints=LOCAL)
    assert (texts(routed), routed.source) == (["One.", "Two."], "local")
    assert [attempt.outcome for attempt in routed.attempts] == ["ok", *["error"] * 4, "ok"]


def test_nobody_waits_for_one_that_ended_without_a_word_once_it_is_given_up() -> None:
    async def waited() -> list[bool]:
        signs = Signs()
        signs.asks()  # and never says that it has ended: something has befallen it
        asked = (signs.once_begun(), signs.once_ended(), signs.once_there_is_room(), signs.pause(3600))
        waiting = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0)
        signs.gives_up()
        async with asyncio.timeout(60):
            return await asyncio.gather(*waiting)

    assert asyncio.run(waited()) == [False] * 4


@pytest.mark.parametrize("choices", [0, -1, 17])
def test_a_number_of_answers_that_there_cannot_be_is_refused(here: Installation, choices: int) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 16"):
        ask(choices)


def test_several_answers_have_no_other_pattern_and_wait_for_no_batch(here: Installation) -> None:
    with pytest.raises(InvalidInput, match="debate"):
        ask(2, hints=Hints(pattern="debate"))
    with pytest.raises(InvalidInput, match="one answer"):
        service.submit_batch(request_of(2))


def test_calls_of_several_answers_are_decided_again_and_replayed_at_what_they_cost(here: Installation) -> None:
    here.anthropic.default = Reply("One.", input_tokens=1000, output_tokens=200)
    here.anthropic.queue(here.anthropic.default, Reply(status=500, error="it fell over"))
    cost = ask(3).cost_microusd
    report = replay.check()
    assert (report["calls"], report["same"], report["different"]) == (1, 1, 0)
    (call,) = RoutedCall.objects.all()
    assert call.request["demand"]["answers"] == 3
    assert cost == 3 * 6_000
    live = RoutingPolicy.objects.get(state="live")
    report = replay.replay(replay.target_of(live))
    assert (report["moved"], report["cost"]["before_usd"], report["cost"]["after_usd"]) == (0, "0.018000", "0.018000")
    row = policies.duplicate(live, by="test")
    row.rules.filter(name="critical and high analysis").update(chain=["claude-haiku-4-5"])
    report = replay.replay(replay.target_of(row))
    assert (report["moved"], report["cost"]["after_usd"]) == (1, "0.006000")  # 3 x (1,000 x $1 + 200 x $5)


def test_the_model_that_needs_nobody_gives_several_answers_too(here: Installation) -> None:
    here.ollama.default = Reply(status=404, error="model not found")
    here.anthropic.default = Reply(status=401, error="invalid x-api-key", error_type="authentication_error")
    routed = ask(3, hints=LOCAL)
    assert (routed.source, len(texts(routed)), routed.cost_microusd) == ("offline", 3, 0)
    here.assert_books_are_closed()


def test_whatever_happens_no_call_costs_more_than_was_held_for_it(here: Installation) -> None:
    chance = random.Random(7)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    def reply() -> Reply:
        if chance.random() < 0.15:
            return Reply(status=chance.choice([400, 429, 500, 529]), error="no", headers={"retry-after": "0.01"})
        text = chance.choice(['{"a": 1}', '{"a": 1}', '{"b": 1}', "no JSON"])
        return Reply(text, fault=chance.choice(FAULTS), input_tokens=chance.randint(1, 50),
                     output_tokens=chance.randint(1, 200))  # fmt: skip

    for server in (here.anthropic, here.ollama):
        server.queue(*[reply() for _ in range(400)])
    outcomes = set()
    for number in range(25):
        hints = chance.choice([LOCAL, CLOUD])
        try:
            ask(chance.randint(2, 4), hints=hints, json_schema=schema if number % 2 else None)
            outcomes.add("ok")
        except RoutingError as error:
            outcomes.add(error.code)
    assert "ok" in outcomes
    for call in RoutedCall.objects.all():
        assert call.cost_microusd <= call.reserved_microusd, call.attempts
    here.assert_books_are_closed()
