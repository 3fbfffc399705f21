"""Several models at once: ensembles that vote or are synthesised, and debates."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest

from routing import service
from routing.models import BudgetPeriod, RoutedCall
from routing.types import ChatRequest, Hints, Tool, message
from routing.walk import patterns
from routing.walk.voting import normalised
from tests.flows.system import until
from tests.installation import Installation, installed
from tests.routing.test_patterns import REVIEWING, ask, parts, prompt_of
from tests.routing.test_patterns import roles as roles_of
from tests.servers import Call, Reply

MEMBERS = ["llama3.2", "qwen2.5:7b", "mistral"]
SYNTHESIS = "Weigh them against each other"
DEBATING = "You and others have answered"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["city", "people"],
}


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.change_rule(
            "ensemble",
            roles={"members": MEMBERS, "synthesiser": "claude-haiku-4-5"},
        )
        yield installation


def voting(here: Installation) -> None:
    here.change_rule("ensemble", roles={"members": MEMBERS, "vote": True})


def said(here: Installation, *texts: str) -> None:
    """What each member answers from now on."""
    for member, text in zip(MEMBERS, texts, strict=True):
        here.ollama.when(Reply(text=text), model=member)


# --- ensemble ------------------------------------------------------------------------------------


def test_members_answer_and_a_synthesiser_makes_one_answer_of_theirs(here: Installation) -> None:
    said(here, "Bern", "Zurich", "Geneva")
    here.anthropic.default = Reply(text="It is Bern.")
    routed = ask("ensemble")
    assert (routed.result.text, routed.model) == ("It is Bern.", "claude-haiku-4-5")
    assert sorted(roles_of(routed)) == ["member", "member", "member", "synthesiser"]
    assert routed.findings == {"members": 3, "answered": 3, "votes": 1, "chosen_by": "synthesis"}
    prompt = prompt_of(here.anthropic.calls[0])
    assert all(city in prompt for city in ("Bern", "Zurich", "Geneva"))
    here.assert_books_are_closed()


def test_three_members_are_asked_at_once(here: Installation) -> None:
    voting(here)
    all_are_asked = threading.Event()
    here.ollama.default = Reply(text="Bern", after=all_are_asked)

    def watch() -> None:
        until(lambda: here.ollama.most_at_once == 3, 60)
        all_are_asked.set()

    with ThreadPoolExecutor(1) as watcher:
        watching = watcher.submit(watch)
        assert ask("ensemble").result.text == "Bern"
        watching.result(60)


def test_members_that_agree_need_no_synthesis(here: Installation) -> None:
    said(here, "Bern", "**Bern.**", "bern")
    routed = ask("ensemble")
    assert routed.result.text == "Bern"
    assert routed.findings["chosen_by"] == "agreement"
    assert not here.anthropic.calls


def test_the_answer_of_most_members_is_elected(here: Installation) -> None:
    voting(here)
    said(here, "Zurich", "Bern", "Bern.")
    routed = ask("ensemble")
    assert (routed.result.text, routed.model) == ("Bern", "qwen2.5:7b")
    assert routed.findings == {"members": 3, "answered": 3, "votes": 2, "chosen_by": "vote"}
    assert [attempt.note for attempt in routed.attempts if attempt.served] == ["elected with 2 of 3 votes"]


def test_json_answers_are_equal_however_they_are_written(here: Installation) -> None:
    voting(here)
    said(
        here,
        '{"city": "Zurich", "people": 1}',
        '{"people": 2, "city": "Bern"}',
        '```json\n{"city":"bern","people":2.0}\n```',
    )
    routed = ask("ensemble", json_schema=CITY)
    assert json.loads(routed.result.text) == {"people": 2, "city": "Bern"}
    assert routed.findings["votes"] == 2


def test_json_answers_that_are_nested_very_deeply_break_no_vote(here: Installation) -> None:
    voting(here)
    deep = "[" * 900 + "]" * 900
    said(here, f"[{deep}]", deep, deep)
    routed = ask("ensemble", json_schema={"type": "array"})
    assert (routed.result.text, routed.findings["votes"]) == (deep, 2)


def test_json_answers_without_a_majority_are_decided_field_by_field(here: Installation) -> None:
    voting(here)
    said(
        here,
        '{"city": "Bern", "people": 130000, "note": "a"}',
        '{"city": "Bern", "people": 134000}',
        '{"city": "Zurich", "people": 450000}',
    )
    routed = ask("ensemble", json_schema=CITY)
    assert json.loads(routed.result.text) == {"city": "Bern", "people": 134000}
    assert routed.model == "qwen2.5:7b"


def test_a_document_put_together_from_several_must_fit_the_schema(here: Installation) -> None:
    """Each field's winner alone would make {"kind": "cat", "barks": true}."""
    voting(here)
    schema = {"oneOf": [{"properties": {"kind": {"const": kind}, "barks": {"const": barks}, "n": {}}}
                        for kind, barks in (("dog", True), ("cat", False), ("fox", True))]}  # fmt: skip
    said(
        here,
        '{"kind": "cat", "barks": false, "n": 1}',
        '{"kind": "dog", "barks": true, "n": 1}',
        '{"kind": "fox", "barks": true, "n": 2}',
    )
    routed = ask("ensemble", json_schema=schema)
    assert json.loads(routed.result.text)["kind"] in ("cat", "dog")
    assert json.loads(routed.result.text)["barks"] is (json.loads(routed.result.text)["kind"] == "dog")


@pytest.mark.parametrize("fault", ["reset", "garbage", "cut", "hang", "empty"])
def test_a_member_that_fails_does_not_fail_the_call(here: Installation, fault: Any) -> None:
    here.ollama.when(Reply(fault=fault), model="llama3.2")
    here.ollama.when(Reply(text="Bern"), model="qwen2.5:7b")
    here.ollama.when(Reply(text="Zurich"), model="mistral")
    here.anthropic.default = Reply(text="It is Bern.")
    if fault == "hang":
        here.change_rule("ensemble", options={"first_token_seconds": 6})
    routed = ask("ensemble")
    assert routed.result.text == "It is Bern."
    assert routed.findings["answered"] == 2
    here.assert_books_are_closed()


def test_the_only_answer_of_an_ensemble_is_its_answer(here: Installation) -> None:
    here.ollama.when(Reply(text="Bern"), model="mistral")
    here.ollama.default = Reply(status=500, error="no")
    routed = ask("ensemble")
    assert (routed.result.text, routed.findings["chosen_by"]) == ("Bern", "only answer")
    assert not here.anthropic.calls


def test_the_chain_answers_when_no_member_does(here: Installation) -> None:
    here.ollama.default = Reply(status=500, error="no")
    here.anthropic.default = Reply(text="Bern")
    routed = ask("ensemble")
    assert (routed.result.text, routed.model) == ("Bern", "claude-haiku-4-5")
    assert routed.findings == {"members": 3, "answered": 0}


@pytest.mark.parametrize("reply", [Reply(status=529, error="Overloaded"), Reply(fault="cut"), Reply(fault="reset")])
def test_when_the_synthesiser_dies_the_members_vote(here: Installation, reply: Reply) -> None:
    said(here, "Bern", "Zurich", "Bern")
    here.anthropic.default = reply
    routed = ask("ensemble")
    assert (routed.result.text, routed.findings["chosen_by"]) == ("Bern", "vote")
    here.assert_books_are_closed()


def test_a_member_that_never_ends_leaves_time_for_the_synthesis(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MEMBERS_SHARE", 0.15)
    here.ollama.when(Reply(text="word " * 2_000, per_piece=0.2), model="mistral")
    here.ollama.when(Reply(text="Bern"), model="llama3.2")
    here.ollama.when(Reply(text="Zurich"), model="qwen2.5:7b")
    here.anthropic.default = Reply(text="It is Bern.", first_token=0.2)
    routed = ask("ensemble", deadline_seconds=50)
    assert routed.result.text == "It is Bern."
    assert ("member", "mistral", "timeout") in parts(routed)
    assert routed.seconds < 50
    here.assert_books_are_closed()


def test_the_offline_model_takes_no_part_beside_others(here: Installation) -> None:
    here.change_rule("ensemble", roles={"members": ["llama3.2", "offline"], "synthesiser": "offline"})
    here.ollama.default = Reply(text="Bern")
    routed = ask("ensemble")
    assert parts(routed) == [("member", "llama3.2", "ok")]


def test_one_model_may_be_a_member_several_times(here: Installation) -> None:
    here.change_rule("ensemble", roles={"members": ["mistral"] * 3, "vote": True})
    here.ollama.queue(Reply(text="Bern"), Reply(text="Zurich"), Reply(text="Bern"))
    routed = ask("ensemble")
    assert (routed.result.text, routed.findings["votes"]) == ("Bern", 2)
    assert sum(attempt.served for attempt in routed.attempts) == 1


def test_tool_calls_are_voted_on_and_never_synthesised(here: Installation) -> None:
    tool = Tool("look_up", "Looks a city up.", {"type": "object", "properties": {"city": {"type": "string"}}})
    for member, city in zip(MEMBERS, ("Zurich", "Bern", "Bern"), strict=True):
        here.ollama.when(Reply(text="", calls=(Call("look_up", {"city": city}),)), model=member)
    routed = ask("ensemble", tools=(tool,))
    assert json.loads(routed.result.tool_calls[0].arguments) == {"city": "Bern"}
    assert not here.anthropic.calls


def test_an_ensemble_on_cloud_holds_the_worst_case_of_all_parts_and_gives_the_rest_back(here: Installation) -> None:
    here.change_rule("ensemble", roles={"members": ["claude-haiku-4-5"] * 3, "synthesiser": "claude-sonnet-4-5"})
    here.anthropic.when(Reply(text="Bern it is", input_tokens=500, output_tokens=20), contains=SYNTHESIS)
    here.anthropic.queue(*(Reply(text=city, input_tokens=100, output_tokens=10) for city in ("Bern", "Basel", "Chur")))
    routed = ask("ensemble")
    assert [attempt.cost_microusd for attempt in routed.attempts] == [150, 150, 150, 1_800]
    call, period = RoutedCall.objects.get(), BudgetPeriod.objects.get()
    assert call.cost_microusd == 2_250
    # Three members with a repair each, 200 tokens out each time, and Sonnet twice: far more than was spent.
    assert call.reserved_microusd > 6 * 200 * 5 + 2 * 200 * 15
    assert (period.held_microusd, period.settled_microusd) == (0, 2_250)
    here.assert_books_are_closed()


def test_cancelling_an_ensemble_settles_what_every_member_has_spent(here: Installation) -> None:
    here.change_rule("ensemble", roles={"members": ["claude-haiku-4-5"] * 3, "vote": True})
    here.anthropic.default = Reply(text="word " * 400, per_piece=0.05)

    async def scenario() -> None:
        request = ChatRequest(
            messages=(message("user", "A long story."),), hints=Hints(task_kind="ensemble"), max_output_tokens=500
        )
        task = asyncio.create_task(service.complete(request))
        while len(here.anthropic.calls) < 3:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    records = here.records()
    assert [record.outcome for record in records] == ["cancelled"] * 3
    assert all(record.cost_microusd > 0 for record in records)
    here.assert_books_are_closed()


# --- debate --------------------------------------------------------------------------------------


def stand(answer: str, *, agrees: bool) -> Reply:
    return Reply(text=json.dumps({"answer": answer, "agrees": agrees}))


def debating(here: Installation, **options: Any) -> None:
    here.change_rule(
        "debate",
        roles={"members": MEMBERS, "synthesiser": "claude-haiku-4-5", "rounds": 3},
        options={"first_token_seconds": 2} | options,
    )


def test_a_debate_ends_as_soon_as_all_agree(here: Installation) -> None:
    debating(here)
    here.ollama.when(stand("Bern, all things considered", agrees=True), contains=DEBATING)
    said(here, "Bern", "Zurich", "Geneva")
    routed = ask("debate")
    assert routed.result.text == "Bern, all things considered"
    assert routed.findings == {
        "members": 3,
        "answered": 3,
        "rounds": 2,
        "agreed": True,
        "chosen_by": "agreement",
    }
    assert not here.anthropic.calls
    second = prompt_of(here.ollama.calls[3])
    assert all(city in second for city in ("Bern", "Zurich", "Geneva"))
    here.assert_books_are_closed()


def test_members_that_agree_from_the_start_do_not_debate(here: Installation) -> None:
    debating(here)
    here.ollama.default = Reply(text="Bern")
    routed = ask("debate")
    assert (routed.result.text, routed.findings["rounds"], len(routed.attempts)) == ("Bern", 1, 3)


def test_a_debate_without_agreement_ends_after_its_rounds_by_a_judge(here: Installation) -> None:
    debating(here)
    for member in MEMBERS:
        here.ollama.when(stand(f"{member} is right", agrees=False), contains=DEBATING, model=member)
    said(here, "Bern", "Zurich", "Geneva")
    here.anthropic.default = Reply(text="Bern. The judge has spoken.")
    routed = ask("debate")
    assert routed.result.text == "Bern. The judge has spoken."
    assert sorted(roles_of(routed)) == ["member"] * 9 + ["synthesiser"]
    assert (routed.findings["rounds"], routed.findings["agreed"]) == (3, False)
    assert "mistral is right" in prompt_of(here.anthropic.calls[0])
    here.assert_books_are_closed()


def test_a_member_that_falls_silent_is_heard_with_its_last_answer(here: Installation) -> None:
    debating(here)
    here.ollama.when(Reply(status=500, error="no"), contains=DEBATING, model="mistral")
    here.ollama.when(stand("Bern", agrees=True), contains=DEBATING)
    said(here, "Bern", "Zurich", "Geneva")
    here.anthropic.default = Reply(text="Bern")
    routed = ask("debate")
    assert routed.findings["answered"] == 3
    assert routed.findings["agreed"] is False
    assert "Geneva" in prompt_of(here.anthropic.calls[0])


def test_json_debates_end_when_the_documents_are_equal(here: Installation) -> None:
    debating(here)
    here.ollama.when(Reply(text='{"city": "Bern", "people": 134000}'), contains=DEBATING)
    said(here, *(json.dumps({"city": city, "people": 1}) for city in ("Bern", "Zurich", "Geneva")))
    routed = ask("debate", json_schema=CITY)
    assert json.loads(routed.result.text) == {"city": "Bern", "people": 134000}
    assert (routed.findings["rounds"], routed.findings["agreed"]) == (2, True)


# --- money ---------------------------------------------------------------------------------------

CLOUD = "claude-haiku-4-5"
WORST: dict[str, tuple[str, dict[str, Any]]] = {
    "verified_answer": ("verified answer", {"verifier": CLOUD}),
    "cascade": ("draft, then refine", {"draft": CLOUD, "refiner": CLOUD}),
    "ensemble": ("ensemble", {"members": [CLOUD] * 3, "synthesiser": CLOUD}),
    "debate": ("debate", {"members": [CLOUD] * 3, "synthesiser": CLOUD, "rounds": 3}),
    "critique": ("self-critique", {"rounds": 3}),
}


@pytest.mark.parametrize("kind", WORST)
def test_no_pattern_spends_more_than_it_holds_even_if_all_parts_say_all_they_may(here: Installation, kind: str) -> None:
    rule, roles = WORST[kind]
    here.change_rule(rule, chain=[CLOUD], roles=roles)
    limit = 300

    def as_long_as_allowed(start: str, end: str) -> Reply:
        return Reply(text=start + "\n" * (4 * limit - len(start + end)) + end, output_tokens=limit, piece=400)

    here.anthropic.when(as_long_as_allowed('{"verdict": "wrong", "problems": ["', '"]}'), contains=REVIEWING)
    here.anthropic.when(as_long_as_allowed('{"objections": ["x"', "]}"), contains="strict critic")
    here.anthropic.when(as_long_as_allowed('{"answer": "x", "agrees": false', "}"), contains=DEBATING)
    here.anthropic.when(as_long_as_allowed('{"answer": "x", "confidence": 3', "}"), contains="Put into `confidence`")
    if kind in ("ensemble", "debate"):
        here.anthropic.queue(*(as_long_as_allowed(f"answer {number}", ".") for number in range(3)))
    here.anthropic.default = as_long_as_allowed("answer", ".")
    ask(kind, "word " * 400, max_output_tokens=limit)
    call, period = RoutedCall.objects.get(), BudgetPeriod.objects.get()
    print(f"{kind}: held {call.reserved_microusd}, spent {call.cost_microusd} in {len(call.attempts)} calls")
    assert len(call.attempts) >= 2
    assert 0 < call.cost_microusd <= call.reserved_microusd
    assert (period.held_microusd, period.overrun_microusd) == (0, 0)
    here.assert_books_are_closed()


# --- equal answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bern", " **bern**. "),
        ("42", "42.0"),
        ("$1,000", "1000.00"),
        ("“Yes!”", "yes"),
        ("a  b\nc", "A b c"),
        ("ﬁne", "FINE"),
        (" .5", "**0.50**"),
        ("-1,234,567.80", "-1234567.8"),
        ("1’000", "1000"),
        ("don’t_", "Don't"),
        ("`snake_case`", "snake_case."),
    ],
)
def test_texts_that_say_the_same_are_equal(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("42", "43"), ("Bern", "Berne"), ("-1", "1"), ("1e999999", "1e999998")],
        *[("1,5", "15"), (".5", "5"), ("2*3", "23"), ("a_b", "ab"), ("5'10", "510"), ("1,2,3", "123")],
        *[("0,500", "500"), ("-0,125", "-125"), ("0'500", "500")],
    ],
)
def test_texts_that_say_something_else_are_not(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
