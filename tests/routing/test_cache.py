"""Equal requests share an answer: through the service, real servers and a real database."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest
from django.db import connection
from django.utils import timezone

from routing import service, tasks
from routing.caching import cache
from routing.configuration import snapshot
from routing.models import CachedAnswer, RoutedCall, RoutingPolicy
from routing.types import ChatRequest, ChatResult, Hints, Routed, Tool, Verdict, message
from routing.world import health
from tests.installation import Installation, installed
from tests.servers import Call, Reply
from ziggie.errors import AllProvidersFailed, DeadlineExceeded, Unsupported
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)

RULE = "system query"
PLAIN = ChatRequest(
    messages=(message("user", "Is the disk almost full?"),),
    hints=Hints(task_kind="nl_query"),
    max_output_tokens=200,
    temperature=0,
)


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.change_rule(RULE, options={"cache_ttl_seconds": 3600})
        installation.ollama.default = Reply(text="No, 40% is free.", input_tokens=1_000, output_tokens=100)
        yield installation


def ask(request: ChatRequest = PLAIN, **changes: Any) -> Routed:
    return service.submit(replace(request, **changes)).result(timeout=60)


# --- hits ----------------------------------------------------------------------------------------


def test_an_equal_request_is_answered_from_the_cache(here: Installation) -> None:
    first, second = ask(), ask()
    assert (first.cache, second.cache) == ("miss", "hit")
    assert second.result.text == first.result.text == "No, 40% is free."
    assert (second.model, second.provider, second.source) == (first.model, first.provider, first.source)
    assert second.call_id != first.call_id
    assert len(here.ollama.calls) == 1


def test_a_hit_is_recorded_with_what_it_saved(here: Installation) -> None:
    first, second = ask(), ask()
    assert (second.cost_microusd, second.saved_microusd) == (0, 4_500)  # 1,000 x $3 + 100 x $15 a million
    call = RoutedCall.objects.get(pk=second.call_id)
    assert (call.cache, call.outcome, call.cost_microusd, call.saved_microusd) == ("hit", "ok", 0, 4_500)
    assert RoutedCall.objects.get(pk=first.call_id).cache == "miss"
    record = here.records()[1]
    assert (record.role, record.input_tokens, record.output_tokens) == ("cache", 0, 0)
    assert (record.baseline_microusd, record.energy_microusd, record.cost_microusd) == (4_500, 0, 0)
    assert first.call_id in call.attempts[0]["note"]
    here.assert_books_are_closed()


def test_a_hit_needs_neither_the_model_nor_money(here: Installation) -> None:
    here.change_rule(RULE, chain=["claude-haiku-4-5", "llama3.2"])
    here.anthropic.default = Reply(text="No.", input_tokens=1_000, output_tokens=10)
    assert ask().cost_microusd > 0
    here.anthropic.default = Reply(status=500, error="down")
    assert ask().result.text == "No."
    assert len(here.anthropic.calls) == 1
    here.assert_books_are_closed()


def test_tool_calls_and_usage_come_back_as_they_were(here: Installation) -> None:
    tool = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
    here.ollama.default = Reply(text="Let me see.", calls=(Call("look", {"at": "disk \u0000"}),), input_tokens=70)
    first, second = ask(tools=(tool,)), ask(tools=(tool,))
    assert second.cache == "hit"
    assert second.result.parts == first.result.parts
    assert second.result.usage == first.result.usage
    assert second.result.stop_reason == "tool_calls"


def test_the_findings_of_a_pattern_come_back_too(here: Installation) -> None:
    here.change_rule("self-critique", options={"cache_ttl_seconds": 60})
    here.ollama.when(Reply(text='{"objections": []}'), contains="strict critic")
    first, second = ask(hints=Hints(task_kind="critique")), ask(hints=Hints(task_kind="critique"))
    assert second.cache == "hit"
    assert second.findings == first.findings
    assert len(here.ollama.calls) == 2


# --- what is equal -------------------------------------------------------------------------------

OTHERS: list[dict[str, Any]] = [
    {"messages": (message("user", "Is the disk almost full"),)},
    {"messages": (message("system", "Be brief."), *PLAIN.messages)},
    {"model": "llama3.2"},
    {"max_output_tokens": 201},
    {"stop": ("\n",)},
    {"seed": 7},
    {"hints": Hints(task_kind="nl_query", complexity=0.3)},
    {"json_object": True},
    {"extra": {"top_p": 0.5}},
    {"reasoning_effort": "low"},
    {"api_key_id": "0192f6a2-0000-7000-8000-000000000001"},
    {"tools": (Tool("look", "Looks.", {"type": "object"}),)},
]


@pytest.mark.parametrize("other", OTHERS, ids=[next(iter(other)) for other in OTHERS])
def test_a_request_that_differs_in_anything_is_asked_anew(here: Installation, other: dict[str, Any]) -> None:
    here.ollama.default = Reply(text='{"full": false}')
    ask()
    assert ask(**other).cache in ("miss", "off")
    assert len(here.ollama.calls) == 2


def test_an_answer_does_not_outlive_its_policy_or_its_rule(here: Installation) -> None:
    ask()
    here.change_rule(RULE, options={"min_confidence": 10})
    assert ask().cache == "miss"
    RoutingPolicy.objects.filter(state="live").update(version=99)
    here.change_rule(RULE)
    assert ask().cache == "miss"


def test_an_answer_does_not_outlive_a_change_of_the_model_behind_its_name(here: Installation) -> None:
    ask()
    here.change_provider("ollama", options={"keep_alive": "1h"})
    assert ask().cache == "miss"


def test_who_pays_for_what_run_is_no_part_of_the_question(here: Installation) -> None:
    ask()
    assert ask(run_id="run-7", creator="instasd").cache == "hit"


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 0.3, 1.0])
def test_answers_that_are_drawn_by_chance_are_not_kept(here: Installation, temperature: float | None) -> None:
    assert ask(temperature=temperature).cache == "off"
    assert ask(temperature=temperature).cache == "off"
    assert len(here.ollama.calls) == 2
    assert not CachedAnswer.objects.exists()


def test_a_rule_may_keep_them_all_the_same(here: Installation) -> None:
    here.change_rule(RULE, options={"cache_any_temperature": True})
    ask(temperature=0.7)
    assert ask(temperature=0.7).cache == "hit"
    assert ask(temperature=None).cache == "miss"


@pytest.mark.parametrize("ttl", [None, 0])
def test_a_rule_that_names_no_time_keeps_nothing(here: Installation, ttl: int | None) -> None:
    here.change_rule(RULE, options={"cache_ttl_seconds": ttl})
    assert ask().cache == "off"
    assert not CachedAnswer.objects.exists()


def test_an_answer_is_kept_for_its_rules_time(here: Installation) -> None:
    here.change_rule(RULE, options={"cache_ttl_seconds": 600})
    ask()
    kept = CachedAnswer.objects.get()
    assert 500 < (kept.expires_at - timezone.now()).total_seconds() <= 600
    assert ask().cache == "hit"
    CachedAnswer.objects.update(expires_at=timezone.now())
    assert ask().cache == "miss"
    assert len(here.ollama.calls) == 2


def test_failures_are_not_kept_and_leave_no_claim(here: Installation) -> None:
    here.ollama.default = Reply(status=500, error="out of memory")
    with pytest.raises(AllProvidersFailed):
        ask(model="llama3.2")
    here.change_rule(RULE, chain=["llama3.2"])
    with pytest.raises(AllProvidersFailed):
        ask()
    assert not CachedAnswer.objects.exists()


@pytest.mark.parametrize(
    ("reply", "changes"),
    [
        (Reply(text="cut of", stop="length"), {}),
        (Reply(text='{"confidence": 20}'), {"accept": lambda _: Verdict(ok=True, confidence=20)}),
        (Reply(status=500, error="no"), {}),  # the offline model answers
    ],
)
def test_what_the_rule_was_not_content_with_is_not_kept(
    here: Installation, reply: Reply, changes: dict[str, Any]
) -> None:
    here.change_rule(RULE, chain=["llama3.2", "offline"], options={"min_confidence": 70})
    here.ollama.default = reply
    ask(**changes)
    assert not CachedAnswer.objects.exists()


def test_an_answer_that_its_verifier_found_wrong_is_not_kept(here: Installation) -> None:
    here.change_rule(
        "verified answer",
        chain=["llama3.2"],
        roles={"verifier": "qwen2.5:7b"},
        options={"cache_ttl_seconds": 60},
    )
    here.ollama.when(Reply(text='{"verdict": "wrong", "problems": []}'), model="qwen2.5:7b")
    here.ollama.when(Reply(text="Yes"), model="llama3.2", times=1)
    here.ollama.default = Reply(status=500, error="no")
    assert ask(hints=Hints(task_kind="verified_answer")).result.text == "Yes"
    assert not CachedAnswer.objects.exists()


def test_a_caller_that_judges_otherwise_is_not_given_what_another_accepted(here: Installation) -> None:
    ask()

    def accept(result: ChatResult) -> Verdict:
        return Verdict(ok="yes" in result.text.lower(), problem="say yes")

    here.ollama.default = Reply(text="Yes.")
    routed = ask(accept=accept)
    assert (routed.result.text, routed.cache) == ("Yes.", "miss")
    assert ask().result.text == "No, 40% is free."


# --- bounds --------------------------------------------------------------------------------------


def test_the_cache_is_bounded_in_rows_and_drops_the_oldest(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ROWS", 3)
    for seed in range(6):
        ask(seed=seed)
    tasks.sweep()
    assert CachedAnswer.objects.count() == 3
    assert ask(seed=5).cache == "hit"
    assert ask(seed=0).cache == "miss"


def test_the_cache_is_bounded_in_bytes(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        ask(seed=seed)
    largest = max(CachedAnswer.objects.values_list("bytes", flat=True))
    monkeypatch.setattr(cache, "MAX_BYTES", 2 * largest)
    tasks.sweep()
    assert CachedAnswer.objects.count() == 2


def test_an_answer_that_is_too_long_is_given_and_not_kept(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRY_BYTES", 1_000)
    here.ollama.default = Reply(text="word " * 300, piece=500)
    assert ask().cache == "miss"
    assert not CachedAnswer.objects.exists()


def test_the_table_is_not_logged(transactional_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = 'routing_cachedanswer'")
        assert cursor.fetchone() == ("u",)


def test_a_cache_that_does_not_work_fails_no_call(here: Installation) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE routing_cachedanswer RENAME TO lost")
    try:
        assert ask().result.text == "No, 40% is free."
        assert ask().cache == "miss"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE lost RENAME TO routing_cachedanswer")
    here.assert_books_are_closed()


# --- equal requests in flight --------------------------------------------------------------------


def together(*requests: ChatRequest) -> list[Routed | BaseException]:
    async def all_at_once() -> list[Routed | BaseException]:
        return list(await asyncio.gather(*map(service.complete, requests), return_exceptions=True))

    return asyncio.run(all_at_once())


def test_equal_requests_in_flight_share_one_upstream_call(here: Installation) -> None:
    here.ollama.default = Reply(text="No.", first_token=0.5)
    answers = together(*[PLAIN] * 20)
    assert len(here.ollama.calls) == 1
    assert sorted(answer.cache for answer in answers if isinstance(answer, Routed)) == ["hit"] * 19 + ["miss"]
    assert RoutedCall.objects.count() == 20
    here.assert_books_are_closed()


def test_when_the_first_fails_the_others_try_for_themselves(here: Installation) -> None:
    here.change_rule(RULE, chain=["llama3.2"], options={"local_tries": 1})
    here.ollama.queue(Reply(status=400, error="no", latency=0.5))
    answers = together(*[PLAIN] * 3)
    assert sum(isinstance(answer, Unsupported) for answer in answers) == 1
    assert sum(isinstance(answer, Routed) for answer in answers) == 2
    here.assert_books_are_closed()


def test_when_the_first_goes_away_another_goes_in_its_place(here: Installation) -> None:
    here.ollama.queue(Reply(fault="hang"))
    here.ollama.default = Reply(text="No.")

    async def scenario() -> list[Routed]:
        first = asyncio.create_task(service.complete(PLAIN))
        while not here.ollama.calls:
            await asyncio.sleep(0.02)
        others = [asyncio.create_task(service.complete(PLAIN)) for _ in range(5)]
        await asyncio.sleep(0.2)
        first.cancel()
        return list(await asyncio.gather(*others))

    answers = asyncio.run(scenario())
    assert {answer.result.text for answer in answers} == {"No."}
    assert len(here.ollama.calls) == 2
    here.assert_books_are_closed()


def test_whoever_waits_keeps_its_own_deadline(here: Installation) -> None:
    too_late = threading.Event()
    here.ollama.default = Reply(text="No.", after=too_late)

    async def scenario() -> Routed:
        first = asyncio.create_task(service.complete(PLAIN))
        while not here.ollama.calls:
            await asyncio.sleep(0.02)
        with pytest.raises(DeadlineExceeded):
            await service.complete(replace(PLAIN, deadline_seconds=0.6))
        too_late.set()
        return await first

    assert asyncio.run(scenario()).result.text == "No."
    assert len(here.ollama.calls) == 1
    here.assert_books_are_closed()


def test_nothing_is_held_while_waiting_for_another(here: Installation) -> None:
    here.change_rule(RULE, chain=["claude-haiku-4-5"])
    looked = threading.Event()
    here.anthropic.default = Reply(text="No.", after=looked)

    async def scenario() -> int:
        calls = [asyncio.create_task(service.complete(PLAIN)) for _ in range(4)]
        while not here.anthropic.calls:
            await asyncio.sleep(0.02)
        budgets = (await health.world(await snapshot.acurrent())).budgets
        looked.set()
        await asyncio.gather(*calls)
        return max(state.limit_microusd - state.left_microusd for state in budgets.values())

    held = asyncio.run(scenario())
    reserved = sorted(RoutedCall.objects.values_list("reserved_microusd", flat=True))
    assert reserved[:3] == [0, 0, 0]
    assert held == reserved[3] > 0


def test_keys_do_not_share_answers(here: Installation) -> None:
    answers = together(*(replace(PLAIN, api_key_id=key) for key in ("one", "two", "one")))
    assert len(here.ollama.calls) == 2
    assert all(isinstance(answer, Routed) for answer in answers)


def test_a_kept_answer_holds_no_question(here: Installation) -> None:
    ask(messages=(message("user", "a very private question"),))
    row = CachedAnswer.objects.get()
    assert "private" not in row.answer
    assert json.loads(row.answer)["parts"][0]["text"] == "No, 40% is free."
    assert len(row.key) == 64
