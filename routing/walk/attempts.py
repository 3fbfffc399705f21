"""Walks a plan: asks its candidates one after another until one gives an acceptable answer.

What to try is decided by rules.py; here only the consequences of each outcome are drawn. This is the
one retry loop of the whole system. Nothing is retried once `Walk.committed` is set, that is, once a
byte of an answer has reached a client. No candidate is ever called more often than its plan held money for.
Waiting for a slot is no attempt: no clock of one runs, and who waits in vain has not failed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, field

from routing.adapters.sending.delivery import watched
from routing.types import (
    REFUSALS,
    Attempt,
    Candidate,
    ChatRequest,
    ChatResult,
    Outcome,
    Plan,
    ProviderError,
    Skipped,
    Source,
    UnsupportedByProvider,
    Usage,
    Verdict,
)
from routing.walk.collecting import Collector, charged, with_estimates
from routing.walk.judging import ACCEPTED, judged, repair_request
from routing.walk.outcomes import outcome_of, wait_after, was_at_work, worth_another_try
from routing.walk.patience import Patience, waited_for_reader
from routing.walk.reaching import Caller, Observer, Whole
from ziggie.errors import Unavailable
from ziggie.values import Value, replace

logger = logging.getLogger(__name__)

ANSWER = "answer"
HTTP_OK = 200
MAX_RETRY_WAIT_SECONDS = 2.0
MAX_ERROR_CHARACTERS = 500
UNSENT = "given up before anything was sent to the provider"


class Busy(Exception):
    """A candidate was not asked: its provider is full, or another call tries it after a failure."""


class Answer(Value):
    """An answer with who gave it, in which attempt, and what its judge said.

    `findings` is what a pattern learned on the way (JSON-like). `sound` is False for the best of what could
    be had where the rule asked for more: such an answer is given, and never kept for others. `others` are the
    answers beside this one, where several were asked for.
    """

    result: ChatResult
    candidate: Candidate
    verdict: Verdict
    attempt: int = 0
    findings: Mapping[str, Any] = field(default_factory=dict)
    sound: bool = True
    others: "tuple[Answer, ...]" = ()


class Step(Value):
    """One thing that a candidate is asked. `until` is on time.monotonic's clock."""

    request: ChatRequest
    role: str
    first_token_seconds: float | None
    until: float | None
    slot_seconds: float | None = None  # how long to wait for a free slot; the provider's own timeout if None


class Walk(Struct):
    """One walk through a plan. `attempts` is complete at every moment, also after a cancellation.

    `skipped` are the candidates that were not asked because no slot of their provider came free. `refused` counts
    the attempts that failed on the request itself: the API cannot express it, or the provider will not have it, and
    `unasked` those for which no file was left for a connection."""

    plan: Plan
    request: ChatRequest
    call: Caller
    observer: Observer
    attempts: list[Attempt] = field(default_factory=list)
    committed: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    refused: int = 0
    unasked: int = 0
    waits: dict[str, float] = field(default_factory=dict)  # seconds by model, as was said last; 0 where nothing was
    deadline: float | None = None  # on time.monotonic's clock
    whole: Whole | None = None  # for answers whose pieces nobody waits for; without it they go by `call`, too
    kept_waiting: Callable[[], float] | None = None  # seconds for which the reader of a stream has kept it waiting
    _calls: dict[int, int] = field(default_factory=dict)  # by identity: a model may be a member twice

    async def run(self, candidates: Sequence[Candidate] | None = None) -> Answer | None:
        """The first acceptable answer of these candidates (the chain's, if None), else the best of the
        others, else None."""
        left = deque(self.plan.candidates if candidates is None else candidates)
        best: Answer | None = None
        busy: list[Candidate] = []
        while left:
            candidate = left.popleft()
            if self._used_up(candidate, ANSWER):
                continue
            if best is not None and not self._improves_on(best, candidate):
                continue
            try:
                answer = await self._ask_with_tries(candidate, left, busy)
            except Busy:
                # Who is busy is asked again, and then waited for, before the offline model is.
                if candidate not in busy:
                    busy.append(candidate)
                    left.insert(sum(other.model.source != Source.OFFLINE for other in left), candidate)
                continue
            if answer is None:
                continue
            if answer.verdict.ok and self._sure_enough(answer):
                return answer
            if answer.verdict.ok and (best is None or _confidence(answer) > _confidence(best)):
                best = answer
        return None if best is None else replace(best, sound=False)

    async def ask(
        self, candidate: Candidate, request: ChatRequest, *, role: str, hurry: bool = False, until: float | None = None
    ) -> Answer | None:
        """What one candidate says to a request of its own; None if it gives no usable answer.

        `hurry`: it must begin within the rule's first-token time. `until`: it must end by then.
        """
        if self._used_up(candidate, role):
            return None
        first_token = self.plan.options.first_token_seconds if hurry else None
        step = Step(request, role, first_token, _earlier(until, self.deadline), slot_seconds=first_token)
        try:
            return await self._ask_and_judge(candidate, step)
        except (ProviderError, Busy):
            return None

    def note(self, answer: Answer, text: str, *, confidence: float | None = None) -> None:
        """Writes beside an answer's attempt what was found of it, and how sure it was."""
        attempt = self.attempts[answer.attempt - 1]
        sure = attempt.confidence if confidence is None else confidence
        self.attempts[answer.attempt - 1] = replace(attempt, note=text, confidence=sure)

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def retry_after(self) -> float | None:
        """Seconds until the first of those that were asked may be asked again; None where one may be at once."""
        return min(self.waits.values(), default=0.0) or None

    def _used_up(self, candidate: Candidate, role: str) -> bool:
        """The limits of a walk. The offline model is no provider: it stays the last resort beyond max_attempts."""
        if self.committed or self.is_late or self._calls.get(id(candidate), 0) >= candidate.calls:
            return True
        if role != ANSWER or candidate.model.source == Source.OFFLINE:
            return False
        most = self.plan.options.max_attempts
        return len(self.attempts) >= most and sum(attempt.role == ANSWER for attempt in self.attempts) >= most

    def _improves_on(self, best: Answer, candidate: Candidate) -> bool:
        """An unsure local answer is redone on cloud; another local model or offline would not help."""
        return best.candidate.model.source == Source.LOCAL and candidate.model.source == Source.CLOUD

    def _sure_enough(self, answer: Answer) -> bool:
        minimum = self.plan.options.min_confidence
        if minimum is None or answer.verdict.confidence is None or answer.candidate.model.source != Source.LOCAL:
            return True
        return answer.verdict.confidence >= minimum

    async def _ask_with_tries(
        self, candidate: Candidate, later: Collection[Candidate], busy: Collection[Candidate]
    ) -> Answer | None:
        """Asks one candidate, again after a passing failure if the rule grants it more tries. Raises Busy."""
        tries = self.plan.options.local_tries if candidate.model.source == Source.LOCAL else 1
        others = _real(later)
        # A slow model is left only for another real one: the offline model is no reason to hurry.
        first_token = self.plan.options.first_token_seconds if others else None
        slot_seconds = self._slot_seconds(candidate, others, busy) if others else None
        step = Step(self.request, ANSWER, first_token, self.deadline, slot_seconds)
        for number in range(1, tries + 1):
            try:
                return await self._ask_and_judge(candidate, step)
            except ProviderError as error:
                if not worth_another_try(error) or number == tries or self._used_up(candidate, ANSWER):
                    return None
                await asyncio.sleep(min(error.retry_after_seconds or 0.2 * number, MAX_RETRY_WAIT_SECONDS))
        return None

    async def _ask_and_judge(self, candidate: Candidate, step: Step) -> Answer | None:
        """One answer and its verdict; an answer that does not pass is sent back for repair once."""
        asked = step
        for repair in (False, True):
            answer = await self._attempt(candidate, asked, repair=repair)
            if answer.verdict.ok:
                return answer
            if candidate.model.source == Source.OFFLINE or self._used_up(candidate, step.role):
                return None
            asked = replace(step, request=repair_request(step.request, answer.result, answer.verdict.problem))
        return None

    def _attempt(self, candidate: Candidate, step: Step, *, repair: bool) -> Awaitable[Answer]:
        """One call of a candidate, once it has a slot: the time of the attempt counts from there.

        Raises ProviderError for a failed attempt, and Busy where it came to none."""
        slot = self.observer.slot(candidate, wait_seconds=_patience(candidate, step))
        if slot is None:
            return self._asked(candidate, step, repair=repair)
        return self._asked_in(slot, candidate, step, repair=repair)

    async def _asked_in(
        self, slot: AbstractAsyncContextManager[None], candidate: Candidate, step: Step, *, repair: bool
    ) -> Answer:
        waiting_since = time.monotonic()
        async with AsyncExitStack() as held:
            try:
                await held.enter_async_context(slot)
            except (ProviderError, Unavailable) as busy:
                self._skip(candidate, step, busy.message, waiting_since)
                raise Busy(busy.message) from busy
            except asyncio.CancelledError:
                self._skip(candidate, step, UNSENT, waiting_since)
                raise
            return await self._asked(candidate, step, repair=repair)

    def _skip(self, candidate: Candidate, step: Step, reason: str, waiting_since: float) -> None:
        model, seconds = candidate.model, time.monotonic() - waiting_since
        self.skipped.append(Skipped(model.slug, model.provider.slug, model.source, step.role, reason, seconds))

    async def _asked(self, candidate: Candidate, step: Step, *, repair: bool) -> Answer:
        started_at, started = datetime.now(UTC), time.monotonic()
        collector = Collector()
        self._calls[id(candidate)] = self._calls.get(id(candidate), 0) + 1
        delivery = watched()
        outcome: Outcome = "cancelled"
        error = ""
        status: int | None = None
        usage: Usage | None = None
        unseen = self._comes_whole(candidate, step)
        verdict = ACCEPTED
        try:
            await self._consume(candidate, step, collector, whole=unseen)
            status = None if candidate.model.source == Source.OFFLINE else HTTP_OK
            result = with_estimates(collector.result(), step.request, candidate)
            usage = result.usage
            if not self.committed:  # what a client has seen cannot be refused any more
                verdict = await judged(step.request, result)
            outcome = self._outcome(candidate, verdict)
            error = verdict.problem
            if not verdict.ok and candidate.model.source != Source.OFFLINE:
                self.waits[candidate.model.slug] = 0.0
            await self.observer.succeeded(candidate)
        except ProviderError as failure:
            outcome, error, status = outcome_of(failure), failure.message, failure.status
            had_it = delivery.has_begun and was_at_work(failure)
            unseen = unseen and had_it
            told = failure.usage or delivery.usage
            usage = collector.spent(step.request, candidate, reported=told, reached=had_it, unseen=unseen)
            self.refused += failure.kind in REFUSALS
            self.unasked += failure.kind == "busy"
            if (wait := wait_after(failure)) is not None:
                self.waits[candidate.model.slug] = wait
            unheard = step.request if collector.first_output is None else None
            await self.observer.failed(candidate, failure, unheard=unheard)
            raise
        finally:
            if outcome == "cancelled" and not delivery.has_begun:
                error, unseen = UNSENT, False
            if usage is None:
                told, had_it = delivery.usage, delivery.has_begun
                usage = collector.spent(step.request, candidate, reported=told, reached=had_it, unseen=unseen)
            usage, cost = charged(usage, step.request, candidate, unseen=unseen)
            number = len(self.attempts) + 1
            self.attempts.append(
                Attempt(  # by place: see ziggie/values.py
                    number,
                    candidate.model.slug,
                    candidate.model.provider.slug,
                    candidate.model.source,
                    outcome,
                    started_at,
                    round(time.monotonic() - started, 6),
                    collector.first_output_after(started),
                    error[:MAX_ERROR_CHARACTERS],
                    status,
                    usage,
                    cost,
                    verdict.confidence,
                    step.role,
                    repair,
                    sent=delivery.has_begun,
                )
            )
        return Answer(result, candidate, verdict, number)

    def _comes_whole(self, candidate: Candidate, step: Step) -> bool:
        in_one_piece = self.whole is not None and step.first_token_seconds is None
        return in_one_piece and candidate.model.source != Source.OFFLINE

    def _outcome(self, candidate: Candidate, verdict: Verdict) -> Outcome:
        if not verdict.ok:
            return "invalid"
        minimum = self.plan.options.min_confidence
        if minimum is not None and verdict.confidence is not None and verdict.confidence < minimum:
            return "low_confidence"
        return "ok"

    async def _consume(self, candidate: Candidate, step: Step, collector: Collector, *, whole: bool) -> None:
        """Reads one answer to its end, within the deadline and the time granted to its first token."""
        asked_at = time.monotonic()
        try:
            if whole and self.whole is not None:
                collector.take_whole(await self.whole(candidate, step.request, until=step.until))
                if step.request.on_output is not None:
                    step.request.on_output(collector.characters)
            else:
                await self._listen(candidate, step, collector)
        except TimeoutError as late:
            if waited_for_reader(self.kept_waiting, time.monotonic() - asked_at):
                raise ProviderError("unread", "its reader took too long to read it", retryable=False) from late
            what = "no first token" if collector.first_output is None else "no complete answer"
            raise ProviderError("timeout", f"{what} from {candidate.model.slug} in time", retryable=False) from late
        except UnsupportedByProvider as error:
            raise ProviderError("bad_request", str(error), retryable=False) from error
        except ProviderError:
            raise
        except Exception as error:  # the call must survive a fault of ours in one adapter: others may serve
            logger.exception("asking %s failed in an unforeseen way", candidate.model.slug)
            raise ProviderError("unfit", f"unforeseen: {type(error).__name__}", retryable=False) from error

    async def _listen(self, candidate: Candidate, step: Step, collector: Collector) -> None:
        """Takes the pieces of an answer as they come."""
        first_token = step.first_token_seconds
        clock = asyncio.get_running_loop().time
        now = clock()
        hard_stop = None if step.until is None else now + max(step.until - time.monotonic(), 0.001)
        first_stop = None if first_token is None else now + first_token
        async with asyncio.timeout_at(_earlier(hard_stop, first_stop)) as limit:
            patience = first_token and Patience.of(limit, step.request, hard_stop=hard_stop, first_token=first_token)
            stream = self.call(candidate, step.request, first_token_seconds=first_token)
            async with aclosing(stream):
                async for pieces in stream:
                    for piece in pieces:
                        first = collector.add(piece)
                        if patience:
                            patience.heard(piece, clock(), first=first, is_seen=self.committed)
                    if step.request.on_output is not None:
                        step.request.on_output(collector.characters)

    def _slot_seconds(
        self, candidate: Candidate, others: Collection[Candidate], busy: Collection[Candidate]
    ) -> float | None:
        """A full provider is left for another one that may have room; not twice for the same reason."""
        if candidate in busy:
            return None
        full = {other.model.provider.id for other in busy}
        elsewhere = {other.model.provider.id for other in others}
        if not elsewhere - full - {candidate.model.provider.id}:
            return None
        return 0.0 if candidate.model.provider.id in full else self.plan.options.first_token_seconds


def first_hurries(plan: Plan) -> bool:
    """Whether the plan's first candidate has to begin in time, so that it cannot be asked for a whole answer."""
    return plan.options.first_token_seconds is not None and bool(_real(plan.candidates[1:]))


def _real(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.model.source != Source.OFFLINE]


def _patience(candidate: Candidate, step: Step) -> float:
    """How many seconds to wait for a slot: as long as the step says, and not beyond its end."""
    granted = candidate.model.provider.timeout_seconds if step.slot_seconds is None else step.slot_seconds
    return granted if step.until is None else min(granted, max(step.until - time.monotonic(), 0.0))


def _earlier(one: float | None, other: float | None) -> float | None:
    times = [moment for moment in (one, other) if moment is not None]
    return min(times) if times else None


def _confidence(answer: Answer) -> float:
    return answer.verdict.confidence if answer.verdict.confidence is not None else 0.0
