"""Answers and refusals in shapes that public reports and recordings of providers show, and their documents do not."""
# ruff: noqa: E501 - answers are written as they come

import base64
import json
import struct
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.anthropic.answers import ANSWER_TOOL
from routing.adapters.base import WireRequest, WireResponse
from routing.types import ProviderError, Reasoning, Text, ToolCall, Usage
from tests.routing.adapters_support import run_decoder
from tests.routing.test_adapters_dialects import (
    CALL,
    CITY,
    START,
    STOPPED,
    Read,
    block,
    chunk,
    completion,
    ended,
    events,
    gemini,
    lines,
    read,
    sse,
)
from tests.routing.test_adapters_usage import counts

SENT = WireRequest("POST", "x", body={})
NAMES = {"city": "Oslo"}
MUCH = json.dumps({"text": "a " * 20_000})


def piece(
    index: int | None = 0, identity: str | int | None = None, name: str | None = None, arguments: Any = ""
) -> Any:
    """A chunk with one piece of a call."""
    call = {"function": {"name": name, "arguments": arguments}, "id": identity}
    return chunk(tool_calls=[call if index is None else {"index": index, **call}])


DONE = chunk("tool_calls")
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("now", "now_in_utc", "weather")]
# what comes in the chunks, and the calls (id, name, arguments) that it makes
CALLS: dict[str, tuple[list[Any], tuple[tuple[str, str, str], ...]]] = {
    "a name in two pieces": ([piece(0, "c1", "wea"), piece(0, None, "ther"), piece(0, None, None, CITY), DONE],
                             (("c1", "weather", CITY),)),
    "a name that is told again with every piece": (
        [piece(0, "c1", "weather"), piece(0, "c1", "weather", '{"city"'), piece(0, "c1", "weather", ': "Oslo"}'), DONE],
        (("c1", "weather", CITY),)),
    "a name that grows": ([piece(0, "c1", "wea"), piece(0, "c1", "weather"), piece(0, "c1", "weather", CITY), DONE],
                          (("c1", "weather", CITY),)),
    "all arguments once more at the end": (
        [piece(0, "c1", "weather"), piece(0, None, None, '{"city"'), piece(0, None, None, ': "Oslo"}'), piece(0, None, None, CITY), DONE],
        (("c1", "weather", CITY),)),
    "all arguments where a part had come": (
        [piece(0, "c1", "weather"), piece(0, None, None, '{"city"'), piece(0, None, None, ': "Oslo"'), piece(0, None, None, CITY), DONE],
        (("c1", "weather", CITY),)),
    "the same of a call that has but begun": (
        [piece(0, "c1", "weather"), piece(0, None, None, "{"), piece(0, None, None, CITY), DONE], (("c1", "weather", CITY),)),
    "many arguments once more": ([piece(0, "c1", "weather"), piece(0, None, None, MUCH), piece(0, None, None, MUCH), DONE], (("c1", "weather", MUCH),)),
    "all of it once more": ([piece(0, "c1", "weather", CITY), piece(0, "c1", "weather", CITY), DONE], (("c1", "weather", CITY),)),
    "arguments that begin twice alike": (
        [piece(0, "c1", "weather"), piece(0, None, None, '{"a":'), piece(0, None, None, '{"a":'), piece(0, None, None, "1}}"), DONE],
        (("c1", "weather", '{"a":{"a":1}}'),)),
    "all of it once more before another": (
        [piece(0, None, "weather", CITY), piece(0, None, None, CITY), piece(0, None, "weather", "{}"), DONE],
        (("call_", "weather", CITY), ("call_", "weather", "{}"))),
    "arguments in a value that begins like them": (
        [piece(0, "c1", "weather"), piece(0, None, None, '{"a":'), piece(0, None, None, '{"a":1}'), piece(0, None, None, "}"), DONE],
        (("c1", "weather", '{"a":{"a":1}}'),)),
    "arguments that end as they began": (
        [piece(0, "c1", "weather"), piece(0, None, None, '{"a": [{}, '), piece(0, None, None, "{}"), piece(0, None, None, "]}"), DONE],
        (("c1", "weather", '{"a": [{}, {}]}'),)),
    "a name after the arguments": (
        [piece(0, "c1", None, '{"city"'), piece(0, None, None, ': "Oslo"}'), piece(0, None, "weather"), DONE],
        (("c1", "weather", CITY),)),
    "two pieces of one call in a chunk": (
        [chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"city"'}},
                           {"index": 0, "function": {"arguments": ': "Oslo"}'}}]), DONE],
        (("c1", "weather", CITY),)),
    "calls that begin together and grow in turn": (
        [chunk(tool_calls=[{"index": n, "id": f"c{n}", "function": {"name": "weather", "arguments": ""}} for n in (0, 1)]),
         piece(0, None, None, '{"city"'), piece(1, None, None, CITY), piece(0, None, None, ': "Oslo"}'), DONE],
        (("c0", "weather", CITY), ("c1", "weather", CITY))),
    "a first call that is number 1": ([piece(1, "c1", "weather"), piece(1), piece(1, None, None, CITY), DONE],
                                      (("c1", "weather", CITY),)),
    "no arguments at all, twice": ([piece(0, "c1", "now"), piece(1, "c2", "then"), DONE],
                                   (("c1", "now", "{}"), ("c2", "then", "{}"))),
    "a place kept for a call": ([piece(0), piece(0, "c1", "weather", CITY), DONE], (("c1", "weather", CITY),)),
    "a name told again after the arguments": (
        [piece(0, None, "weather", CITY), piece(0, None, "weather"), piece(0, None, "weather"), DONE],
        (("call_", "weather", CITY),)),
    "a name told again for other arguments": (
        [piece(0, None, "weather"), piece(0, None, None, CITY), piece(0, None, "weather"), piece(0, None, None, "{}"), DONE],
        (("call_", "weather", CITY), ("call_", "weather", "{}"))),
    "another name after the arguments": (
        [piece(0, None, "weather", CITY), piece(0, None, "now"), DONE],
        (("call_", "weather", CITY), ("call_", "now", "{}"))),
    "names of tools without arguments in one place": (
        [piece(0, None, "now"), piece(0, None, "now"), piece(0, None, "weather"), DONE],
        (("call_", "now", "{}"), ("call_", "weather", "{}"))),
    "a name that begins with that of another tool": (
        [piece(0, None, "now"), piece(0, None, "_in_"), piece(0, None, "utc"), DONE], (("call_", "now_in_utc", "{}"),)),
    "a call after the end was told": ([chunk("stop", content=""), piece(0, "c1", "now")], (("c1", "now", "{}"),)),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "expected"), CALLS.values(), ids=CALLS)
def test_a_call_is_put_together_from_its_pieces(chunks: list[Any], expected: tuple[tuple[str, str, str], ...]) -> None:
    sent = WireRequest("POST", "x", body={"tools": TOOLS})
    deltas, error = run_decoder(
        lambda: CODECS["openai"]().chat_stream(sent), [sse(chunk(role="assistant", content=""), *chunks)]
    )
    assert error is None
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    calls = assembler.result().tool_calls
    assert tuple((call.id[:5], call.name, call.arguments) for call in calls) == expected
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize(
    "chunks",
    [[piece(0, "c1", f"{n}" * 300) for n in range(4)], [piece(n, f"c{n}", "now") for n in range(1001)]],
    ids=["name", "calls"],
)
def test_what_no_model_calls_is_refused(chunks: list[Any]) -> None:
    _, error = read("openai", sse(chunk(role="assistant", content=""), *chunks, DONE))
    assert error is not None
    assert error.kind == "protocol"


def test_a_call_is_told_once_its_name_is_known_for_sure() -> None:
    body = sse(
        piece(0, "c1", "wea"), piece(0, None, "ther"), piece(0, None, None, "{"), piece(0, None, None, "}"), DONE
    )
    deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(SENT), [body])
    assert error is None
    told = [(d.tool_id, d.tool_name, d.tool_arguments) for d in deltas if d.tool_index is not None]
    assert told == [("c1", "weather", "{"), ("", "", "}")]
    assert [delta.held for delta in deltas if delta.is_written and not delta.is_output] == ["wea", "ther"]


def test_a_call_that_never_gets_a_name_is_no_call() -> None:
    _, error = read("openai", sse(chunk(role="assistant", content=""), piece(0, "c1", None, CITY), DONE))
    assert error is not None
    assert error.kind == "protocol"


PERPLEXITY = [
    {"id": "1", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
     "delta": delta}], "usage": {"prompt_tokens": 9, "completion_tokens": written, "total_tokens": 9 + written}}
    for text, delta, written in (("Hi", {"role": "assistant", "content": "Hi"}, 1),
                                 ("Hi you", {"role": "assistant", "content": " you"}, 2))
]  # fmt: skip
ANSWERS: dict[str, tuple[str, bytes, Read]] = {
    "perplexity: all that was written so far beside each piece": (
        "openai",
        sse(*PERPLEXITY, {**PERPLEXITY[1], "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi you"}, "delta": {}}]}, done=False).replace(b"\n", b"\r\n"),
        Read("Hi you", usage=(9, 2, None, None)),
    ),
    "minimax: a stream that says all of it once more at its end": (
        "openai",
        sse(chunk(role="assistant", content="", reasoning_content="Hm."), chunk(content="Hi"), chunk("stop", content=" you"),
            {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message":
             {"role": "assistant", "content": "Hi you", "reasoning_content": "Hm."}}],
             "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}, done=False),
        Read("Hi you", "Hm.", usage=(9, 5, None, None)),
    ),
    "the same of a call": (
        "openai",
        sse(chunk(role="assistant", tool_calls=[{"index": 0, **CALL}]), {"id": "1", "choices": [{"index": 0,
             "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}}]}),
        Read(calls=(("c1", "weather", CITY),), stop="tool_calls"),
    ),
    "a stream that says nothing but its role before the whole of it": (
        "openai",
        sse(chunk(role="assistant", content=""),
            {"id": "1", "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}]}),
        Read("Hi"),
    ),
    "poolside, and NVIDIA's GLM and Kimi: numbers for names": (
        "openai", json.dumps({"id": 7, "model": "m", "choices": [{"index": 0, "finish_reason": 24, "message":
            {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": 0}]}}]}).encode(),
        Read(calls=(("0", "weather", CITY),), stop="tool_calls"),
    ),
    "the same in a stream": (
        "openai",
        sse(piece(0, 0, "weather"), piece(0, 0, None, CITY), piece(1, 1, "weather"), piece(1, 1, None, CITY), chunk(24)),
        Read(calls=(("0", "weather", CITY), ("1", "weather", CITY)), stop="tool_calls"),
    ),
    "cloudflare: words that are JSON": (
        "openai",
        sse(chunk(role="assistant", content="["), chunk(content=6), chunk(content="] "), chunk(content=0.5), chunk(content=" "),
            chunk(content=True), "data: null\n\n", chunk("stop", reasoning_content=7)),
        Read("[6] 0.5 true", "7"),
    ),
    "the same as all there is": ("openai", completion({"content": 42}), Read("42")),
    "the same in a call": (
        "openai", sse(piece(0, "c1", "weather"), piece(0, None, None, '{"n": '), piece(0, None, None, 6), piece(0, None, None, "}"), DONE),
        Read(calls=(("c1", "weather", '{"n": 6}'),), stop="tool_calls"),
    ),
    "gcli2api: an end with every piece": (
        "openai", sse(chunk("stop", reasoning_content="Hm."), chunk("stop", content="Hi"), chunk("stop", tool_calls=[{"index": 0, **CALL}])),
        Read("Hi", "Hm.", calls=(("c1", "weather", CITY),), stop="tool_calls"),
    ),
    "an end with every piece of a call": (
        "openai", sse(*({**part, "choices": [{**part["choices"][0], "finish_reason": "stop"}]} for part in
                        (piece(0, "c1", "weather"), piece(0, None, None, '{"city"'), piece(0, None, None, ': "Oslo"}')))),
        Read(calls=(("c1", "weather", CITY),), stop="tool_calls"),
    ),
    "sglang: an end before its calls": (
        "openai", sse(chunk("stop", content="Hi"), piece(0, "c1", "weather"), piece(0, None, None, CITY), DONE),
        Read("Hi", calls=(("c1", "weather", CITY),), stop="tool_calls"),
    ),
    "open webui: an end of the thinking": (
        "openai", sse(chunk("stop", reasoning_content="Hm."), chunk(content="Hi"), chunk("length")), Read("Hi", "Hm.", stop="length"),
    ),
    "an end that is told twice, and less the second time": (
        "openai", sse(chunk("length", content="Hi"), chunk("stop")), Read("Hi", stop="length"),
    ),
    "gemini, behind litellm: a last word": (
        "gemini", sse(gemini({"text": "Hi"}, finish=None), gemini({"text": " you"})), Read("Hi you"),
    ),
    "gemini: another": ("gemini", sse(gemini({"text": "Hi"}), "data: DONE\n\n", done=False), Read("Hi")),
    "a stream of messages with a place for deltas": (
        "openai",
        sse(*({"id": "1", "model": "m", "choices": [{"index": 0, "delta": None, "message": {"content": word}, "finish_reason": finish}]}
              for word, finish in (("Hi", None), (" you", None), ("", "stop")))),
        Read("Hi you"),
    ),
    "minimax: no more room": ("openai", completion({"content": "Hi"}, "max_output"), Read("Hi", stop="length")),
    "bedrock: filtered": ("openai", completion({"content": "Hi"}, "content_filtered"), Read("Hi", stop="content_filter")),
    "google's imitation: an answer that is not shown has no message": (
        "openai",
        json.dumps({"choices": [{"finish_reason": "content_filter: PROHIBITED_CONTENT", "index": 0}], "model": "g",
                    "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}}).encode(),
        Read(stop="content_filter", usage=(9, 0, None, None)),
    ),
    "azure: an answer that is not shown has an empty message": (
        "openai", completion({}, "content_filter"), Read(stop="content_filter"),
    ),
    "alibaba: an end that is none": (
        "openai", sse(chunk("null", content="Hi"), chunk("null", content=" you"), chunk("length", content="")),
        Read("Hi you", stop="length"),
    ),
    "z.ai: out of context": (
        "openai", completion({"content": "Hi"}, "model_context_window_exceeded"), Read("Hi", stop="length"),
    ),
    "a server that speaks of calls and makes none": (
        "openai", completion({"content": "Hi", "tool_calls": []}, "tool_calls"), Read("Hi"),
    ),
    "a stream that does": ("openai", sse(chunk(content="Hi"), chunk("tool_calls")), Read("Hi")),
    "an imitation of anthropic that does not speak of its call": (
        "anthropic", events(START, *block(0, {"type": "tool_use", "id": "c1", "name": "now", "input": {}}), *ended("end_turn")),
        Read(calls=(("c1", "now", "{}"),), stop="tool_calls", usage=(9, 5, None, None)),
    ),
    "deepseek: an end without a piece": (
        "openai", sse(chunk(content="Hi"), {"id": "1", "choices": [{"index": 0, "finish_reason": "stop"}]}), Read("Hi"),
    ),
    "a stream kept alive by events without data": (
        "openai", b"data:\n\ndata: \n\n: ping\n\nevent: ping\ndata:\n\n" + sse(chunk(content="Hi"), "data: \n\n", chunk("stop")),
        Read("Hi"),
    ),
    "anthropic: what was written before the stream began": (
        "anthropic",
        events({"type": "message_start", "message": {**START["message"], "stop_reason": "tool_use", "content": [
            {"type": "code_execution_tool_result", "tool_use_id": "s1", "content": {}}, {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": NAMES}]}}, STOPPED),
        Read("Hi", calls=(("c1", "weather", '{"city":"Oslo"}'),), stop="tool_calls", usage=(9, 1, None, None)),
    ),
    "anthropic: refuses before a word": (
        "anthropic", events(START, {"type": "ping"}, *ended("refusal")), Read(stop="content_filter", usage=(9, 5, None, None)),
    ),
    "anthropic: stops to go on later": (
        "anthropic", events(START, *block(0, {"type": "text", "text": "Hi"}), *ended("pause_turn")),
        Read("Hi", usage=(9, 5, None, None)),
    ),
    "gemini: counts grow, and the last chunk tells only some": (
        "gemini",
        sse(gemini({"text": "Hm.", "thought": True}, finish=None, usageMetadata={"promptTokenCount": 9, "thoughtsTokenCount": 3}),
            gemini({"text": "Hi"}, finish=None, usageMetadata={"promptTokenCount": 9, "thoughtsTokenCount": 4,
                   "candidatesTokenCount": 2, "cachedContentTokenCount": 8}),
            gemini({"text": "", "thoughtSignature": "c2ln"}, usageMetadata={"promptTokenCount": 9, "totalTokenCount": 15}),
            done=False),
        Read("Hi", "Hm.", usage=(9, 6, 8, 4)),
    ),
    "cohere: cached tokens of a prompt that it does not bill": (
        "cohere",
        json.dumps({"id": "1", "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
                    "finish_reason": "COMPLETE", "usage": {"billed_units": {"input_tokens": 9, "output_tokens": 2},
                    "tokens": {"input_tokens": 500, "output_tokens": 5}, "cached_tokens": 448}}).encode(),
        Read("Hi", usage=(9, 2, 9, None)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_an_odd_answer_is_read_for_what_it_says(kind: str, body: bytes, expected: Read) -> None:
    result, error = read(kind, body)
    assert error is None
    usage = result.usage
    assert result.text == expected.text
    assert tuple((call.id, call.name, call.arguments) for call in result.tool_calls) == expected.calls
    assert result.stop_reason == expected.stop
    assert (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.reasoning_tokens,
    ) == expected.usage


COUNTS: dict[str, tuple[str, dict[str, Any], tuple[int | None, ...]]] = {
    "a proxy to anthropic that counts as it does": (
        "openai", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 900,
                   "cache_creation_input_tokens": 90}, (1000, 5, 900, 90, None)),
    "one whose total holds them": (
        "openai", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 915, "cache_read_input_tokens": 900},
        (910, 5, 900, None, None)),
    "an older sglang, which sums what was cached over its choices": (
        "openai", {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details":
                   {"cached_tokens": 384}}, (100, 5, 384, None, None)),
    "a server that writes what it has read from the cache": (
        "openai", {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details":
                   {"cached_tokens": 60, "cache_write_tokens": 60}}, (100, 5, 60, 60, None)),
    "xai": ("openai", {"prompt_tokens": 307, "completion_tokens": 26, "total_tokens": 588, "prompt_tokens_details":
            {"cached_tokens": 244}, "completion_tokens_details": {"reasoning_tokens": 255}}, (307, 281, 244, None, 255)),
    "google's imitation, which thought and wrote nothing": (
        "openai", {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 109}, (9, 100, None, None, 100)),
    "a total and a prompt, of what may not have thought at all": (
        "openai", {"prompt_tokens": 10, "total_tokens": 30}, (10, 20, None, None, None)),
    "thinking that is a little more than what was written": (
        "openai", {"prompt_tokens": 43, "completion_tokens": 10, "total_tokens": 53, "completion_tokens_details":
                   {"reasoning_tokens": 11}}, (43, 10, None, None, 11)),
    "anthropic's summary of the conversation so far": (
        "anthropic", {"input_tokens": 600, "output_tokens": 1300, "cache_read_input_tokens": 20, "iterations": [
            {"type": "compaction", "input_tokens": 60000, "output_tokens": 500, "cache_read_input_tokens": 70},
            {"type": "message", "input_tokens": 600, "output_tokens": 1300, "cache_read_input_tokens": 20}]},
        (60690, 1800, 90, None, None)),
    "anthropic's summary, and what was written to the cache by its lifetimes alone": (
        "anthropic", {"input_tokens": 6, "output_tokens": 3, "cache_creation": {"ephemeral_5m_input_tokens": 70},
                      "iterations": [{"type": "compaction", "input_tokens": 100, "output_tokens": 5,
                                      "cache_creation_input_tokens": 0},
                                     {"type": "compaction", "cache_creation": {"ephemeral_1h_input_tokens": 20}}]},
        (196, 8, None, 90, None)),
    "anthropic's other passes are in its totals": (
        "anthropic", {"input_tokens": 412, "output_tokens": 264, "iterations": [
            {"type": "message", "input_tokens": 408, "output_tokens": 0},
            {"type": "fallback_message", "input_tokens": 412, "output_tokens": 264}]}, (412, 264, None, None, None)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "usage", "expected"), COUNTS.values(), ids=COUNTS)
def test_tokens_are_counted_once_and_all(kind: str, usage: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    body = completion({"content": "Hi"}, usage=usage)
    if kind == "anthropic":
        body = json.dumps({"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}).encode()
    result, _ = read(kind, body)
    assert counts(result.usage) == expected


HELLO = {"type": "text", "text": "Hello"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "aGlkZGVu"}
WEATHER = {"type": "tool_use", "id": "c1", "name": "weather", "input": NAMES}
OSLO = ToolCall("c1", "weather", CITY)


def texts(*pieces: str) -> list[Any]:
    return [{"type": "text_delta", "text": text} for text in pieces]


# what message_start holds, the blocks that are streamed after it, and the answer that both make
BEGUN: dict[str, tuple[list[Any], list[Any], tuple[Any, ...]]] = {
    "text told again": ([HELLO], block(0, {"type": "text", "text": ""}, *texts("Hel", "lo")), (Text("Hello"),)),
    "told again whole": ([HELLO], block(0, HELLO), (Text("Hello"),)),
    "told again and continued": (
        [HELLO], block(0, {"type": "text", "text": ""}, *texts("Hell", "o you", "!")), (Text("Hello you!"),)),
    "continued": ([HELLO], block(0, {"type": "text", "text": ""}, *texts(" ", "Hello")), (Text("Hello Hello"),)),
    "continued alike": (
        [HELLO], block(0, {"type": "text", "text": ""}, *texts("He", "ron")), (Text("HelloHeron"),)),
    "continued with its own beginning": (
        [HELLO], block(0, {"type": "text", "text": ""}, *texts("H", "e")), (Text("HelloHe"),)),
    "a block of its own": ([HELLO], block(1, {"type": "text", "text": ""}, *texts("Hello")), (Text("HelloHello"),)),
    "thinking told again": (
        [THOUGHT, HIDDEN, HELLO],
        [*block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm."},
                {"type": "signature_delta", "signature": "c2ln"}), *block(1, HIDDEN), *block(2, HELLO)],
        (Reasoning("Hm.", "c2ln"), Reasoning("aGlkZGVu", redacted=True), Text("Hello"))),
    "a call told again": (
        [HELLO, {**WEATHER, "input": {}}],
        [*block(0, HELLO), *block(1, {**WEATHER, "input": {}}, {"type": "input_json_delta", "partial_json": CITY})],
        (Text("Hello"), OSLO)),
    "calls before another": (
        [WEATHER, {**WEATHER, "id": "c2", "input": {}}], block(2, HELLO),
        (ToolCall("c1", "weather", '{"city":"Oslo"}'), ToolCall("c2", "weather", "{}"), Text("Hello"))),
    "calls told again whole": (
        [WEATHER, {**WEATHER, "id": "c2"}], [*block(0, WEATHER), *block(1, {**WEATHER, "id": "c2"})],
        (ToolCall("c1", "weather", '{"city":"Oslo"}'), ToolCall("c2", "weather", '{"city":"Oslo"}'))),
}  # fmt: skip


@pytest.mark.parametrize(("begun", "streamed", "expected"), BEGUN.values(), ids=BEGUN)
def test_what_a_message_begins_with_is_told_once(begun: list[Any], streamed: list[Any], expected: Any) -> None:
    start = {"type": "message_start", "message": {**START["message"], "content": begun}}
    result, error = read("anthropic", events(start, *streamed, *ended("end_turn")))
    assert error is None
    assert result.parts == expected


def test_an_answer_by_tool_that_a_message_begins_with_is_told_once() -> None:
    tool = {"type": "tool_use", "id": "c1", "name": ANSWER_TOOL, "input": {}}
    sent = WireRequest("POST", "x", body={"tool_choice": {"type": "tool", "name": ANSWER_TOOL}})
    arguments = {"type": "input_json_delta", "partial_json": CITY}
    for begun, streamed, expected in (
        (tool, block(0, tool, arguments), CITY),
        ({**tool, "input": NAMES}, [], '{"city":"Oslo"}'),
        ({**tool, "input": NAMES, "id": None}, [], '{"city":"Oslo"}'),
    ):
        start = {"type": "message_start", "message": {**START["message"], "content": [begun]}}
        body = events(start, *streamed, *ended("tool_use"))
        deltas, error = run_decoder(lambda: CODECS["anthropic"]().chat_stream(sent), [body])
        assert error is None
        assert "".join(delta.text for delta in deltas) == expected


def test_a_server_that_streams_unasked_is_read_as_a_whole() -> None:
    body = sse(": wait\n\n", chunk(role="assistant", content="Hi"), chunk("stop", content=" you"))
    result = CODECS["openai"]().decode_chat(WireResponse(200, {}, body), SENT)
    assert (result.text, result.stop_reason) == ("Hi you", "stop")
    with pytest.raises(ProviderError) as caught:
        CODECS["openai"]().decode_chat(WireResponse(200, {}, sse({"error": {"code": 429, "message": "slow"}})), SENT)
    assert caught.value.kind == "rate_limited"
    with pytest.raises(ProviderError) as caught:
        CODECS["openai"]().decode_chat(WireResponse(200, {}, sse(chunk(content="Hi"), done=False)), SENT)
    assert caught.value.kind == "cut"


def test_googles_stream_is_read_as_the_list_that_it_is_without_events() -> None:
    chunks = [gemini({"text": "Hm.", "thought": True}, finish=None, usageMetadata={"promptTokenCount": 9}),
              gemini({"text": "Hi"}, finish=None), gemini({"functionCall": {"name": "now"}}, usageMetadata={
                  "promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 3})]  # fmt: skip
    body = b"[" + b",\r\n".join(json.dumps(chunk, indent=2).encode() for chunk in chunks) + b"\n]\n"
    whole = CODECS["gemini"]().decode_chat(WireResponse(200, {}, body), SENT)
    deltas, error = run_decoder(lambda: CODECS["gemini"]().chat_stream(SENT), [body[:50], body[50:]])
    assert error is None
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    assert assembler.result() == whole
    assert (whole.text, [call.name for call in whole.tool_calls], counts(whole.usage)) == (
        "Hi",
        ["now"],
        (9, 5, None, None, 3),
    )
    failed = json.dumps(
        [chunks[0], {"error": {"code": 503, "message": "high demand", "status": "UNAVAILABLE"}}]
    ).encode()
    for odd, kind in ((failed, "overloaded"), (b"[]", "protocol"), (b"[1]", "protocol")):
        with pytest.raises(ProviderError) as caught:
            CODECS["gemini"]().decode_chat(WireResponse(200, {}, odd), SENT)
        assert caught.value.kind == kind


# --- what goes wrong ---------------------------------------------------------------------------------

MID = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}
FAILURES: dict[str, tuple[str, bytes, str]] = {
    "openrouter: a limit in a choice": (
        "openai", completion({"content": "Hi"}, "error")[:-3] + b', "error": {"code": 429, "message": "Provider returned error", '
        b'"metadata": {"error_type": "rate_limit_exceeded"}}}]}', "rate_limited",
    ),
    "openrouter: a provider that left": (
        "openai", sse({**MID, "error": {"code": 502, "message": "Provider disconnected unexpectedly", "metadata":
                       {"error_type": "provider_unavailable"}}}), "server",
    ),
    "openrouter: no credits within a stream": (
        "openai", sse({**MID, "error": {"code": 402, "message": "Insufficient credits", "metadata": {"error_type": "payment_required"}}}),
        "quota",
    ),
    "openrouter: as anthropic": (
        "anthropic", b'event: ping\ndata: {"type":"ping"}\n\n' + events({"type": "error", "error": {"type": "rate_limit_error",
        "message": "Provider returned error", "error_type": "rate_limit_exceeded"}}), "rate_limited",
    ),
    "google's imitation: a call that cannot be read": (
        "openai", completion({}, "function_call_filter: MALFORMED_FUNCTION_CALL"), "server",
    ),
    "minimax: no money": ("openai", json.dumps({"choices": None, "base_resp": {"status_code": 1008, "status_msg":
                          "insufficient balance"}}).encode(), "quota"),
    "minimax: a limit": ("openai", b'{"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}', "rate_limited"),
    "minimax: a key": ("openai", b'{"base_resp": {"status_code": 2049, "status_msg": "invalid API Key"}}', "auth"),
    "minimax: too long": ("openai", sse({"choices": None, "base_resp": {"status_code": 1039, "status_msg": "limit"}}),
                          "context_overflow"),
    "minimax: a wrong request": ("openai", b'{"base_resp": {"status_code": 2013, "status_msg": "invalid params, tool result\'s tool id(c1) not found"}}', "bad_request"),
    "minimax: too long, in words": ("openai", b'{"base_resp": {"status_code": 2013, "status_msg": "invalid params, context window exceeds limit"}}', "context_overflow"),
    "minimax: too many connections": ("openai", b'{"base_resp": {"status_code": 1041, "status_msg": "conn limit"}}', "rate_limited"),
    "minimax: too many more": ("openai", b'{"base_resp": {"status_code": 2045, "status_msg": "rate growth limit"}}', "rate_limited"),
    "minimax: too late": ("openai", b'{"base_resp": {"status_code": 1001, "status_msg": "request timeout"}}', "timeout"),
    "minimax: anything": ("openai", b'{"base_resp": {"status_code": 1000, "status_msg": "unknown error"}}', "server"),
    "a 200 with nothing but a message": ("openai", b'{"code": 500, "message": "upstream down", "data": null}', "server"),
    "an error in plain words": ("openai", b"event: error\ndata: Rate limit reached, try again in 3s\n\n", "rate_limited"),
    "words without a code": ("openai", sse({"error": {"message": "The model is overloaded"}}), "overloaded"),
    "vllm: in a stream": ("openai", sse({"error": {"object": "error", "message": "This model's maximum context length is 9",
                          "type": "BadRequestError", "param": None, "code": 400}}), "context_overflow"),
    "anthropic: will not show it": (
        "anthropic", events({"type": "error", "error": {"type": "invalid_request_error", "message":
                            "Output blocked by content filtering policy"}}), "content_filter",
    ),
    "gemini: a turn that lost its signature": (
        "gemini", json.dumps(gemini(finish="MISSING_THOUGHT_SIGNATURE")).encode(), "bad_request",
    ),
    "ollama: from its cloud": ("ollama", lines({"error": "you've reached your hourly usage limit, please upgrade"}), "quota"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "expected"), FAILURES.values(), ids=FAILURES)
def test_a_failure_inside_a_200_says_what_it_is(kind: str, body: bytes, expected: str) -> None:
    try:
        _, error = read(kind, body)
    except ProviderError as raised:
        error = raised
    assert error is not None
    assert error.kind == expected
    assert error.retryable is (expected in ("server", "rate_limited", "overloaded", "timeout"))


def test_an_error_bears_the_usage_that_came_with_it() -> None:
    usage = {"prompt_tokens": 43, "completion_tokens": 10, "total_tokens": 53}
    failed = {**chunk(content=""), "error": {"code": 400, "message": "Token limit reached"}, "usage": usage}
    _, error = read("openai", sse(chunk(role="assistant", content="Hi"), chunk("length", content=""), failed))
    assert error is not None
    assert error.usage == Usage(43, 10)
    with pytest.raises(ProviderError) as caught:
        CODECS["openai"]().decode_chat(WireResponse(200, {}, completion({}, "error", usage=usage)), SENT)
    assert caught.value.usage == Usage(43, 10)


def test_a_wait_told_in_a_streams_error_is_heard() -> None:
    _, error = read("openai", sse({**MID, "error": {"code": 429, "message": "Provider returned error", "metadata":
                    {"error_type": "rate_limit_exceeded", "retry_after_seconds": 7}}}))  # fmt: skip
    assert error is not None
    assert (error.kind, error.retry_after_seconds) == ("rate_limited", 7)


RAW = '{"error": {"message": "This model\'s maximum context length is 8192 tokens", "code": "context_length_exceeded"}}'
# status, body, kind, seconds to wait
REFUSALS: dict[str, tuple[int, Any, str, float | None]] = {
    "openrouter: what the provider said": (400, {"error": {"message": "Provider returned error", "code": 400, "metadata":
        {"raw": RAW, "provider_name": "X"}}, "user_id": "u"}, "context_overflow", None),
    "openrouter: what it said, after words": (400, {"error": {"message": "Provider returned error", "code": 400, "metadata":
        {"raw": "See the docs. Upstream error: " + RAW}}}, "context_overflow", None),
    "openrouter: a shared limit": (429, {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw":
        "m:free is temporarily rate-limited upstream. Please retry shortly, or add your own key", "is_byok": False}}},
        "rate_limited", None),
    "openrouter: its provider is full": (503, {"error": {"message": "x", "code": 503, "metadata": {"error_type":
        "provider_overloaded"}}}, "overloaded", None),
    "openrouter: a guard": (403, {"error": {"code": 403, "message": "Request blocked: prompt injection patterns detected",
        "metadata": {"patterns": ["ignore all"]}}}, "content_filter", None),
    "openrouter: the day's free calls": (429, {"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429,
        "metadata": {"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}}}},
        "rate_limited", 60),
    "openrouter: more than the credits": (402, {"error": {"message": "This request requires more credits, or fewer "
        "max_tokens. You requested up to 65536 tokens, but can only afford 100", "code": 402}}, "quota", None),
    "openrouter: no such model": (400, {"error": {"message": "x/y is not a valid model ID", "code": 400}}, "not_found", None),
    "google: spent": (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "Your project has exceeded its monthly spending cap."}}, "quota", None),
    "google: prepaid and used": (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."}}, "quota", None),
    "google: this minute's": (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "You exceeded your current quota, please check your plan and billing details", "details": [{"violations": [{"quotaId":
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}, {"retryDelay": "34.4s"}]}}, "rate_limited", 34.4),
    "google: not from here": (400, {"error": {"code": 400, "message": "User location is not supported for the API use.",
        "status": "FAILED_PRECONDITION"}}, "auth", None),
    "openai: a model that the project may not use": (403, {"error": {"message": "Project `p` does not have access to model "
        "`m`", "type": "invalid_request_error", "code": "model_not_found"}}, "not_found", None),
    "openai: a safety system": (400, {"error": {"message": "Your request was rejected as a result of our safety system.",
        "type": "invalid_request_error", "code": "moderation_blocked"}}, "content_filter", None),
    "openai: a flagged prompt": (400, {"error": {"message": "Invalid prompt: your prompt was flagged as potentially "
        "violating our usage policy.", "type": "invalid_request_error", "code": "invalid_prompt"}}, "content_filter", None),
    "xai: against its guidelines": (403, {"code": "The caller does not have permission to execute the specified operation",
        "error": "Content violates usage guidelines. Team: t, Failed check: SAFETY_CHECK_TYPE_BIO"}, "content_filter", None),
    "github: too long": (413, {"error": {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model. "
        "Max size: 8000 tokens."}}, "context_overflow", None),
    "github: a limit": (429, {"error": {"code": "RateLimitReached", "message": "Rate limit of 10 per 60s exceeded for "
        "UserByModelByMinute. Please wait 21 seconds before retrying."}}, "rate_limited", 21),
    "azure: a limit": (429, {"error": {"code": "429", "message": "Requests have exceeded call rate limit of your current tier. "
        "Please retry after 6 seconds."}}, "rate_limited", 6),
    "azure: its gateway": (429, {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 3 seconds."},
        "rate_limited", 3),
    "azure: within": (400, {"error": {"message": "filtered", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "content_filter", None),
    "groq: a tier that is full": (498, {"error": {"message": "Flex tier capacity exceeded", "type": "x"}}, "overloaded", None),
    "groq: a model that is gone": (400, {"error": {"message": "The model `m` has been decommissioned and is no longer supported.",
        "type": "invalid_request_error", "code": "model_decommissioned"}}, "not_found", None),
    "cohere: a word that it does not allow": (498, {"message": "a deny-listed token", "id": "i"}, "bad_request", None),
    "mistral: a tier that is full": (429, {"object": "error", "message": "Service tier capacity exceeded for this model.",
        "type": "service_tier_capacity_exceeded", "param": None, "code": "3505"}, "overloaded", None),
    "together: too long": (403, {"error": {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097",
        "type": "invalid_request_error"}}, "context_overflow", None),
    "tgi: full": (429, {"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", None),
    "hugging face: still loading": (503, {"error": "Model x is currently loading", "estimated_time": 20.0}, "overloaded", 20),
    "alibaba: no money": (400, {"error": {"code": "Arrearage", "type": "Arrearage", "message": "Access denied, please make "
        "sure your account is in good standing."}}, "quota", None),
    "alibaba: too long": (400, {"error": {"message": "Range of input length should be [1, 30720]", "code":
        "invalid_parameter_error"}}, "context_overflow", None),
    "alibaba: inspected": (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate "
        "content."}}, "content_filter", None),
    "nvidia: a model at the end of its life": (410, {"status": 410, "title": "Gone", "detail": "The model 'm' has reached "
        "its end of life"}, "not_found", None),
    "anthropic: a length that is not paid for": (
        429,
        {"type": "error", "error": {"type": "rate_limit_error", "message": "Extra usage is required for long context requests."}},
        "context_overflow",
        None,
    ),
    "z.ai: the plan's hours": (
        429,
        {"error": {"code": "1308", "message": "Usage limit reached for 5 hour. Your limit will reset at 2026-09-29 23:10:05"}},
        "quota",
        None,
    ),
    "a plan that says when": (
        429,
        {"error": {"type": "usage_limit_reached", "message": "The usage limit has been reached", "resets_in_seconds": 90}},
        "quota",
        90,
    ),
    "anthropic: a closed organization": (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
        "This organization has been disabled."}}, "auth", None),
    "spring: a title and what it is about": (400, {"statusCode": 400, "error": "Bad Request", "message":
        "prompt is too long"}, "context_overflow", None),
    "an event where a document was due": (400, b'event: error\ndata: {"error": {"message": "maximum context length is 9"}}\n\n',
        "context_overflow", None),
    "milliseconds in words": (429, {"error": {"message": "Rate limit reached. Please try again in 250 milliseconds."}},
        "rate_limited", 0.25),
    "an hour and more in words": (429, {"error": {"message": "Please try again in 1h2m3.5s. Visit us"}}, "rate_limited", 3723.5),
    "not implemented": (501, {"error": {"message": "x", "type": "NotImplementedError", "code": 501}}, "bad_request", None),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "expected", "seconds"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_understood(status: int, body: Any, expected: str, seconds: float | None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = CODECS["openai"]().decode_error(WireResponse(status, {}, raw), SENT)
    assert error.kind == expected
    assert error.retry_after_seconds == seconds
    assert error.retryable is (expected in ("rate_limited", "overloaded"))
    assert error.message


def test_the_message_is_the_providers_own_and_not_that_there_is_one() -> None:
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": RAW}}}
    error = CODECS["openai"]().decode_error(WireResponse(400, {}, json.dumps(body).encode()), SENT)
    assert error.message.startswith("This model's maximum context length")


# --- vectors and lists -------------------------------------------------------------------------------


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def embedded(*rows: Any) -> bytes:
    return json.dumps({"object": "list", "data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()


def test_packed_vectors_in_any_order_are_put_in_theirs() -> None:
    body = embedded({"index": 1, "embedding": packed(0.5, -2.0)}, {"index": 0, "embedding": packed(1.0, 0.25)})
    found = CODECS["openai"]().decode_embed(
        WireResponse(200, {}, body), WireRequest("POST", "x", body={"input": ["a", "b"]})
    )
    assert found.vectors == ((1.0, 0.25), (0.5, -2.0))
    assert found.usage == Usage(input_tokens=3)


def test_a_total_is_what_was_read_where_nothing_else_is_told() -> None:
    body = json.dumps({"data": [{"index": 0, "embedding": [1.0]}], "usage": {"total_tokens": 7}}).encode()
    assert CODECS["openai"]().decode_embed(WireResponse(200, {}, body), SENT).usage == Usage(input_tokens=7)
    body = json.dumps({"embeddings": [{"values": [1.0]}], "usageMetadata": {"promptTokenCount": 7}}).encode()
    assert CODECS["gemini"]().decode_embed(WireResponse(200, {}, body), SENT).usage == Usage(input_tokens=7)


@pytest.mark.parametrize("vector", ["!", "AAAA", packed(float("nan")), ""])
def test_a_text_that_is_no_packed_vector_is_refused(vector: str) -> None:
    with pytest.raises(ProviderError) as caught:
        CODECS["openai"]().decode_embed(WireResponse(200, {}, embedded({"index": 0, "embedding": vector})), SENT)
    assert caught.value.kind == "protocol"


@pytest.mark.parametrize(
    "body",
    [[{"id": "a"}, {"id": "b"}], {"data": [{"id": "a"}, {"id": "b"}]}, {"models": [{"name": "a"}, {"name": "b"}]}],
)
def test_a_list_of_models_may_stand_by_itself(body: Any) -> None:
    found = CODECS["openai"]().decode_status((WireResponse(200, {}, json.dumps(body).encode()),))
    assert found.models == ("a", "b")


def test_pieces_of_an_odd_answer_are_the_same_however_they_are_cut() -> None:
    body = sse(*PERPLEXITY, piece(0, "c1", "wea"), piece(0, None, "ther"), piece(0, None, None, CITY), DONE)
    found = []
    for size in (1, 3, 1000, len(body)):
        deltas, error = run_decoder(
            lambda: CODECS["openai"]().chat_stream(SENT), [body[at : at + size] for at in range(0, len(body), size)]
        )
        assert error is None
        assembler = Assembler()
        for delta in deltas:
            assembler.add(delta)
        found.append(assembler.result().parts)
    assert found == [(Text("Hi you"), ToolCall("c1", "weather", CITY))] * 4
