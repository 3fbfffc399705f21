"""A character that a server cuts in two, between two pieces of a stream, comes out whole."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.adapters.transport import codec_for
from routing.types import ChatRequest, Delta, Tool, message
from tests.routing.adapters_support import model, run_decoder

OWL, HIGH, LOW, LOST = "🦉", "\ud83e", "\udd89", "\ufffd"
TOOL = Tool("look", "", {})


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def openai_chunk(piece: str, place: str = "content") -> bytes:
    delta: dict[str, Any] = {place: piece}
    if place == "arguments":
        delta = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": piece}}]}
    return sse({"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta}]})


OPENAI_END = sse({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"


def anthropic_delta(piece: str) -> bytes:
    delta = {"type": "text_delta", "text": piece}
    return sse({"type": "content_block_delta", "index": 0, "delta": delta})


ANTHROPIC_BEGIN = sse({"type": "message_start", "message": {"id": "x", "content": []}}) + sse(
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
)
ANTHROPIC_END = sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}) + sse({"type": "message_stop"})
STREAMS: dict[str, tuple[bytes, Callable[[str], bytes], bytes]] = {
    "openai": (b"", openai_chunk, OPENAI_END),
    "anthropic": (ANTHROPIC_BEGIN, anthropic_delta, ANTHROPIC_END),
    "ollama": (
        b"",
        lambda piece: json.dumps({"message": {"content": piece}, "done": False}).encode() + b"\n",
        b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n',
    ),
    "gemini": (
        b"",
        lambda piece: sse({"candidates": [{"content": {"parts": [{"text": piece}]}}]}),
        sse({"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}),
    ),
    "cohere": (
        sse({"type": "message-start", "id": "x"}),
        lambda piece: sse({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}),
        sse({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}) + b"data: [DONE]\n\n",
    ),
}


def heard(kind: str, stream: list[bytes]) -> list[Delta]:
    row = model(kind)
    request = ChatRequest((message("user", "?"),), tools=(TOOL,))
    sent = codec_for(row.provider).encode_chat(request, row, max_output_tokens=9, stream=True)
    deltas, error = run_decoder(lambda: codec_for(row.provider).chat_stream(sent), stream)
    assert error is None
    for delta in deltas:
        (delta.text + delta.reasoning + delta.tool_arguments + delta.held).encode()  # fails for half a character
    return deltas


def text_of(kind: str, *pieces: str) -> str:
    begin, piece, end = STREAMS[kind]
    return "".join(delta.text for delta in heard(kind, [begin, *map(piece, pieces), end]))


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (("a" + HIGH, LOW + "b"), f"a{OWL}b"),
        ((HIGH, LOW, "b"), f"{OWL}b"),
        ((HIGH, LOW + HIGH, LOW), OWL * 2),
        ((HIGH, "b"), f"{LOST}b"),
        (("a", LOW + "b"), f"a{LOST}b"),
        (("a" + HIGH,), f"a{LOST}"),
        ((HIGH, HIGH + LOW), f"{LOST}{OWL}"),
        (("a" + HIGH + "b", OWL), f"a{LOST}b{OWL}"),
    ],
)
def test_a_character_cut_in_two_comes_out_whole(kind: str, pieces: tuple[str, ...], whole: str) -> None:
    assert text_of(kind, *pieces) == whole


@pytest.mark.parametrize("place", ["reasoning_content", "arguments"])
def test_so_do_those_of_thinking_and_of_calls(place: str) -> None:
    first, second = ('{"a":"' + HIGH, LOW + '"}') if place == "arguments" else (HIGH, LOW)
    stream = [openai_chunk(first, place), openai_chunk("aside"), openai_chunk(second, place), OPENAI_END]
    deltas = heard("openai", stream)
    told = "".join(delta.tool_arguments if place == "arguments" else delta.reasoning for delta in deltas)
    assert told == first[:-1] + OWL + second[1:]
    assert "".join(delta.text for delta in deltas) == "aside"


def test_what_waits_in_vain_is_told_before_the_end() -> None:
    (*_, lost, end) = [d for d in heard("openai", [openai_chunk("a" + HIGH), OPENAI_END]) if d.text or d.stop_reason]
    assert (lost.text, end.stop_reason) == (LOST, "stop")


@given(st.text(max_size=20), st.data())
def test_wherever_a_text_is_cut(text: str, data: st.DataObject) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(units) // 2), max_size=6)) | {0, len(units) // 2})
    pieces = [units[2 * a : 2 * b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(cuts)]
    begin, piece, end = STREAMS["openai"]
    told = "".join(delta.text for delta in heard("openai", [begin, *map(piece, filter(None, pieces)), end]))
    assert told == text


@pytest.mark.parametrize("kind", ["gemini", "ollama"])
@pytest.mark.parametrize("name", ["word", "text", "content"])
def test_arguments_that_come_whole_wait_for_nothing_whatever_they_are_called(kind: str, name: str) -> None:
    begin, _, end = STREAMS[kind]
    arguments = {name: "a" + HIGH, "more": [{name: LOW}]}
    calls = {
        "gemini": lambda: sse(
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "look", "args": arguments}}]}}]}
        ),
        "ollama": lambda: (
            json.dumps(
                {"message": {"content": "", "tool_calls": [{"function": {"name": "look", "arguments": arguments}}]}}
            ).encode()
            + b"\n"
        ),
    }
    deltas = heard(kind, [begin, calls[kind](), end])
    told = "".join(delta.tool_arguments for delta in deltas)
    assert json.loads(told) == {name: "a" + LOST, "more": [{name: LOST}]}
