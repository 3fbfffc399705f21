"""Calls of tools that came without an id: they get one that no other call of the conversation has."""

import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.base import WireResponse
from routing.types import ChatRequest, Message, ToolCall, ToolResult, message
from tests.routing.adapters_support import model

FUNCTION = {"name": "look", "arguments": "{}"}
CALL = {"name": "look", "args": {}}
ANSWERS: dict[str, Any] = {
    "openai": {"choices": [{"message": {"tool_calls": [{"function": FUNCTION}] * 2}, "finish_reason": "tool_calls"}]},
    "ollama": {"done": True, "message": {"tool_calls": [{"function": {"name": "look", "arguments": {}}}] * 2}},
    "gemini": {"candidates": [{"content": {"parts": [{"functionCall": CALL}] * 2}, "finishReason": "STOP"}]},
}


def calls(kind: str, request: ChatRequest, *, stream: bool = False) -> tuple[ToolCall, ...]:
    codec = CODECS[kind]()
    sent = codec.encode_chat(request, model(kind), max_output_tokens=100, stream=stream)
    body = json.dumps(ANSWERS[kind]).encode()
    if not stream:
        return codec.decode_chat(WireResponse(200, {}, body), sent).tool_calls
    decoder, assembler = codec.chat_stream(sent), Assembler()
    whole = body + b"\n" if kind == "ollama" else b"data: " + body + b"\n\n"
    for delta in [*decoder.feed(whole), *decoder.finish()]:
        assembler.add(delta)
    return assembler.result().tool_calls


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_same_call_made_again_and_again_has_another_id_each_time(kind: str) -> None:
    """As of a tool that is asked until something has happened; some clients show only the last of equal ids."""
    turns = [message("user", "Look until it rains.")]
    seen: list[str] = []
    for _ in range(3):
        request = ChatRequest(tuple(turns))
        made = calls(kind, request)
        assert [call.id for call in calls(kind, request, stream=True)] == [call.id for call in made]
        seen += [call.id for call in made]
        results = tuple(ToolResult(call.id, "sun") for call in made)
        turns += [Message("assistant", made), Message("user", results)]
    assert len(set(seen)) == 6


@pytest.mark.parametrize("kind", ["openai", "ollama"])  # Gemini is sent no ids of earlier calls
def test_a_client_that_keeps_only_the_last_turns_gets_new_ids_all_the_same(kind: str) -> None:
    first = calls(kind, ChatRequest((message("user", "Look."),)))
    seen = {call.id for call in first}
    for number in range(2, 5):
        turns = (
            message("user", "Look."),
            Message("assistant", first),
            Message("user", (ToolResult(first[0].id, "x"),)),
        )
        first = calls(kind, ChatRequest(turns))
        seen |= {call.id for call in first}
        assert len(seen) == 2 * number


def test_claude_is_told_of_calls_with_equal_ids_by_ids_that_differ() -> None:
    """It refuses a conversation that has one twice, as with servers that number the calls of each answer anew."""

    def turns(*groups: tuple[str, ...]) -> tuple[Message, ...]:
        made = [Message("assistant", tuple(ToolCall(name, "look", "{}") for name in group)) for group in groups]
        told = [Message("tool", tuple(ToolResult(name, "sun") for name in group)) for group in groups]
        return (message("user", "Look."), *[turn for pair in zip(made, told, strict=True) for turn in pair])

    request = ChatRequest(turns(("call_0", "call_1"), ("call_0",), ("call_0", "call_0")))
    encoded = [
        CODECS["anthropic"]().encode_chat(request, model("anthropic"), max_output_tokens=100, stream=False).body
        for _ in range(2)
    ]
    assert encoded[0] == encoded[1]  # so that what Claude has cached can be used
    blocks = [block for turn in encoded[0]["messages"] for block in turn["content"]]  # type: ignore[index]
    made = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert made[:2] == ["call_0", "call_1"]
    assert len(set(made)) == 5
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == made
