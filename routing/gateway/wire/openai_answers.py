"""PURE: our answers, whole and streamed, and errors as OpenAI's chat completions API tells them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from routing.adapters.reading.wire import SIGNATURE_MARK
from routing.gateway.wire.reading import (
    Json,
)
from routing.types import (
    ChatResult,
    Delta,
    Reasoning,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from routing.walk.attempts import Answer
from ziggie.errors import RateLimited, ZiggieError

_FINISH: dict[StopReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
_CODES = {"unknown_model": "model_not_found"}  # clients look for it
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
}
_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
DONE = b"data: [DONE]\n\n"


def encode_result(result: ChatResult, *, call_id: str, model: str, others: Sequence[Answer] = ()) -> bytes:
    """`usage` is what all choices have used: each has read the prompt."""
    choices, usage = [_choice(result, 0)], result.usage
    if others:
        choices += [_choice(other.result, index) for index, other in enumerate(others, 1)]
        usage = usage_of([result, *[other.result for other in others]])
    return orjson.dumps({**_head(call_id, model, "chat.completion"), "choices": choices, "usage": _usage(usage)})


def usage_of(results: Sequence[ChatResult]) -> Usage:
    """What answers have used together. What none of them tells is not told."""
    counts = {name: [told for each in results if (told := getattr(each.usage, name)) is not None] for name in _COUNTS}
    return Usage(**{name: sum(told) for name, told in counts.items() if told})


def _choice(result: ChatResult, index: int) -> Json:
    text, refusal = result.text, ""
    if result.stop_reason == "content_filter":
        refusal = "".join([part.text for part in result.parts if isinstance(part, Text) and part.refuses])
        text = text.removesuffix(refusal)
    message: Json = {"role": "assistant", "content": text or None, "refusal": refusal or None}
    reasoning = "".join([part.text for part in result.parts if isinstance(part, Reasoning) and not part.redacted])
    if reasoning:
        message["reasoning_content"] = reasoning
    calls = result.tool_calls
    if calls:
        message["tool_calls"] = _encoded_calls(result)
    elif message["content"] is None and not refusal:
        message["content"] = ""
    finish = "stop" if refusal else _FINISH[result.stop_reason]  # as OpenAI ends a refusal that is told as one
    logprobs = _logprobs(result.logprobs, refused=bool(refusal)) if result.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(told: Sequence[Mapping[str, Any]], *, refused: bool) -> Json:
    return {"content": None, "refusal": told} if refused else {"content": told, "refusal": None}


def _head(call_id: str, model: str, kind: str) -> Json:
    return {"id": f"chatcmpl-{call_id}", "object": kind, "created": int(time.time()), "model": model}


def _encoded_calls(result: ChatResult) -> list[Json]:
    calls: list[Json] = []
    signed: Json = {}
    for part in result.parts:
        if isinstance(part, Reasoning) and part.signature.startswith(SIGNATURE_MARK):
            signed = _signed(part.signature)
        elif isinstance(part, ToolCall):
            function = {"name": part.name, "arguments": part.arguments}
            calls.append({"id": part.id, "type": "function", "function": function, **signed})
            signed = {}
        elif isinstance(part, Text):  # it was the text that was signed
            signed = {}
    return calls


def _signed(signature: str) -> Json:
    """What a call bears that Gemini signed, where Google's imitation of this API has it: it wants it back."""
    return {"extra_content": {"google": {"thought_signature": signature.removeprefix(SIGNATURE_MARK)}}}


def _usage(usage: Usage) -> Json:
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    encoded: Json = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
    cached = {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.cache_write_tokens}
    if told := {name: count for name, count in cached.items() if count is not None}:
        encoded["prompt_tokens_details"] = told
    if usage.reasoning_tokens is not None:
        encoded["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return encoded


class StreamEncoder:
    """One answer as server-sent chunks; `index` is its place among those of its call."""

    def __init__(self, *, call_id: str, model: str, include_usage: bool, index: int = 0) -> None:
        head = orjson.dumps(_head(call_id, model, "chat.completion.chunk"))[:-1]
        self._head = b'data: %b,"choices":[{"index":%d,"delta":' % (head, index)
        self._no_choices = b"data: " + head + b',"choices":[],"usage":'
        self._include_usage = include_usage
        nothing_used = b',"usage":null' if include_usage else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + nothing_used + b"}\n\n"
        self.has_begun = False
        self._refused = False
        self._signature = ""  # Google's, of the call that comes next

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """What a client may see of these deltas, as bytes of the stream; empty if that is nothing."""
        pieces: list[bytes] = []
        for delta in deltas:
            if delta.reasoning_signature and delta.reasoning_signature.startswith(SIGNATURE_MARK):
                self._signature = delta.reasoning_signature
            elif delta.text:  # it was the text that was signed
                self._signature = ""
            if delta.is_output or delta.logprobs:
                pieces.append(self._chunk(delta))
        return b"".join(pieces)

    def _chunk(self, delta: Delta) -> bytes:
        said: Json = {}
        if not self.has_begun:
            self.has_begun = True
            said["role"] = "assistant"
            said["content"] = ""
        if delta.refuses:
            self._refused = True
            said.pop("content", None)
            said["refusal"] = delta.text
        elif delta.text:
            said["content"] = delta.text
        if delta.reasoning and not delta.reasoning_redacted:
            said["reasoning_content"] = delta.reasoning
        if delta.tool_index is not None:
            piece = _call_piece(delta, delta.tool_index)
            if self._signature and delta.tool_id:
                piece |= _signed(self._signature)
                self._signature = ""
            said["tool_calls"] = [piece]
        tail = self._tail
        if delta.logprobs:
            told = orjson.dumps(_logprobs(delta.logprobs, refused=delta.refuses))
            tail = tail.replace(b'"logprobs":null', b'"logprobs":' + told, 1)
        return self._head + orjson.dumps(said) + tail

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes:
        return self.last(stop_reason) + self.close(usage)

    def open(self) -> bytes:
        """The beginning of this answer, if it has not been told."""
        return b"" if self.has_begun else self._chunk(Delta())

    def last(self, stop_reason: StopReason) -> bytes:
        """The end of this answer."""
        finish = b"stop" if self._refused else _FINISH[stop_reason].encode()
        opening = self.open()
        return (
            opening
            + self._head
            + b"{}"
            + self._tail.replace(b'"finish_reason":null', b'"finish_reason":"' + finish + b'"')
        )

    def close(self, usage: Usage) -> bytes:
        """The end of the stream."""
        spent = self._no_choices + orjson.dumps(_usage(usage)) + b"}\n\n" if self._include_usage else b""
        return spent + DONE

    def failure(self, error: ZiggieError) -> bytes:
        """The error as the stream's last event: no [DONE] follows, the answer is not complete."""
        return b"data: " + encode_error(error, error.http_status, "") + b"\n\n"


def _call_piece(delta: Delta, index: int) -> Json:
    piece: Json = {"index": index, "function": {"arguments": delta.tool_arguments}}
    if delta.tool_id or delta.tool_name:
        piece = {
            "index": index,
            "id": delta.tool_id,
            "type": "function",
            "function": {"name": delta.tool_name, "arguments": delta.tool_arguments},
        }
    return piece


def encode_error(error: ZiggieError, status: int, request_id: str) -> bytes:
    """This API tells the request's id in a header alone."""
    return orjson.dumps({"error": error_object(error, status)}, default=str)


def error_object(error: ZiggieError, status: int) -> Json:
    body: Json = {
        "message": error.message,
        "type": _ERROR_TYPES.get(status, "server_error"),
        "param": next((detail["param"] for detail in error.details if "param" in detail), None),
        "code": _CODES.get(error.code, error.code),
    }
    if isinstance(error, RateLimited):
        body["retry_after_seconds"] = error.retry_after_seconds
    attempts = [detail for detail in error.details if "param" not in detail]
    if attempts:
        body["details"] = attempts
    return body
