"""Puts streamed deltas together into one answer, and says what it has used where nobody reported it."""

import time

from msgspec import Struct, field

from routing.adapters.answers.assembly import Assembler
from routing.planning import pdfs, pricing
from routing.planning.deferral import said_by, with_found_tools
from routing.planning.demand import IMAGE_TOKENS_LIKELY
from routing.planning.tokens import estimate_tokens
from routing.types import (
    Candidate,
    ChatRequest,
    ChatResult,
    Cited,
    Delta,
    ModelSpec,
    Pdf,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from ziggie.values import replace


class Collector(Struct):
    """Everything that one stream has said so far, and when it began to."""

    characters: int = 0
    first_output: float | None = None  # on time.monotonic's clock
    _assembled: Assembler | None = None
    _held: list[str] = field(default_factory=list)
    _whole: ChatResult | None = None

    @property
    def _assembler(self) -> Assembler:
        """Made for an answer that comes in pieces, or breaks off."""
        if self._assembled is None:
            self._assembled = Assembler()
        return self._assembled

    def take_whole(self, result: ChatResult) -> None:
        """Takes in an answer that came in one piece: nobody saw when it began."""
        self._whole = result
        for part in result.parts:
            if isinstance(part, (Text, Reasoning)):
                self.characters += len(part.text)

    def add(self, delta: Delta) -> bool:
        """Takes one delta in; True if it is the first that shows that the model writes."""
        first = self.first_output is None and delta.is_written
        if first:
            self.first_output = time.monotonic()
        self.characters += len(delta.text) + len(delta.reasoning) + len(delta.tool_arguments)
        if delta.held:
            self._held.append(delta.held)
        self._assembler.add(delta)
        return first

    def result(self) -> ChatResult:
        return self._assembler.result() if self._whole is None else self._whole

    def first_output_after(self, started: float) -> float | None:
        return None if self.first_output is None else round(self.first_output - started, 6)

    def spent(
        self,
        request: ChatRequest,
        candidate: Candidate,
        *,
        reported: Usage | None = None,
        reached: bool,
        unseen: bool = False,
    ) -> Usage:
        """What an answer that broke off has used. `reached`: the provider had the request, and has it paid although
        nothing came. A count from the middle of an answer is none of what came after it: what was said counts then.
        `unseen`: the answer was to come in one piece, so that nobody knows how much of it there is."""
        if self._whole is not None:
            return with_estimates(self._whole, request, candidate).usage
        usage = reported or self._assembler.usage
        if self.first_output is None and not reached:
            return usage
        said = with_estimates(self._said(usage), request, candidate).usage
        heard = not unseen or self.first_output is not None
        if heard and (usage.output_tokens is None or (said.output_tokens or 0) > usage.output_tokens):
            usage = _estimated(usage, "output_tokens", said.output_tokens)
        # no prompt has no tokens: some begin an answer with a zero where the count is to stand at its end
        return usage if usage.input_tokens else _estimated(usage, "input_tokens", said.input_tokens)

    def _said(self, usage: Usage) -> ChatResult:
        """What came of the answer, without its counts; what was held back of it, too, where nobody has counted that."""
        result = replace(self._assembler.result(), usage=Usage())
        is_there = result.text or result.tool_calls
        held = "" if is_there or usage.output_tokens is not None else "".join(self._held)
        return replace(result, parts=(*result.parts, Text(held))) if held else result


def charged(usage: Usage, request: ChatRequest, candidate: Candidate, *, unseen: bool) -> tuple[Usage, int]:
    """What an attempt costs. An answer that nobody has seen and that the provider was at work on is charged at the
    longest it may have been, documents whose tokens nobody has counted at the most they may have come to: providers go
    on when nobody listens, and nothing may be paid that no budget has seen."""
    price, read = candidate.model.price, most_read(usage, request, candidate.model)
    longest = unseen and usage.output_tokens is None and usage.input_tokens is not None
    uncounted = read > (usage.input_tokens or 0) and not pricing.is_free(price)
    if not longest and not uncounted:
        return usage, pricing.cost_microusd(usage, price)
    billed = replace(usage, output_tokens=candidate.max_output_tokens) if longest else usage
    usage = replace(usage, estimated=usage.estimated | {"cost"})
    if price is None or not uncounted:
        return usage, pricing.cost_microusd(billed, price)
    return usage, pricing.worst_case_microusd(price, input_tokens=read, output_tokens=billed.output_tokens or 0)


def most_read(usage: Usage, request: ChatRequest, model: ModelSpec) -> int:
    """The most input tokens that an attempt may be billed with: more than its count says where that is our estimate and
    the request has documents."""
    tokens = usage.input_tokens or 0
    if "input_tokens" in usage.estimated and pdfs.are_among(request.needs):
        return max(tokens, pdfs.tokens_at_most(model))
    return tokens


def _estimated(usage: Usage, name: str, tokens: int | None) -> Usage:
    return replace(usage, **{name: tokens}, estimated=usage.estimated | {name})


def with_estimates(result: ChatResult, request: ChatRequest, candidate: Candidate) -> ChatResult:
    """The result with missing token counts estimated and marked so. A reported zero stays a zero.

    No estimate says that the model wrote more than it was allowed: the money that is held ends there, and what would
    be above it is more likely our error than the provider's."""
    usage, estimated = result.usage, set(result.usage.estimated)
    if usage.input_tokens is not None and usage.output_tokens is not None:
        return result
    if usage.input_tokens is None:
        usage = replace(usage, input_tokens=prompt_tokens(request))
        estimated.add("input_tokens")
    if usage.output_tokens is None:
        said = sum(len(p.arguments) if isinstance(p, ToolCall) else 0 for p in result.parts)
        spoken = "".join(p.text for p in result.parts if isinstance(p, Text | Reasoning))
        likely = estimate_tokens(spoken) + said // 4
        usage = replace(usage, output_tokens=min(likely, candidate.max_output_tokens))
        estimated.add("output_tokens")
    return replace(result, usage=replace(usage, estimated=frozenset(estimated)))


def prompt_tokens(request: ChatRequest) -> int:
    """An estimate of a request's input tokens, tools included."""
    total = 4 * len(request.messages)
    for message in request.messages:
        total += estimate_tokens(message.name) if message.name else 0
        for part in message.parts:
            if isinstance(part, Text | Reasoning):
                total += estimate_tokens(part.text)
            elif isinstance(part, ToolCall):
                total += estimate_tokens(part.arguments)
            elif isinstance(part, ToolResult):
                total += estimate_tokens(said_by(part))
            elif isinstance(part, Pdf):
                total += estimate_tokens(part.title + part.context) + pdfs.tokens_likely(part.pages)
            elif isinstance(part, Cited):
                pages = 0 if part.pages is None else pdfs.tokens_likely(part.pages)
                total += estimate_tokens(part.text) + pages
            else:
                total += IMAGE_TOKENS_LIKELY
    return total + sum(len(str(tool.parameters)) // 4 + 20 for tool in with_found_tools(request).tools)
