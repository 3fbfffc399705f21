"""Claude's citations within answers: each stays with the block of text that it belongs to."""

import json
from typing import Any

import pytest

from routing.adapters.answers.assembly import Assembler, assembled, deltas_of
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.transport import codec_for
from routing.gateway.wire.anthropic_answers import StreamEncoder, encode_result
from routing.gateway.wire.openai_answers import encode_result as encode_for_openai
from routing.types import ChatResult, ProviderError, Reasoning, Text, ToolCall
from tests.routing.specs import ANTHROPIC

SENT = WireRequest("POST", "https://x.test", body={})
ONE, TWO = {"type": "char_location", "document_index": 0}, {"type": "page_location", "document_index": 1}


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def block(index: int, *deltas: Any, kind: str = "text", **start: Any) -> bytes:
    """One block of a stream: its deltas are texts, or citations."""
    made = {"type": kind, **({"text": ""} if kind == "text" else {}), **start}
    events = [event("content_block_start", index=index, content_block=made)]
    for delta in deltas:
        said = {"type": "text_delta", "text": delta} if isinstance(delta, str) else delta
        if isinstance(delta, dict) and "document_index" in delta:
            said = {"type": "citations_delta", "citation": delta}
        events.append(event("content_block_delta", index=index, delta=said))
    return b"".join([*events, event("content_block_stop", index=index)])


def answer(*blocks: bytes) -> ChatResult:
    start = event("message_start", message={"id": "m", "model": "c", "content": [], "usage": {"input_tokens": 1}})
    end = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1}) + event("message_stop")
    return assembled(codec_for(ANTHROPIC).chat_stream(SENT), start + b"".join(blocks) + end)


def test_citations_belong_to_the_block_that_they_come_in() -> None:
    result = answer(block(0, "It ", "is "), block(1, "green", ONE, TWO), block(2, " and "), block(3, TWO, "blue", ONE))
    assert result.parts == (
        Text("It is "),
        Text("green", citations=(ONE, TWO)),
        Text(" and "),
        Text("blue", citations=(TWO, ONE)),
    )


def test_a_block_that_begins_with_citations_has_them() -> None:
    assert answer(block(0, "Green", citations=[ONE])).parts == (Text("Green", citations=(ONE,)),)
    assert answer(block(0, "Green", citations=None)).parts == (Text("Green"),)


def test_thinking_and_calls_stand_between_blocks_as_before() -> None:
    thought = block(0, {"type": "thinking_delta", "thinking": "Hm."}, kind="thinking", thinking="")
    called = block(
        2, {"type": "input_json_delta", "partial_json": "{}"}, kind="tool_use", id="t", name="look", input={}
    )
    result = answer(thought, block(1, "Green", ONE), called, block(3, "Blue", TWO))
    assert result.parts == (
        Reasoning("Hm."),
        Text("Green", citations=(ONE,)),
        ToolCall("t", "look", "{}"),
        Text("Blue", citations=(TWO,)),
    )


def test_a_whole_answer_as_a_stream_says_the_same() -> None:
    result = ChatResult(
        (Text("It is "), Text("green", citations=(ONE, TWO)), Text("."), Text("Blue", citations=(TWO,)))
    )
    assembler = Assembler()
    for delta in deltas_of(result):
        assembler.add(delta)
    assert assembler.result().parts == result.parts
    encoder = StreamEncoder(call_id="c", model="m")
    stream = encoder.deltas(deltas_of(result)) + encoder.end("stop", result.usage)
    again = assembled(codec_for(ANTHROPIC).chat_stream(SENT), stream)
    assert again.parts == result.parts
    whole = json.loads(encode_result(result, call_id="c", model="m"))
    assert [part.get("citations") for part in whole["content"]] == [None, [ONE, TWO], None, [TWO]]


def test_openais_clients_read_the_text_alone() -> None:
    result = ChatResult((Text("It is "), Text("green", citations=(ONE,))))
    said = json.loads(encode_for_openai(result, call_id="c", model="m"))
    assert said["choices"][0]["message"]["content"] == "It is green"


@pytest.mark.parametrize("odd", [5, "x", [5], {"a": 1}])
def test_citations_of_no_shape_are_no_answer(odd: Any) -> None:
    body = {"type": "message", "content": [{"type": "text", "text": "x", "citations": odd}], "usage": {}}
    with pytest.raises(ProviderError, match="citations"):
        codec_for(ANTHROPIC).decode_chat(WireResponse(200, {}, json.dumps(body).encode()), SENT)
    with pytest.raises(ProviderError, match="citations"):
        answer(block(0, "x", citations=odd))
