"""How a walk reaches the world: provider calls, and what the shared circuits learn from them."""

import asyncio
from collections.abc import AsyncIterator

from routing import health, offline
from routing.adapters import transport
from routing.types import Candidate, ChatRequest, Delta, ProviderError


async def ask(candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None) -> AsyncIterator[Delta]:
    """The answer of one candidate, piece by piece. Raises ProviderError or UnsupportedByProvider."""
    provider = candidate.model.provider
    if provider.kind == "offline":
        # Ranking a long transcript takes a second of computing: not on the event loop.
        for delta in await asyncio.to_thread(lambda: list(offline.stream(request))):
            yield delta
        return
    async with health.slot(provider):
        async for delta in transport.stream(
            provider,
            candidate.model,
            request,
            max_output_tokens=candidate.max_output_tokens,
            first_token_seconds=first_token_seconds,
        ):
            yield delta


class Breakers:
    """Tells the shared circuits how each attempt went."""

    async def succeeded(self, candidate: Candidate) -> None:
        await health.record_success(candidate.model.provider, candidate.model)

    async def failed(self, candidate: Candidate, error: ProviderError) -> None:
        await health.record_failure(candidate.model.provider, candidate.model, error)
