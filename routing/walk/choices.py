"""Several answers to one request: as many independent calls of one model, planned, held, settled and told as one call.

The walk goes through its plan as ever; where it would ask a candidate for an answer, the candidate is asked for all of
them at once. What one of them may take is what a walk alone may: its tries, its repairs, its `max_attempts`; the plan
holds that for each. All answers of a call are one model's: where one of them cannot be had there, the next candidate is
asked for all. Before that, who failed in passing and has cost nothing is asked again, as long as the model answers
another of them: what was held for the failed attempt is still there. Who was one too many for the provider waits until
another one of them has ended.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any, cast

from msgspec import field

from routing.types import Candidate, ChatRequest, Delta, ProviderError, Source
from routing.walk.attempts import ANSWER, Answer, Busy, Step, Walk
from routing.walk.choice_signs import AGAIN, CROWDED, Counted, Signs
from routing.walk.reaching import Caller
from ziggie.values import replace

CHOICE = "choice"  # the role of all but the first
PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0  # a provider that wants a longer one does not keep the others waiting for it
# Once one has failed, for the others to end, where another model is to be asked and cuts are cheap.
LINGER_SECONDS = 2.0
SLOT_SECONDS = 3600.0  # the call's deadline is shorter
LARGEST_SEEDS = (2**31 - 1, 2**32 - 1, 2**63 - 1)  # of Gemini, of servers that count in 32 bits, of the others
_random = random.SystemRandom()


class Choice(Walk):
    """One of several answers: a walk of its own within its call's, with what that call tries and skips written there.
    `of` is how many there are."""

    index: int = 0
    of: int = 1
    signs: Signs = field(default_factory=Signs)  # of the candidate that is asked
    _again: dict[int, int] = field(default_factory=dict)  # by the candidate's identity
    _cost_microusd: int = 0  # of the last attempt

    async def answer(self, candidate: Candidate, step: Step) -> Answer | None:
        """What the candidate answers; None if that is of no use, or if it was not asked. Raises ProviderError, Busy."""
        if self.index:
            if _hurries(step) and not await self.signs.once_begun():
                return None
            # Whom the first one has proved to be there is not slow, but has much to do.
            step = Step(self.request, self.role, None, step.until, SLOT_SECONDS)
        self.signs.asks()
        while True:
            try:
                answer = await self._ask_and_judge(candidate, step)
            except ProviderError as error:
                self.signs.ends(answered=False)
                if not await self._is_to_be_asked_again(candidate, error):
                    raise
            except Busy:
                self.signs.ends(answered=False)
                if not (await self.signs.once_ended() and self._has_another_chance(candidate)):
                    if self.signs.given_up:
                        return None
                    raise
                self.signs.asks()
            else:
                self.signs.ends(answered=answer is not None)
                return answer

    def may_ask(self, candidate: Candidate) -> bool:
        return not self._used_up(candidate, self.role)

    async def _is_to_be_asked_again(self, candidate: Candidate, error: ProviderError) -> bool:
        """After a pause, at work in it. What has cost something is not: nothing more is held."""
        pause = error.retry_after_seconds or PAUSE_SECONDS
        earliest = time.monotonic() + pause
        if not error.retryable or self._cost_microusd or self.committed or pause > LONGEST_PAUSE_SECONDS:
            return False
        if error.kind in CROWDED:
            if not await self.signs.once_there_is_room():
                return False
        elif await self.signs.once_begun() and self._has_another_chance(candidate):
            self.signs.asks()
        else:
            return False
        # Not all at the same time: they are what was too many.
        pause = max(earliest - time.monotonic(), 0.0) + _random.uniform(0.0, PAUSE_SECONDS)
        if self.deadline is not None and time.monotonic() + pause >= self.deadline:
            self.signs.ends(answered=False)
            return False
        if not await self.signs.pause(pause):
            self.signs.ends(answered=False)
            return False
        self._calls[id(candidate)] -= 1
        return True

    def _has_another_chance(self, candidate: Candidate) -> bool:
        again = self._again[id(candidate)] = self._again.get(id(candidate), 0) + 1
        return again <= AGAIN and not self.is_late

    async def _asked(self, candidate: Candidate, step: Step, *, repair: bool) -> Answer:
        if self.signs.given_up:
            cast("Counted", self.observer).asks_nothing()
            raise Busy("another answer of this call cannot be had of it")
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
    _is_last: bool = True  # nobody is left to be asked after the candidate
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

    async def _ask_with_tries(
        self, candidate: Candidate, later: Collection[Candidate], busy: Collection[Candidate]
    ) -> Answer | None:
        self._is_last = not later
        return await super()._ask_with_tries(candidate, later, busy)

    async def _ask_and_judge(self, candidate: Candidate, step: Step) -> Answer | None:
        """All answers as one, which is as sure as the least sure of them. What the candidate has answered before stays:
        asked again, it is asked for the others."""
        if candidate is not self._found_by:
            self._found, self._found_by = {}, candidate
        missing = self._missing(candidate)
        has_answered = bool(self._found)
        signs = Signs(answers=has_answered)
        counted = Counted(self.observer, answered=has_answered, answers=len(missing))
        for choice in missing:
            choice.signs, choice.observer = signs, counted
            choice.call = _telling(self.callers[choice.index] if self.callers else self.call, signs)
        try:
            await self._ask(missing, candidate, step, signs, counted)
        finally:
            counted.end()
            self.refused = sum([choice.refused for choice in self.choices])
            self.unasked = sum([choice.unasked for choice in self.choices])
            self.waits = _longest([choice.waits for choice in self.choices])
        if len(self._found) < len(self.choices):
            return None
        first, *others = [self._found[choice.index] for choice in self.choices]
        least_sure = min((first, *others), key=_confidence)
        return replace(first, others=tuple(others), verdict=least_sure.verdict)

    async def _ask(
        self, missing: Sequence[Choice], candidate: Candidate, step: Step, signs: Signs, counted: Counted
    ) -> None:
        """Raises what the first of those has met that failed. Whatever ends the wait, all have ended, and have written
        down what they have used."""
        failures: dict[int, Exception] = {}
        try:
            await self._all_asked(missing, candidate, step, signs, failures)
            await counted.all_ended(candidate)
            if failures:
                raise failures[min(failures)]
        finally:
            failures.clear()  # they lead back here: nothing may lead from here to them

    async def _all_asked(
        self,
        missing: Sequence[Choice],
        candidate: Candidate,
        step: Step,
        signs: Signs,
        failures: dict[int, Exception],
    ) -> None:
        """Returns once all have ended: by themselves, or a while after one has failed, where that is cheaper."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for choice in missing:
                tasks.append(asyncio.create_task(self._answered(choice, candidate, step, failures)))
                await asyncio.sleep(0)  # each makes its request ready: other calls go on between
            left = {task for task in tasks if not task.done()}
            while left and not signs.given_up:
                _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if left:
                await asyncio.wait(left, timeout=LINGER_SECONDS if self._is_cut_cheaply() else None)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _is_cut_cheaply(self) -> bool:
        """Whether somebody else is to be asked for all, and what is cut is paid as far as it was written: an answer
        that was to come whole is paid at its longest."""
        is_told = any(choice.committed for choice in self.choices)
        return self.whole is None and not self._is_last and not is_told

    async def _answered(self, choice: Choice, candidate: Candidate, step: Step, failures: dict[int, Exception]) -> None:
        """To its end in any case: a task that failed, or was cancelled, would keep the error, and that keeps the task,
        by the clock that ran in it."""
        try:
            answer = await choice.answer(candidate, step)
            if answer is not None:
                self._found[choice.index] = answer
                return
        except asyncio.CancelledError:  # by who waits for it, and for nothing more
            return
        except Exception as error:  # whatever it was, who waits for all of them raises it
            failures[choice.index] = error
        choice.signs.gives_up()


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
    """What is asked for one of them. The same seed would give the same answer: each has another one."""
    changes: dict[str, Any] = {}
    if index and request.on_output is not None:  # of several answers the first alone tells how far it is
        changes["on_output"] = None
    if index and request.seed is not None:
        changes["seed"] = _seed(request.seed, index)
    return replace(request, **changes) if changes else request


def _seed(first: int, index: int) -> int:
    """The next ones; those before it where a provider that takes the first may take none above."""
    is_last = any(first <= largest < first + index for largest in LARGEST_SEEDS)
    return first - index if is_last else first + index


def _hurries(step: Step) -> bool:
    """Whether the candidate is left where it is slow or full: it is asked for one answer first."""
    return step.first_token_seconds is not None or step.slot_seconds is not None


def _confidence(answer: Answer) -> float:
    return 100.0 if answer.verdict.confidence is None else answer.verdict.confidence
