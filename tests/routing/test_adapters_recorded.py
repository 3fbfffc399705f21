"""Answers of real providers, recorded by others, read by our codecs. What to expect is read from the
recordings by simpler code than the codecs', so any further recording in the same folders is tested too."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from anthropic._models import construct_type
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler, deltas_of
from routing.adapters.base import Codec, WireRequest, WireResponse
from routing.gateway.wire import anthropic_answers, openai_answers
from routing.types import ChatResult, ProviderError, ToolCall
from tests.routing.adapters_support import run_decoder

ROOT = Path(os.environ.get("ZIGGIE_SHARED") or Path(__file__).parents[3] / "shared") / "provider-fixtures"
RECORDINGS = sorted(ROOT.glob("*/*.meta.json"))
# paths of chats, of what else we call, and of other APIs of the same houses
KINDS = {
    "/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/api/chat": "ollama",
    "/api/generate": "ollama",
    ":generateContent": "gemini",
    ":streamGenerateContent": "gemini",
    "/v2/chat": "cohere",
}

pytestmark = pytest.mark.skipif(not RECORDINGS, reason=f"needs the shared recordings; {ROOT} is absent (ZIGGIE_SHARED)")


def _path(meta: dict[str, Any]) -> str:
    return str(meta.get("uri") or meta.get("path")).split("?")[0]


def _load(meta_file: Path) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """(meta, answer, request)"""
    meta = json.loads(meta_file.read_text())
    stem = meta_file.name.removesuffix(".meta.json")
    (answer,) = meta_file.parent.glob(f"{stem}.response.*")
    asked = meta_file.parent / f"{stem}.request.json"
    text = asked.read_text() if asked.exists() else ""
    return meta, answer.read_bytes(), json.loads(text) if text else meta.get("request") or {}


def _chats(*, ok: bool) -> list[Any]:
    found = []
    for meta_file in RECORDINGS:
        meta = json.loads(meta_file.read_text())
        kind = next((kind for end, kind in KINDS.items() if _path(meta).endswith(end)), None)
        if kind and meta["method"].upper() == "POST" and (200 <= meta["status"] < 300) is ok:
            found.append(pytest.param(kind, meta_file, id=f"{meta_file.parent.name}/{meta_file.name[:-10]}"))
    return found


def _read(kind: str, meta: dict[str, Any], body: bytes, request: dict[str, Any]) -> ChatResult:
    codec: Codec = CODECS[kind]()
    sent = WireRequest("POST", _path(meta), body=request)
    if "\n" not in body.decode().strip() or not (body.startswith((b"data:", b"event:")) or _is_ndjson(body)):
        return codec.decode_chat(WireResponse(meta["status"], {}, body), sent)
    deltas, error = run_decoder(lambda: codec.chat_stream(sent), [body[at : at + 7] for at in range(0, len(body), 7)])
    assert error is None
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    return assembler.result()


def _is_ndjson(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.split(b"\n")[0]), dict)
    except ValueError:
        return False


def _documents(body: bytes) -> list[dict[str, Any]]:
    """The JSON documents of an answer: one, or those of a list or of its events."""
    try:
        document = json.loads(body)
        return document if isinstance(document, list) else [document]
    except ValueError:
        lines = [line.removeprefix(b"data:").strip() for line in body.splitlines()]
        return [json.loads(line) for line in lines if line.startswith(b"{")]


def _texts(kind: str, documents: list[dict[str, Any]]) -> str:
    text = ""
    for document in documents:
        match kind:
            case "openai":
                for choice in document.get("choices", [])[:1]:
                    part = choice.get("message") or choice.get("delta") or {}
                    text += part.get("content") or part.get("refusal") or ""
            case "ollama":
                text += (document.get("message") or {}).get("content") or document.get("response") or ""
            case "anthropic":
                text += "".join(block.get("text", "") for block in document.get("content", []))
                text += document.get("delta", {}).get("text", "")
            case "gemini":
                parts = [p for c in document["candidates"] for p in c["content"]["parts"] if not p.get("thought")]
                text += "".join(part.get("text", "") for part in parts)
    return text


def _calls(kind: str, documents: list[dict[str, Any]]) -> set[str]:
    """Names of the tools called."""
    names: set[str] = set()
    for document in documents:
        match kind:
            case "openai":
                for choice in document.get("choices", [])[:1]:
                    part = choice.get("message") or choice.get("delta") or {}
                    names |= {call["function"].get("name") or "" for call in part.get("tool_calls") or []}
            case "ollama":
                calls = (document.get("message") or {}).get("tool_calls") or []
                names |= {call["function"]["name"] for call in calls}
            case "anthropic":
                blocks = [*document.get("content", []), document.get("content_block", {})]
                names |= {block["name"] for block in blocks if block.get("type") == "tool_use"}
            case "gemini":
                parts = [part for c in document["candidates"] for part in c["content"]["parts"]]
                names |= {part["functionCall"]["name"] for part in parts if "functionCall" in part}
    return names - {""}


def _tokens(kind: str, documents: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """(input, output) as the last of the documents reports them."""
    counts: tuple[int | None, int | None] = (None, None)
    for document in documents:
        usage = document.get("usage") or document.get("usageMetadata") or document.get("message", {}).get("usage")
        if kind == "ollama":
            counts = (document.get("prompt_eval_count"), document.get("eval_count"))
        elif kind == "openai" and usage:
            hidden = usage["total_tokens"] - usage["prompt_tokens"] - usage["completion_tokens"]
            counts = (usage["prompt_tokens"], usage["completion_tokens"] + hidden)
        elif kind == "gemini" and usage:
            counts = (usage["promptTokenCount"], usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0))
        elif usage:
            cache = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
            given = usage["input_tokens"] + cache if "input_tokens" in usage else counts[0]
            counts = (given, usage["output_tokens"])
    return counts


@pytest.mark.parametrize(("kind", "recording"), _chats(ok=True))
def test_a_recorded_answer_is_read_in_full(kind: str, recording: Path) -> None:
    meta, body, request = _load(recording)
    result, documents = _read(kind, meta, body, request), _documents(body)
    assert result.text == _texts(kind, documents)
    assert {call.name for call in result.tool_calls} == _calls(kind, documents)
    assert (result.usage.input_tokens, result.usage.output_tokens) == _tokens(kind, documents)
    assert all(isinstance(json.loads(call.arguments), dict) for call in result.tool_calls)
    assert (result.stop_reason == "tool_calls") == bool(result.tool_calls)
    assert result.model


@pytest.mark.parametrize(("kind", "recording"), _chats(ok=False))
def test_a_recorded_refusal_names_its_kind(kind: str, recording: Path) -> None:
    meta, body, _ = _load(recording)
    codec: Codec = CODECS[kind]()
    expected = {400: "bad_request", 401: "auth", 404: "not_found", 429: "rate_limited"}[meta["status"]]
    with pytest.raises(ProviderError) as caught:
        codec.decode_chat(WireResponse(meta["status"], {}, body), WireRequest("POST", "x"))
    assert caught.value.kind == expected
    assert caught.value.status == meta["status"]
    assert 10 < len(caught.value.message) <= 300


def _recording(name: str) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    path = ROOT / f"{name}.meta.json"
    if not path.exists():
        pytest.skip(f"needs the recording {path}")
    return _load(path)


def test_gemini_says_when_to_come_back() -> None:
    _, body, _ = _recording("gemini/generateContent-429-json-1")
    error = CODECS["gemini"]().decode_error(WireResponse(429, {}, body), WireRequest("POST", "x"))
    assert (error.kind, error.retry_after_seconds, error.retryable) == ("rate_limited", 48.0, True)


def test_a_refusal_is_the_answer_and_says_so() -> None:
    meta, body, request = _recording("openai/chat-completions-200-json-schema-1")
    result = _read("openai", meta, body, request)
    assert result.stop_reason == "content_filter"
    assert result.text == "I'm very sorry, but I can't assist with that request."


def test_a_call_that_the_server_repeats_is_one_call_with_empty_arguments() -> None:
    meta, body, request = _recording("openai/chat-completions-200-sse-tools-toolcall-usage-1")
    assert _read("openai", meta, body, request).tool_calls == (ToolCall("0", "llm_version", "{}"),)


def test_thinking_is_counted_once_and_its_signature_kept() -> None:
    meta, body, request = _recording("anthropic/messages-200-sse-tools-toolcall-reasoning-usage-1")
    result = _read("anthropic", meta, body, request)
    assert result.usage.output_tokens == 92
    assert result.usage.reasoning_tokens == 53
    thinking = result.parts[0]
    assert getattr(thinking, "signature", "").startswith("EoQDCm0I")


def test_the_cache_is_part_of_the_input() -> None:
    meta, body, request = _recording("anthropic/messages-200-json-tools-cachehit-1")
    usage = _read("anthropic", meta, body, request).usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens) == (6 + 1069 + 85, 1069, 85)


def test_thinking_that_google_hides_from_the_count_is_billed_as_output() -> None:
    meta, body, request = _recording("gemini/chat-completions-200-json-tools-1")
    usage = _read("openai", meta, body, request).usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (66, 34, 28)


def test_a_recorded_embedding_has_its_vectors_in_order() -> None:
    _, body, request = _recording("ollama-recorded/embed")
    found = CODECS["ollama"]().decode_embed(WireResponse(200, {}, body), WireRequest("POST", "x", body=request))
    assert len(found.vectors) == 2
    assert sum(x * x for x in found.vectors[0]) == pytest.approx(1, abs=1e-3)
    _, body, request = _recording("openai/embeddings-200-json-2")
    answer = CODECS["openai"]().decode_embed(WireResponse(200, {}, body), WireRequest("POST", "x", body={}))
    assert answer.usage.input_tokens == json.loads(body)["usage"]["prompt_tokens"]


def test_the_tokens_of_a_prompt_are_counted() -> None:
    _, body, _ = _recording("anthropic/messages-count_tokens-200-json-tools-2")
    assert CODECS["anthropic"]().decode_count(WireResponse(200, {}, body), WireRequest("POST", "x")) == 671
    _, body, _ = _recording("gemini/countTokens-200-json-tools-1")
    assert CODECS["gemini"]().decode_count(WireResponse(200, {}, body), WireRequest("POST", "x")) == 61


def test_a_recorded_status_names_the_models() -> None:
    _, tags, _ = _recording("ollama-recorded/tags")
    _, loaded, _ = _recording("ollama-recorded/ps")
    status = CODECS["ollama"]().decode_status((WireResponse(200, {}, tags), WireResponse(200, {}, loaded), None))
    assert status.models is not None
    assert "all-minilm:latest" in status.models
    assert status.loaded == ("stories260k:latest",)
    _, models, _ = _recording("gemini/models-200-json-reasoning-1")
    found = CODECS["gemini"]().decode_status((WireResponse(200, {}, models),))
    assert found.models is not None
    assert "gemini-2.5-flash" in found.models


# --- errors quoted in public reports -----------------------------------------------------------------

QUOTED = json.loads((ROOT / "errors_quoted.json").read_text())["items"] if RECORDINGS else []


@pytest.mark.parametrize("item", QUOTED, ids=lambda item: f"{item['provider']}-{item['status']}")
def test_a_quoted_error_is_retryable_unless_money_is_gone(item: dict[str, Any]) -> None:
    codec: Codec = CODECS[{"moonshot": "openai"}.get(item["provider"], item["provider"])]()
    sent = WireRequest("POST", "x")
    if item["status"] == 200:
        stream = item.get("sse") or item["ndjson"]
        _, error = run_decoder(lambda: codec.chat_stream(sent), [stream.encode()])
    else:
        error = codec.decode_error(
            WireResponse(item["status"], item.get("headers", {}), json.dumps(item["body"]).encode()), sent
        )
    assert error is not None
    gone = "insufficient_quota" in json.dumps(item)
    assert error.retryable is not gone
    assert (error.kind == "quota") is gone
    if "overloaded" in json.dumps(item).lower():
        assert error.kind == "overloaded"
    if "x-ratelimit-reset-requests" in item.get("headers", {}):
        assert error.retry_after_seconds == 360


# --- the examples of Ollama's documentation ----------------------------------------------------------

DOCUMENTED = ROOT / "ollama-recorded" / "documented_examples.json"


def _documented() -> list[Any]:
    if not DOCUMENTED.exists():
        return []
    found = []
    for number, example in enumerate(json.loads(DOCUMENTED.read_text())["examples"]):
        if ("/api/chat" in example["curl"] or "/api/generate" in example["curl"]) and example["responses"]:
            found.append(pytest.param(example["responses"], id=f"example-{number}"))
    return found


@pytest.mark.parametrize("responses", _documented())
def test_a_documented_answer_is_read(responses: list[str]) -> None:
    lines = [line for line in map(json.loads, responses) if "model" in line]  # one shows its text once more
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    codec = CODECS["ollama"]()
    deltas, error = run_decoder(lambda: codec.chat_stream(WireRequest("POST", "x", body={})), [body])
    if not lines[-1].get("done"):
        assert error is not None
        assert error.kind == "cut"
        return
    assert error is None
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    result = assembler.result()
    assert result.text == _texts("ollama", lines)
    assert {call.name for call in result.tool_calls} == _calls("ollama", lines)
    assert result.usage.output_tokens == lines[-1].get("eval_count")


# --- through the gateway's writers -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "recording"), _chats(ok=True))
def test_a_recorded_answer_is_told_in_full_to_either_client(kind: str, recording: Path) -> None:
    """Whole and streamed, read back by the types and the accumulators of the official packages."""
    meta, body, request = _load(recording)
    result = _read(kind, meta, body, request)
    calls = [(call.name, json.loads(call.arguments)) for call in result.tool_calls]
    for told in (
        _openai_whole(result),
        _openai_streamed(result),
        _anthropic_whole(result),
        _anthropic_streamed(result),
    ):
        assert told == (result.text, calls, result.usage.input_tokens or 0, result.usage.output_tokens or 0)


Told = tuple[str, list[tuple[str, Any]], int, int]


def _openai_whole(result: ChatResult) -> Told:
    answer = ChatCompletion.model_validate_json(openai_answers.encode_result(result, call_id="1", model="m"))
    message, usage = answer.choices[0].message, answer.usage
    assert usage is not None
    calls: Any = message.tool_calls or ()
    found = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
    return message.content or message.refusal or "", found, usage.prompt_tokens, usage.completion_tokens


def _openai_streamed(result: ChatResult) -> Told:
    encoder = openai_answers.StreamEncoder(call_id="1", model="m", include_usage=True)
    sent = encoder.deltas(deltas_of(result)) + encoder.end(result.stop_reason, result.usage)
    state: Any = ChatCompletionStreamState()
    for line in sent.split(b"\n\n"):
        if line.startswith(b"data: {"):
            state.handle_chunk(ChatCompletionChunk.model_validate_json(line.removeprefix(b"data: ")))
    answer = state.current_completion_snapshot
    message = answer.choices[0].message
    found = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    return message.content or message.refusal or "", found, answer.usage.prompt_tokens, answer.usage.completion_tokens


def _of_message(answer: Any) -> Told:
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    usage = answer.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return text, calls, usage.input_tokens + cached, usage.output_tokens


def _anthropic_whole(result: ChatResult) -> Told:
    body = anthropic_answers.encode_result(result, call_id="1", model="m")
    return _of_message(AnthropicMessage.model_validate_json(body))


def _anthropic_streamed(result: ChatResult) -> Told:
    encoder = anthropic_answers.StreamEncoder(call_id="1", model="m")
    sent = encoder.deltas(deltas_of(result)) + encoder.end(result.stop_reason, result.usage)
    snapshot, pieces = None, dict[int, bytes]()
    for event in sent.split(b"\n\n"):
        if event:
            data: Any = construct_type(type_=RawMessageStreamEvent, value=json.loads(event.partition(b"data: ")[2]))
            snapshot = accumulate_event(event=data, current_snapshot=snapshot, json_bufs=pieces)
    return _of_message(snapshot)
