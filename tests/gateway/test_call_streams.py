"""Calls of tools, signed or odd, as clients are told of them."""

import json
from typing import Any

import pytest

from routing.adapters.answers.assembly import deltas_of
from routing.gateway.wire import anthropic_answers, openai_answers
from routing.types import ChatResult, Delta, Reasoning, Text, ToolCall, Usage

SIGNED = Delta(reasoning_signature="gemini:one")
SIGNED_TOO = Delta(reasoning_signature="gemini:two")
BEGUN = Delta(tool_index=0, tool_id="a", tool_name="ls", tool_arguments='{"n"')
GOES_ON = Delta(tool_index=0, tool_arguments=":1}")
OTHER = Delta(tool_index=1, tool_id="b", tool_name="ls", tool_arguments="{}")
THIRD = Delta(tool_index=2, tool_id="c", tool_name="ls", tool_arguments="{}")


def blocks(*deltas: Delta) -> list[dict[str, Any]]:
    """The content that Anthropic's clients put together, one delta coming after another."""
    encoder = anthropic_answers.StreamEncoder(call_id="1", model="m")
    body = b"".join(encoder.deltas([delta]) for delta in deltas) + encoder.end("tool_calls", Usage())
    found: list[dict[str, Any]] = []
    open_block: int | None = None
    for line in body.splitlines():
        event = json.loads(line[6:]) if line.startswith(b"data: ") else {}
        if event.get("type") == "content_block_start":
            assert (open_block, event["index"]) == (None, len(found))
            open_block = event["index"]
            found.append(event["content_block"] | {"json": ""})
        elif event.get("type") == "content_block_delta":
            assert event["index"] == open_block
            delta = event["delta"]
            found[-1]["json"] += delta.get("partial_json", "")
            found[-1] |= {key: delta[key] for key in ("signature", "text") if key in delta}
        elif event.get("type") == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    assert open_block is None
    return found


def said(*deltas: Delta) -> list[tuple[str, str]]:
    """(what a block is known by, its arguments) of each block."""
    return [
        (block.get("id") or block.get("signature") or block.get("text") or "", block["json"])
        for block in blocks(*deltas)
    ]


CALL, SECOND = ("a", '{"n":1}'), ("b", "{}")
STREAMS: dict[str, tuple[list[Delta], list[tuple[str, str]]]] = {
    "both signed, one within the other": (
        [SIGNED, BEGUN, SIGNED_TOO, OTHER, GOES_ON], [("gemini:one", ""), CALL, ("gemini:two", ""), SECOND]),
    "the first unsigned": ([BEGUN, SIGNED_TOO, OTHER, GOES_ON], [CALL, ("gemini:two", ""), SECOND]),
    "one after the other": (
        [SIGNED, BEGUN, GOES_ON, SIGNED_TOO, OTHER], [("gemini:one", ""), CALL, ("gemini:two", ""), SECOND]),
    "three": ([BEGUN, OTHER, THIRD, GOES_ON], [CALL, SECOND, ("c", "{}")]),
    "the third alone is signed": (
        [BEGUN, OTHER, SIGNED, THIRD, GOES_ON], [CALL, SECOND, ("gemini:one", ""), ("c", "{}")]),
    "a signature of nothing at the end": ([BEGUN, GOES_ON, SIGNED], [CALL, ("gemini:one", "")]),
    "a signed text behind a call": ([BEGUN, GOES_ON, SIGNED, Delta("Hi")], [CALL, ("gemini:one", ""), ("Hi", "")]),
}  # fmt: skip


@pytest.mark.parametrize(("deltas", "expected"), STREAMS.values(), ids=STREAMS)
def test_anthropics_clients_get_each_call_once_behind_what_signs_it(
    deltas: list[Delta], expected: list[tuple[str, str]]
) -> None:
    assert said(*deltas) == expected


def test_many_calls_that_overlap_come_in_their_order() -> None:
    calls = [Delta(tool_index=n, tool_id=str(n), tool_name="ls", tool_arguments="{}") for n in range(1000)]
    assert [name for name, _ in said(*calls)] == [str(n) for n in range(1000)]


def test_a_call_comes_to_anthropics_clients_as_it_is_made() -> None:
    encoder = anthropic_answers.StreamEncoder(call_id="1", model="m")
    assert b"content_block_start" in encoder.deltas([SIGNED, BEGUN])
    assert b"input_json_delta" in encoder.deltas([GOES_ON])


def test_arguments_nested_without_end_are_told_as_the_text_they_are() -> None:
    deep = '{"a":' * 300 + "1" + "}" * 300
    result = ChatResult((ToolCall("a", "f", deep), ToolCall("b", "f", '{"n": 1}')), "tool_calls")
    content = json.loads(anthropic_answers.encode_result(result, call_id="1", model="m"))["content"]
    assert [block["input"] for block in content] == [{"INVALID_JSON": deep}, {"n": 1}]


def test_the_signature_of_a_text_does_not_move_onto_a_call() -> None:
    parts = (Reasoning("", "gemini:text"), Text("Let me look."), ToolCall("a", "ls", "{}"))
    result = ChatResult(parts, "tool_calls")
    assert b"extra_content" not in openai_answers.encode_result(result, call_id="1", model="m")
    encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=False)
    assert b"extra_content" not in encoder.deltas(deltas_of(result))
    signed = ChatResult((Text("Let me look."), Reasoning("", "gemini:call"), ToolCall("a", "ls", "{}")), "tool_calls")
    encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=False)
    for body in (openai_answers.encode_result(signed, call_id="1", model="m"), encoder.deltas(deltas_of(signed))):
        assert b'"thought_signature":"call"' in body


def test_the_log_probabilities_of_a_refusal_told_at_once_stand_with_the_refusal() -> None:
    told = {"token": "No", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    for refuses, place in ((True, "refusal"), (False, "content")):
        reason = "content_filter" if refuses else "stop"
        result = ChatResult((Text("No", refuses=refuses),), reason, logprobs=(told,))  # type: ignore[arg-type]
        encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=False)
        rows = [json.loads(row[6:]) for row in encoder.deltas(deltas_of(result)).split(b"\n\n") if row]
        found = [row["choices"][0]["logprobs"] for row in rows if row["choices"][0]["logprobs"]]
        assert found == [{"content": None, "refusal": None, place: [told]}]


PART, REST = (
    Delta(tool_index=0, tool_id="a", tool_name="ls", tool_arguments='{"n":'),
    Delta(tool_index=0, tool_arguments="1}"),
)
LATER_PART = Delta(tool_index=1, tool_id="b", tool_name="ls", tool_arguments="{")


@pytest.mark.parametrize("amid", [Delta("Hi"), Delta(reasoning="Hi")], ids=["text", "thinking"])
def test_what_is_said_amid_a_call_stands_behind_it_for_anthropics_clients(amid: Delta) -> None:
    whole = [block for block in blocks(PART, amid, REST) if block["type"] == "tool_use"]
    assert [(block["id"], block["name"], block["json"]) for block in whole] == [("a", "ls", '{"n":1}')]
    assert blocks(PART, amid, REST)[0]["type"] == "tool_use"
    assert len(blocks(PART, amid, REST)) == 2


def test_calls_that_overlap_go_on_behind_a_text_for_anthropics_clients() -> None:
    rest = Delta(tool_index=1, tool_arguments="}")
    assert said(PART, LATER_PART, Delta("Hi"), rest, REST) == [CALL, SECOND, ("Hi", "")]
    assert said(PART, REST, Delta("Hi"), OTHER) == [CALL, ("Hi", ""), SECOND]


def test_arguments_that_begin_with_a_blank_are_not_whole_yet() -> None:
    blank = Delta(tool_index=0, tool_id="a", tool_name="ls", tool_arguments=" ")
    rest = Delta(tool_index=0, tool_arguments='{"n":1}')
    assert said(blank, Delta("Hi"), rest) == [("a", ' {"n":1}'), ("Hi", "")]


def test_signatures_stay_with_what_they_sign_where_something_waits_for_a_calls_end() -> None:
    thought, signed = Delta(reasoning="Hm"), Delta(reasoning_signature="s")
    assert said(PART, thought, signed, Delta("Hi"), REST) == [CALL, ("s", ""), ("Hi", "")]
    assert said(PART, Delta("Hi"), signed, OTHER, REST) == [CALL, ("s", ""), SECOND, ("Hi", "")]
