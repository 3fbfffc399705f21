"""Calls that a server cannot be told to make: asked for as JSON of a schema, read as calls."""

import json
import re
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.base import WireRequest, WireResponse
from routing.types import ChatResult, ProviderError, StopReason, Tool, UnsupportedByProvider
from routing.walk.collecting import Collector
from tests.routing.adapters_support import ask, model

CODEC = CODECS["ollama"]()
CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"type": "string"}}}
WEATHER = Tool("weather", "Tells the weather.", CITY)
CLOCK = Tool("clock", "Tells the time.", {"properties": {"zone": {"type": "string"}}})
MAP = Tool("map", "Draws a map.", {**CITY, "$defs": {"City": {"type": "integer"}}})


def sent_for(*tools: Tool, choice: str = "required", stream: bool = False) -> WireRequest:
    request = ask(tools=tools, tool_choice=choice, parallel_tool_calls=False)
    return CODEC.encode_chat(request, model("ollama"), max_output_tokens=100, stream=stream)


def lines(text: str, reason: str) -> list[dict[str, Any]]:
    pieces = [{"model": "m", "done": False, "message": {"role": "assistant", "content": piece}} for piece in text]
    return [*pieces, {"model": "m", "done": True, "done_reason": reason, "message": {"role": "assistant"}}]


def answer(sent: WireRequest, text: str, *, reason: str = "stop") -> ChatResult:
    """What is read of `text`, whole and streamed: the same."""
    body = {"model": "m", "done": True, "done_reason": reason, "message": {"role": "assistant", "content": text}}
    whole = CODEC.decode_chat(WireResponse(200, {}, json.dumps(body).encode()), sent)
    decoder, assembler = CODEC.chat_stream(sent), Assembler()
    for line in lines(text, reason):
        for delta in decoder.feed(json.dumps(line).encode() + b"\n"):
            assembler.add(delta)
    assert decoder.done
    assert decoder.finish() == []
    streamed = assembler.result()
    assert (streamed.parts, streamed.stop_reason) == (whole.parts, whole.stop_reason)
    return whole


@pytest.mark.parametrize("choice", ["required", "weather"])
def test_the_only_tool_is_called_by_its_arguments(choice: str) -> None:
    tools = (WEATHER,) if choice == "required" else (WEATHER, CLOCK)
    sent = sent_for(*tools, choice=choice)
    assert sent.body is not None
    assert sent.body["format"] == CITY
    assert "tools" not in sent.body
    assert "Tells the weather." in sent.body["messages"][0]["content"]
    (call,) = answer(sent, '{"city": "Oslo"}').tool_calls
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})


def test_one_of_several_tools_is_called_by_its_name_and_arguments() -> None:
    sent = sent_for(WEATHER, CLOCK)
    assert sent.body is not None
    form = sent.body["format"]
    assert [call["properties"]["name"]["enum"] for call in form["anyOf"]] == [["weather"], ["clock"]]
    assert form["$defs"] == CITY["$defs"]  # references point to the top of a schema
    (call,) = answer(sent, '{"name": "clock", "arguments": {"zone": "UTC"}}').tool_calls
    assert (call.name, json.loads(call.arguments)) == ("clock", {"zone": "UTC"})


@pytest.mark.parametrize("key", ["$defs", "definitions"])
@pytest.mark.parametrize("wrong", [[], None, "City", 7])
def test_definitions_that_are_none_are_the_requests_fault(key: str, wrong: Any) -> None:
    with pytest.raises(UnsupportedByProvider, match=f"{re.escape(key)} of the tool 'ship'"):
        sent_for(WEATHER, Tool("ship", "Ships.", {key: wrong}))


@pytest.mark.parametrize(("tools", "choice"), [((WEATHER, CLOCK), "map"), ((WEATHER, MAP), "required")])
def test_tools_that_are_not_there_or_contradict_each_other_are_refused(tools: tuple[Tool, ...], choice: str) -> None:
    with pytest.raises(UnsupportedByProvider, match="tool_choice"):
        sent_for(*tools, choice=choice)


@pytest.mark.parametrize(("tools", "calls"), [((WEATHER,), 1), ((WEATHER, CLOCK), 0)])
def test_a_call_that_the_limit_cut_comes_as_far_as_it_was_written(tools: tuple[Tool, ...], calls: int) -> None:
    result = answer(sent_for(*tools), '{"city": "Os', reason="length")
    assert result.stop_reason == "length"
    assert [call.arguments for call in result.tool_calls] == ['{"city": "Os'] * calls
    assert bool(result.text) == (not calls)


@pytest.mark.parametrize("text", ["It rains.", "[1]", '{"name": "map", "arguments": {}}', ""])
def test_what_is_no_call_is_no_answer(text: str) -> None:
    sent = sent_for(WEATHER, CLOCK)
    with pytest.raises(ProviderError, match="tool call") as caught:
        answer(sent, text)
    assert caught.value.kind == "unfit"
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in lines(text, "stop"))
    with pytest.raises(ProviderError, match="tool call"):
        CODEC.chat_stream(sent).feed(whole)


def test_what_is_held_back_shows_that_the_model_writes() -> None:
    pieces = [json.dumps(line).encode() + b"\n" for line in lines('{"city": "Oslo"}', "stop")]
    decoder = CODEC.chat_stream(sent_for(WEATHER, stream=True))
    collector = Collector()
    (introduction, first), (second,) = decoder.feed(pieces[0]), decoder.feed(pieces[1])
    assert [collector.add(delta) for delta in (introduction, first, second)] == [False, True, False]
    assert not any(delta.is_output for delta in (introduction, first, second))


@pytest.mark.parametrize("said", ["", "I would", '{"city": "Oslo"}'])
def test_a_refusal_of_gemini_comes_as_one(said: str) -> None:
    codec = CODECS["gemini"]()
    request = ask(tools=(WEATHER,), tool_choice="required", parallel_tool_calls=False)
    sent = codec.encode_chat(request, model("gemini"), max_output_tokens=100, stream=True)
    content = {"content": {"parts": [{"text": said}]}} if said else {}
    refusal = json.dumps({"candidates": [{**content, "finishReason": "SAFETY"}]}).encode()
    whole = codec.decode_chat(WireResponse(200, {}, refusal), sent)
    assert (whole.text, whole.tool_calls, whole.stop_reason) == (said, (), "content_filter")
    decoder, assembler = codec.chat_stream(sent), Assembler()
    for delta in (*decoder.feed(b"data: " + refusal + b"\n\n"), *decoder.finish()):
        assembler.add(delta)
    assert (assembler.result().parts, assembler.stop_reason) == (whole.parts, "content_filter")


def test_a_model_that_calls_by_itself_is_taken_at_its_word() -> None:
    sent = sent_for(WEATHER)
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    line = {"model": "m", "done": True, "message": said}
    result = CODEC.decode_chat(WireResponse(200, {}, json.dumps(line).encode()), sent)
    stop: StopReason = "tool_calls"
    assert ([call.name for call in result.tool_calls], result.stop_reason) == (["weather"], stop)
    deltas = CODEC.chat_stream(sent).feed(json.dumps(line).encode() + b"\n")
    assert [delta.tool_name for delta in deltas if delta.tool_index is not None] == ["weather"]
    assert deltas[-1].stop_reason == stop
