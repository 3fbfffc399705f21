"""Puts streamed deltas together into one answer, and estimates the token counts that nobody reported."""

import time
from dataclasses import dataclass, field, replace

from routing.tokens import estimate_tokens
from routing.types import ChatRequest, ChatResult, Delta, Part, Reasoning, StopReason, Text, ToolCall, ToolResult, Usage


@dataclass(slots=True)
class _PartialToolCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Collector:
    """Everything that one stream has said so far."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    signature: str = ""
    tool_calls: dict[int, _PartialToolCall] = field(default_factory=dict)
    stop_reason: StopReason | None = None
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    characters: int = 0
    first_output: float | None = None  # on time.monotonic's clock

    def add(self, delta: Delta) -> bool:
        """Takes one delta in; True if it is the first that a client would see."""
        first = delta.is_output and self.first_output is None
        if first:
            self.first_output = time.monotonic()
        if delta.text:
            self.texts.append(delta.text)
        if delta.reasoning:
            self.reasonings.append(delta.reasoning)
        self.characters += len(delta.text) + len(delta.reasoning) + len(delta.tool_arguments)
        if delta.tool_index is not None:
            self._add_tool_piece(delta.tool_index, delta)
        self.signature = delta.reasoning_signature or self.signature
        self.stop_reason = delta.stop_reason or self.stop_reason
        self.usage = delta.usage or self.usage
        self.model = delta.model or self.model
        self.response_id = delta.response_id or self.response_id
        return first

    def _add_tool_piece(self, index: int, delta: Delta) -> None:
        call = self.tool_calls.setdefault(index, _PartialToolCall())
        call.id = delta.tool_id or call.id
        call.name = delta.tool_name or call.name
        call.arguments.append(delta.tool_arguments)

    def result(self) -> ChatResult:
        parts: list[Part] = []
        if self.reasonings:
            parts.append(Reasoning("".join(self.reasonings), self.signature))
        if self.texts:
            parts.append(Text("".join(self.texts)))
        parts += [
            ToolCall(call.id, call.name, "".join(call.arguments) or "{}") for _, call in sorted(self.tool_calls.items())
        ]
        return ChatResult(
            parts=tuple(parts),
            stop_reason=self.stop_reason or "stop",
            usage=self.usage or Usage(),
            model=self.model,
            response_id=self.response_id,
        )

    def first_output_after(self, started: float) -> float | None:
        return None if self.first_output is None else self.first_output - started

    def spent(self, request: ChatRequest) -> Usage:
        """What an answer that broke off has used: what was reported, else an estimate if anything came."""
        if self.usage is not None:
            return self.usage
        if self.first_output is None:
            return Usage()
        return with_estimates(self.result(), request).usage


def with_estimates(result: ChatResult, request: ChatRequest) -> ChatResult:
    """The result with missing token counts estimated and marked so. A reported zero stays a zero."""
    usage, estimated = result.usage, set(result.usage.estimated)
    if usage.input_tokens is None:
        usage = replace(usage, input_tokens=prompt_tokens(request))
        estimated.add("input_tokens")
    if usage.output_tokens is None:
        said = sum(len(p.arguments) if isinstance(p, ToolCall) else 0 for p in result.parts)
        spoken = "".join(p.text for p in result.parts if isinstance(p, Text | Reasoning))
        usage = replace(usage, output_tokens=estimate_tokens(spoken) + said // 4)
        estimated.add("output_tokens")
    return replace(result, usage=replace(usage, estimated=frozenset(estimated)))


def prompt_tokens(request: ChatRequest) -> int:
    """An estimate of a request's input tokens, tools included."""
    total = 4 * len(request.messages)
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Text | Reasoning):
                total += estimate_tokens(part.text)
            elif isinstance(part, ToolCall):
                total += estimate_tokens(part.arguments)
            elif isinstance(part, ToolResult):
                total += estimate_tokens(part.content)
            else:
                total += 1200  # an image of ordinary size
    return total + sum(len(str(tool.parameters)) // 4 + 20 for tool in request.tools)
