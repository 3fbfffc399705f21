"""When Claude is asked to think, and what it is asked to forget: its API refuses what does not go together."""

from typing import Any

import pytest

from routing.adapters import CODECS
from routing.types import ChatRequest, Message, Reasoning, Text, Tool, ToolCall, ToolResult, message
from tests.routing.adapters_support import ask, model

CALLED = ToolCall("c1", "weather", '{"city": "Zürich"}')
SIGNED = Reasoning("Hm.", "c2ln")
AGAIN = ToolCall("c2", "weather", '{"city": "Paris"}')
RESULT = Message("tool", (ToolResult("c1", "Rain"),))
RESULT_AGAIN = Message("tool", (ToolResult("c2", "Sun"),))
QUESTION = message("user", "Hello?")
TOOLS = (Tool("weather", "", {}),)
BUDGET = {"type": "enabled", "budget_tokens": 1024}
CLEARS = {"type": "clear_thinking_20251015", "keep": "all"}
CLEARS_TOOLS = {"type": "clear_tool_uses_20250919"}

Turns = tuple[Message, ...]


def body_of(request: ChatRequest, name: str = "claude-haiku-4-5") -> dict[str, Any]:
    row = model("anthropic", name)
    body = CODECS["anthropic"]().encode_chat(request, row, max_output_tokens=4096, stream=False).body
    assert body is not None
    return dict(body)


def said(*parts: Any) -> Message:
    return Message("assistant", parts)


@pytest.mark.parametrize(
    ("name", "does_both"),
    [
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-7", False),
        ("claude-opus-4-8", True),
        ("claude-opus-5", True),
        ("claude-sonnet-5", True),
    ],
)
@pytest.mark.parametrize("choice", ["required", "weather", "auto", "none", ""])
def test_a_call_that_must_be_made_goes_before_thinking_where_not_both_can_be_had(
    name: str, does_both: bool, choice: str
) -> None:
    body = body_of(ask(reasoning_effort="high", tools=TOOLS, tool_choice=choice), name)
    thinks = does_both or choice not in ("required", "weather")
    assert body["output_config"] == {"effort": "high"}
    assert body.get("thinking") == ({"type": "adaptive"} if thinks else None)


def test_what_claudes_own_clients_say_of_both_is_told_as_they_say_it() -> None:
    asked = ask(tools=TOOLS, tool_choice="required", extra={"thinking": {"type": "adaptive"}})
    body = body_of(asked, "claude-opus-4-7")
    assert (body["thinking"], body["tool_choice"]) == ({"type": "adaptive"}, {"type": "any"})


TURNS: dict[str, tuple[Turns, bool]] = {
    "another model's calls": ((said(CALLED), RESULT), False),
    "another model's calls, twice": ((said(CALLED), RESULT, said(AGAIN), RESULT_AGAIN), False),
    "words before a call": ((said(Text("I look."), CALLED), RESULT), False),
    "thinking that nobody signed": ((said(Reasoning("Hm."), CALLED), RESULT), False),
    "signed thinking": ((said(SIGNED, CALLED), RESULT), True),
    "signed thinking before the first of two calls": ((said(SIGNED, CALLED), RESULT, said(AGAIN), RESULT_AGAIN), True),
    "and with words before the second": (
        (said(SIGNED, CALLED), RESULT, said(Text("Now Paris."), AGAIN), RESULT_AGAIN),
        True,
    ),
    "thinking that is not shown": ((said(Reasoning("data", redacted=True), CALLED), RESULT), True),
    "thinking in an earlier turn": (
        (*(said(SIGNED, CALLED), RESULT, said(Text("Rain."))), message("user", "Paris?"), said(AGAIN), RESULT_AGAIN),
        False,
    ),
}


@pytest.mark.parametrize(("turns", "thinks"), TURNS.values(), ids=TURNS)
def test_claude_thinks_on_only_in_a_turn_that_began_with_its_thinking(turns: Turns, thinks: bool) -> None:
    asked = (QUESTION, *turns)
    for messages, expected in (
        (asked, thinks),
        ((*asked, message("assistant", "Rain."), message("user", "And now?")), True),
    ):
        for request in (
            ChatRequest(messages, tools=TOOLS, reasoning_effort="low"),
            ChatRequest(messages, tools=TOOLS, extra={"thinking": BUDGET}),
        ):
            assert ("thinking" in body_of(request)) == expected
            always = "thinking" not in request.extra  # an effort, where a model takes one
            assert ("thinking" in body_of(request, "claude-opus-4-7")) == (expected or always)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_the_steps_of_one_turn_have_the_thinking_that_it_began_with(step: int) -> None:
    """A turn's configuration must not change within its loop of calls."""
    turns = (said(SIGNED, CALLED), RESULT, said(AGAIN), RESULT_AGAIN, said(AGAIN), RESULT_AGAIN)[:step]
    extra = {"thinking": BUDGET, "context_management": {"edits": [CLEARS]}}
    body = body_of(ChatRequest((QUESTION, *turns), tools=TOOLS, extra=extra))
    assert {key: body[key] for key in extra} == extra


@pytest.mark.parametrize(
    ("choice", "thinks"), [("auto", True), ("none", True), ("required", False), ("weather", False)]
)
def test_claude_does_not_think_within_a_budget_where_a_tool_must_be_called(choice: str, thinks: bool) -> None:
    for fields in ({"reasoning_effort": "low"}, {"extra": {"thinking": BUDGET}}):
        assert ("thinking" in body_of(ask(tools=TOOLS, tool_choice=choice, **fields))) == thinks


FORGETS: dict[str, tuple[dict[str, Any], bool]] = {
    "a budget": ({"extra": {"thinking": BUDGET}}, True),
    "an effort": ({"reasoning_effort": "low"}, True),
    "a forced call": ({"extra": {"thinking": BUDGET}, "tool_choice": "required"}, False),
    "an effort and a forced call": ({"reasoning_effort": "low", "tool_choice": "required"}, False),
    "none wanted": ({"extra": {"thinking": {"type": "disabled"}}}, False),
    "no effort": ({"reasoning_effort": "none"}, False),
    "nothing said": ({}, False),
}


@pytest.mark.parametrize(("fields", "forgets"), FORGETS.values(), ids=FORGETS)
def test_claude_is_told_to_forget_thinking_only_where_it_thinks(fields: dict[str, Any], forgets: bool) -> None:
    for edits, rest in (([CLEARS], []), ([CLEARS, CLEARS_TOOLS], [CLEARS_TOOLS])):
        management = {"edits": edits}
        extra = {**fields.get("extra", {}), "context_management": management}
        body = body_of(ask(tools=TOOLS, **{**fields, "extra": extra}))
        left = edits if forgets else rest
        assert body.get("context_management") == ({"edits": left} if left else None)
        assert management == {"edits": edits}  # another candidate may be asked with it


def test_whoever_is_to_think_no_more_has_nothing_to_forget_whatever_its_name() -> None:
    """Claude Opus 4.6 takes a budget as well as an effort."""
    extra = {"thinking": BUDGET, "context_management": {"edits": [CLEARS]}}
    body = body_of(ask(tools=TOOLS, tool_choice="required", extra=extra), "claude-opus-4-6")
    assert not body.keys() & extra.keys()


def test_a_later_claude_that_may_think_unasked_is_told_what_to_forget() -> None:
    body = body_of(ask(extra={"context_management": {"edits": [CLEARS]}}), "claude-opus-5")
    assert body["context_management"] == {"edits": [CLEARS]}


def test_a_model_that_is_to_think_is_held_to_a_schema_by_words_rather_than_by_a_forced_call() -> None:
    schema = {"type": "object", "properties": {"mood": {"type": "string"}}}
    for fields in ({"reasoning_effort": "low"}, {"extra": {"thinking": BUDGET}}):
        body = body_of(ask(json_schema=schema, **fields), "claude-sonnet-4-20250514")
        assert "tools" not in body
        assert body["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(
    ("name", "fields", "thinking", "config"),
    [
        ("claude-sonnet-5", {"reasoning_effort": "high"}, {"type": "adaptive"}, {"effort": "high"}),
        ("claude-haiku-4-5", {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5", {}, {"type": "enabled", "budget_tokens": 3072}, None),
        ("claude-opus-4-5", {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5", {"temperature": 0.5, "reasoning_effort": "high"}, None, None),
        ("claude-3-5-haiku-20241022", {"reasoning_effort": "high"}, None, None),
    ],
)
def test_thinking_that_is_left_to_the_model_is_said_as_it_knows_it_or_not_at_all(
    name: str, fields: dict[str, Any], thinking: dict[str, Any] | None, config: dict[str, Any] | None
) -> None:
    body = body_of(ask(extra={"thinking": {"type": "adaptive"}}, **fields), name)
    assert (body.get("thinking"), body.get("output_config")) == (thinking, config)


def test_a_short_answer_leaves_no_room_for_thinking_that_nobody_demands() -> None:
    request = ask(extra={"thinking": {"type": "adaptive"}})
    row = model("anthropic", "claude-haiku-4-5")
    body = CODECS["anthropic"]().encode_chat(request, row, max_output_tokens=500, stream=False).body
    assert body is not None
    assert "thinking" not in body


@pytest.mark.parametrize("budget", ["5000", [1], {"a": 1}, None, 5000.5])
def test_a_budget_that_is_no_number_is_claudes_to_refuse(budget: Any) -> None:
    asked = {"type": "enabled", "budget_tokens": budget}
    body = body_of(ask(extra={"thinking": asked}, max_output_tokens=9_000))
    assert body["thinking"] == asked


def test_a_call_that_must_be_made_needs_no_room_for_thinking_that_it_goes_without() -> None:
    extra = {"thinking": {"type": "enabled", "budget_tokens": 2_000}}
    request = ask(tools=TOOLS, tool_choice="required", extra=extra, max_output_tokens=4_000)
    row = model("anthropic", "claude-haiku-4-5")
    body = CODECS["anthropic"]().encode_chat(request, row, max_output_tokens=1_500, stream=False).body
    assert body is not None
    assert "thinking" not in body


@pytest.mark.parametrize("name", ["claude-opus-4-5-20251101", "claude-sonnet-4-6", "claude-opus-4-7", "claude-opus-5"])
def test_an_effort_in_claudes_own_words_asks_for_no_thinking(name: str) -> None:
    request = ask(reasoning_effort="low", temperature=0.2, extra={"thinking": None})
    body = (
        CODECS["anthropic"]().encode_chat(request, model("anthropic", name), max_output_tokens=1024, stream=False).body
    )
    assert body is not None
    assert body["output_config"] == {"effort": "low"}
    assert "thinking" not in body


def test_an_effort_in_claudes_own_words_is_a_budget_where_the_model_knows_no_effort() -> None:
    body = body_of(ask(reasoning_effort="low", extra={"thinking": None}))
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert "output_config" not in body
