"""An answer on its way to a client, piece by piece, while the walk that gets it goes on.

Pieces go out as they come only where the first answer is the answer: one model asked once, nobody judging what it
says. All else is answered whole first. Once a client has seen a piece, no other model can take over.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from routing.types import Candidate, ChatRequest, Delta, Plan
from routing.walk.attempts import Walk
from routing.walk.reaching import Caller

AHEAD = 256  # pieces that a provider may be ahead of a slow client


def is_live(request: ChatRequest, plan: Plan) -> bool:
    """Whether the pieces of an answer may go out before the answer is complete."""
    return plan.pattern == "single" and request.accept is None and request.choices == 1


class Pipe:
    """What a walk hears, for one reader. Nothing goes through before `connect`."""

    def __init__(self) -> None:
        self._pieces: deque[Delta] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._walk: Walk | None = None
        self._kept_waiting = 0.0

    def connect(self, walk: Walk) -> None:
        """The walk's pieces go out from now on."""
        self._walk = walk
        walk.kept_waiting = lambda: self._kept_waiting

    def listening(self, caller: Caller) -> Caller:
        """The same caller, of whose answers a copy goes through the pipe."""

        async def call(
            candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
        ) -> AsyncGenerator[list[Delta], None]:
            unseen: list[Delta] = []  # what comes before the first output commits us to nothing
            async with aclosing(caller(candidate, request, first_token_seconds=first_token_seconds)) as stream:
                async for deltas in stream:
                    if self._walk is not None:
                        for delta in deltas:
                            unseen = await self._pass_on(delta, unseen)
                    yield deltas

        return call

    async def _pass_on(self, delta: Delta, unseen: list[Delta]) -> list[Delta]:
        assert self._walk is not None
        unseen.append(delta)
        if not delta.is_output and not self._walk.committed:
            return unseen
        self._walk.committed = True
        for piece in unseen:
            while len(self._pieces) >= AHEAD and not self._closed:
                await self._wait_for_reader()
            self._pieces.append(piece)
            self._arrived.set()
        return []

    async def _wait_for_reader(self) -> None:
        began = time.monotonic()
        self._room.clear()
        try:
            await self._room.wait()
        finally:
            self._kept_waiting += time.monotonic() - began

    def close(self) -> None:
        """No more pieces: the reader ends once it has read the rest, and nobody waits for it."""
        self._closed = True
        self._arrived.set()
        self._room.set()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while True:
            while self._pieces:
                yield self._pieces.popleft()
                self._room.set()
            if self._closed:
                return
            self._arrived.clear()
            await self._arrived.wait()
