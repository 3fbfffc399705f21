"""Small things of a request that are easily lost on their way in."""

from typing import Any

import pytest

from routing.gateway.wire import anthropic_wire, openai_wire, responses_wire
from routing.types import Text, ToolResult
from ziggie.errors import InvalidInput

MARKED = {"cache_control": {"type": "ephemeral"}}
CALL = {"id": "c", "type": "function", "function": {"name": "ls", "arguments": "{}"}}


def test_a_tool_use_that_is_nested_too_deeply_is_refused_with_its_place() -> None:
    nested: Any = 1
    for _ in range(300):
        nested = {"a": nested}
    called = {"type": "tool_use", "id": "t", "name": "ls", "input": nested}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": [called]}]
    with pytest.raises(InvalidInput, match=r"messages\[1\]\.content\[0\]\.input"):
        anthropic_wire.decode_messages({"model": "m", "max_tokens": 9, "messages": turns}, {})


@pytest.mark.parametrize("content", ["", None, []])
def test_a_refusal_is_told_beside_empty_content(content: Any) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, "refusal": "No."}]
    request = openai_wire.decode_chat({"model": "m", "messages": turns}, {}).request
    assert [part.text for part in request.messages[1].parts if isinstance(part, Text) and part.text] == ["No."]


@pytest.mark.parametrize("mark", [{}, MARKED])
def test_the_mark_of_a_tools_text_is_kept(mark: dict[str, Any]) -> None:
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a", **mark}]},
    ]
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a", **mark}]}
    called = {"type": "function_call", "call_id": "c", "name": "ls", "arguments": "{}"}
    chat = openai_wire.decode_chat({"model": "m", "messages": turns}, {}).request
    responses = responses_wire.decode_response({"model": "m", "input": [called, output]}, {}).request
    for request in (chat, responses):
        (result,) = request.messages[-1].parts
        assert result == ToolResult("c", "a", cache_mark=bool(mark))
