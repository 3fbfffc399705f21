"""How long a call to a provider waits for what."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import make_error
from routing.types import ProviderSpec, Usage

T = TypeVar("T")

TO_BE_PATIENT = "a provider that needs longer gets it by its timeout_seconds"  # staff set them


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of one call in seconds. `first_token_seconds`: to the first piece of a streamed answer; None: no longer
    than its pieces may be apart, which is the provider's own timeout. `total_seconds`: the whole call; None: the same.
    `connect_seconds`: the transport's own if None."""

    first_token_seconds: float | None = None
    total_seconds: float | None = None
    connect_seconds: float | None = None


class Deadlines:
    """How long to wait for the next thing, and what to say if it does not come."""

    def __init__(self, provider: ProviderSpec, sent: WireRequest, timeouts: Timeouts, *, streamed: bool) -> None:
        self._now = asyncio.get_running_loop().time
        start = self._now()
        self._total = provider.timeout_seconds if timeouts.total_seconds is None else timeouts.total_seconds
        self._total_at = start + self._total
        self._first = timeouts.first_token_seconds
        self._first_at = None if self._first is None else start + self._first
        self._idle_seconds = provider.timeout_seconds
        self._idle = self._idle_seconds if streamed and self._first is None else None
        self.sent = sent
        self.usage: Usage | None = None

    def output_began(self) -> None:
        """From here on pieces have to follow each other; the first-token deadline is over."""
        self._first_at = None
        self._idle = self._idle_seconds

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Raises ProviderError("timeout") at the nearest deadline."""
        at, why = self._nearest()
        try:
            async with asyncio.timeout_at(at):
                return await awaitable
        except TimeoutError:
            raise make_error("timeout", why, self.sent, usage=self.usage) from None

    def _nearest(self) -> tuple[float, str]:
        waits = [(self._total_at, f"no complete answer within {self._total:g} s")]
        if self._first_at is not None:
            waits.append((self._first_at, f"no first token within {self._first:g} s"))
        if self._idle is not None:
            waits.append((self._now() + self._idle, f"the answer stalled for {self._idle:g} s; {TO_BE_PATIENT}"))
        return min(waits)
