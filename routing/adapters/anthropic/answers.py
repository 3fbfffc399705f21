"""Reading messages of Anthropic's API: content blocks, usage, and the stream of events."""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from routing.adapters.answers.decoding import EventDecoder
from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import error_from_event
from routing.adapters.reading.sse import SSESplitter
from routing.adapters.reading.wire import (
    Json,
    get_count,
    get_dict,
    get_dicts,
    get_str,
    json_text,
    load_piece,
    protocol_error,
)
from routing.types import ChatResult, Delta, Part, Reasoning, StopReason, Text, ToolCall, Usage

if TYPE_CHECKING:
    from routing.adapters.base import Codec

# a tool of ours that stands for the answer itself, for models without structured output
ANSWER_TOOL = "give_answer"
CALLS = b'"tool_use"'

_STOP_REASONS: dict[str, StopReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "repetition_truncation": "length",
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
    read, written = get_count(usage, "cache_read_input_tokens"), _json_text(usage)
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
    whole = {**usage, _WRITTEN: _json_text(usage)}
    for one in passes:
        if isinstance(one, dict) and one.get("type") == "compaction":
            told = {**one, _WRITTEN: _json_text(one)}
            for key in _COUNTS:
                if (count := get_count(told, key)) is not None:
                    whole[key] = (get_count(whole, key) or 0) + count
    return whole


def _json_text(usage: Json) -> int | None:
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
        stop_details=_stop_details(answer),
        usage=usage_of(get_dict(answer, "usage")),
        model=get_str(answer, "model"),
        response_id=get_str(answer, "id"),
    )


def _stop_details(holder: Json) -> Json | None:
    told = holder.get("stop_details")
    return told if told and isinstance(told, dict) else None


def _part(block: Json, by_tool: bool) -> Part | None:
    match block.get("type"):
        case "text":
            text = get_str(block, "text")
            return Text(text, citations=tuple(get_dicts(block, "citations"))) if block.get("citations") else Text(text)
        case "thinking":
            return Reasoning(get_str(block, "thinking"), get_str(block, "signature"))
        case "redacted_thinking":
            return Reasoning(get_str(block, "data"), redacted=True)
        case "tool_use":
            arguments = _input(block)
            if by_tool and block.get("name") == ANSWER_TOOL:
                return Text(arguments)
            return ToolCall(_required(block, "id"), _required(block, "name"), arguments)
    return None


def _input(block: Json) -> str:
    """A call's input as JSON text; some compatible servers send it as one."""
    given = block.get("input")
    if isinstance(given, str):
        return given.strip() or "{}"
    return json_text(get_dict(block, "input"))


def _required(block: Json, key: str) -> str:
    value = get_str(block, key)
    if not value:
        raise protocol_error(f"a tool call has no {key}")
    return value


@dataclass(slots=True)
class _Echo:
    """A text that message_start told, and that its block may tell once more, piece by piece."""

    text: str
    heard: int = 0  # characters of it so far
    is_over: bool = False

    def new(self, piece: str) -> str:
        """What of the next piece was not told. What turns out to be another text is told from its beginning."""
        if self.is_over:
            return piece
        if self.text.startswith(piece, self.heard):
            self.heard += len(piece)
            return ""
        self.is_over = True
        rest = self.text[self.heard :]
        return piece[len(rest) :] if piece.startswith(rest) else self.text[: self.heard] + piece

    def left(self) -> str:
        """What a block told that ends within the text: only the whole of it is the same text."""
        return "" if self.is_over or self.heard == len(self.text) else self.text[: self.heard]


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
        # what message_start holds, as block ~i, and block i may tell again
        self._echoes: dict[tuple[int, str], _Echo] = {}
        self._sealed: set[str] = set()  # signatures, and thinking that is not shown
        self._early_calls: dict[str, int] = {}  # id -> block
        self._was_text = False  # the block before was one of text, too
        self._begins = False  # the next piece is the first of such a block

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        if data.strip() == b"[DONE]":  # as OpenAI's API ends
            self.on_end(out)
            return
        event = load_piece(data, "an event of the stream", self.halves, CALLS)
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
        self._stop_early(out)
        self.done = True

    def _end(self, out: list[Delta]) -> None:
        if not self._started:
            raise protocol_error("the stream holds no message")
        self._stop_early(out)
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
        for index, block in enumerate(blocks):  # what was written before the stream began
            self._early_block(block, index, out)
        self._was_text = False  # what follows may go on with it
        if blocks and (reason := get_str(message, "stop_reason")):
            self._stop_reason = stop_reason_of(reason, has_calls=bool(self._calls))

    def _early_block(self, block: Json, index: int, out: list[Delta]) -> None:
        self._block_start(block, ~index, out)
        kind = self._blocks[~index]
        if kind in ("text", "thinking"):
            self._echoes[index, kind] = _Echo(get_str(block, kind))
        if kind == "thinking" and (signature := get_str(block, "signature")):
            self._sealed.add(signature)
        elif kind == "redacted_thinking":
            self._sealed.add(get_str(block, "data"))
        elif kind in ("tool_use", "answer") and (identity := get_str(block, "id")):
            self._early_calls[identity] = ~index  # it stays open
            return
        self._block_stop(~index, out)

    def _stop_early(self, out: list[Delta], before: float = inf) -> None:
        """The calls that message_start holds and that were not told again, up to a block, are whole."""
        while self._early_calls:
            identity, index = next(iter(self._early_calls.items()))
            if ~index >= before:
                return
            del self._early_calls[identity]
            self._block_stop(index, out)

    def _block_start(self, block: Json, index: int, out: list[Delta]) -> None:
        kind = get_str(block, "type")
        self._blocks[index] = kind
        self._stop_early(out, before=index)
        self._begins, self._was_text = self._was_text and kind == "text", kind == "text"
        if kind == "text":
            self._text(get_str(block, "text"), index, out)
            for citation in get_dicts(block, "citations"):
                self._citation(citation, out)
        elif kind == "thinking":
            self._thinking(get_str(block, "thinking"), get_str(block, "signature"), index, out)
        elif kind == "redacted_thinking":
            if (data := get_str(block, "data")) not in self._sealed:
                out.append(Delta(reasoning=data, reasoning_redacted=True))
        elif kind == "tool_use":
            self._tool_start(block, index, out)

    def _tool_start(self, block: Json, index: int, out: list[Delta]) -> None:
        given = _input(block)
        early = self._early_calls.pop(get_str(block, "id"), None)
        if early is not None:
            self._tell_again(early, index, given)
            return
        self._silent_calls[index] = given
        if self._by_tool and block.get("name") == ANSWER_TOOL:
            self._blocks[index] = "answer"
            return
        number = self._calls[index] = len(self._calls)
        out.append(Delta(tool_index=number, tool_id=_required(block, "id"), tool_name=_required(block, "name")))

    def _tell_again(self, early: int, index: int, given: str) -> None:
        """The block of a call that message_start began: its arguments come here."""
        before = self._silent_calls.pop(early, "{}")
        self._silent_calls[index] = before if given == "{}" else given
        if early in self._calls:
            self._calls[index] = self._calls.pop(early)
        else:
            self._blocks[index] = "answer"

    def _text(self, text: str, index: int, out: list[Delta]) -> None:
        if self._echoes and (echo := self._echoes.get((index, "text"))):
            text = echo.new(text)
        if text:
            out.append(Delta(text=text, begins=True) if self._begins else Delta(text=text))
            self._begins = False

    def _citation(self, citation: Json, out: list[Delta]) -> None:
        out.append(Delta(citation=citation, begins=self._begins))
        self._begins = False

    def _thinking(self, thinking: str, signature: str, index: int, out: list[Delta]) -> None:
        if self._echoes and (echo := self._echoes.get((index, "thinking"))):
            thinking = echo.new(thinking)
        if signature in self._sealed:
            signature = ""
        if thinking or signature:
            out.append(Delta(reasoning=thinking, reasoning_signature=signature))

    def _delta(self, delta: Json, index: int, out: list[Delta]) -> None:
        match delta.get("type"):
            case "text_delta":
                self._text(get_str(delta, "text"), index, out)
            case "thinking_delta":
                self._thinking(get_str(delta, "thinking"), "", index, out)
            case "signature_delta":
                self._thinking("", get_str(delta, "signature"), index, out)
            case "citations_delta":
                self._citation(get_dict(delta, "citation"), out)
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
        if self._echoes:
            for kind in ("text", "thinking"):
                if echo := self._echoes.pop((index, kind), None):
                    left = echo.left()
                    out += [Delta(text=left) if kind == "text" else Delta(reasoning=left)] if left else []

    def _message_delta(self, event: Json, out: list[Delta]) -> None:
        self._stop_early(out)
        usage = get_dict(event, "usage")
        self.usage = usage_of(usage, self.usage)
        delta = get_dict(event, "delta")
        reason = get_str(delta, "stop_reason")
        if reason:
            self._stop_reason = stop_reason_of(reason, has_calls=bool(self._calls))
            self._ended = True
        out.append(
            Delta(
                stop_reason=self._stop_reason,
                stop_sequence=get_str(delta, "stop_sequence"),
                stop_details=_stop_details(delta),
                usage=self.usage,
            )
        )
