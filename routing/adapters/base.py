"""What an adapter is: a codec between our types and one provider's wire format.

A codec is pure. It builds requests and reads answers, and never touches a socket; `transport.py`
moves the bytes. That is what lets one codec serve the service and the gateway's hot path alike.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import field

from routing.types import ChatRequest, ChatResult, Delta, Embeddings, ModelSpec, ProviderError, ProviderSpec, Usage
from ziggie.values import Value

# what vectors are for: some models embed a question differently from the passages that answer it
EmbedPurpose = Literal["document", "query"]
EmbedInput = str | tuple[int, ...]  # a text, or its tokens for a provider that reads them


class WireRequest(Value):
    """An HTTP request to be sent to a provider. `url` is absolute; `body` is JSON-able or None.

    `secret` is the API key that the headers carry: no text that leaves an adapter may show it, or the other headers'
    values. `calls` names the tools of which the answer's text is to be a call, where the API knows no other way to have
    one called. `logprobs`: the caller wants them for each token, so that an answer without them is none.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    secret: str = ""
    calls: tuple[str, ...] = ()
    logprobs: bool = False

    def __repr__(self) -> str:
        return f"WireRequest({self.method!r}, {self.url!r})"


class WireResponse(Value):
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes


class ProviderStatus(Value):
    """What a cheap check of a provider found. `models` are wire names it can serve, `loaded` those in
    memory now; None where the provider does not tell."""

    models: tuple[str, ...] | None = None
    loaded: tuple[str, ...] | None = None
    version: str = ""


class StreamDecoder(Protocol):
    """Turns the bytes of one streamed answer into deltas, however they are cut into chunks.

    `done` becomes true once nothing more is to be expected: the answer or an error is complete, though
    the connection may stay open. Call `finish` then, too. `usage` is the latest that was reported,
    for an answer that does not reach its end.
    """

    done: bool
    usage: Usage | None

    def feed(self, data: bytes) -> list[Delta]:
        """Deltas completed by these bytes. An error inside the stream is raised as ProviderError by
        the call after the one that returned the last delta before it, be that `feed` or `finish`."""
        ...

    def finish(self) -> list[Delta]:
        """What the end of the stream completes. Raises ProviderError("cut") if the answer had not ended."""
        ...


class Codec(Protocol):
    """One kind of provider. Stateless. `sent` is always the request that `response` answers.

    Every decoding method raises ProviderError, and nothing else, whatever the bytes are.
    """

    kind: str
    embed_batch: int  # most texts that one request may embed

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        """Raises UnsupportedByProvider for what this API cannot express: nothing is dropped in silence.
        Raises ProviderError("context_overflow") for a prompt that this API would cut without a word."""
        ...

    def decode_chat(self, response: WireResponse, sent: WireRequest) -> ChatResult:
        """Raises ProviderError for every status but 2xx, and for a 2xx that is no answer."""
        ...

    def decode_error(self, response: WireResponse, sent: WireRequest) -> ProviderError:
        """The ProviderError that a non-2xx answer means (also the head of a stream)."""
        ...

    def chat_stream(self, sent: WireRequest) -> StreamDecoder: ...

    def encode_embed(
        self, texts: tuple[EmbedInput, ...], model: ModelSpec, *, purpose: EmbedPurpose, dimensions: int | None = None
    ) -> WireRequest:
        """`dimensions`: how long the vectors shall be, where the API can shorten them; a server that cannot may
        ignore it, so whoever asks looks at what came."""
        ...

    def decode_embed(self, response: WireResponse, sent: WireRequest) -> Embeddings: ...

    def encode_count(self, request: ChatRequest, model: ModelSpec) -> WireRequest | None:
        """Asks for the prompt's length in tokens; None where the API has no such endpoint."""
        ...

    def decode_count(self, response: WireResponse, sent: WireRequest) -> int: ...

    def encode_status(self, provider: ProviderSpec) -> tuple[WireRequest, ...]:
        """The cheapest requests that show that the provider serves. The first must succeed, the others
        only tell more."""
        ...

    def decode_status(self, responses: tuple[WireResponse | None, ...]) -> ProviderStatus:
        """`responses` stand in the order of `encode_status`; None for one that failed."""
        ...
