"""What an adapter is: a codec between our types and one provider's wire format.

A codec is pure. It builds requests and reads answers, and never touches a socket; `transport.py`
moves the bytes. That is what lets one codec serve the service and the gateway's hot path alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from routing.types import ChatRequest, ChatResult, Delta, Embeddings, ModelSpec, ProviderSpec


@dataclass(frozen=True, slots=True)
class WireRequest:
    """An HTTP request to be sent to a provider. `url` is absolute; `body` is JSON-able or None."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WireResponse:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """What a cheap check of a provider found. `models` are wire names it can serve, `loaded` those in
    memory now; None where the provider does not tell."""

    models: tuple[str, ...] | None = None
    loaded: tuple[str, ...] | None = None
    version: str = ""


class StreamDecoder(Protocol):
    """Turns the bytes of one streamed answer into deltas, however they are cut into chunks."""

    def feed(self, data: bytes) -> list[Delta]:
        """Deltas completed by these bytes. Raises ProviderError for an error inside the stream."""
        ...

    def finish(self) -> list[Delta]:
        """What the end of the stream completes. Raises ProviderError("cut") if the answer had not ended."""
        ...


class Codec(Protocol):
    """One kind of provider. Stateless."""

    kind: str

    def encode_chat(
        self, request: ChatRequest, model: ModelSpec, *, max_output_tokens: int | None, stream: bool
    ) -> WireRequest:
        """Raises UnsupportedByProvider for what this API cannot express: nothing is dropped in silence."""
        ...

    def decode_chat(self, response: WireResponse) -> ChatResult:
        """Raises ProviderError for every status but 2xx, and for a 2xx that is no answer."""
        ...

    def decode_error(self, response: WireResponse) -> Exception:
        """The ProviderError that a non-2xx answer means (also the head of a stream)."""
        ...

    def chat_stream(self) -> StreamDecoder: ...

    def encode_embed(self, texts: tuple[str, ...], model: ModelSpec) -> WireRequest: ...

    def decode_embed(self, response: WireResponse) -> Embeddings: ...

    def encode_status(self, provider: ProviderSpec) -> WireRequest | None:
        """The cheapest request that shows that the provider serves; None if there is none."""
        ...

    def decode_status(self, response: WireResponse) -> ProviderStatus: ...
