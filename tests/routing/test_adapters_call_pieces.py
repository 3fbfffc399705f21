"""Streamed calls of tools that are hard to tell apart, to put in order or to read."""

import json
import time
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.answers.call_pieces import CallPieces
from routing.adapters.base import WireRequest, WireResponse
from routing.types import Delta, ProviderError, Tool, ToolCall
from tests.routing.adapters_support import ask, model, run_decoder
from tests.routing.test_adapters_dialects import chunk, gemini, sse

CITY = '{"city":"Oslo"}'


def sent_with(*names: str, kind: str = "openai") -> WireRequest:
    tools = tuple(Tool(name, "", {}) for name in names)
    return CODECS[kind]().encode_chat(ask(tools=tools), model(kind), max_output_tokens=9, stream=True)


def piece(name: str | None, arguments: Any = "", *, index: int | None = None, call_id: str = "") -> dict[str, Any]:
    said: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return said | ({} if index is None else {"index": index}) | ({"id": call_id} if call_id else {})


def told(sent: WireRequest, *pieces: dict[str, Any]) -> tuple[list[Delta], tuple[ToolCall, ...]]:
    body = sse(*(chunk(tool_calls=[each]) for each in pieces), chunk("tool_calls"))
    deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(sent), [body])
    assert error is None
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    return [delta for delta in deltas if delta.tool_index is not None], assembler.result().tool_calls


# --- order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), (piece("ls", "{}", call_id="z"),)])
def test_arguments_that_say_no_more_belong_to_the_calls_in_their_order(before: tuple[dict[str, Any], ...]) -> None:
    begun = [piece("weather", call_id="a"), piece("time", call_id="b")]
    deltas = [list(before)] if before else []
    halves = ('{"city":', '{"zone":'), ('"Oslo"}', '"CET"}')
    deltas += [begun, *([piece(None, arguments) for arguments in half] for half in halves)]
    body = sse(*(chunk(tool_calls=each) for each in deltas), chunk("tool_calls"))
    sent = sent_with("weather", "time", "ls")
    found, error = run_decoder(lambda: CODECS["openai"]().chat_stream(sent), [body])
    assembler = Assembler()
    for delta in found:
        assembler.add(delta)
    assert error is None
    calls = assembler.result().tool_calls[len(before) :]
    assert calls == (ToolCall("a", "weather", CITY), ToolCall("b", "time", '{"zone":"CET"}'))


def test_pieces_of_the_latest_call_that_came_together_are_none_of_the_call_before_it() -> None:
    deltas = [
        [piece("ls", '{"a":1}', call_id="z")],
        [piece("weather", call_id="a")],
        [piece(None, '{"city":'), piece(None, '"Oslo"}')],
    ]
    body = sse(*(chunk(tool_calls=each) for each in deltas), chunk("tool_calls"))
    sent = sent_with("weather", "time", "ls")
    found, error = run_decoder(lambda: CODECS["openai"]().chat_stream(sent), [body])
    assembler = Assembler()
    for delta in found:
        assembler.add(delta)
    assert error is None
    assert assembler.result().tool_calls == (ToolCall("z", "ls", '{"a":1}'), ToolCall("a", "weather", CITY))


# --- names --------------------------------------------------------------------------------------------


def test_a_thousand_calls_of_half_a_name_beside_many_tools_take_no_time_to_speak_of() -> None:
    pieces, out = CallPieces(sent_with(*(f"get_weather_{number}" for number in range(512)))), list[Delta]()
    begun = time.process_time()
    for number in range(1000):
        pieces.add(piece("get", "{}", index=number, call_id=str(number)), out)
    pieces.end(out)
    assert time.process_time() - begun < 10  # seconds; looking through all tools for each call takes half a minute
    assert [delta.tool_index for delta in out if delta.tool_name] == list(range(1000))


@pytest.mark.parametrize("rest", [("weather",), ("get_weather",), ("wea", "ther")])
def test_a_name_goes_on_behind_whole_arguments(rest: tuple[str, ...]) -> None:
    pieces = [piece("get_", CITY, index=0, call_id="a"), *(piece(part, index=0) for part in rest)]
    assert told(sent_with("get_weather", "ls"), *pieces)[1] == (ToolCall("a", "get_weather", CITY),)


def test_another_call_in_the_same_place_is_not_the_rest_of_a_name() -> None:
    first = piece("get_", CITY, index=0, call_id="a")
    _, calls = told(sent_with("get_weather"), first, piece("get_weather", "{}", index=0))
    assert [(call.name, call.arguments) for call in calls] == [("get_", CITY), ("get_weather", "{}")]
    _, calls = told(sent_with("get_weather"), first, piece("get_weather", index=0), piece(None, "{}", index=0))
    assert [call.arguments for call in calls] == [CITY, "{}"]
    assert calls[1].name == "get_weather"


@pytest.mark.parametrize("index", [None, 0])
def test_a_name_told_with_every_piece_is_one_call(index: int | None) -> None:
    for parts in (('{"city"', ':"Oslo"}'), ("", CITY), ("", '{"city":', '"Oslo"}', "")):
        _, calls = told(sent_with("weather"), *(piece("weather", part, index=index) for part in parts))
        assert [(call.name, call.arguments) for call in calls] == [("weather", CITY)]
    for parts in ((CITY, "{}"), ('{"city":', '"Oslo"}', "{}")):
        _, calls = told(sent_with("weather"), *(piece("weather", part, index=index) for part in parts))
        assert [(call.name, call.arguments) for call in calls] == [("weather", CITY), ("weather", "{}")]


# --- order and ids -------------------------------------------------------------------------------------


def test_calls_are_told_in_the_order_in_which_they_begin() -> None:
    """Also where the first one's name might still go on."""
    deltas, calls = told(
        sent_with("get_weather", "ls"),
        piece("get", CITY, index=0, call_id="a"),
        piece("ls", '{"n"', index=1, call_id="b"),
        piece(None, ":1}", index=1),
    )
    assert [delta.tool_index for delta in deltas] == [0, 1, 1]
    assert calls == (ToolCall("a", "get", CITY), ToolCall("b", "ls", '{"n":1}'))


def test_a_call_waits_for_one_before_it_whose_name_is_not_known() -> None:
    deltas, calls = told(
        sent_with("get_weather", "ls"),
        piece("get_", index=0, call_id="a"),
        piece("ls", "{}", index=1, call_id="b"),
        piece("weather", CITY, index=0),
    )
    assert [delta.tool_index for delta in deltas] == [0, 1]
    assert calls == (ToolCall("a", "get_weather", CITY), ToolCall("b", "ls", "{}"))


def test_the_pieces_of_one_call_come_as_they_are_made() -> None:
    pieces = [piece("ls", index=0, call_id="a"), *(piece(None, part, index=0) for part in ('{"n"', ":1", "}"))]
    deltas, _ = told(sent_with("ls"), *pieces)
    assert [(delta.tool_id, delta.tool_arguments) for delta in deltas] == [("a", '{"n"'), ("", ":1"), ("", "}")]


@pytest.mark.parametrize("second", ["ls", "weather"])
def test_two_calls_of_one_id_are_told_apart_by_their_indexes_and_get_two_ids(second: str) -> None:
    deltas, calls = told(
        sent_with("ls", "weather"),
        piece("weather", CITY, index=0, call_id="call_0"),
        piece(second, '{"n"', index=1, call_id="call_0"),
        piece(None, ":1}", index=1, call_id="call_0"),
    )
    assert [(call.name, call.arguments) for call in calls] == [("weather", CITY), (second, '{"n":1}')]
    assert calls[0].id == "call_0"
    assert calls[1].id not in ("", "call_0")
    assert [delta.tool_index for delta in deltas] == [0, 1, 1]


class Prompt(dict[str, Any]):
    """A body that knows how often its turns were looked at."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += key in ("messages", "contents")
        return super().get(key, default)


ONE_CALL: dict[str, dict[str, Any]] = {
    "gemini": {"functionCall": {"name": "look", "args": {}}},
    "ollama": {"function": {"name": "look", "arguments": {}}},
    "openai": {"function": {"name": "look", "arguments": "{}"}},
}


def answer_of(kind: str, calls: int) -> bytes:
    parts = [ONE_CALL[kind]] * calls
    answers: dict[str, Any] = {
        "gemini": gemini(*parts),
        "ollama": {"done": True, "message": {"tool_calls": parts}},
        "openai": {"choices": [{"message": {"tool_calls": parts}, "finish_reason": "tool_calls"}]},
    }
    return json.dumps(answers[kind]).encode()


@pytest.mark.parametrize("kind", ONE_CALL)
def test_the_turns_are_read_once_for_the_ids_of_all_calls(kind: str) -> None:
    sent = sent_with("look", kind=kind)
    body = Prompt(sent.body or {})
    sent = WireRequest(sent.method, sent.url, body=body)
    result = CODECS[kind]().decode_chat(WireResponse(200, {}, answer_of(kind, 300)), sent)
    assert len({call.id for call in result.tool_calls}) == 300
    assert body.looks <= 2  # under each of the names that turns go by


@pytest.mark.parametrize("kind", ONE_CALL)
def test_an_answer_that_calls_without_end_is_refused(kind: str) -> None:
    sent, codec = sent_with("look", kind=kind), CODECS[kind]()
    assert len(codec.decode_chat(WireResponse(200, {}, answer_of(kind, 1000)), sent).tool_calls) == 1000
    with pytest.raises(ProviderError, match="more than 1000 tools") as refused:
        codec.decode_chat(WireResponse(200, {}, answer_of(kind, 1001)), sent)
    assert refused.value.kind == "protocol"


# --- arguments -----------------------------------------------------------------------------------------

DEEP = '{"a":' * 300 + "1" + "}" * 300
ODD = '{"a":123456789012345678901234567890,"b":NaN}'


@pytest.mark.parametrize("arguments", [DEEP, ODD], ids=["deep", "odd"])
@pytest.mark.parametrize("kind", ["gemini", "ollama", "openai", "anthropic"])
def test_arguments_that_cannot_be_told_are_a_breach_of_the_protocol(kind: str, arguments: str) -> None:
    bodies = {
        "gemini": '{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":%s}}]}}]}',
        "ollama": '{"done":true,"message":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}',
        "openai": '{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":%s}}]}}]}',
        "anthropic": '{"type":"message","content":[{"type":"tool_use","id":"a","name":"f","input":%s}]}',
    }
    body = (bodies[kind] % arguments).encode()
    with pytest.raises(ProviderError) as refused:
        CODECS[kind]().decode_chat(WireResponse(200, {}, body), sent_with("f", kind=kind))
    assert refused.value.kind == "protocol"


def test_a_call_that_a_model_is_held_to_may_not_be_nested_without_end() -> None:
    tools = (Tool("f", "", {}), Tool("g", "", {}))
    sent = CODECS["ollama"]().encode_chat(
        ask(tools=tools, tool_choice="required"), model("ollama"), max_output_tokens=9, stream=False
    )
    text = '{"name":"f","arguments":' + DEEP + "}"
    body = json.dumps({"done": True, "done_reason": "stop", "message": {"content": text}}).encode()
    with pytest.raises(ProviderError) as refused:
        CODECS["ollama"]().decode_chat(WireResponse(200, {}, body), sent)
    assert refused.value.kind == "protocol"


def gemini_calls(*pieces: dict[str, Any]) -> list[tuple[str, Any]]:
    body = sse(*(gemini({"functionCall": each}, finish=None) for each in pieces), gemini(), done=False)
    deltas, error = run_decoder(lambda: CODECS["gemini"]().chat_stream(sent_with("f", kind="gemini")), [body])
    assert error is None
    return [(delta.tool_name, json.loads(delta.tool_arguments)) for delta in deltas if delta.tool_index is not None]


def test_geminis_pieces_may_tell_the_name_again() -> None:
    more = {"partialArgs": [{"jsonPath": "$.a", "stringValue": "x"}]}
    begun, another = {"name": "f", "willContinue": True}, {"name": "f", "args": {"b": 1}}
    assert gemini_calls(begun, {"name": "f", **more}, another) == [("f", {"a": "x"}), ("f", {"b": 1})]
    assert gemini_calls({**begun, "id": "1"}, {**more, "name": "f", "id": "1"}, {**another, "id": "2"}) == [
        ("f", {"a": "x"}),
        ("f", {"b": 1}),
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (r"$['it\'s']", "it's"),
        (r'$["say \"hi\""]', 'say "hi"'),
        (r"""$['say "hi" \\ \u00e9']""", 'say "hi" \\ é'),
        (r"""$["it's"]""", "it's"),
    ],
)
def test_a_path_may_name_what_has_quotes_in_it(path: str, name: str) -> None:
    piece = {"name": "f", "partialArgs": [{"jsonPath": path, "stringValue": "x"}]}
    assert gemini_calls(piece) == [("f", {name: "x"})]
