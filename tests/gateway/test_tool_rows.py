"""A tool's result of several rows keeps their order and their borders, from every API to every model."""

import time
from typing import Any

import pytest

from routing.adapters.transport import codec_for
from routing.gateway.wire import anthropic_wire, openai_wire, responses_wire
from routing.types import ChatRequest, Image, Pdf, ToolResult
from tests.routing.adapters_support import model
from ziggie.errors import TooLarge

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SOURCE = {"type": "base64", "media_type": "image/png", "data": PIXEL}
IMAGE = {"type": "image", "source": SOURCE}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="}}
SHOWN = Image("image/png", PIXEL, tool_call_id="t")


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def from_anthropic(*results: Any) -> ChatRequest:
    calls = [{"type": "tool_use", "id": result["tool_use_id"], "name": "ls", "input": {}} for result in results]
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": list(results)},
    ]
    return anthropic_wire.decode_messages({"model": "m", "max_tokens": 9, "messages": turns}, {}).request


def result(*rows: Any, call: str = "t") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": list(rows)}


def from_responses(*rows: Any) -> ChatRequest:
    called = {"type": "function_call", "call_id": "t", "name": "ls", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "t", "output": list(rows)}
    return responses_wire.decode_response({"model": "m", "input": [called, output]}, {}).request


def from_chat(*rows: Any) -> ChatRequest:
    call = {"id": "t", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": list(rows)},
    ]
    return openai_wire.decode_chat({"model": "m", "messages": turns}, {}).request


def sent(request: ChatRequest, kind: str, name: str = "some-model") -> Any:
    spec = model(kind, name)
    return codec_for(spec.provider).encode_chat(request, spec, max_output_tokens=9, stream=False).body


def to_claude(request: ChatRequest) -> Any:
    return sent(request, "anthropic", "claude-opus-5")["messages"][-1]["content"]


def test_claude_gets_the_rows_as_they_were() -> None:
    rows = [text("before.png:"), IMAGE, text("after.png:"), IMAGE, text("a.txt"), PDF, text("b.txt")]
    assert to_claude(from_anthropic(result(*rows))) == [result(*rows)]


def test_so_it_does_from_openais_clients() -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    request = from_responses({"type": "input_text", "text": "A"}, image, {"type": "input_text", "text": "B"})
    assert to_claude(request) == [result(text("A"), IMAGE, text("B"))]
    assert to_claude(from_chat(text("A"), text("B"))) == [result(text("A"), text("B"))]


def test_others_are_told_where_the_images_stood() -> None:
    rows = [text("before.png:"), IMAGE, text("after.png:"), IMAGE, text("a.txt"), PDF, text("b.txt"), IMAGE]
    (told, *shown) = from_anthropic(result(*rows)).messages[-1].parts
    assert isinstance(told, ToolResult)
    assert told.content.split("\n") == [
        *("before.png:", "[image 1]", "after.png:", "[image 2]", "a.txt", "[document 1]", "b.txt", "[image 3]")
    ]
    assert [type(part) for part in shown] == [Image, Image, Pdf, Image]


@pytest.mark.parametrize("kind", ["openai", "gemini", "ollama", "cohere"])
def test_every_api_of_single_texts_is_told_the_same(kind: str) -> None:
    request = from_anthropic(result(text("A"), IMAGE, text("B")))
    assert "A\\n[image 1]\\nB" in str(sent(request, kind))


def test_the_images_of_a_turn_are_counted_through_its_results() -> None:
    one, two = result(IMAGE, text("A"), call="t"), result(text("B"), IMAGE, text("C"), call="u")
    parts = from_anthropic(one, two).messages[-1].parts
    assert [part.content for part in parts if isinstance(part, ToolResult)] == ["[image 1]\nA", "B\n[image 2]\nC"]
    assert to_claude(from_anthropic(one, two)) == [one, two]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], (ToolResult("t", ""),)),
        ([text("")], (ToolResult("t", ""),)),
        ([text("A")], (ToolResult("t", "A"),)),
        ([IMAGE], (ToolResult("t", ""), SHOWN)),
        ([text("A"), IMAGE, IMAGE], (ToolResult("t", "A"), SHOWN, SHOWN)),
    ],
)
def test_what_stands_in_order_anyway_is_left_as_it_is(rows: list[Any], parts: tuple[Any, ...]) -> None:
    assert from_anthropic(result(*rows)).messages[-1].parts == parts


def test_texts_before_images_are_lines_and_need_no_marks() -> None:
    (told, shown) = from_anthropic(result(text("A"), text("B"), IMAGE)).messages[-1].parts
    assert told == ToolResult("t", "A\nB", rows=("A", "B", None))
    assert shown == SHOWN


def test_blank_rows_which_claude_refuses_are_left_out_there() -> None:
    assert to_claude(from_anthropic(result(text(" "), IMAGE, text("B")))) == [result(IMAGE, text("B"))]


def test_a_result_is_marked_as_a_whole_and_fails_as_a_whole() -> None:
    marked = {**result(text("A", cache_control={"type": "ephemeral"}), text("B")), "is_error": True}
    (told,) = from_anthropic(marked).messages[-1].parts
    assert told == ToolResult("t", "A\nB", is_error=True, cache_mark=True, rows=("A", "B"))
    assert to_claude(from_anthropic(marked)) == [{**result(text("A"), text("B")), "is_error": True}]


def test_thousands_of_results_with_pictures_are_counted_in_one_go() -> None:
    picture, said = {"type": "input_image", "image_url": "https://a.b/c"}, {"type": "input_text", "text": "t"}
    output = {"type": "function_call_output", "call_id": "t", "output": [picture, said]}
    begun = time.process_time()
    with pytest.raises(TooLarge, match="100 images"):
        responses_wire.decode_response({"model": "m", "input": [output] * 3_300}, {})
    assert time.process_time() - begun < 0.5  # it was more than a second, in which nobody else is served
