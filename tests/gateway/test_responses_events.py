"""Streams of OpenAI's responses API: whatever order an answer comes in, its clients put together what was said."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState

from routing.adapters.answers.assembly import Assembler, deltas_of
from routing.gateway.wire.reading import Incoming
from routing.gateway.wire.responses_answers import encode_result
from routing.gateway.wire.responses_events import StreamEncoder
from routing.types import ChatRequest, ChatResult, Delta, Reasoning, StopReason, Text, ToolCall, Usage, message
from tests.bounded import BOUNDED
from tests.gateway.responses_support import EVENT, are_described, is_described
from ziggie.errors import RateLimited, RoutingError, ZiggieError
from ziggie.values import replace

INCOMING = Incoming(ChatRequest((message("user", "Hi."),)), echo={"parallel_tool_calls": True, "tool_choice": "auto",
                                                                  "tools": [], "store": False})  # fmt: skip
USED = Usage(5, 7)
BEGUN = Delta(tool_index=0, tool_id="a", tool_name="ls", tool_arguments='{"n"')
GOES_ON = Delta(tool_index=0, tool_arguments=":1}")
OTHER = Delta(tool_index=1, tool_id="b", tool_name="ls", tool_arguments="{}")
HELLO = Delta("Hello.")
SIGNED = Delta(reasoning_signature="gemini:one")


def encoder() -> StreamEncoder:
    return StreamEncoder(call_id="1", model="m", incoming=INCOMING)


def read(body: bytes) -> list[dict[str, Any]]:
    """The events, each of which names itself twice."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def events_of(deltas: list[Delta], stop: StopReason = "stop") -> list[dict[str, Any]]:
    one = encoder()
    events = read(b"".join(one.deltas([delta]) for delta in deltas) + one.end(stop, USED))
    are_described(events)
    return events


def put_together(events: list[dict[str, Any]]) -> list[Any]:
    """The output as the official client makes it of what is added and grows; what each item ended as is the same."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    ended: dict[int, Any] = {event["output_index"]: event["item"] for event in events if "item" in event}
    assert [ended[place] for place in sorted(ended)] == events[-1]["response"]["output"]
    grown = [item.to_dict() for item in state._output_items.values()]
    for item, done in zip(grown, events[-1]["response"]["output"], strict=True):
        assert item.get("arguments", "") == done.get("arguments", "")
        if item["type"] == "message":
            assert [part.get("text") for part in item["content"]] == [part.get("text") for part in done["content"]]
    return events[-1]["response"]["output"]  # type: ignore[no-any-return]


def said(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message":
            return "+".join(part.get("text", part.get("refusal")) for part in item["content"])
        case "function_call":
            return f"{item['name']}{item['arguments']}"
    return "thought:" + "".join(part["text"] for part in item["summary"])


STREAMS: dict[str, tuple[list[Delta], list[str]]] = {
    "nothing": ([], [""]),
    "text": ([HELLO, HELLO], ["Hello.Hello."]),
    "thinking, then text": ([Delta(reasoning="Hm"), Delta(reasoning="."), HELLO], ["thought:Hm.", "Hello."]),
    "signed thinking, twice": (
        [Delta(reasoning="Hm.", reasoning_signature="s"), Delta(reasoning="So."), SIGNED, HELLO],
        ["thought:Hm.", "thought:So.", "Hello."]),
    "redacted thinking": (
        [Delta(reasoning="xyz", reasoning_redacted=True), Delta(reasoning="Hm."), HELLO],
        ["thought:", "thought:Hm.", "Hello."]),
    "text, then a call": ([HELLO, BEGUN, GOES_ON], ["Hello.", 'ls{"n":1}']),
    "calls one after the other": ([BEGUN, GOES_ON, OTHER], ['ls{"n":1}', "ls{}"]),
    "calls within each other": ([BEGUN, OTHER, GOES_ON], ['ls{"n":1}', "ls{}"]),
    "a call, then text": ([BEGUN, GOES_ON, HELLO], ['ls{"n":1}', "Hello."]),
    "text within a call": ([BEGUN, HELLO, GOES_ON], ['ls{"n":1}', "Hello."]),
    "a call without arguments": ([Delta(tool_index=0, tool_id="a", tool_name="ls")], ["ls{}"]),
    "signed calls": ([SIGNED, BEGUN, GOES_ON, SIGNED, OTHER], ["thought:", 'ls{"n":1}', "thought:", "ls{}"]),
    "a refusal": ([Delta("I "), Delta("can't.", refuses=True)], ["I +can't."]),
}  # fmt: skip


@pytest.mark.parametrize(("deltas", "expected"), STREAMS.values(), ids=STREAMS)
def test_clients_put_together_what_was_said(deltas: list[Delta], expected: list[str]) -> None:
    assert [said(item) for item in put_together(events_of(deltas))] == expected


def test_items_end_before_the_next_one_begins() -> None:
    names = [event["type"].removeprefix("response.") for event in events_of([HELLO, BEGUN, GOES_ON, OTHER])]
    ends = [name for name in names if name.startswith("output_item")]
    assert ends == ["output_item.added", "output_item.done"] * 3


def test_a_call_that_ends_in_spaces_ends_before_the_next_item_begins() -> None:
    spaces = Delta(tool_index=0, tool_arguments="\n ")
    names = [event["type"] for event in events_of([BEGUN, GOES_ON, spaces, spaces, HELLO])]
    assert names.index("response.output_item.done") < names.index("response.output_text.delta")


@pytest.mark.parametrize("piece", ["", "}"])
def test_a_long_call_is_not_read_anew_for_each_item_beside_it(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", lambda text: (read.append(len(text)), loads(text))[1])
    grows = Delta(tool_index=0, tool_arguments=piece)
    beside = [HELLO, grows, Delta(reasoning="Hm."), grows] * 50
    events = events_of([replace(BEGUN, tool_arguments='{"n":"' + "x" * 1000), *beside])
    assert len(events[-1]["response"]["output"]) == 101
    assert len(read) <= 8


def test_an_answer_cut_at_its_length_ends_with_an_item_that_is_not_whole() -> None:
    events = events_of([HELLO, BEGUN], "length")
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in put_together(events)] == ["completed", "incomplete"]


def test_a_filtered_answer_is_incomplete_and_a_refusal_is_not() -> None:
    assert events_of([HELLO], "content_filter")[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert events_of([Delta("No.", refuses=True)], "content_filter")[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("error", "code"), [(RateLimited("slow down"), "rate_limit_exceeded"), (RoutingError("broken"), "server_error")]
)
def test_a_failure_is_the_end_and_no_open_call_looks_done(error: ZiggieError, code: str) -> None:
    one = encoder()
    events = read(one.deltas([HELLO, BEGUN]) + one.failure(error))
    are_described(events)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    response = events[-1]["response"]
    assert (response["status"], response["error"]) == ("failed", {"code": code, "message": error.message})
    assert [item["status"] for item in response["output"]] == ["completed", "in_progress"]
    assert sum(event["type"] == "response.output_item.done" for event in events) == 1


def test_parts_that_say_nothing_are_no_items() -> None:
    parts = (Text(""), Reasoning(""), ToolCall("a", "ls", "{}"), Text(""))
    whole = json.loads(encode_result(ChatResult(parts), call_id="1", model="m", incoming=INCOMING))
    assert [item["type"] for item in whole["output"]] == ["function_call"]
    empty = json.loads(encode_result(ChatResult(()), call_id="1", model="m", incoming=INCOMING))
    assert [said(item) for item in empty["output"]] == [""]


TEXTS = st.text(min_size=1, max_size=5)
DELTAS = st.one_of(
    st.builds(Delta, text=TEXTS, refuses=st.booleans()),
    st.builds(Delta, reasoning=TEXTS, reasoning_signature=st.sampled_from(["", "s", "gemini:t"])),
    st.builds(Delta, reasoning=TEXTS, reasoning_redacted=st.just(True)),
    st.builds(Delta, reasoning_signature=TEXTS),
    st.builds(
        Delta,
        tool_index=st.integers(0, 3),
        tool_id=st.just("id"),
        tool_name=st.just("f"),
        tool_arguments=st.sampled_from(["", "{", "}", '"a"', ":", "1"]),
    ),
)


@given(st.lists(DELTAS, max_size=12), st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
@settings(BOUNDED, max_examples=200)
def test_a_stream_ends_as_the_whole_answer_is_told(deltas: list[Delta], stop: StopReason) -> None:
    deltas = _numbered(deltas)
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    assembler.stop_reason = stop
    result = assembler.result()
    whole = json.loads(encode_result(result, call_id="1", model="m", incoming=INCOMING))
    is_described(whole)
    put_together(at_once := events_of(deltas_of(result), stop))
    assert at_once[-1]["response"]["output"] == whole["output"]
    put_together(events_of(deltas, stop))


def _numbered(deltas: list[Delta]) -> list[Delta]:
    """Each call with an id of its own, and without what its arguments cannot hold any more."""
    arguments: dict[int, str] = {}
    kept = []
    for delta in deltas:
        number = delta.tool_index
        if number is None:
            kept.append(delta)
        elif not _is_whole(arguments.get(number, "")):
            arguments[number] = arguments.get(number, "") + delta.tool_arguments
            kept.append(replace(delta, tool_id=f"id{number}"))
    return kept


def _is_whole(arguments: str) -> bool:
    return "{" in arguments and arguments.count("{") == arguments.count("}")
