"""Several answers to one request: as many independent calls of one model, planned, held, settled and told as one call.

The walk goes through its plan as ever; where it would ask a candidate for an answer, the candidate is asked for all of
them at once. What one of them may take is what a walk alone may: its tries, its repairs, its `max_attempts`; the plan
holds that for each. All answers of a call are one model's: where one of them cannot be had there, the next candidate is
asked for all. Before that, who failed in passing and has cost nothing is asked again, as long as the model answers
another of them: what was held for the failed attempt is still there.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import field

from routing.attempts import ANSWER, Answer, Busy, Step, Walk
from routing.reaching import Caller
from routing.types import Candidate, ChatRequest, Delta, ProviderError, Source
from ziggie.values import replace

CHOICE = "choice"  # the role of all but the first
AGAIN = 2  # times that one is asked again of the same candidate, beside its tries
PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0  # a provider that wants a longer one does not keep the others waiting for it
LINGER_SECONDS = 2.0  # once one has failed, for the others to end: an answer that is cut is paid at its longest
SLOT_SECONDS = 3600.0  # the call's deadline is shorter
LARGEST_SEED = 2**63 - 1


class Signs:
    """What the choices of one candidate know of each other: whether it answers any of them."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._at_work = 0
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
        if answered or not self._at_work:
            self._begun.set()
            self._ended.set()

    async def once_begun(self) -> bool:
        """Whether the candidate answers: known once one of them has begun to be answered, or none is asked any more."""
        await self._begun.wait()
        return self.answers

    async def once_ended(self) -> bool:
        """The same, once one of them is answered to its end: then nobody stands in the others' way any more."""
        await self._ended.wait()
        return self.answers


class Choice(Walk):
    """One of several answers: a walk of its own within its call's, with what that call tries and skips written there.
    `of` is how many there are."""

    index: int = 0
    of: int = 1
    _again: dict[int, int] = field(default_factory=dict)  # by the candidate's identity
    _cost_microusd: int = 0  # of the last attempt

    async def answer(self, candidate: Candidate, step: Step, signs: Signs) -> Answer | None:
        """What the candidate answers; None if that is of no use, or if it was not asked. Raises ProviderError, Busy."""
        if self.index:
            if _hurries(step) and not await signs.once_begun():
                return None
            # Whom the first one has proved to be there is not slow, but has much to do.
            step = Step(self.request, self.role, None, step.until, SLOT_SECONDS)
        while True:
            signs.asks()
            try:
                answer = await self._ask_and_judge(candidate, step)
            except ProviderError as error:
                signs.ends(answered=False)
                if not await self._is_to_be_asked_again(candidate, error, signs):
                    raise
            except Busy:
                signs.ends(answered=False)
                if not (await signs.once_ended() and self._has_another_chance(candidate)):
                    raise
            else:
                signs.ends(answered=answer is not None)
                return answer

    def may_ask(self, candidate: Candidate) -> bool:
        return not self._used_up(candidate, self.role)

    async def _is_to_be_asked_again(self, candidate: Candidate, error: ProviderError, signs: Signs) -> bool:
        """After a pause. What has cost something is not: nothing more is held."""
        pause = error.retry_after_seconds or PAUSE_SECONDS
        if not error.retryable or self._cost_microusd or self.committed or pause > LONGEST_PAUSE_SECONDS:
            return False
        if not (await signs.once_begun() and self._has_another_chance(candidate)):
            return False
        self._calls[id(candidate)] -= 1
        await asyncio.sleep(pause)
        return not self.is_late

    def _has_another_chance(self, candidate: Candidate) -> bool:
        again = self._again[id(candidate)] = self._again.get(id(candidate), 0) + 1
        return again <= AGAIN and not self.is_late

    async def _asked(self, candidate: Candidate, step: Step, *, repair: bool) -> Answer:
        try:
            return await super()._asked(candidate, step, repair=repair)
        except ProviderError:
            self._cost_microusd = self.attempts[-1].cost_microusd
            raise

    @property
    def role(self) -> str:
        return CHOICE if self.index else ANSWER

    def _used_up(self, candidate: Candidate, role: str) -> bool:
        """The limits of a walk, by its own calls alone, whatever their role."""
        if self.committed or self.is_late or self._calls.get(id(candidate), 0) >= candidate.calls // self.of:
            return True
        if candidate.model.source == Source.OFFLINE:
            return False
        return sum(self._calls.values()) >= self.plan.options.max_attempts


class Several(Walk):
    """A walk to as many answers as its request has choices, all of one candidate. `callers` ask for one each, where the
    pieces of each go a way of their own."""

    choices: list[Choice] = field(default_factory=list)
    callers: Sequence[Caller] = ()
    _found: dict[int, Answer] = field(default_factory=dict)
    _found_by: Candidate | None = None

    def __post_init__(self) -> None:
        of = self.request.choices
        self.choices = [
            Choice(
                self.plan, request_of(self.request, index), self.call, self.observer, self.attempts,
                skipped=self.skipped, deadline=self.deadline, whole=self.whole, index=index, of=of,
            )
            for index in range(of)
        ]  # fmt: skip

    def listen(self, callers: Sequence[Caller], kept_waiting: Callable[[], float]) -> None:
        """Has each of them asked by its own caller."""
        self.callers = callers
        for choice in self.choices:
            choice.kept_waiting = kept_waiting

    def _used_up(self, candidate: Candidate, role: str) -> bool:
        return self.committed or not all(choice.may_ask(candidate) for choice in self._missing(candidate))

    def _missing(self, candidate: Candidate) -> list[Choice]:
        """Those that this candidate has not answered."""
        if candidate is not self._found_by:
            return self.choices
        return [choice for choice in self.choices if choice.index not in self._found]

    async def _ask_and_judge(self, candidate: Candidate, step: Step) -> Answer | None:
        """All answers as one, which is as sure as the least sure of them. What the candidate has answered before stays:
        asked again, it is asked for the others."""
        if candidate is not self._found_by:
            self._found, self._found_by = {}, candidate
        missing = self._missing(candidate)
        signs = Signs(answers=bool(self._found))
        for choice in missing:
            choice.call = _telling(self.callers[choice.index] if self.callers else self.call, signs)
        try:
            await self._ask(missing, candidate, step, signs)
        finally:
            self.refused = sum([choice.refused for choice in self.choices])
            self.waits = _longest([choice.waits for choice in self.choices])
        if len(self._found) < len(self.choices):
            return None
        first, *others = [self._found[choice.index] for choice in self.choices]
        least_sure = min((first, *others), key=_confidence)
        return replace(first, others=tuple(others), verdict=least_sure.verdict)

    async def _ask(self, missing: Sequence[Choice], candidate: Candidate, step: Step, signs: Signs) -> None:
        """Raises what the first of those has met that failed. Whatever ends the wait, all have ended, and have written
        down what they have used."""
        failures: dict[int, Exception] = {}
        asked = [self._answered(choice, candidate, step, signs, failures) for choice in missing]
        try:
            await _together(asked, failures)
            if failures:
                raise failures[min(failures)]
        finally:
            failures.clear()  # they lead back here: nothing may lead from here to them

    async def _answered(
        self, choice: Choice, candidate: Candidate, step: Step, signs: Signs, failures: dict[int, Exception]
    ) -> None:
        """To its end in any case: a task that failed, or was cancelled, would keep the error, and that keeps the task,
        by the clock that ran in it."""
        try:
            answer = await choice.answer(candidate, step, signs)
            if answer is not None:
                self._found[choice.index] = answer
        except asyncio.CancelledError:  # by who waits for it, and for nothing more
            return
        except Exception as error:
            failures[choice.index] = error


async def _together(asked: Sequence[Coroutine[Any, Any, None]], failures: Collection[int]) -> None:
    """Returns once all have ended: by themselves, or a while after one has failed."""
    tasks = [asyncio.create_task(one) for one in asked]
    try:
        left = set(tasks)
        while left and not failures:
            _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        if left:
            await asyncio.wait(left, timeout=LINGER_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _longest(waits: Sequence[dict[str, float]]) -> dict[str, float]:
    """By model: all answers are one model's, so that it is waited for until it may be asked for each of them."""
    found: dict[str, float] = {}
    for said in waits:
        for model, seconds in said.items():
            found[model] = max(seconds, found.get(model, 0.0))
    return found


def _telling(caller: Caller, signs: Signs) -> Caller:
    """The same, which gives a sign when an answer begins."""

    async def call(
        candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[list[Delta], None]:
        async with aclosing(caller(candidate, request, first_token_seconds=first_token_seconds)) as stream:
            async for deltas in stream:
                if not signs.answers and any(delta.is_written for delta in deltas):
                    signs.begins()
                yield deltas

    return call


def request_of(request: ChatRequest, index: int) -> ChatRequest:
    """What is asked for one of them. The same seed would give the same answer: each has the one after the last's."""
    if not index:
        return request
    changes: dict[str, Any] = {"on_output": None}  # of several answers the first alone tells how far it is
    if request.seed is not None:
        changes["seed"] = request.seed + index if request.seed <= LARGEST_SEED - index else request.seed - index
    return replace(request, **changes)


def _hurries(step: Step) -> bool:
    """Whether the candidate is left where it is slow or full: it is asked for one answer first."""
    return step.first_token_seconds is not None or step.slot_seconds is not None


def _confidence(answer: Answer) -> float:
    return 100.0 if answer.verdict.confidence is None else answer.verdict.confidence
