"""PURE: our answers, whole and streamed, and errors as Anthropic's messages API tells them."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from routing.adapters.reading.exact import dumps
from routing.adapters.reading.wire import INVALID_JSON, read_arguments
from routing.gateway.wire.reading import (
    Json,
)
from routing.types import (
    ChatResult,
    Delta,
    Part,
    Reasoning,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from ziggie.errors import ZiggieError

_STOP_REASONS: dict[StopReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
# What tells Anthropic's clients to go on by sending the whole conversation each time.
_THREADLESS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def encode_result(result: ChatResult, *, call_id: str, model: str) -> bytes:
    blocks = [_encoded(part) for part in result.parts if not isinstance(part, Text) or part.text]
    return orjson.dumps(
        {
            **_head(call_id, model),
            "content": blocks,
            **_stop(result.stop_reason, result.stop_sequence, result.stop_details),
            "usage": _usage(result.usage),
        }
    )


def _stop(reason: StopReason, sequence: str, details: Mapping[str, Any] | None) -> Json:
    if sequence and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    told = {"stop_details": details} if details and reason == "content_filter" else {}
    return {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None, **told}


def _head(call_id: str, model: str) -> Json:
    return {"id": f"msg_{call_id}", "type": "message", "role": "assistant", "model": model}


def _encoded(part: Part) -> Json:
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
    if isinstance(part, Reasoning):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.text}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if isinstance(part, Text) and part.citations:
        return {"type": "text", "text": part.text, "citations": part.citations}
    return {"type": "text", "text": part.text if isinstance(part, Text) else ""}


def _input(arguments: str) -> Any:
    """A tool call's arguments as the object that this API promises, whatever the model wrote."""
    value = read_arguments(arguments)
    try:
        return {INVALID_JSON: arguments} if value is None else orjson.Fragment(dumps(value))
    except TypeError:  # nested more deeply than can be written
        return {INVALID_JSON: arguments}


def _usage(usage: Usage) -> Json:
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    encoded: Json = {
        "input_tokens": max((usage.input_tokens or 0) - cached - written, 0),
        "output_tokens": usage.output_tokens or 0,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
    }
    if usage.reasoning_tokens is not None:
        encoded["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return encoded


class StreamEncoder:
    """One answer as Anthropic's events: blocks that open, grow and close one after another. Its first event tells
    `input_tokens`, an estimate; the last one tells what was counted."""

    def __init__(self, *, call_id: str, model: str, input_tokens: int = 0) -> None:
        self._call_id, self._model, self._input_tokens = call_id, model, input_tokens
        self._begun = False
        self._open: tuple[str, int] | None = None  # kind and tool index of the open block
        self._later: dict[int, list[Delta]] = {}  # tool calls that came while another one was open
        self._unclaimed: list[Delta] = []  # signatures that came then: of the call that follows them
        self._arguments: dict[int, list[str]] = {}  # of the calls that are open or come later
        self._held: list[Delta] = []  # text and thinking amid a call
        self._told: set[int] = set()  # calls whose blocks are closed
        self._index = -1
        self._stop_sequence = ""
        self._stop_details: Mapping[str, Any] | None = None

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """These deltas as bytes of the stream; empty if a client would see nothing of them."""
        out: list[bytes] = []
        for delta in deltas:
            self._stop_sequence = delta.stop_sequence or self._stop_sequence
            self._stop_details = delta.stop_details or self._stop_details
            if delta.is_output or delta.reasoning_signature:
                self._begin(out)
                self._delta(delta, out)
        return b"".join(out)

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes:
        out: list[bytes] = []
        self._begin(out)
        held, self._held = self._held, []  # before the calls that wait are told: their signatures do not wait for these
        self._close(out)
        for delta in held:
            self._delta(delta, out)
        self._close(out)
        stop = _stop(stop_reason, self._stop_sequence, self._stop_details)
        out.append(_event("message_delta", {"delta": stop, "usage": _usage(usage)}))
        out.append(_event("message_stop", {}))
        return b"".join(out)

    def failure(self, error: ZiggieError) -> bytes:
        return b"event: error\ndata: " + encode_error(error, error.http_status, self._call_id) + b"\n\n"

    def _begin(self, out: list[bytes]) -> None:
        if self._begun:
            return
        self._begun = True
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        message = {**_head(self._call_id, self._model), "content": [], "stop_reason": None, "stop_sequence": None}
        out.append(_event("message_start", {"message": {**message, "usage": usage}}))

    def _delta(self, delta: Delta, out: list[bytes]) -> None:
        if self._waits(delta):
            return
        if delta.reasoning_redacted:
            self._block(("redacted", self._index + 1), {"type": "redacted_thinking", "data": delta.reasoning}, out)
        elif delta.reasoning:
            self._block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""}, out)
            self._piece({"type": "thinking_delta", "thinking": delta.reasoning}, out)
        if delta.reasoning_signature:
            self._block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""}, out)
            self._piece({"type": "signature_delta", "signature": delta.reasoning_signature}, out)
            self._close(out)  # it signs one block: thinking that follows is another
        if delta.begins and self._open == ("text", 0):
            self._close(out)
        if delta.text:
            self._block(("text", 0), {"type": "text", "text": ""}, out)
            self._piece({"type": "text_delta", "text": delta.text}, out)
        if delta.citation is not None:
            self._block(("text", 0), {"type": "text", "text": ""}, out)
            self._piece({"type": "citations_delta", "citation": delta.citation}, out)
        if delta.tool_index is not None and delta.tool_index not in self._told:
            self._call(delta, delta.tool_index, out)

    def _waits(self, delta: Delta) -> bool:
        """Keeps what cannot be told while a call is open."""
        if self._open is not None and self._open[0] == "tool" and not delta.is_output:
            of_held = self._held and self._held[-1].reasoning  # it signs the thinking that waits
            (self._held if of_held else self._unclaimed).append(delta)
            return True
        if delta.tool_index is None and (self._held or not self._are_whole()):
            self._held.append(delta)
            return True
        return False

    def _call(self, delta: Delta, index: int, out: list[bytes]) -> None:
        if self._open is not None and self._open[0] == "tool" and self._open[1] != index:
            self._postpone(delta, index)
        else:
            self._tool(delta, index, out)
        self._arguments.setdefault(index, []).append(delta.tool_arguments)

    def _are_whole(self) -> bool:
        """Whether nothing can be added to the calls that have begun. Where something may be, what is said meanwhile
        waits for the end: a block that was closed cannot go on."""
        written = ["".join(pieces) for pieces in self._arguments.values()]
        return all(text.strip() and read_arguments(text) is not None for text in written)

    def _postpone(self, delta: Delta, index: int) -> None:
        """Blocks cannot overlap here, and pieces of several calls may: the others wait for the first."""
        if index not in self._later:
            self._later[index], self._unclaimed = self._unclaimed, []
        self._later[index].append(delta)

    def _tool(self, delta: Delta, index: int, out: list[bytes]) -> None:
        start = {"type": "tool_use", "id": delta.tool_id, "name": delta.tool_name, "input": {}}
        self._block(("tool", index), start, out)
        if delta.tool_arguments:
            self._piece({"type": "input_json_delta", "partial_json": delta.tool_arguments}, out)

    def _block(self, kind: tuple[str, int], start: Json, out: list[bytes]) -> None:
        """Makes `kind` the open block, closing another one and opening this one where needed."""
        if self._open == kind:
            return
        self._close(out)
        self._open = kind
        self._index += 1
        out.append(_event("content_block_start", {"index": self._index, "content_block": start}))

    def _piece(self, delta: Json, out: list[bytes]) -> None:
        out.append(_event("content_block_delta", {"index": self._index, "delta": delta}))

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            if self._open[0] == "tool":
                self._told.add(self._open[1])
                self._arguments.pop(self._open[1], None)
            self._open = None
            out.append(_event("content_block_stop", {"index": self._index}))
        waiting = [*self._later.values(), self._unclaimed]
        self._later, self._unclaimed, self._arguments = {}, [], {}
        for deltas in waiting:
            for delta in deltas:
                self._delta(delta, out)
            if deltas:
                self._close(out)


def _event(name: str, fields: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **fields}) + b"\n\n"


def encode_count(tokens: int) -> bytes:
    return orjson.dumps({"input_tokens": tokens})


def encode_error(error: ZiggieError, status: int, request_id: str) -> bytes:
    body: Json = {"type": _ERROR_TYPES.get(status, "api_error"), "message": error.message, "code": error.code}
    details: list[Json] | Json = [detail for detail in error.details if "param" not in detail]
    if {"param": "thread"} in error.details:
        details = _THREADLESS
    if details:
        body["details"] = details
    return orjson.dumps({"type": "error", "error": body, "request_id": request_id}, default=str)
