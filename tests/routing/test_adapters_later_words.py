"""What is said in the midst of a conversation: system messages, and tools that the model finds there."""

import time
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.planning.demand import measure
from routing.types import ChatRequest, Message, Tool, ToolCall, ToolResult, message
from tests.routing.adapters_support import ask, model
from ziggie.values import replace

USER, ANSWER = message("user", "Hello?"), message("assistant", "Yes?")
LATER = message("system", "Be brief from now on.")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
SEARCH, WEATHER, STARS = (
    Tool("search", "", SCHEMA),
    Tool("weather", "", SCHEMA, deferred=True),
    Tool("stars", "", SCHEMA, deferred=True),
)
CALLED = Message("assistant", (ToolCall("c1", "search", "{}"),))
FOUND = Message("user", (ToolResult("c1", "", references=("weather",)),))
SEARCHED = ChatRequest((USER, CALLED, FOUND), tools=(SEARCH, WEATHER, STARS))
KNOWS_BOTH = "claude-opus-4-8"
OTHERS = ("openai", "ollama", "gemini", "cohere")


def body_of(request: ChatRequest, kind: str = "anthropic", name: str = KNOWS_BOTH) -> dict[str, Any]:
    body = CODECS[kind]().encode_chat(request, model(kind, name), max_output_tokens=100, stream=False).body
    assert body is not None
    return dict(body)


def roles(body: dict[str, Any]) -> list[str]:
    return [turn["role"] for turn in body["messages"]]


@pytest.mark.parametrize(
    "name", ["claude-opus-4-8", "claude-opus-4-10", "claude-opus-5", "claude-sonnet-5", "claude-haiku-5-5"]
)
def test_later_claude_models_are_told_of_system_messages_where_they_stand(name: str) -> None:
    body = body_of(ChatRequest((message("system", "Be kind."), USER, LATER, ANSWER, USER)), name=name)
    assert (body["system"], roles(body)) == ("Be kind.", ["user", "system", "assistant", "user"])
    assert body["messages"][1]["content"] == [{"type": "text", "text": "Be brief from now on."}]


@pytest.mark.parametrize(
    "name", ["claude-3-5-haiku-20241022", "claude-opus-4-20250514", "claude-opus-4-1", "claude-opus-4-7",
             "claude-sonnet-4-6", "claude-haiku-4-5-20251001", "kimi-k2", "anthropic-like"]
)  # fmt: skip
def test_earlier_ones_and_imitators_are_told_of_all_at_the_beginning(name: str) -> None:
    body = body_of(ChatRequest((message("system", "Be kind."), USER, LATER, ANSWER, USER)), name=name)
    assert [block["text"] for block in body["system"]] == ["Be kind.", "Be brief from now on."]
    assert roles(body) == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("turns", "system", "expected"),
    [
        ((USER, ANSWER, LATER, USER), None, ["user", "assistant", "user", "system"]),
        ((USER, LATER, USER, LATER), None, ["user", "system"]),
        ((LATER, USER, LATER), "Be brief from now on.", ["user", "system"]),
        ((USER, ANSWER, LATER, ANSWER), "Be brief from now on.", ["user", "assistant"]),
        ((USER, LATER, ANSWER, LATER, USER), None, ["user", "system", "assistant", "user", "system"]),
    ],
)
def test_one_stands_behind_a_users_turn_since_the_api_takes_it_nowhere_else(
    turns: tuple[Message, ...], system: str | None, expected: list[str]
) -> None:
    body = body_of(ChatRequest(turns))
    assert (body.get("system"), roles(body)) == (system, expected)


def test_claude_is_told_which_tools_wait_and_what_was_found() -> None:
    body = body_of(SEARCHED)
    assert [tool.get("defer_loading") for tool in body["tools"]] == [None, True, True]
    assert body["messages"][2]["content"][0]["content"] == [{"type": "tool_reference", "tool_name": "weather"}]


def test_a_tool_that_is_no_longer_there_is_found_in_words_alone() -> None:
    body = body_of(ChatRequest(SEARCHED.messages, tools=(SEARCH, STARS)))
    assert body["messages"][2]["content"][0]["content"] == "Tools that can be called now: weather"


def told_tools(body: dict[str, Any]) -> list[str]:
    tools = body["tools"][0]["functionDeclarations"] if "contents" in body else body["tools"]
    return [tool.get("function", tool)["name"] for tool in tools]


@pytest.mark.parametrize("kind", [*OTHERS, "anthropic"])
def test_models_that_cannot_wait_for_tools_are_told_of_those_that_were_found(kind: str) -> None:
    name = "claude-haiku-4-5" if kind == "anthropic" else "some-model"
    body = body_of(SEARCHED, kind, name)
    assert told_tools(body) == ["search", "weather"]
    assert "Tools that can be called now: weather" in str(body)
    assert "defer" not in str(body)
    assert told_tools(body_of(ask(tools=SEARCHED.tools), kind, name)) == ["search"]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_tool_that_was_called_or_must_be_is_there_even_if_nobody_found_it(kind: str) -> None:
    called = Message("assistant", (ToolCall("c1", "stars", "{}"),))
    result = Message("user", (ToolResult("c1", "Vega"),))
    assert told_tools(body_of(ChatRequest((USER, called, result), tools=SEARCHED.tools), kind)) == ["search", "stars"]
    if kind in ("openai", "gemini"):
        assert "stars" in told_tools(body_of(ask(tools=SEARCHED.tools, tool_choice="stars"), kind))


def test_a_tool_that_waits_costs_nothing_until_it_is_found() -> None:
    huge = Tool("weather", "x" * 40_000, SCHEMA, deferred=True)
    waiting = measure(ask(tools=(SEARCH, huge))).input_at_most
    found = measure(ChatRequest(SEARCHED.messages, tools=(SEARCH, huge))).input_at_most
    assert waiting < 5_000
    assert found > 40_000
    twice = ChatRequest((*SEARCHED.messages, CALLED, FOUND), tools=(SEARCH, huge))
    assert measure(twice).input_at_most > 80_000, "each time it is found it may stand in the prompt"


@pytest.mark.parametrize("waits", [True, False])
def test_a_tool_is_held_as_often_as_claude_is_referred_to_it(waits: bool) -> None:
    huge = Tool("weather", "x" * 40_000, SCHEMA, deferred=waits)
    often = ChatRequest((*SEARCHED.messages, CALLED, FOUND, CALLED, FOUND), tools=(SEARCH, STARS, huge))
    assert str(body_of(often)["messages"]).count("'tool_reference'") == 3
    assert measure(often).input_at_most > 120_000
    once = ChatRequest((USER,), tools=(SEARCH, replace(huge, deferred=False)))
    assert measure(often).input_likely > 2 * measure(once).input_likely


def test_a_tool_that_is_there_at_once_is_held_once_where_none_waits() -> None:
    huge = Tool("weather", "x" * 40_000, SCHEMA)
    often = ChatRequest((*SEARCHED.messages, CALLED, FOUND, CALLED, FOUND), tools=(SEARCH, huge))
    assert "'tool_reference'" not in str(body_of(often)["messages"])
    assert 40_000 < measure(often).input_at_most < 50_000


def test_a_huge_tool_that_was_found_thousands_of_times_is_measured_once() -> None:
    found = Message("user", (ToolResult("c1", "", references=("weather",) * 2_000),))
    wide = {"type": "object", "description": "x" * 2_000_000}
    request = ChatRequest((USER, CALLED, found), tools=(SEARCH, Tool("weather", "", wide, deferred=True)))
    started = time.process_time()
    assert measure(request).input_at_most > 2_000 * 2_000_000
    assert time.process_time() - started < 5, "measured each time it would take a minute"


def test_gemini_is_told_of_a_later_system_message_where_it_stands() -> None:
    body = body_of(
        ChatRequest((message("system", "Be kind."), USER, LATER, ANSWER, USER)), "gemini", "gemini-2.5-flash"
    )
    assert body["systemInstruction"]["parts"] == [{"text": "Be kind."}]
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]
    assert "Be brief from now on." in str(body["contents"][0])
