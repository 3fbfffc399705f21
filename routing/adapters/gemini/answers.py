"""Reading generateContent's answers, whole and streamed."""

from typing import TYPE_CHECKING

from routing.adapters.answers.assembly import Assembler
from routing.adapters.answers.call_ids import CallIds, refuse_too_many
from routing.adapters.answers.decoding import EventDecoder
from routing.adapters.answers.logprobs import of_candidate
from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import error_from_event, make_error
from routing.adapters.reading.partial_arguments import PartialArguments
from routing.adapters.reading.sse import SSESplitter
from routing.adapters.reading.wire import (
    SIGNATURE_MARK,
    Json,
    get_count,
    get_dict,
    get_dicts,
    get_number,
    get_str,
    load_piece,
    protocol_error,
)
from routing.types import ChatResult, Delta, ErrorKind, StopReason, Usage
from ziggie.values import replace

if TYPE_CHECKING:
    from routing.adapters.base import Codec

CALLS = b'"functionCall"'
_LAST_WORDS = (b"[DONE]", b"DONE")  # LiteLLM's, and some of Google's own
_COUNTS = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "cachedContentTokenCount",
)
_LENGTH = frozenset({"MAX_TOKENS", "CONTINUATION"})
_FILTERED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY"}
    | {"IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "CONTENT_BLOCKED", "MODEL_ARMOR", "ESCALATION"}
)
# the model wrote a call that cannot be read: no answer, but the next try may give one
_BROKEN: dict[str, ErrorKind] = {
    "MALFORMED_FUNCTION_CALL": "server",
    "UNEXPECTED_TOOL_CALL": "server",
    "TOO_MANY_TOOL_CALLS": "server",
    "MALFORMED_RESPONSE": "server",
    "PUP_LIMITED_DISABLED": "auth",  # Google has limited the account
    "MISSING_THOUGHT_SIGNATURE": "bad_request",  # of an earlier turn: the same request fails again
}


def read_content(chunks: list[Json], sent: WireRequest) -> ChatResult:
    """A complete answer, in one chunk or, of a stream that came as a list, several.
    Raises ProviderError("content_filter") for a prompt that Google blocks."""
    reader = _Reader(sent)
    deltas: list[Delta] = []
    for chunk in chunks:
        reader.read(chunk, deltas)
    reader.close(deltas)
    if reader.stop_reason is None:
        if not any(get_dicts(chunk, "candidates") for chunk in chunks):
            raise make_error("protocol", "the answer holds no candidates", sent, usage=reader.usage)
        reader.stop_reason = reader.stop_for("STOP")
    assembler = Assembler()
    for delta in deltas:
        assembler.add(delta)
    assembler.add(reader.end())
    return assembler.result()


class ContentDecoder(EventDecoder):
    """Chunks in the shape of whole answers. No last word is waited for: the stream ends with the connection."""

    def __init__(self, codec: "Codec", sent: WireRequest) -> None:
        super().__init__(codec, sent, SSESplitter())
        self._reader = _Reader(sent)

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        if data.startswith(_LAST_WORDS):
            return
        chunk = load_piece(data, "a chunk of the stream", self.halves, CALLS)
        if chunk.get("error"):
            raise error_from_event(chunk, self.sent, usage=self.usage)
        try:
            self._reader.read(chunk, out)
        finally:
            self.usage = self._reader.usage

    def on_end(self, out: list[Delta]) -> None:
        if self._reader.stop_reason is None:
            raise self.cut()
        out.append(self._reader.end())
        self.done = True


class _Reader:
    """Turns answers, or the chunks of one, into deltas."""

    def __init__(self, sent: WireRequest) -> None:
        self.stop_reason: StopReason | None = None
        self.usage: Usage | None = None
        self._told: dict[str, int] = {}  # counts by Google's names
        self._sent = sent
        self._introduced = False
        self._calls = 0
        self._ids = CallIds(sent)
        self._open: tuple[Delta, PartialArguments] | None = None  # a call of which more pieces are to come
        self._mean_logprob: float | None = None

    def read(self, answer: Json, out: list[Delta]) -> None:
        usage = get_dict(answer, "usageMetadata")
        if usage:  # each count is a total: one that a later chunk leaves out still holds
            self._told |= {key: count for key in _COUNTS if (count := get_count(usage, key)) is not None}
            self.usage = _usage(self._told)
        blocked = get_str(get_dict(answer, "promptFeedback"), "blockReason")
        if blocked:
            message = f"Google blocks the prompt: {blocked}"
            raise make_error("content_filter", message, self._sent, usage=self.usage)
        if not self._introduced:
            self._introduced = True
            out.append(Delta(model=get_str(answer, "modelVersion"), response_id=get_str(answer, "responseId")))
        candidates = get_dicts(answer, "candidates")
        if not candidates:
            return
        candidate = candidates[0]
        parts, before = get_dicts(get_dict(candidate, "content"), "parts"), len(out)
        for part in parts:
            self._part(part, out)
        if self._sent.logprobs:
            self._read_logprobs(candidate, out, before)
        average = get_number(candidate, "avgLogprobs")
        self._mean_logprob = average if average is not None else self._mean_logprob
        finish = get_str(candidate, "finishReason")
        if finish in _BROKEN:
            raise make_error(_BROKEN[finish], f"the model's answer is broken: {finish}", self._sent, usage=self.usage)
        if finish:
            self.close(out)
            self.stop_reason = self.stop_for(finish)

    def end(self) -> Delta:
        return Delta(stop_reason=self.stop_reason, usage=self.usage, mean_logprob=self._mean_logprob)

    def stop_for(self, finish: str) -> StopReason:
        if finish in _LENGTH:
            return "length"
        if finish in _FILTERED:
            return "content_filter"
        return "tool_calls" if self._calls else "stop"

    def _read_logprobs(self, candidate: Json, out: list[Delta], before: int) -> None:
        """They come beside the parts, which `out` holds from `before` on, and go out with the first text."""
        logprobs = of_candidate(candidate)
        place = next((n for n in range(before, len(out)) if out[n].text), None)
        if place is not None:
            out[place] = replace(out[place], logprobs=logprobs)
        elif logprobs:
            out.append(Delta(logprobs=logprobs))

    def _part(self, part: Json, out: list[Delta]) -> None:
        signature = get_str(part, "thoughtSignature")
        if signature:
            out.append(Delta(reasoning_signature=SIGNATURE_MARK + signature))
        call = get_dict(part, "functionCall")
        text = get_str(part, "text")
        if call or (self._open is not None and "functionCall" in part):
            self._call(call, out)
        elif text:
            out.append(Delta(reasoning=text) if part.get("thought") is True else Delta(text=text))

    def _call(self, call: Json, out: list[Delta]) -> None:
        """A call, or a piece of one: its arguments come value by value where the request has them streamed. The last
        piece may be empty."""
        name, identity = get_str(call, "name"), get_str(call, "id")
        if self._open is not None and _goes_on(self._open[0], name, identity):
            if written := self._open[1].add(call):
                out.append(Delta(held=written))
            if call.get("willContinue") is not True:
                self.close(out)
            return
        if not name:
            raise protocol_error("a tool call has no name")
        self.close(out)
        refuse_too_many(self._calls)
        begun = Delta(tool_index=self._calls, tool_id=identity or self._ids.of(self._calls), tool_name=name)
        self._calls += 1
        arguments = PartialArguments()
        written = arguments.add(call)
        self._open = (begun, arguments)
        if call.get("willContinue") is True:
            out.append(Delta(held=name + written))
        else:
            self.close(out)

    def close(self, out: list[Delta]) -> None:
        """Tells the open call, if there is one."""
        if self._open is not None:
            begun, arguments = self._open
            self._open = None
            out.append(replace(begun, tool_arguments=arguments.text()))


def _goes_on(begun: Delta, name: str, identity: str) -> bool:
    """True for a piece of the call that is open, which may tell its name or its id once more."""
    return not name or identity == begun.tool_id or (not identity and name == begun.tool_name)


def _usage(told: dict[str, int]) -> Usage:
    """candidatesTokenCount leaves the thinking out, promptTokenCount what tools brought in; ours include them."""
    prompt, tools = told.get("promptTokenCount"), told.get("toolUsePromptTokenCount", 0)
    answer, thoughts = told.get("candidatesTokenCount"), told.get("thoughtsTokenCount")
    return Usage(
        input_tokens=None if prompt is None else prompt + tools,
        output_tokens=None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0),
        cached_input_tokens=told.get("cachedContentTokenCount"),
        reasoning_tokens=thoughts,
    )
