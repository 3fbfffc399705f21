"""What Ollama of today does beyond what all providers do: what it is told, what it says, what its refusals mean."""

import json
from typing import Any

import pytest

from routing.adapters import CODECS, transport
from routing.adapters.base import WireResponse
from routing.adapters.sending.deadlines import Timeouts
from routing.types import (
    ChatRequest,
    Delta,
    Hints,
    Message,
    ModelSpec,
    ProviderError,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    message,
)
from tests.routing.adapters_support import ask, model, provider, run_decoder, whole
from tests.servers.ollama import OllamaServer
from tests.servers.script import Call, Reply

CODEC = CODECS["ollama"]()


def encode(request: ChatRequest, name: str = "llama3.2") -> dict[str, Any]:
    sent = CODEC.encode_chat(request, model("ollama", name), max_output_tokens=100, stream=True)
    assert sent.body is not None
    return dict(sent.body)


async def everything(row: ModelSpec, request: ChatRequest, max_output_tokens: int = 100) -> list[Delta]:
    """What comes of a stream."""
    pieces = transport.stream(row.provider, row, request, max_output_tokens=max_output_tokens, timeouts=Timeouts())
    return [delta async for delta in pieces]


def refused(status: int, body: object) -> ProviderError:
    sent = CODEC.encode_chat(ask(), model("ollama"), max_output_tokens=100, stream=False)
    with pytest.raises(ProviderError) as caught:
        CODEC.decode_chat(WireResponse(status, {}, json.dumps(body).encode()), sent)
    return caught.value


def test_it_is_told_neither_to_cut_the_prompt_nor_to_forget_it_while_it_answers() -> None:
    body = encode(ask())
    assert (body["truncate"], body["shift"]) == (False, False)


@pytest.mark.parametrize(
    ("name", "effort", "think"),
    [
        ("gpt-oss:20b", "medium", "medium"),
        ("gpt-oss:20b", "none", "low"),  # it cannot be kept from thinking
        ("gpt-oss:20b", "xhigh", "high"),
        ("hf.co/unsloth/gpt-oss-20b-GGUF", "high", "high"),
        ("qwen3:8b", "high", True),
        ("qwen3:8b", "minimal", False),
    ],
)
def test_an_effort_is_said_as_the_model_knows_it(name: str, effort: str, think: bool | str) -> None:
    assert encode(ask(reasoning_effort=effort), name)["think"] == think


def test_a_tools_answer_is_tied_to_its_call_by_id_and_by_name() -> None:
    turns = (
        message("user", "weather?"),
        Message("assistant", (ToolCall("call_1", "look_up", '{"city": "Oslo"}'), ToolCall("call_2", "look_up", "{}"))),
        Message("tool", (ToolResult("call_2", "none"), ToolResult("call_1", "rain"))),
    )
    messages = encode(ChatRequest(turns))["messages"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_1", "call_2"]
    assert [(m["tool_call_id"], m["tool_name"], m["content"]) for m in messages[2:]] == [
        ("call_2", "look_up", "none"),
        ("call_1", "look_up", "rain"),
    ]


def test_calls_that_bear_ids_keep_them() -> None:
    function = {"index": 1, "name": "look_up", "arguments": {"city": "Oslo"}}
    answer = {
        "message": {"role": "assistant", "content": "", "tool_calls": [{"id": "call_x1y2z3a4", "function": function}]},
        "done": True,
        "done_reason": "stop",
    }
    sent = CODEC.encode_chat(ask(), model("ollama"), max_output_tokens=100, stream=False)
    result = CODEC.decode_chat(WireResponse(200, {}, json.dumps(answer).encode()), sent)
    assert result.tool_calls == (ToolCall("call_x1y2z3a4", "look_up", '{"city":"Oslo"}'),)
    assert result.stop_reason == "tool_calls"


async def test_what_was_read_from_its_cache_is_counted(ollama_server: OllamaServer) -> None:
    ollama_server.default = Reply("Hi.", input_tokens=40, cached_tokens=32, output_tokens=2)
    row = model(provider("ollama", ollama_server.url), "llama3.2")
    result = await whole(row, ask(), Timeouts())
    assert result.usage == Usage(input_tokens=40, output_tokens=2, cached_input_tokens=32)


def runners_error(message: str, kind: str) -> dict[str, str]:
    """An error of its runner, which it hands on as a text."""
    return {"error": json.dumps({"error": {"code": 400, "message": message, "type": kind}})}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            runners_error("request (2622 tokens) exceeds the available context size", "exceed_context_size_error"),
            "context_overflow",
        ),
        (400, {"error": "the input length exceeds the context length"}, "context_overflow"),
        (400, {"error": "the prompt is longer than the context length currently available"}, "context_overflow"),
        (500, {"error": "input exceeds maximum context length and cannot be truncated further"}, "context_overflow"),
        (
            400,
            runners_error("Multimodal data provided, but model does not support it.", "invalid_request_error"),
            "bad_request",
        ),
        (400, {"error": '"llama3.2" does not support thinking'}, "bad_request"),
        (400, {"error": "registry.ollama.ai/library/phi3:latest does not support tools"}, "bad_request"),
        (404, {"error": "model 'llama9' not found"}, "not_found"),
        (403, {"error": "ollama cloud is disabled: remote model is unavailable"}, "auth"),
        (429, {"error": "you (ada) have reached your weekly usage limit, upgrade for higher limits"}, "quota"),
        (429, {"error": "you've reached your hourly usage limit, please upgrade to continue"}, "quota"),
        (429, {"error": "too many concurrent requests"}, "rate_limited"),
        (500, {"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"}, "server"),
        (500, {"error": "model runner has unexpectedly stopped, this may be due to resource limitations"}, "server"),
        (502, {"error": "dial tcp: lookup ollama.com: no such host"}, "server"),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "overloaded"),
    ],
)
def test_its_refusals_mean_what_they_say(status: int, body: dict[str, str], kind: str) -> None:
    error = refused(status, body)
    assert (error.kind, error.status) == (kind, status)
    assert "{" not in error.message


@pytest.mark.parametrize("first_token_seconds", [None, 30.0])
async def test_a_prompt_of_more_tokens_than_it_looked_gets_the_context_that_was_missing(
    ollama_server: OllamaServer, first_token_seconds: float | None
) -> None:
    ollama_server.default = Reply("Read.", input_tokens=10_000)  # digits, say: each is a token to many models
    row = model(provider("ollama", ollama_server.url), "llama3.2", context_window=131072)
    deadlines = Timeouts(first_token_seconds=first_token_seconds)
    pieces = transport.stream(row.provider, row, ask("7" * 3000), max_output_tokens=500, timeouts=deadlines)
    assert "".join([delta.text async for delta in pieces]) == "Read."
    assert [call.json["options"]["num_ctx"] for call in ollama_server.calls] == [4096, 16384]
    assert ollama_server.calls[-1].json["options"]["num_predict"] == 500


async def test_what_no_context_of_the_model_can_hold_is_asked_for_once(ollama_server: OllamaServer) -> None:
    ollama_server.default = Reply("Read.", input_tokens=10_000)
    row = model(provider("ollama", ollama_server.url), "llama3.2", context_window=8192)
    with pytest.raises(ProviderError, match="has 10000 tokens, the model's context 8192") as caught:
        await everything(row, ask("7" * 3000), max_output_tokens=500)
    assert caught.value.kind == "context_overflow"
    assert len(ollama_server.calls) == 1


async def test_a_server_whose_own_limit_is_smaller_is_asked_twice_at_most(ollama_server: OllamaServer) -> None:
    ollama_server.default = Reply("Read.", input_tokens=10_000)
    ollama_server.train_context = 8192
    row = model(provider("ollama", ollama_server.url), "llama3.2", context_window=131072)
    with pytest.raises(ProviderError, match="exceeds the available context size"):
        await everything(row, ask("7" * 3000), max_output_tokens=500)
    assert len(ollama_server.calls) == 2


def test_the_tokens_that_a_caller_states_count_where_they_are_more_than_the_estimate() -> None:
    stated = ask(hints=Hints(context_tokens=20_000))
    assert encode(stated)["options"]["num_ctx"] == 32768
    assert encode(ask("word " * 5000, hints=Hints(context_tokens=3)))["options"]["num_ctx"] == 16384


async def test_a_cloud_model_of_a_server_that_is_not_signed_in_says_what_to_do(ollama_server: OllamaServer) -> None:
    ollama_server.signed_in = False
    row = model(provider("ollama", ollama_server.url), "gpt-oss:120b:cloud")
    with pytest.raises(ProviderError, match="ollama signin") as caught:
        await whole(row, ask(), Timeouts())
    assert caught.value.kind == "auth"
    assert caught.value.one_model  # the server's own models answer
    assert "connect?" not in caught.value.message


# where the server is, the model, and whether what the cloud says of it is no matter of the others
PASSED_ON = [
    ("http://127.0.0.1:11434", "gpt-oss:120b-cloud", True),
    ("http://127.0.0.1:11434", "llama3.2", False),
    ("https://ollama.com", "gpt-oss:120b-cloud", False),
]


@pytest.mark.parametrize(("url", "name", "alone"), PASSED_ON)
def test_what_the_cloud_refuses_is_no_matter_of_the_servers_own_models(url: str, name: str, alone: bool) -> None:
    sent = CODEC.encode_chat(ask(), model(provider("ollama", url), name), max_output_tokens=9, stream=True)
    for status, said, kind in ((429, "you have reached your weekly usage limit", "quota"), (401, "no", "auth")):
        error = CODEC.decode_error(WireResponse(status, {}, json.dumps({"error": said}).encode()), sent)
        assert (error.kind, error.one_model) == (kind, alone)
    _, within = run_decoder(lambda: CODEC.chat_stream(sent), [b'{"error": "the monthly usage limit is reached"}\n'])
    assert within is not None
    assert (within.kind, within.one_model) == ("quota", alone)
    unpaid = CODEC.decode_error(WireResponse(403, {}, b'{"error": "this model requires a subscription"}'), sent)
    assert (unpaid.kind, unpaid.one_model) == ("quota", True)


async def test_thinking_calls_and_text_come_in_one_stream(ollama_server: OllamaServer) -> None:
    ollama_server.default = Reply("Let me see.", reasoning="Oslo.", calls=(Call("look_up", {"city": "Oslo"}),))
    row = model(provider("ollama", ollama_server.url), "llama3.2")
    deltas = await everything(row, ask())
    assert "".join(d.reasoning for d in deltas) == "Oslo."
    assert "".join(d.text for d in deltas) == "Let me see."
    assert [d.tool_name for d in deltas if d.tool_index is not None] == ["look_up"]
    assert [d.stop_reason for d in deltas if d.stop_reason] == ["tool_calls"]


def test_a_turn_of_text_bears_no_fields_that_older_servers_refuse() -> None:
    turns = (message("system", "Be brief."), message("user", "Hi."), Message("assistant", (Text("Hello."),)))
    assert [set(turn) for turn in encode(ChatRequest(turns))["messages"]] == [{"role", "content"}] * 3


@pytest.mark.parametrize(
    ("characters", "window", "context"),
    [
        (12_000, 8192, None),  # what fits is embedded in the context that the model has there
        (20_000, 8192, 8192),
        (20_000, 4096, None),
        (90_000, 32768, 32768),
    ],
)
async def test_long_texts_are_embedded_in_as_much_context_as_they_need(
    ollama_server: OllamaServer, characters: int, window: int, context: int | None
) -> None:
    row = model(provider("ollama", ollama_server.url), "nomic-embed-text", context_window=window)
    texts = ("Hello.", "word " * (characters // 5))
    sent = CODEC.encode_embed(texts, row, purpose="document")
    response = await transport.fetch(row.provider, sent, Timeouts())
    if characters // 4 <= window:
        assert len(CODEC.decode_embed(response, sent).vectors) == 2
    else:
        with pytest.raises(ProviderError, match="exceeds the context length") as caught:
            CODEC.decode_embed(response, sent)
        assert caught.value.kind == "context_overflow"
    assert ollama_server.calls[-1].json.get("options") == ({"num_ctx": context} if context else None)
