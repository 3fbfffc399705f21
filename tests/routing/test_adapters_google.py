"""What Google alone says: calls whose arguments come value by value, signatures that it wants back, thinking in tags."""
# ruff: noqa: E501 - answers are written as they come

import json
from typing import Any

import orjson
import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler, deltas_of
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.reading.wire import UNSIGNED
from routing.gateway.wire import anthropic_answers, anthropic_wire, openai_answers, openai_wire
from routing.types import ChatResult, Delta, Message, ProviderError, Reasoning, Text, ToolCall, Usage, message
from tests.routing.adapters_support import ask, model, provider, run_decoder
from tests.routing.test_adapters_dialects import CALL, CITY, chunk, completion, gemini, sse

SENT = WireRequest("POST", "x", body={})
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
SIGNED = {**CALL, "extra_content": {"google": {"thought_signature": "sig=="}}}


def call(finish: str | None = None, /, **fields: Any) -> dict[str, Any]:
    return gemini({"functionCall": fields}, finish=finish)


def part(path: str, more: bool = False, /, **value: Any) -> dict[str, Any]:
    return {"jsonPath": path, **value, **({"willContinue": True} if more else {})}


def streamed(kind: str, body: bytes, *, by: int = 0) -> ChatResult:
    """The answer that a stream gives, in pieces of `by` bytes. The end is told once, and calls are told whole or not."""
    chunks = [body[place : place + by] for place in range(0, len(body), by)] if by else [body]
    deltas, error = run_decoder(lambda: CODECS[kind]().chat_stream(SENT), chunks)
    if error is not None:
        raise error
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    return assembler.result()


PARTIAL: dict[str, tuple[list[Any], list[tuple[str, Any]]]] = {
    "strings in pieces, a number, a list, an object": (
        [call(name="book", willContinue=True),
         call(partialArgs=[part("$.city", True, stringValue="Os")], willContinue=True),
         call(partialArgs=[part("$.city", True, stringValue="lo ")], willContinue=True),
         call(partialArgs=[part("$.city", stringValue="")], willContinue=True),
         call(partialArgs=[part("$.nights", numberValue=3.0), part("$.price", numberValue=1.5), part("$.quiet", boolValue=False)],
              willContinue=True),
         call(partialArgs=[part("$.guests[0].name", stringValue="Ada"), part("$.guests[1]['the age']", numberValue=7)], willContinue=True),
         call(partialArgs=[part("$.view", nullValue="NULL_VALUE"), part("$.note", stringValue="")], willContinue=True),
         call("STOP")],
        [("book", {"city": "Oslo ", "nights": 3, "price": 1.5, "quiet": False, "guests": [{"name": "Ada"}, {"the age": 7}],
                   "view": None, "note": ""})],
    ),
    "two calls, each with its end": (
        [call(name="weather", willContinue=True, id="a"), call(partialArgs=[part("$.city", stringValue="Oslo")], willContinue=True), call(),
         call(name="weather", willContinue=True, id="b"), call(partialArgs=[part("$.city", stringValue="Rome")], willContinue=True), call("STOP")],
        [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})],
    ),
    "two calls, the first without an end": (
        [call(name="weather", partialArgs=[part("$.city", stringValue="Oslo")], willContinue=True),
         call(name="now", willContinue=True), call("STOP", partialArgs=[part("$.zone", stringValue="UTC")])],
        [("weather", {"city": "Oslo"}), ("now", {"zone": "UTC"})],
    ),
    "pieces that say their id and name again": (
        [call(name="weather", id="a", willContinue=True),
         call(name="weather", id="a", partialArgs=[part("$.city", True, stringValue="Os")], willContinue=True),
         call("STOP", name="weather", id="a", partialArgs=[part("$.city", stringValue="lo")])],
        [("weather", {"city": "Oslo"})],
    ),
    "a call that began whole, and one in pieces": (
        [call(name="now", args={"zone": "UTC"}), call(name="weather", args={"unit": "C"}, willContinue=True),
         call("STOP", partialArgs=[part("$.city", stringValue="Oslo")])],
        [("now", {"zone": "UTC"}), ("weather", {"unit": "C", "city": "Oslo"})],
    ),
    "no arguments": ([call(name="now", willContinue=True), call("STOP")], [("now", {})]),
    "an end without a last piece": ([call(name="now", willContinue=True), gemini()], [("now", {})]),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "expected"), PARTIAL.values(), ids=PARTIAL.keys())
def test_a_call_that_google_streams_value_by_value_is_one_call(
    chunks: list[Any], expected: list[tuple[str, Any]]
) -> None:
    body = sse(*chunks, done=False)
    for by in (0, 1, 7):
        result = streamed("gemini", body, by=by)
        assert [(call.name, json.loads(call.arguments)) for call in result.tool_calls] == expected
        assert result.stop_reason == "tool_calls"
        assert len({call.id for call in result.tool_calls}) == len(expected)
    listed = WireResponse(200, {}, json.dumps(chunks).encode())
    assert CODECS["gemini"]().decode_chat(listed, SENT) == result


@pytest.mark.parametrize(
    "path", ["", "$", "city", "$.a[", "$[0]", "$.city.x", "$.list.x", "$.list[999]", "$" + ".a" * 99]
)
def test_a_path_that_leads_nowhere_is_no_piece_of_a_call(path: str) -> None:
    before = [part("$.city", stringValue="Oslo"), part("$.list[0]", numberValue=1)]
    with pytest.raises(ProviderError) as caught:
        streamed("gemini", sse(call("STOP", name="f", partialArgs=[*before, part(path, stringValue="x")]), done=False))
    assert caught.value.kind == "protocol"


def test_pieces_of_a_call_that_is_not_told_yet_are_signs_of_life() -> None:
    body = sse(
        call(name="f", willContinue=True),
        call(partialArgs=[part("$.a", True, stringValue="x")], willContinue=True),
        done=False,
    )
    deltas, error = run_decoder(lambda: CODECS["gemini"]().chat_stream(SENT), [body])
    assert [delta.held for delta in deltas if delta.is_written] == ["f", "x"]
    assert error is not None
    assert error.kind == "cut"


# --- signatures --------------------------------------------------------------------------------------

ANSWERS = {
    "gemini, whole": ("gemini", json.dumps(gemini({"thoughtSignature": "sig==", "functionCall": {
        "name": "weather", "args": {"city": "Oslo"}, "id": "c1"}})).encode()),
    "gemini, streamed": ("gemini", sse(gemini({"thoughtSignature": "sig==", "functionCall": {
        "name": "weather", "args": {"city": "Oslo"}, "id": "c1"}}), done=False)),
    "its imitation, whole": ("openai", completion({"content": None, "tool_calls": [SIGNED]}, "tool_calls")),
    "its imitation, streamed": ("openai", sse(chunk("tool_calls", role="assistant", tool_calls=[SIGNED]))),
    "its imitation, streamed in pieces": ("openai", sse(
        chunk(tool_calls=[{**SIGNED, "index": 0, "function": {"name": "weather", "arguments": ""}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": CITY}}]), chunk("tool_calls"))),
}  # fmt: skip


def told_again(result: ChatResult, client: str, *, stream: bool) -> tuple[Message, ...]:
    """The conversation that a client sends which keeps what it was told, and answers the call."""
    if client == "openai":
        turn = _read_by_openais_client(result, stream=stream)
        turns = [{"role": "user", "content": "Hello?"}, turn, {"role": "tool", "tool_call_id": "c1", "content": "Rain"}]
        return openai_wire.decode_chat({"model": "m", "messages": turns}, {}).request.messages
    answer = json.loads(anthropic_answers.encode_result(result, call_id="1", model="m"))
    given = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Rain"}]}
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": answer["content"]}, given]
    body = {"model": "m", "max_tokens": 9, "messages": turns}
    return anthropic_wire.decode_messages(body, {}).request.messages


def _read_by_openais_client(result: ChatResult, *, stream: bool) -> Any:
    if not stream:
        return json.loads(openai_answers.encode_result(result, call_id="1", model="m"))["choices"][0]["message"]
    encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=False)
    body = encoder.deltas(deltas_of(result)) + encoder.end("tool_calls", Usage())
    rows = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    calls: list[Any] = []
    for piece in (piece for row in rows for piece in row["choices"][0]["delta"].get("tool_calls", ())):
        if "id" in piece:
            calls.append({key: value for key, value in piece.items() if key != "index"})
        else:
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    return {"role": "assistant", "content": "", "tool_calls": calls}


@pytest.mark.parametrize("client", ["openai", "openai, streamed", "anthropic"])
@pytest.mark.parametrize(("kind", "body"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_signed_call_comes_back_signed_to_google_alone(kind: str, body: bytes, client: str) -> None:
    codec = CODECS[kind]()
    result = streamed(kind, body) if b"data:" in body else codec.decode_chat(WireResponse(200, {}, body), SENT)
    assert (result.tool_calls, result.text) == ((ToolCall("c1", "weather", result.tool_calls[0].arguments),), "")
    messages = told_again(result, client.partition(",")[0], stream="streamed" in client)
    said = ask().__class__(messages)

    native = CODECS["gemini"]().encode_chat(said, model("gemini", "gemini-3-pro"), max_output_tokens=9, stream=False)
    assert (native.body or {})["contents"][1]["parts"][0]["thoughtSignature"] == "sig=="
    for address in (GOOGLE, "https://proxy.test/v1"):
        row = model(provider("openai", address), "google/gemini-3-pro")
        sent = CODECS["openai"]().encode_chat(said, row, max_output_tokens=9, stream=False)
        encoded = (sent.body or {})["messages"][1]["tool_calls"]
        assert json.loads(encoded[0]["function"].pop("arguments")) == {"city": "Oslo"}
        assert encoded == [{**SIGNED, "function": {"name": "weather"}}]
    for other, name in (
        ("openai", "gpt-4o"),
        ("anthropic", "claude-haiku-4-5"),
        ("cohere", "command"),
        ("ollama", "qwen3"),
    ):
        sent = CODECS[other]().encode_chat(said, model(other, name), max_output_tokens=9, stream=False)
        assert b"sig==" not in orjson.dumps(sent.body, default=dict)


def test_of_several_calls_each_keeps_its_own_signature() -> None:
    calls = [
        SIGNED,
        {**CALL, "id": "c2"},
        {**CALL, "id": "c3", "extra_content": {"google": {"thought_signature": "other"}}},
    ]
    for body in (completion({"tool_calls": calls}), sse(chunk("tool_calls", tool_calls=calls))):
        whole = not body.startswith(b"data")
        result = (
            CODECS["openai"]().decode_chat(WireResponse(200, {}, body), SENT) if whole else streamed("openai", body)
        )
        encoded = _read_by_openais_client(result, stream=not whole)
        assert encoded["tool_calls"] == calls


def test_calls_of_another_model_are_told_to_google_as_such() -> None:
    turns = (
        message("user", "Hello?"),
        Message("assistant", (ToolCall("c1", "weather", CITY), ToolCall("c2", "now", "{}"))),
    )
    said = ask().__class__(turns)
    for name, expected in (("gemini-3-flash", "skip_thought_signature_validator"), ("gemini-2.5-flash", None)):
        sent = CODECS["openai"]().encode_chat(
            said, model(provider("openai", GOOGLE), name), max_output_tokens=9, stream=False
        )
        first, second = (sent.body or {})["messages"][1]["tool_calls"]
        assert first.get("extra_content", {}).get("google", {}).get("thought_signature") == expected
        assert "extra_content" not in second
    elsewhere = model(provider("openai", "https://googleapis.com.test/v1"), "gemini-3-flash")
    sent = CODECS["openai"]().encode_chat(said, elsewhere, max_output_tokens=9, stream=False)
    assert "extra_content" not in (sent.body or {})["messages"][1]["tool_calls"][0]


def test_a_signature_that_a_stream_tells_last_goes_back_behind_the_text() -> None:
    body = sse(gemini({"text": "Hi"}, finish=None), gemini({"text": "", "thoughtSignature": "sig=="}), done=False)
    result = streamed("gemini", body)
    assert result.parts == (Text("Hi"), Reasoning("", "gemini:sig=="))
    said = ask().__class__((message("user", "a"), Message("assistant", result.parts), message("user", "b")))
    sent = CODECS["gemini"]().encode_chat(said, model("gemini", "gemini-3-pro"), max_output_tokens=9, stream=False)
    assert (sent.body or {})["contents"][1]["parts"] == [{"text": "Hi"}, {"text": "", "thoughtSignature": "sig=="}]


@pytest.mark.parametrize(
    "odd", ["x", {"google": "x"}, {"google": {"thought_signature": 7}}, None, {"google": None}, []]
)
def test_another_extra_content_is_no_signature(odd: Any) -> None:
    body = completion({"tool_calls": [{**CALL, "extra_content": odd}]}, "tool_calls")
    result = CODECS["openai"]().decode_chat(WireResponse(200, {}, body), SENT)
    assert result.parts == (ToolCall("c1", "weather", CITY),)


# --- OpenRouter's way ---------------------------------------------------------------------------------

ROUTED = "google/gemini-3-pro-preview"
DETAIL = {"type": "reasoning.encrypted", "data": "sig==", "id": "c2", "format": "google-gemini-v1", "index": 1}
DETAILS = [{"type": "reasoning.text", "text": "Hm.", "format": "google-gemini-v1", "index": 0}, DETAIL]


@pytest.mark.parametrize("by", [None, 0, 1])
@pytest.mark.parametrize(("named", "place"), [("c2", 1), (None, 0)])
def test_signatures_that_come_beside_the_message_go_back_beside_it(
    by: int | None, named: str | None, place: int
) -> None:
    """In a stream behind the calls that they belong to."""
    row = model(provider("openai", "https://openrouter.test/api/v1"), ROUTED)
    sent = CODECS["openai"]().encode_chat(ask(), row, max_output_tokens=9, stream=False)
    calls, detail = [CALL, {**CALL, "id": "c2"}], {**DETAIL, "id": named}
    if by is None:
        body = completion(
            {"reasoning": "Hm.", "reasoning_details": [DETAILS[0], detail], "tool_calls": calls}, "tool_calls"
        )
        result = CODECS["openai"]().decode_chat(WireResponse(200, {}, body), sent)
    else:
        pieces = [chunk(tool_calls=[{**one, "index": number}]) for number, one in enumerate(calls)]
        body = sse(
            chunk(reasoning="Hm.", reasoning_details=DETAILS[:1]),
            *pieces,
            chunk(reasoning_details=[detail]),
            chunk("tool_calls"),
        )
        chunks = [body[at : at + by] for at in range(0, len(body), by)] if by else [body]
        deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(sent), chunks)
        assert error is None
        assembler = Assembler()
        for delta in deltas:
            assembler.add(delta)
        result = assembler.result()
    encoded = _read_by_openais_client(result, stream=by is not None)
    assert [bool(one.get("extra_content")) for one in encoded["tool_calls"]] == [number == place for number in (0, 1)]
    said = ask().__class__((message("user", "a"), Message("assistant", result.parts)))
    again = CODECS["openai"]().encode_chat(said, row, max_output_tokens=9, stream=False)
    details = (again.body or {})["messages"][1]["reasoning_details"]
    assert ("c2" if place else "c1", "sig==") in [(one["id"], one["data"]) for one in details]
    assert {one["format"] for one in details} == {"google-gemini-v1"}


@pytest.mark.parametrize(
    ("name", "proof"), [(ROUTED, UNSIGNED), ("google/gemini-2.5-pro", None), ("openai/gpt-5", None)]
)
def test_calls_of_another_model_are_told_to_openrouter_as_such(name: str, proof: str | None) -> None:
    said = ask().__class__((message("user", "a"), Message("assistant", (ToolCall("c1", "weather", CITY),))))
    row = model(provider("openai", "https://openrouter.test/api/v1"), name)
    turn = (CODECS["openai"]().encode_chat(said, row, max_output_tokens=9, stream=False).body or {})["messages"][1]
    assert [one["data"] for one in turn.get("reasoning_details", ())] == ([proof] if proof else [])


@pytest.mark.parametrize("odd", ["x", [7], [{**DETAIL, "data": 7}], [{**DETAIL, "format": "unknown"}], None, {}])
def test_other_details_are_no_signatures(odd: Any) -> None:
    body = completion({"tool_calls": [CALL], "reasoning_details": odd}, "tool_calls")
    assert CODECS["openai"]().decode_chat(WireResponse(200, {}, body), SENT).parts == (ToolCall("c1", "weather", CITY),)


# --- thinking in tags --------------------------------------------------------------------------------

ALOUD = {"extra_content": {"google": {"thought": True}}}


def test_thinking_that_comes_as_content_is_thinking() -> None:
    whole = completion({"content": "<thought>Hm.</thought>Hi", **ALOUD})
    assert CODECS["openai"]().decode_chat(WireResponse(200, {}, whole), SENT).parts == (Reasoning("Hm."), Text("Hi"))
    body = sse(chunk(role="assistant", content="<thought>Hm.", **ALOUD), chunk(content=" Yes.", **ALOUD),
               chunk(content="</thought>Hi"), chunk(content=" </thought> you"), chunk("stop"))  # fmt: skip
    for by in (0, 1):
        assert streamed("openai", body, by=by).parts == (Reasoning("Hm. Yes."), Text("Hi </thought> you"))


def test_a_text_without_tags_is_a_text_whatever_is_said_of_it() -> None:
    """As Google's address answered with a signed text."""
    signed = {"extra_content": {"google": {"thought": True, "thought_signature": "sig=="}}}
    whole = completion({"content": "Noon.", **signed})
    assert CODECS["openai"]().decode_chat(WireResponse(200, {}, whole), SENT).parts == (Text("Noon."),)
    assert streamed("openai", sse(chunk(content="No", **signed), chunk("stop", content="on.", **signed))).parts == (
        Text("Noon."),
    )


def test_a_signature_is_no_output_of_its_own() -> None:
    encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=False)
    assert encoder.deltas([Delta(reasoning_signature="gemini:sig==")]) == b""


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("CONTINUATION", "length"), ("MODEL_ARMOR", "content_filter"), ("ESCALATION", "content_filter")],
)
def test_an_answer_that_google_ends_early_says_so(finish: str, reason: str) -> None:
    assert streamed("gemini", sse(gemini({"text": "Hi"}, finish=finish), done=False)).stop_reason == reason


def test_an_account_that_google_has_limited_gives_no_answer() -> None:
    with pytest.raises(ProviderError) as caught:
        streamed("gemini", sse(gemini({"text": "Hi"}, finish="PUP_LIMITED_DISABLED"), done=False))
    assert (caught.value.kind, caught.value.retryable) == ("auth", False)
