"""What a walk needs of the world: somebody who asks a model, and somebody who knows whether it may be asked."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from routing.types import Candidate, ChatRequest, ChatResult, Delta, ProviderError
from routing.walk.handover import beside


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


class Requests:
    """Of a provider's day: those that the answers or texts of one call take are counted at once, all or none, with the
    first. `left` are not made yet; `give_back` is for what never will be, once they are counted."""

    def __init__(self, together: int) -> None:
        self.left = together
        self.is_refused = False
        self.give_back: Callable[[int], Coroutine[Any, Any, None]] | None = None
        self.counting = asyncio.Lock()

    def end(self) -> None:
        """Gives back, beside the caller, what was counted and never made."""
        left, self.left = self.left, 0
        if left and self.give_back is not None:
            beside(self.give_back(left))


class Observer(Protocol):
    """The state of the providers that all processes share: slots before an attempt, circuits after it."""

    def slot(
        self, candidate: Candidate, *, wait_seconds: float, requests: Requests | None = None
    ) -> AbstractAsyncContextManager[None] | None:
        """To be held while the candidate is asked; None where nothing has to be. Raises ProviderError("busy") when
        it is entered, if the candidate may not be asked now. `requests`: those to take this one from."""

    async def succeeded(self, candidate: Candidate) -> None: ...

    async def failed(self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None) -> None:
        """`unheard`: what was asked, where nothing came in answer."""
