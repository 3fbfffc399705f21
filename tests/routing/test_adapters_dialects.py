"""Answers in shapes that houses document or are known for, beside the recorded ones: read for what they say."""
# ruff: noqa: E501 - answers are written as they come

import json
from dataclasses import dataclass
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.base import WireRequest, WireResponse
from routing.types import ChatResult, ProviderError, Reasoning
from tests.routing.adapters_support import run_decoder


@dataclass(frozen=True)
class Read:
    """What is to be found in an answer. `usage`: input, output, cached, reasoning."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()  # id, name, arguments
    stop: str = "stop"
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)


def sse(*chunks: Any, done: bool = True) -> bytes:
    lines = [chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def chunk(finish: str | int | None = None, /, **delta: Any) -> dict[str, Any]:
    return {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def completion(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"id": "1", "model": "m", "choices": [choice], **more}).encode()


def events(*given: dict[str, Any]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in given).encode()


def lines(*given: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in given)


def gemini(*parts: dict[str, Any], finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "modelVersion": "g", **more}


CITY = '{"city": "Oslo"}'
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": CITY}}
START = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "claude",
         "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}  # fmt: skip
STOPPED = {"type": "message_stop"}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def ended(reason: str, output: int = 5) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}, STOPPED]


ANSWERS: dict[str, tuple[str, bytes, Read]] = {
    "openrouter: comments, reasoning, costs": (
        "openai",
        sse(": OPENROUTER PROCESSING\n\n", chunk(role="assistant", content="", reasoning="Hm.",
            reasoning_details=[{"type": "reasoning.text", "text": "Hm."}]), chunk(content="Hi"), chunk("stop", content=""),
            {"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
             "cost": 0.01, "prompt_tokens_details": {"cached_tokens": 4},
             "completion_tokens_details": {"reasoning_tokens": 2}}}),
        Read("Hi", "Hm.", usage=(9, 5, 4, 2)),
    ),
    "groq: usage in a field of its own": (
        "openai",
        sse(chunk(role="assistant", content="Hi"),
            {**chunk("stop"), "x_groq": {"id": "req", "usage": {"prompt_tokens": 9, "completion_tokens": 5}}}),
        Read("Hi", usage=(9, 5, None, None)),
    ),
    "mistral: thinking in blocks, a length of its own": (
        "openai",
        completion({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                                {"type": "text", "text": "Hi"}], "tool_calls": None}, "model_length",
                   usage={"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": None}),
        Read("Hi", "Hm.", stop="length", usage=(9, 5, None, None)),
    ),
    "deepseek: waits with blank lines, counts its cache": (
        "openai",
        b"\n\n\n" + completion({"content": "Hi", "reasoning_content": "Hm."}, usage={"prompt_tokens": 9,
            "completion_tokens": 5, "total_tokens": 14, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 1,
            "completion_tokens_details": {"reasoning_tokens": 2}}),
        Read("Hi", "Hm.", usage=(9, 5, 8, 2)),
    ),
    "deepseek: keeps a stream alive": (
        "openai",
        sse(": keep-alive\n\n", chunk(role="assistant", content=None, reasoning_content="Hm."),
            ": keep-alive\n\n", chunk(content="Hi", reasoning_content=None), chunk("stop", content="")),
        Read("Hi", "Hm."),
    ),
    "vllm: names a call once, ids are long": (
        "openai",
        sse(chunk(role="assistant", content=""), chunk(tool_calls=[{"index": 0, "id": "chatcmpl-tool-1", "type": "function",
            "function": {"name": "weather", "arguments": ""}}]),
            *(chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in ('{"city"', ': "Oslo"}')),
            {**chunk("tool_calls"), "stop_reason": None}),
        Read(calls=(("chatcmpl-tool-1", "weather", CITY),), stop="tool_calls"),
    ),
    "llama.cpp: timings instead of usage": (
        "openai",
        sse(chunk(role="assistant", content=None), chunk(content="Hi"),
            {**chunk("stop"), "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 3, "predicted_ms": 1.0}}),
        Read("Hi", usage=(9, 3, 4, None)),
    ),
    "lm studio: says stop where it calls a tool": (
        "openai", completion({"content": "", "tool_calls": [CALL]}, "stop", stats={}),
        Read(calls=(("c1", "weather", CITY),), stop="tool_calls"),
    ),
    "together: another word for the end": (
        "openai", completion({"content": "Hi", "tool_calls": []}, "eos"), Read("Hi"),
    ),
    "azure: filters before and after": (
        "openai",
        sse({"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
            {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None,
             "content_filter_results": {"hate": {"filtered": False}}}]},
            {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 1},
             "content_filter_results": {}}], "id": "", "model": ""}, chunk("content_filter")),
        Read("Hi", stop="content_filter"),
    ),
    "moonshot: usage within the choice": (
        "openai",
        sse(chunk(role="assistant", content="Hi"),
            {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop",
             "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "cached_tokens": 4}}]}),
        Read("Hi", usage=(9, 5, 4, None)),
    ),
    "xai: thinking is not among the completion tokens": (
        "openai",
        completion({"content": "Hi", "reasoning_content": "Hm.", "refusal": None}, usage={"prompt_tokens": 9,
            "completion_tokens": 5, "total_tokens": 34, "completion_tokens_details": {"reasoning_tokens": 20}}),
        Read("Hi", "Hm.", usage=(9, 25, None, 20)),
    ),
    "a server that sends arguments as an object": (
        "openai",
        completion({"content": None, "tool_calls": [{"id": "c1", "function": {"name": "weather",
                    "arguments": {"city": "Oslo"}}}]}, "tool_calls"),
        Read(calls=(("c1", "weather", '{"city":"Oslo"}'),), stop="tool_calls"),
    ),
    "gemini: thoughts, then a signed call": (
        "gemini",
        sse(gemini({"text": "Hm.", "thought": True}, finish=None),
            gemini({"functionCall": {"name": "weather", "args": {"city": "Oslo"}, "id": "g1"}, "thoughtSignature": "c2ln"},
                   usageMetadata={"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 7,
                                  "cachedContentTokenCount": 4, "totalTokenCount": 21}), done=False),
        Read(reasoning="Hm.", calls=(("g1", "weather", '{"city":"Oslo"}'),), stop="tool_calls", usage=(9, 12, 4, 7)),
    ),
    "gemini: thought until the limit and said nothing": (
        "gemini",
        json.dumps({"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}],
                    "usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 7, "totalTokenCount": 16}}).encode(),
        Read(stop="length", usage=(9, 7, None, 7)),
    ),
    "gemini: an answer that is not shown": (
        "gemini",
        json.dumps({"candidates": [{"finishReason": "SAFETY", "index": 0, "safetyRatings": [{"blocked": True}]}],
                    "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}}).encode(),
        Read(stop="content_filter", usage=(9, None, None, None)),
    ),
    "anthropic: refuses": (
        "anthropic", events(START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I can"}),
                            *ended("refusal")),
        Read("I can", stop="content_filter", usage=(9, 5, None, None)),
    ),
    "anthropic: its own tools between the texts": (
        "anthropic",
        events(START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I look. "}),
               *block(1, {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
                      {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
               *block(2, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}),
               *block(3, {"type": "text", "text": "", "citations": []}, {"type": "citations_delta", "citation": {"url": "x"}},
                      {"type": "text_delta", "text": "Found."}), {"type": "ping"}, *ended("end_turn")),
        Read("I look. Found.", usage=(9, 5, None, None)),
    ),
    "anthropic: an event and a block of a later version": (
        "anthropic",
        events(START, {"type": "something_new", "x": 1}, *block(0, {"type": "new_block", "data": 1}, {"type": "new_delta"}),
               *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}),
               *ended("model_context_window_exceeded")),
        Read("Hi", stop="length", usage=(9, 5, None, None)),
    ),
    "ollama: thinks, then calls with an id": (
        "ollama",
        lines({"model": "m", "message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False},
              {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [
                  {"id": "call_9", "function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}}]}, "done": False},
              {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
               "prompt_eval_count": 9, "eval_count": 5}),
        Read(reasoning="Hm.", calls=(("call_9", "weather", '{"city":"Oslo"}'),), stop="tool_calls", usage=(9, 5, None, None)),
    ),
}  # fmt: skip


def read(kind: str, body: bytes) -> tuple[ChatResult, ProviderError | None]:
    codec, sent = CODECS[kind](), WireRequest("POST", "x", body={})
    streamed = body.startswith((b"data:", b"event:", b":")) or (kind == "ollama" and body.count(b"\n") > 1)
    if not streamed:
        return codec.decode_chat(WireResponse(200, {}, body), sent), None
    assembler = Assembler()
    deltas, error = run_decoder(lambda: codec.chat_stream(sent), [body[at : at + 7] for at in range(0, len(body), 7)])
    for delta in deltas:
        assembler.add(delta)
    return assembler.result(), error


@pytest.mark.parametrize(("kind", "body", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_for_what_it_says(kind: str, body: bytes, expected: Read) -> None:
    result, error = read(kind, body)
    assert error is None
    usage = result.usage
    found = Read(
        result.text,
        "".join(part.text for part in result.parts if isinstance(part, Reasoning)),
        tuple((call.id, call.name, call.arguments) for call in result.tool_calls),
        result.stop_reason,
        (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens),
    )
    assert found == expected


# kind, what came after "Hi" inside a 200, the error's kind
BREAKS: dict[str, tuple[str, bytes, str]] = {
    "openrouter: its provider left": (
        "openai",
        sse({"id": "1", "error": {"code": 502, "message": "Provider disconnected"},
             "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}), "server",
    ),
    "groq: says why it stopped": (
        "openai", sse({"id": "1", "x_groq": {"id": "r", "error": "over capacity"}, "choices": []}), "overloaded",
    ),
    "groq: a call that cannot be parsed": (
        "openai",
        sse('event: error\ndata: {"error": {"message": "Failed to call a function.", "type": "invalid_request_error",'
            ' "code": "tool_use_failed", "failed_generation": "<function"}}\n\n'), "bad_request",
    ),
    "deepseek: out of resources": ("openai", sse(chunk("insufficient_system_resource")), "overloaded"),
    "vllm: an error object": (
        "openai", sse({"object": "error", "message": "CUDA out of memory", "type": "InternalServerError", "code": 500}), "server",
    ),
    "moonshot: overloaded": (
        "openai", sse({"error": {"message": "The engine is overloaded", "type": "engine_overloaded_error"}}), "overloaded",
    ),
    "gemini: a call that cannot be parsed": ("gemini", sse(gemini(finish="MALFORMED_FUNCTION_CALL"), done=False), "server"),
    "gemini: overloaded": (
        "gemini", sse({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, done=False), "overloaded",
    ),
    "anthropic: overloaded": (
        "anthropic", events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), "overloaded",
    ),
    "ollama: the runner died": ("ollama", lines({"error": "an error was encountered while running the model"}), "server"),
    "a stream that just ends": ("openai", b"", "cut"),
}  # fmt: skip
BEGUN = {
    "openai": sse(chunk(role="assistant", content="Hi"), done=False),
    "gemini": sse(gemini({"text": "Hi"}, finish=None), done=False),
    "anthropic": events(START, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"})),
    "ollama": lines({"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": False}, {"done": False}),
}


@pytest.mark.parametrize(("kind", "body", "expected"), BREAKS.values(), ids=BREAKS)
def test_an_answer_that_breaks_says_how(kind: str, body: bytes, expected: str) -> None:
    result, error = read(kind, BEGUN[kind] + body)
    assert result.text == "Hi"
    assert error is not None
    assert error.kind == expected


REFUSALS: dict[str, tuple[str, int, Any, str]] = {
    "vllm: too long": ("openai", 400, {"object": "error", "type": "BadRequestError", "code": 400, "message":
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"}, "context_overflow"),
    "vllm: too long, newer": ("openai", 400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: "
        "5000. This model's maximum context length is 4096 tokens", "type": "BadRequestError", "code": 400}},
        "context_overflow"),
    "llama.cpp: too long": ("openai", 400, {"error": {"code": 400, "message": "the request exceeds the available context "
        "size", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 4}}, "context_overflow"),
    "llama.cpp: still loading": ("openai", 503, {"error": {"code": 503, "message": "Loading model", "type":
        "unavailable_error"}}, "overloaded"),
    "lm studio: no such model": ("openai", 404, {"error": {"message": "model_not_found", "code": "model_not_found"}},
        "not_found"),
    "azure: filtered": ("openai", 400, {"error": {"message": "The response was filtered", "type": None, "param": "prompt",
        "code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "content_filter"),
    "azure: no such deployment": ("openai", 404, {"error": {"code": "DeploymentNotFound", "message": "no such one"}},
        "not_found"),
    "openrouter: no credits": ("openai", 402, {"error": {"code": 402, "message": "Insufficient credits"}}, "quota"),
    "openrouter: moderated": ("openai", 403, {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"],
        "flagged_input": "x"}}}, "content_filter"),
    "deepseek: no balance": ("openai", 402, {"error": {"message": "Insufficient Balance", "type": "unknown_error",
        "code": "invalid_request_error"}}, "quota"),
    "together: too many": ("openai", 429, {"error": {"message": "rate limited", "type": "rate_limit"}}, "rate_limited"),
    "mistral: too many": ("openai", 429, {"object": "error", "message": "Requests rate limit exceeded", "type":
        "rate_limited", "code": "1300"}, "rate_limited"),
    "mistral: validation": ("openai", 422, {"detail": [{"loc": ["body", "x"], "msg": "field required", "type": "missing"}]},
        "bad_request"),
    "xai: no such model": ("openai", 404, {"code": "not-found", "error": "The model grok-9 does not exist"}, "not_found"),
    "xai: a wrong key": ("openai", 400, {"code": "Client specified an invalid argument", "error":
        "Incorrect API key provided: xx***yy. You can obtain an API key from https://console.x.ai."}, "auth"),
    "gemini: a wrong key": ("gemini", 400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API "
        "key.", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}, "auth"),
    "gemini: a list of one": ("gemini", 429, [{"error": {"code": 429, "message": "Resource has been exhausted", "status":
        "RESOURCE_EXHAUSTED"}}], "rate_limited"),
    "anthropic: too long": ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message":
        "prompt is too long: 210000 tokens > 200000 maximum"}}, "context_overflow"),
    "anthropic: no credit": ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message":
        "Your credit balance is too low to access the Anthropic API."}}, "quota"),
    "ollama: no such model": ("ollama", 404, {"error": "model 'x' not found"}, "not_found"),
    "ollama: no tools": ("ollama", 400, {"error": "registry.ollama.ai/library/x does not support tools"}, "bad_request"),
    "ollama: busy": ("ollama", 503, {"error": "server busy, please try again. maximum pending requests exceeded"},
        "overloaded"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "status", "body", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_of_its_kind(kind: str, status: int, body: Any, expected: str) -> None:
    response = WireResponse(status, {}, json.dumps(body).encode())
    error = CODECS[kind]().decode_error(response, WireRequest("POST", "x"))
    assert error.kind == expected
    assert error.message
    assert error.retryable == (expected in ("rate_limited", "overloaded"))


def test_a_prompt_that_google_blocks_is_filtered() -> None:
    blocked = json.dumps({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}}).encode()
    with pytest.raises(ProviderError) as caught:
        CODECS["gemini"]().decode_chat(WireResponse(200, {}, blocked), WireRequest("POST", "x"))
    assert caught.value.kind == "content_filter"
