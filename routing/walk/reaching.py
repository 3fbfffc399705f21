"""What a walk needs of the world: somebody who asks a model, and somebody who knows whether it may be asked."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from routing.types import Candidate, ChatRequest, ChatResult, Delta, ProviderError


class Caller(Protocol):
    """Asks one candidate. The stream is closed by the walk, whatever happens."""

    def __call__(
        self, candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[list[Delta], None]:
        """The answer's pieces, each time those that have come."""


class Whole(Protocol):
    """Asks one candidate for its answer in one piece."""

    def __call__(self, candidate: Candidate, request: ChatRequest, *, until: float | None) -> Awaitable[ChatResult]:
        """Raises ProviderError, and ProviderError("timeout") for one that is not whole by then (time.monotonic's)."""


class Observer(Protocol):
    """The state of the providers that all processes share: slots before an attempt, circuits after it."""

    def slot(self, candidate: Candidate, *, wait_seconds: float) -> AbstractAsyncContextManager[None] | None:
        """To be held while the candidate is asked; None where nothing has to be. Raises ProviderError("busy") when
        it is entered, if the candidate may not be asked now."""

    async def succeeded(self, candidate: Candidate) -> None: ...

    async def failed(self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None) -> None:
        """`unheard`: what was asked, where nothing came in answer."""
