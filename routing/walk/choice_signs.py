"""What several answers of one call know of each other, and what the circuits hear of them together."""

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager, suppress

from routing.types import ANSWERED, Candidate, ChatRequest, ErrorKind, ProviderError
from routing.walk.reaching import Observer, Requests

AGAIN = 2  # times that one is asked again of the same candidate, beside its tries
CROWDED: frozenset[ErrorKind] = frozenset({"rate_limited", "overloaded"})  # it had too much to do for one more


class Signs:
    """What the choices of one candidate know of each other: whether it answers any of them, and how many at once.

    `given_up`: one of them cannot be had of it, so that no further one is asked for."""

    def __init__(self, *, answers: bool = False) -> None:
        self.answers = answers
        self.given_up = False
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._lost = asyncio.Event()
        self._at_work = 0
        self._answered = 0
        self._free = 0  # places of those that were answered
        self._chances = AGAIN  # for those in the queue while nobody is at work
        self._queue: deque[asyncio.Future[bool]] = deque()
        if answers:
            self._begun.set()
            self._ended.set()

    def asks(self) -> None:
        self._at_work += 1

    def begins(self) -> None:
        self.answers = True
        self._begun.set()

    def ends(self, *, answered: bool) -> None:
        self._at_work -= 1
        self.answers |= answered
        if answered:
            self._answered += 1
            self._free += 1
            self._chances = AGAIN
        if answered or not self._at_work:
            self._begun.set()
            self._ended.set()
        self._move_up()

    def gives_up(self) -> None:
        """Whoever waits for anything goes on: whatever has ended that one, it may have told nothing else."""
        self.given_up = True
        for event in (self._begun, self._ended, self._lost):
            event.set()
        self._move_up()

    async def pause(self, seconds: float) -> bool:
        """Whether the candidate is still to be asked after so long. That it is not is known at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._lost.wait()
        return not self.given_up

    async def once_begun(self) -> bool:
        """Whether the candidate answers: known once one of them has begun to be answered, or none is asked any more."""
        await self._begun.wait()
        return self.answers and not self.given_up

    async def once_ended(self) -> bool:
        """The same, once one of them is answered to its end: then nobody stands in the others' way any more."""
        await self._ended.wait()
        return self.answers and not self.given_up

    async def once_there_is_room(self) -> bool:
        """Whether one that was too many may be asked again: it takes the place of one that has been answered, and is at
        work from then on."""
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self._move_up()
        return await place

    def _move_up(self) -> None:
        """Who takes such a place may find that others have been quicker: as many as were answered try it together
        again, now and then, where nobody is left to wait for."""
        hopeless = self.given_up
        if self._queue and not self._at_work and not self._free:
            self._chances -= 1
            hopeless |= not self.answers or self._chances < 0
            self._free = max(self._answered, 1)
        while self._queue and (hopeless or self._free):
            place = self._queue.popleft()
            if place.done():  # cancelled
                continue
            if not hopeless:
                self._free -= 1
                self._at_work += 1
            place.set_result(not hopeless)


class Counted:
    """Tells the circuits of a candidate's failures as of one call's, however many answers that asks for: of the first,
    and of a crowd of this call's own making only where the candidate has answered none of it."""

    def __init__(self, observer: Observer, *, answered: bool, answers: int) -> None:
        self._observer = observer
        self._requests = Requests(answers)
        self._answered = answered
        self._is_told = False
        self._crowded: ProviderError | None = None

    def slot(
        self, candidate: Candidate, *, wait_seconds: float, requests: Requests | None = None
    ) -> AbstractAsyncContextManager[None] | None:
        return self._observer.slot(candidate, wait_seconds=wait_seconds, requests=self._requests)

    def asks_nothing(self) -> None:
        """One that had its slot already: its request of the provider's day is left."""
        self._requests.left += 1

    async def succeeded(self, candidate: Candidate) -> None:
        self._answered = True
        await self._observer.succeeded(candidate)

    async def failed(self, candidate: Candidate, error: ProviderError, *, unheard: ChatRequest | None = None) -> None:
        if error.kind in CROWDED:
            self._crowded = error
        elif error.kind in ANSWERED:
            await self._observer.failed(candidate, error, unheard=unheard)
        elif not self._is_told and error.kind != "busy":
            self._is_told = True
            await self._observer.failed(candidate, error, unheard=unheard)

    async def all_ended(self, candidate: Candidate) -> None:
        if self._crowded is not None and not (self._answered or self._is_told):
            await self._observer.failed(candidate, self._crowded)

    def end(self) -> None:
        """Gives back what was counted of the provider's day and never asked for; no error is kept: it leads to all that
        it went through, and that to here."""
        self._crowded = None
        self._requests.end()
