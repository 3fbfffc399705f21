"""Rows and requests for the adapter tests."""

from collections.abc import Callable
from typing import Any

from routing.adapters import transport
from routing.adapters.base import StreamDecoder
from routing.adapters.sending.deadlines import Timeouts
from routing.types import ChatRequest, ChatResult, Delta, ModelSpec, ProviderError, ProviderSpec, Source, message

KEY = "sk-very-secret-0123456789"


def provider(kind: str, base_url: str = "http://127.0.0.1:9", **fields: Any) -> ProviderSpec:
    row: dict[str, Any] = {"id": 1, "slug": kind, "kind": kind, "location": Source.LOCAL, "base_url": base_url}
    return ProviderSpec(**{**row, "api_key": KEY, "timeout_seconds": 10.0, **fields})


def model(
    row: ProviderSpec | str,
    name: str = "some-model",
    *,
    context_window: int = 32768,
    capabilities: frozenset[str] = frozenset(),
    dimensions: int | None = None,
) -> ModelSpec:
    row = provider(row) if isinstance(row, str) else row
    return ModelSpec(1, name, name, row, context_window, 4096, capabilities=capabilities, dimensions=dimensions)


def ask(text: str = "Hello?", **fields: Any) -> ChatRequest:
    return ChatRequest((message("user", text),), **fields)


async def whole(row: ModelSpec, request: ChatRequest, timeouts: Timeouts) -> ChatResult:
    """An answer that is not streamed."""
    codec = transport.codec_for(row.provider)
    sent = codec.encode_chat(request, row, max_output_tokens=100, stream=False)
    return codec.decode_chat(await transport.fetch(row.provider, sent, timeouts), sent)


def run_decoder(make: Callable[[], StreamDecoder], chunks: list[bytes]) -> tuple[list[Delta], ProviderError | None]:
    """Everything that a decoder says about a stream cut into these chunks."""
    decoder, deltas = make(), []
    try:
        for chunk in chunks:
            if decoder.done:
                break
            deltas += decoder.feed(chunk)
        deltas += decoder.finish()
    except ProviderError as error:
        return deltas, error
    return deltas, None
