"""What comes back from a provider: answers, pieces of them, usage, errors."""

from collections.abc import Mapping
from typing import Any, Literal

from routing.types.conversation import Part, StopReason, Text, ToolCall
from ziggie.values import Value


class Usage(Value):
    """Token counts. None: the provider did not say. `input_tokens` includes the cached and the
    cache-written ones, `output_tokens` includes reasoning. `estimated` names counts that we worked
    out ourselves."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: frozenset[str] = frozenset()


class ChatResult(Value):
    """One complete answer. `model` is the name the provider reported, `stop_sequence` the one that ended it,
    `stop_details` why it was refused, in Anthropic's words.
    `logprobs` are there where the request asks for them, one entry a token in OpenAI's shape (adapters/answers)."""

    parts: tuple[Part, ...]
    stop_reason: StopReason = "stop"
    usage: Usage = Usage()
    model: str = ""
    response_id: str = ""
    stop_sequence: str = ""
    mean_logprob: float | None = None
    logprobs: tuple[Mapping[str, Any], ...] = ()
    stop_details: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple([part for part in self.parts if isinstance(part, ToolCall)])


class Delta(Value):
    """One piece of a streamed answer. Text, reasoning and tool arguments are to be appended;
    `tool_index` says which tool call a piece belongs to, `tool_id` and `tool_name` come once with its
    first piece. `reasoning_redacted` marks one whole block of encrypted thinking, `refuses` a text that says that
    there will be no answer. `logprobs` are of the tokens that it brings. `held` is what the model has just written of
    something that comes whole in a later delta. `begins`: another block of text than the one before, which only
    matters where documents are cited; `citation` is one of the block's.
    `usage`, `stop_reason` and `mean_logprob` come near the end, in any order."""

    text: str = ""
    reasoning: str = ""
    reasoning_signature: str = ""
    reasoning_redacted: bool = False
    tool_index: int | None = None
    tool_id: str = ""
    tool_name: str = ""
    tool_arguments: str = ""
    stop_reason: StopReason | None = None
    stop_sequence: str = ""
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    mean_logprob: float | None = None
    refuses: bool = False
    held: str = ""
    logprobs: tuple[Mapping[str, Any], ...] = ()
    begins: bool = False
    citation: Mapping[str, Any] | None = None
    stop_details: Mapping[str, Any] | None = None

    @property
    def is_output(self) -> bool:
        """True if a client would see something: such a delta ends the time in which we may fall back."""
        return bool(self.text or self.reasoning or self.tool_index is not None or self.citation)

    @property
    def is_written(self) -> bool:
        """True if the model writes, whether or not a client sees it: such a delta is a first token in time."""
        return bool(self.text or self.reasoning or self.held or self.tool_index is not None)


class Embeddings(Value):
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = Usage()
    model: str = ""


ErrorKind = Literal[
    "connection",  # nobody answered
    "timeout",
    "rate_limited",  # 429
    "quota",  # 429 or 403: money or quota is used up; waiting will not help
    "overloaded",  # 503, 529
    "server",  # other 5xx
    "auth",  # 401, 403
    "not_found",  # the model or path does not exist there
    "bad_request",  # the provider refuses this very request
    "context_overflow",  # the prompt is longer than the model's context
    "content_filter",
    "protocol",  # the answer is not what the API promises
    "unfit",  # a model answered, and not in the form that it was held to
    "cut",  # the answer stopped before its end
    "unread",  # it was not whole in time, and mostly waited for its reader
    # we did not ask: no slot came free, no file was left for a connection, or another call tries who had failed
    "busy",
]


# The provider answered, and it is the request that was wrong: the opposite of an outage.
REFUSALS: frozenset[ErrorKind] = frozenset({"bad_request", "context_overflow", "content_filter"})
# Nor is it an outage where the model could not do what was asked, from which the request may have kept it, or where
# its answer was not read.
ANSWERED: frozenset[ErrorKind] = REFUSALS | {"unfit", "unread"}


class ProviderError(Exception):
    """What any adapter raises when a provider gave no answer.

    `retryable`: the same request may work at the same provider later. `retry_after_seconds`: what the
    provider asked for, if it did. `usage`: what it reported before failing. `unbilled`: whoever answered is
    evidently no model, so that nothing was used. `one_model`: it says nothing about the provider's other models,
    whatever the kind. Every kind lets the walk move on to another candidate.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retryable: bool,
        retry_after_seconds: float | None = None,
        status: int | None = None,
        usage: Usage | None = None,
        unbilled: bool = False,
        one_model: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.status = status
        self.usage = usage
        self.unbilled = unbilled
        self.one_model = one_model


class UnsupportedByProvider(Exception):
    """This provider's API cannot express the request (say, tools on a plain completion server)."""
