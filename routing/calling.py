"""How a walk reaches the world: provider calls, and what the shared circuits learn from them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress

from routing import offline
from routing.adapters import claude_batches, transport
from routing.adapters.anthropic import claude
from routing.adapters.sending.deadlines import Timeouts
from routing.adapters.sending.delivery import begun
from routing.types import Candidate, ChatRequest, Delta, ProviderError
from routing.walk.reaching import Requests
from routing.world import health, warming

LONGEST_SECONDS = 3600.0  # the walk's own deadline is shorter


async def ask(
    candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
) -> AsyncGenerator[list[Delta], None]:
    """The answer of one candidate that has a slot, piece by piece. Raises ProviderError or UnsupportedByProvider."""
    provider = candidate.model.provider
    if provider.kind == "offline":
        begun()
        # Ranking a long transcript takes a second of computing: not on the event loop.
        yield await asyncio.to_thread(lambda: list(offline.stream(request)))
        return
    # A model on a slow machine is given up when it falls silent, not because it takes long.
    timeouts = Timeouts(first_token_seconds=first_token_seconds, total_seconds=LONGEST_SECONDS)
    deltas = transport.stream(
        provider, candidate.model, request, max_output_tokens=candidate.max_output_tokens, timeouts=timeouts
    )
    async with aclosing(deltas):
        async for delta in deltas:
            yield [delta]


@asynccontextmanager
async def loaded(slot: AbstractAsyncContextManager[None]) -> AsyncGenerator[None, None]:
    """The slot, once the package that speaks to Claude is there: loading it is no time of the model's."""
    with suppress(ImportError):  # the attempt itself says so
        await claude.load()
    async with slot:
        yield


class Breakers:
    """Holds a slot for each attempt, and tells the shared circuits how it went. `by_package`: the way to Claude goes
    through the anthropic package, which has to be there first."""

    def __init__(self, *, by_package: bool = True) -> None:
        self._by_package = by_package

    def slot(
        self, candidate: Candidate, *, wait_seconds: float, requests: Requests | None = None
    ) -> AbstractAsyncContextManager[None] | None:
        provider, model = candidate.model.provider, candidate.model
        slot = None
        if health.is_held_back(provider, model):
            slot = health.slot(provider, model, wait_seconds=wait_seconds, requests=requests)
        if self._by_package and provider.kind == claude_batches.KIND and not claude.is_loaded():
            return loaded(slot or nullcontext())
        return slot

    async def succeeded(self, candidate: Candidate) -> None:
        await health.record_success(candidate.model.provider, candidate.model)

    async def failed(self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None) -> None:
        if error.kind == "timeout" and unheard is not None:
            warming.begin(candidate, unheard)
        await health.record_failure(candidate.model.provider, candidate.model, error)
