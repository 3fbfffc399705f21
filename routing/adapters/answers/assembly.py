"""Deltas -> one answer and back, for calls that stream on one side only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routing.adapters.base import StreamDecoder, WireResponse
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


@dataclass(slots=True)
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Assembler:
    """Collects the deltas of one streamed answer. Parts keep the order in which they began."""

    def __init__(self) -> None:
        self._parts: list[Part | _OpenCall] = []
        self._calls: dict[int, _OpenCall] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refuses = False
        self._citations: list[Mapping[str, Any]] = []
        self.stop_reason: StopReason | None = None
        self.stop_sequence = ""
        self.stop_details: Mapping[str, Any] | None = None
        self.usage = Usage()
        self.model = ""
        self.response_id = ""
        self.mean_logprob: float | None = None
        self._logprobs: list[Mapping[str, Any]] = []

    def add(self, delta: Delta) -> None:
        if delta.reasoning or delta.reasoning_signature:
            self._add_reasoning(delta)
        if delta.text:
            self._close_reasoning()
            if delta.refuses != self._refuses or delta.begins:
                self._close_text()
                self._refuses = delta.refuses
            self._text.append(delta.text)
        if delta.citation is not None:
            self._add_citation(delta.citation, begins=delta.begins)
        if delta.tool_index is not None:
            self._add_call(delta.tool_index, delta)
        self.stop_reason = delta.stop_reason or self.stop_reason
        self.stop_sequence = delta.stop_sequence or self.stop_sequence
        self.stop_details = delta.stop_details or self.stop_details
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model
        self.response_id = delta.response_id or self.response_id
        if delta.mean_logprob is not None:
            self.mean_logprob = delta.mean_logprob
        if delta.logprobs:
            self._logprobs += delta.logprobs

    def result(self) -> ChatResult:
        self._close()
        parts = tuple(
            ToolCall(part.id, part.name, "".join(part.arguments) or "{}") if isinstance(part, _OpenCall) else part
            for part in self._parts
        )
        return ChatResult(
            parts=parts,
            stop_reason=self.stop_reason or "stop",
            stop_sequence=self.stop_sequence,
            stop_details=self.stop_details,
            usage=self.usage,
            model=self.model,
            response_id=self.response_id,
            mean_logprob=self.mean_logprob,
            logprobs=tuple(self._logprobs),
        )

    def _add_reasoning(self, delta: Delta) -> None:
        self._close_text()
        if delta.reasoning_redacted:
            self._close_reasoning()
            self._parts.append(Reasoning(delta.reasoning, redacted=True))
            return
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        if delta.reasoning_signature:  # ends a block of thinking; more thinking begins another
            self._close_reasoning(delta.reasoning_signature)

    def _add_citation(self, citation: Mapping[str, Any], *, begins: bool) -> None:
        """Of the text around it: one that begins a block stands before its text."""
        if begins:
            self._close_text()
        self._citations.append(citation)

    def _add_call(self, index: int, delta: Delta) -> None:
        call = self._calls.get(index)
        if call is None:
            self._close()
            call = self._calls[index] = _OpenCall()
            self._parts.append(call)
        call.id = call.id or delta.tool_id
        call.name = call.name or delta.tool_name
        if delta.tool_arguments:
            call.arguments.append(delta.tool_arguments)

    def _close(self) -> None:
        self._close_reasoning()
        self._close_text()

    def _close_text(self) -> None:
        if self._text:
            text = "".join(self._text)
            self._parts.append(Text(text, refuses=self._refuses, citations=tuple(self._citations)))
            self._text, self._citations = [], []

    def _close_reasoning(self, signature: str = "") -> None:
        if self._reasoning or signature:
            self._parts.append(Reasoning("".join(self._reasoning), signature))
            self._reasoning = []


def deltas_of(result: ChatResult) -> list[Delta]:
    """A complete answer as the deltas of a stream that came all at once."""
    has_text = any(isinstance(part, Text) for part in result.parts)
    cites = any(isinstance(part, Text) and part.citations for part in result.parts)
    of_text = result.logprobs if has_text else ()
    head = Delta(model=result.model, response_id=result.response_id, logprobs=() if has_text else result.logprobs)
    deltas: list[Delta] = [head]
    tool_index = 0
    for part in result.parts:
        if isinstance(part, Text):
            deltas.append(Delta(text=part.text, refuses=part.refuses, logprobs=of_text, begins=cites))
            deltas += [Delta(citation=citation) for citation in part.citations]
            of_text = ()
        elif isinstance(part, Reasoning):
            deltas.append(
                Delta(reasoning=part.text, reasoning_signature=part.signature, reasoning_redacted=part.redacted)
            )
        elif isinstance(part, ToolCall):
            deltas.append(
                Delta(tool_index=tool_index, tool_id=part.id, tool_name=part.name, tool_arguments=part.arguments)
            )
            tool_index += 1
    deltas.append(
        Delta(
            stop_reason=result.stop_reason,
            stop_sequence=result.stop_sequence,
            stop_details=result.stop_details,
            usage=result.usage,
            mean_logprob=result.mean_logprob,
        )
    )
    return deltas


def is_stream(response: WireResponse) -> bool:
    """True for an answer that came as events, asked for or not."""
    return 200 <= response.status < 300 and response.body.lstrip().startswith((b"data:", b"event:", b":"))


def assembled(decoder: StreamDecoder, body: bytes) -> ChatResult:
    """The answer that a whole stream gives. Raises ProviderError."""
    assembler = Assembler()
    for delta in (*decoder.feed(body), *decoder.finish()):
        assembler.add(delta)
    return assembler.result()
