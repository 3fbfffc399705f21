"""How many connections to providers one call has at a time, where it asks for several answers, or several models.

A client's place is for two files, its own connection and one to a provider. Any further one is lent from the places
that nobody has taken; where there is none, the call's parts are asked one after another.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

from routing.gateway.access.crowd import Crowd
from routing.types import Candidate, ChatRequest, ProviderError
from routing.walk.reaching import Observer, Requests

AT_ONCE = frozenset({"ensemble", "debate"})  # patterns that ask several models at the same time
LOOK_SECONDS = 0.5  # until it is seen that another call has given one back


class Sharing:
    """The observer of one such call: its parts wait for a connection before they wait for a provider's slot."""

    def __init__(self, observer: Observer, crowd: Crowd, peer: str) -> None:
        self._observer = observer
        self._crowd = crowd
        self._peer = peer
        self._open = 0
        self._lent = 0
        self._ended = asyncio.Event()

    def slot(
        self, candidate: Candidate, *, wait_seconds: float, requests: Requests | None = None
    ) -> AbstractAsyncContextManager[None] | None:
        if candidate.model.provider.kind == "offline":
            return self._observer.slot(candidate, wait_seconds=wait_seconds, requests=requests)
        return self._connected(candidate, time.monotonic() + wait_seconds, requests)

    async def succeeded(self, candidate: Candidate) -> None:
        await self._observer.succeeded(candidate)

    async def failed(self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None) -> None:
        await self._observer.failed(candidate, error, unheard=unheard)

    @asynccontextmanager
    async def _connected(self, candidate: Candidate, until: float, requests: Requests | None) -> AsyncIterator[None]:
        while self._open > self._lent and not self._lend():
            await self._wait(until)
        self._open += 1
        try:
            left = max(until - time.monotonic(), 0.0)
            async with self._observer.slot(candidate, wait_seconds=left, requests=requests) or nullcontext():
                yield
        finally:
            self._open -= 1
            self._give_back()

    def _lend(self) -> bool:
        lent = self._crowd.lend(self._peer)
        self._lent += lent
        return lent

    def _give_back(self) -> None:
        while self._lent > max(self._open - 1, 0):
            self._lent -= 1
            self._crowd.take_back(self._peer)
        self._ended.set()  # for who waits now
        self._ended.clear()

    async def _wait(self, until: float) -> None:
        """For another part of the call to end, or a moment. Raises ProviderError("busy") once it is too late."""
        left = until - time.monotonic()
        if left <= 0:
            raise ProviderError("busy", "no further connection was free for it in time", retryable=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, LOOK_SECONDS)):
                await self._ended.wait()
