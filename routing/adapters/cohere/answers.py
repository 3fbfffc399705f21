"""Reading Cohere's messages, whole and streamed."""

from typing import TYPE_CHECKING

from routing.adapters.answers.decoding import EventDecoder
from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import error_from_event, make_error
from routing.adapters.reading.sse import SSESplitter
from routing.adapters.reading.wire import Json, get_count, get_dict, get_dicts, get_str, load_piece, protocol_error
from routing.types import ChatResult, Delta, Part, Reasoning, StopReason, Text, ToolCall, Usage

if TYPE_CHECKING:
    from routing.adapters.base import Codec

_STOP_REASONS: dict[str, StopReason] = {
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "ERROR_TOXIC": "content_filter",
}
_FAILED = frozenset({"ERROR", "TIMEOUT"})


def read_message(answer: Json, sent: WireRequest) -> ChatResult:
    message = get_dict(answer, "message")
    if not message:
        raise protocol_error("the answer holds no message")
    finish, usage = get_str(answer, "finish_reason"), read_usage(get_dict(answer, "usage"))
    if finish in _FAILED:
        raise make_error("server", f"the model gave up: {finish}", sent, usage=usage)
    blocks = get_dicts(message, "content")
    reasoning = get_str(message, "tool_plan") + "".join(get_str(block, "thinking") for block in blocks)
    text = "".join(get_str(block, "text") for block in blocks)
    parts: list[Part] = [Reasoning(reasoning)] if reasoning else []
    if text:
        parts.append(Text(text))
    calls = get_dicts(message, "tool_calls")
    for call in calls:
        function = get_dict(call, "function")
        parts.append(
            ToolCall(_required(call, "id"), _required(function, "name"), get_str(function, "arguments") or "{}")
        )
    return ChatResult(
        parts=tuple(parts),
        stop_reason=stop_reason_of(finish, has_calls=bool(calls)),
        usage=usage,
        response_id=get_str(answer, "id"),
    )


def stop_reason_of(finish: str, *, has_calls: bool) -> StopReason:
    return _STOP_REASONS.get(finish) or ("tool_calls" if has_calls else "stop")


def read_usage(usage: Json) -> Usage:
    """Billed units are what money is asked for; `tokens` also counts Cohere's own prompt around ours, and so do the
    cached ones."""
    billed, counted = get_dict(usage, "billed_units"), get_dict(usage, "tokens")
    read, written = get_count(billed, "input_tokens"), get_count(billed, "output_tokens")
    read = read if read is not None else get_count(counted, "input_tokens")
    cached = get_count(usage, "cached_tokens")
    return Usage(
        input_tokens=read,
        output_tokens=written if written is not None else get_count(counted, "output_tokens"),
        cached_input_tokens=cached if cached is None or read is None else min(cached, read),
    )


def _required(holder: Json, key: str) -> str:
    value = get_str(holder, key)
    if not value:
        raise protocol_error(f"a tool call has no {key}")
    return value


class CohereDecoder(EventDecoder):
    """message-start … message-end, and `[DONE]`, which is waited for so that the connection can be used again."""

    def __init__(self, codec: "Codec", sent: WireRequest) -> None:
        super().__init__(codec, sent, SSESplitter())
        self._calls: dict[object, int] = {}  # Cohere's index -> ours
        self._silent: set[int] = set()
        self._ended = False

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        if data.strip() == b"[DONE]":
            self.on_end(out)
            self.done = True
            return
        if self._ended:
            return
        event = load_piece(data, "an event of the stream", self.halves)
        kind = get_str(event, "type") or name.decode("utf-8", "replace")
        if kind == "error" or (not kind and "message" in event):
            raise error_from_event(event, self.sent, usage=self.usage)
        if kind == "message-start":
            out.append(Delta(response_id=get_str(event, "id")))
        elif kind == "message-end":
            self._end(get_dict(event, "delta"), out)
        elif kind.startswith("tool-call"):
            self._call(kind, event, out)
        else:
            self._content(get_dict(get_dict(event, "delta"), "message"), out)

    def on_end(self, out: list[Delta]) -> None:
        if not self._ended:
            raise self.cut()

    def _content(self, message: Json, out: list[Delta]) -> None:
        """content-start, content-delta and tool-plan-delta; the ends and the citations say nothing here."""
        plan = get_str(message, "tool_plan")
        content = message.get("content")
        block = content if isinstance(content, dict) else {}
        text, reasoning = get_str(block, "text"), plan + get_str(block, "thinking")
        if text or reasoning:
            out.append(Delta(text=text, reasoning=reasoning))

    def _call(self, kind: str, event: Json, out: list[Delta]) -> None:
        index = event.get("index")
        key = index if isinstance(index, int) else 0
        call = get_dict(get_dict(get_dict(event, "delta"), "message"), "tool_calls")
        function = get_dict(call, "function")
        arguments = get_str(function, "arguments")
        if kind == "tool-call-start":
            number = self._calls[key] = len(self._calls)
            self._silent.add(number)
            out.append(Delta(tool_index=number, tool_id=_required(call, "id"), tool_name=_required(function, "name")))
        if key not in self._calls:
            raise protocol_error("a piece of a tool call comes before its start")
        number = self._calls[key]
        if kind == "tool-call-end" and number in self._silent:
            arguments = arguments or "{}"
        if arguments:
            self._silent.discard(number)
            out.append(Delta(tool_index=number, tool_arguments=arguments))

    def _end(self, delta: Json, out: list[Delta]) -> None:
        self.usage = read_usage(get_dict(delta, "usage"))
        finish = get_str(delta, "finish_reason")
        if finish in _FAILED:
            message = get_str(delta, "error") or f"the model gave up: {finish}"
            raise make_error("server", message, self.sent, usage=self.usage)
        out.append(Delta(stop_reason=stop_reason_of(finish, has_calls=bool(self._calls)), usage=self.usage))
        self._ended = True
