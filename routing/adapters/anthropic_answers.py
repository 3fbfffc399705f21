"""Reading messages of Anthropic's API: content blocks, usage, and the stream of events."""

from typing import TYPE_CHECKING

import orjson

from routing.adapters.base import WireRequest
from routing.adapters.decoding import EventDecoder
from routing.adapters.errors import error_from_event
from routing.adapters.sse import SSESplitter
from routing.adapters.wire import Json, get_count, get_dict, get_dicts, get_str, load_object, protocol_error
from routing.types import ChatResult, Delta, Part, Reasoning, StopReason, Text, ToolCall, Usage

if TYPE_CHECKING:
    from routing.adapters.base import Codec

# a tool of ours that stands for the answer itself, for models without structured output
ANSWER_TOOL = "give_answer"

_STOP_REASONS: dict[str, StopReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


_WRITTEN = "cache_creation_input_tokens"
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", _WRITTEN)


def answers_by_tool(sent: WireRequest) -> bool:
    """True if the request forces our answer tool: then its input is the answer's text."""
    choice = (sent.body or {}).get("tool_choice")
    return isinstance(choice, dict) and choice.get("name") == ANSWER_TOOL


def stop_reason_of(reason: str, *, has_calls: bool) -> StopReason:
    """Our name for a stop_reason; the answer tool is no call."""
    return _STOP_REASONS.get(reason) or ("tool_calls" if has_calls else "stop")


def usage_of(usage: Json, before: Usage | None = None) -> Usage:
    """Anthropic's input_tokens leave out what was read from or written to the cache; ours include both.

    `before` is the usage told earlier in the same stream. Counts are totals, so the larger one holds:
    some compatible servers say 0 in one of the two places.
    """
    usage = _with_compaction(usage)
    read, written = get_count(usage, "cache_read_input_tokens"), _written(usage)
    plain = get_count(usage, "input_tokens")
    earlier = before or Usage()
    return Usage(
        input_tokens=_larger(None if plain is None else plain + (read or 0) + (written or 0), earlier.input_tokens),
        output_tokens=_larger(get_count(usage, "output_tokens"), earlier.output_tokens),
        cached_input_tokens=_larger(read, earlier.cached_input_tokens),
        cache_write_tokens=_larger(written, earlier.cache_write_tokens),
        reasoning_tokens=_larger(get_count(_output_details(usage), "thinking_tokens"), earlier.reasoning_tokens),
    )


def _with_compaction(usage: Json) -> Json:
    """With the tokens of summing up the conversation: they are billed, and the totals leave them out."""
    passes = usage.get("iterations")
    if not isinstance(passes, list):
        return usage
    whole = {**usage, _WRITTEN: _written(usage)}
    for one in passes:
        if isinstance(one, dict) and one.get("type") == "compaction":
            told = {**one, _WRITTEN: _written(one)}
            for key in _COUNTS:
                if (count := get_count(told, key)) is not None:
                    whole[key] = (get_count(whole, key) or 0) + count
    return whole


def _written(usage: Json) -> int | None:
    """Tokens written to the cache, of all lifetimes; in `cache_creation` each lifetime stands on its own."""
    written = get_count(usage, _WRITTEN)
    lifetimes = usage.get("cache_creation")
    if written is not None or not isinstance(lifetimes, dict):
        return written
    counts = [count for name in lifetimes if (count := get_count(lifetimes, name)) is not None]
    return sum(counts) if counts else None


def _larger(count: int | None, earlier: int | None) -> int | None:
    return max((number for number in (count, earlier) if number is not None), default=None)


def _output_details(usage: Json) -> Json:
    details = usage.get("output_tokens_details")
    return details if isinstance(details, dict) else {}


def read_message(answer: Json, sent: WireRequest) -> ChatResult:
    """A complete message. Blocks of the provider's own tools (web search, …) are not ours and are left out."""
    if answer.get("type") not in (None, "message") or not isinstance(answer.get("content"), list):
        raise protocol_error("the answer is no message")
    by_tool = answers_by_tool(sent)
    parts = [part for block in get_dicts(answer, "content") if (part := _part(block, by_tool)) is not None]
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    return ChatResult(
        parts=tuple(parts),
        stop_reason=stop_reason_of(get_str(answer, "stop_reason"), has_calls=has_calls),
        stop_sequence=get_str(answer, "stop_sequence"),
        usage=usage_of(get_dict(answer, "usage")),
        model=get_str(answer, "model"),
        response_id=get_str(answer, "id"),
    )


def _part(block: Json, by_tool: bool) -> Part | None:
    match block.get("type"):
        case "text":
            return Text(get_str(block, "text"))
        case "thinking":
            return Reasoning(get_str(block, "thinking"), get_str(block, "signature"))
        case "redacted_thinking":
            return Reasoning(get_str(block, "data"), redacted=True)
        case "tool_use":
            arguments = orjson.dumps(get_dict(block, "input"), option=orjson.OPT_NON_STR_KEYS).decode()
            if by_tool and block.get("name") == ANSWER_TOOL:
                return Text(arguments)
            return ToolCall(_required(block, "id"), _required(block, "name"), arguments)
    return None


def _required(block: Json, key: str) -> str:
    value = get_str(block, key)
    if not value:
        raise protocol_error(f"a tool call has no {key}")
    return value


class MessageDecoder(EventDecoder):
    """message_start … message_stop, with pings and errors in between."""

    def __init__(self, codec: "Codec", sent: WireRequest) -> None:
        super().__init__(codec, sent, SSESplitter())
        self._by_tool = answers_by_tool(sent)
        self._started = False
        self._stop_reason: StopReason | None = None
        self._ended = False  # the end was told, with the usage
        self._blocks: dict[int, str] = {}  # type of each open block
        self._calls: dict[int, int] = {}  # block index -> our tool index
        self._silent_calls: dict[int, str] = {}  # calls without arguments so far -> the input they began with

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        event = load_object(data, "an event of the stream")
        match event.get("type") or name.decode("utf-8", "replace"):
            case "content_block_delta":
                self._delta(get_dict(event, "delta"), self._index(event), out)
            case "content_block_start":
                self._block_start(get_dict(event, "content_block"), self._index(event), out)
            case "content_block_stop":
                self._block_stop(self._index(event), out)
            case "message_start":
                self._start(get_dict(event, "message"), out)
            case "message_delta":
                self._message_delta(event, out)
            case "message_stop":
                self._end(out)
            case "error":
                raise error_from_event(event, self.sent, usage=self.usage)

    def on_end(self, out: list[Delta]) -> None:
        if self._stop_reason is None:
            raise self.cut()
        self.done = True

    def _end(self, out: list[Delta]) -> None:
        if not self._started:
            raise protocol_error("the stream holds no message")
        if not self._ended:
            out.append(Delta(stop_reason=self._stop_reason, usage=self.usage))
        self.done = True

    def _index(self, event: Json) -> int:
        index = event.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            raise protocol_error("an event of the stream has no index")
        return index

    def _start(self, message: Json, out: list[Delta]) -> None:
        self._started = True
        self.usage = usage_of(get_dict(message, "usage"))
        out.append(Delta(model=get_str(message, "model"), response_id=get_str(message, "id")))
        blocks = get_dicts(message, "content")
        for number, block in enumerate(blocks, 1):  # what was written before the stream began
            self._block_start(block, -number, out)
            self._block_stop(-number, out)
        if blocks and (reason := get_str(message, "stop_reason")):
            self._stop_reason = stop_reason_of(reason, has_calls=bool(self._calls))

    def _block_start(self, block: Json, index: int, out: list[Delta]) -> None:
        kind = get_str(block, "type")
        self._blocks[index] = kind
        if kind == "text" and block.get("text"):
            out.append(Delta(text=get_str(block, "text")))
        elif kind == "thinking" and (block.get("thinking") or block.get("signature")):
            out.append(Delta(reasoning=get_str(block, "thinking"), reasoning_signature=get_str(block, "signature")))
        elif kind == "redacted_thinking":
            out.append(Delta(reasoning=get_str(block, "data"), reasoning_redacted=True))
        elif kind == "tool_use":
            self._silent_calls[index] = orjson.dumps(get_dict(block, "input"), option=orjson.OPT_NON_STR_KEYS).decode()
            self._tool_start(block, index, out)

    def _tool_start(self, block: Json, index: int, out: list[Delta]) -> None:
        if self._by_tool and block.get("name") == ANSWER_TOOL:
            self._blocks[index] = "answer"
            return
        number = self._calls[index] = len(self._calls)
        out.append(Delta(tool_index=number, tool_id=_required(block, "id"), tool_name=_required(block, "name")))

    def _delta(self, delta: Json, index: int, out: list[Delta]) -> None:
        match delta.get("type"):
            case "text_delta":
                text = get_str(delta, "text")
                if text:
                    out.append(Delta(text=text))
            case "thinking_delta":
                thinking = get_str(delta, "thinking")
                if thinking:
                    out.append(Delta(reasoning=thinking))
            case "signature_delta":
                out.append(Delta(reasoning_signature=get_str(delta, "signature")))
            case "input_json_delta":
                self._arguments(get_str(delta, "partial_json"), index, out)

    def _arguments(self, piece: str, index: int, out: list[Delta]) -> None:
        if not piece:
            return
        self._silent_calls.pop(index, None)
        if self._blocks.get(index) == "answer":
            out.append(Delta(text=piece))
        elif index in self._calls:  # else it is for one of the provider's own tools
            out.append(Delta(tool_index=self._calls[index], tool_arguments=piece))

    def _block_stop(self, index: int, out: list[Delta]) -> None:
        """A call without arguments ends as an empty object (or as the input it began with)."""
        if index in self._silent_calls:
            self._arguments(self._silent_calls.pop(index), index, out)
        self._blocks.pop(index, None)

    def _message_delta(self, event: Json, out: list[Delta]) -> None:
        usage = get_dict(event, "usage")
        self.usage = usage_of(usage, self.usage)
        delta = get_dict(event, "delta")
        reason = get_str(delta, "stop_reason")
        if reason:
            self._stop_reason = stop_reason_of(reason, has_calls=bool(self._calls))
            self._ended = True
        out.append(
            Delta(stop_reason=self._stop_reason, stop_sequence=get_str(delta, "stop_sequence"), usage=self.usage)
        )
