"""Arguments of tools' calls arrive as they were written, whoever wrote them and whoever reads them."""

import json
from typing import Any

import pytest

from routing.adapters.reading import exact
from routing.adapters.reading.wire import arguments_object, read_arguments
from routing.adapters.transport import codec_for
from routing.gateway.wire import anthropic_wire
from routing.gateway.wire.reading import parse
from routing.types import ChatRequest, Message, Source, ToolCall, message
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import ANTHROPIC_TOOL, MODELS, OPENAI_TOOL, set_reply
from tests.gateway.test_matrix import QUESTION, ask, heard, in_every_way
from tests.routing.adapters_support import ask as adapter_ask
from tests.routing.adapters_support import model, provider, run_decoder
from tests.servers.script import Call, Reply

LONG = {"id": 12345678901234567890123, "less": -(2**63) - 1, "most": 2**64 - 1, "near": 1.5}
BROKEN = '{"city": "Os'


def earlier_call(api: str, arguments: str) -> list[Any]:
    """A conversation in which a tool was called with these arguments, and failed."""
    if api == "anthropic":
        use = {"type": "tool_use", "id": "c", "name": "weather", "input": json.loads(arguments)}
        told = {"type": "tool_result", "tool_use_id": "c", "content": "Error: which city?", "is_error": True}
        return [*QUESTION, {"role": "assistant", "content": [use]}, {"role": "user", "content": [told]}]
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    told = {"role": "tool", "tool_call_id": "c", "content": "Error: which city?"}
    return [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, told]


def arguments_heard(gateway: Gateway, model: str) -> Any:
    body = heard(gateway, model)
    match model:
        case "claude":
            return body["messages"][1]["content"][0]["input"]
        case "flash":
            return body["contents"][1]["parts"][0]["functionCall"]["args"]
    arguments = body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    return arguments if model == "llama" else json.loads(arguments)


# --- whole numbers of any length -----------------------------------------------------------------------


@in_every_way
def test_long_numbers_arrive_digit_for_digit(gateway: Gateway, api: str, model: str, stream: bool) -> None:
    tools = [OPENAI_TOOL if api == "openai" else ANTHROPIC_TOOL]
    set_reply(gateway, Reply("", calls=(Call("weather", LONG),)))
    said = ask(gateway, api, model, stream=stream, tools=tools, messages=earlier_call(api, json.dumps(LONG)))
    assert arguments_heard(gateway, model) == LONG
    assert said.calls == [("weather", LONG)]


def test_elsewhere_in_a_body_numbers_are_those_of_the_wire() -> None:
    turns = earlier_call("anthropic", json.dumps(LONG))
    body = parse(json.dumps({"model": "m", "max_tokens": 9, "messages": turns, "metadata": {"n": 2**70}}).encode())
    assert body["metadata"] == {"n": float(2**70)}
    (call,) = anthropic_wire.decode_messages(body, {}).request.messages[1].parts
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments) == LONG


def test_a_stream_that_has_the_arguments_in_one_piece_keeps_their_digits() -> None:
    block = {"type": "tool_use", "id": "c", "name": "weather", "input": LONG}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "x", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    row = model("anthropic")
    sent = codec_for(row.provider).encode_chat(adapter_ask(), row, max_output_tokens=9, stream=True)
    stream = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    deltas, _ = run_decoder(lambda: codec_for(row.provider).chat_stream(sent), stream)
    assert json.loads("".join(delta.tool_arguments for delta in deltas)) == LONG


@pytest.mark.parametrize("digits", [19, 20, 300])
def test_all_digits_are_kept(digits: int) -> None:
    written = '{"n":' + "9" * digits + "}"
    assert read_arguments(written) == {"n": 10**digits - 1}
    assert exact.dumps(read_arguments(written)) == written


def test_a_number_that_nobody_can_read_is_shown_as_it_was_written() -> None:
    written = '{"n":' + "9" * 5_000 + "}"
    assert arguments_object(written) == {"INVALID_JSON": written}


# --- what is no JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["claude", "llama", "flash"])
@pytest.mark.parametrize("written", [BROKEN, "Oslo, please", "[1, 2]", '{"a": 1} {"b": 2}'])
def test_broken_arguments_of_an_earlier_call_are_shown_with_the_error_that_they_led_to(
    gateway: Gateway, model: str, written: str
) -> None:
    assert ask(gateway, "openai", model, tools=[OPENAI_TOOL], messages=earlier_call("openai", written)).text
    assert arguments_heard(gateway, model) == {"INVALID_JSON": written}
    assert "which city?" in json.dumps(heard(gateway, model))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("written", ["", "  ", "null", "{}"])
def test_no_arguments_are_an_empty_object(gateway: Gateway, model: str, written: str) -> None:
    ask(gateway, "openai", model, tools=[OPENAI_TOOL], messages=earlier_call("openai", written))
    assert (arguments_heard(gateway, model) or {}) == {}


@pytest.mark.parametrize(
    ("place", "shown"),
    [(Source.LOCAL, json.dumps({"INVALID_JSON": BROKEN}, separators=(",", ":"))), (Source.CLOUD, BROKEN)],
)
def test_a_server_of_ones_own_is_shown_json_whatever_was_written(place: Source, shown: str) -> None:
    turns = (message("user", "?"), Message("assistant", (ToolCall("c", "weather", BROKEN),)))
    row = model(provider("openai", location=place))
    sent = codec_for(row.provider).encode_chat(ChatRequest(turns), row, max_output_tokens=9, stream=False)
    assert sent.body is not None
    assert sent.body["messages"][1]["tool_calls"][0]["function"]["arguments"] == shown
