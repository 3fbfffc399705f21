"""Walks a plan: asks its candidates one after another until one gives an acceptable answer.

What to try is decided by rules.py; here only the consequences of each outcome are drawn. This is the
one retry loop of the whole system. Nothing is retried once `Walk.committed` is set, that is, once a
byte of an answer has reached a client.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from routing import pricing
from routing.collecting import Collector, with_estimates
from routing.types import (
    Attempt,
    Candidate,
    ChatRequest,
    ChatResult,
    Delta,
    Outcome,
    Plan,
    ProviderError,
    Source,
    UnsupportedByProvider,
    Usage,
    Verdict,
    message,
)

logger = logging.getLogger(__name__)
ACCEPTED = Verdict(ok=True)
MAX_RETRY_WAIT_SECONDS = 2.0


class Caller(Protocol):
    """Asks one candidate. The stream is closed by the walk, whatever happens."""

    def __call__(
        self, candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[Delta, None]: ...


class Observer(Protocol):
    """Told what became of each attempt: the shared circuit state."""

    async def succeeded(self, candidate: Candidate) -> None: ...

    async def failed(self, candidate: Candidate, error: ProviderError) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with who gave it and what its judge said."""

    result: ChatResult
    candidate: Candidate
    verdict: Verdict


@dataclass(slots=True)
class Walk:
    """One walk through a plan. `attempts` is complete at every moment, also after a cancellation.

    `unsupported` counts the attempts that ended before they began, because the provider's API cannot
    express the request."""

    plan: Plan
    request: ChatRequest
    call: Caller
    observer: Observer
    attempts: list[Attempt] = field(default_factory=list)
    committed: bool = False
    unsupported: int = 0
    deadline: float | None = None  # on time.monotonic's clock
    _collector: Collector = field(default_factory=Collector)

    async def run(self) -> Answer | None:
        """The first acceptable answer, else the best of the others, else None."""
        best: Answer | None = None
        for position, candidate in enumerate(self.plan.candidates):
            if self._used_up(candidate):
                continue
            if best is not None and not self._improves_on(best, candidate):
                continue
            answer = await self._ask_with_tries(candidate, self.plan.candidates[position + 1 :])
            if answer is None:
                continue
            if answer.verdict.ok and self._sure_enough(answer):
                return answer
            if answer.verdict.ok and (best is None or _confidence(answer) > _confidence(best)):
                best = answer
        return best

    def _used_up(self, candidate: Candidate) -> bool:
        """The limits of a walk. The offline model is no provider: it stays the last resort beyond them."""
        if self.committed:
            return True
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return True
        return candidate.model.source != Source.OFFLINE and len(self.attempts) >= self.plan.options.max_attempts

    def _improves_on(self, best: Answer, candidate: Candidate) -> bool:
        """An unsure local answer is redone on cloud; another local model or offline would not help."""
        return best.candidate.model.source == Source.LOCAL and candidate.model.source == Source.CLOUD

    def _sure_enough(self, answer: Answer) -> bool:
        minimum = self.plan.options.min_confidence
        if minimum is None or answer.verdict.confidence is None or answer.candidate.model.source != Source.LOCAL:
            return True
        return answer.verdict.confidence >= minimum

    async def _ask_with_tries(self, candidate: Candidate, later: tuple[Candidate, ...]) -> Answer | None:
        """Asks one candidate, again after a passing failure if the rule grants it more tries."""
        tries = self.plan.options.local_tries if candidate.model.source == Source.LOCAL else 1
        for number in range(1, tries + 1):
            try:
                return await self._ask_and_judge(candidate, later)
            except ProviderError as error:
                if not _worth_another_try(error) or number == tries or self._used_up(candidate):
                    return None
                await asyncio.sleep(min(error.retry_after_seconds or 0.2 * number, MAX_RETRY_WAIT_SECONDS))
        return None

    async def _ask_and_judge(self, candidate: Candidate, later: tuple[Candidate, ...]) -> Answer | None:
        """One answer and its verdict; an answer that does not pass is sent back for repair once."""
        request = self.request
        for repair in (False, True):
            result, verdict = await self._attempt(candidate, request, later, repair=repair)
            if verdict.ok:
                return Answer(result, candidate, verdict)
            if candidate.model.source == Source.OFFLINE or self._used_up(candidate):
                return None
            request = repair_request(self.request, result, verdict.problem)
        return None

    async def _attempt(
        self, candidate: Candidate, request: ChatRequest, later: tuple[Candidate, ...], *, repair: bool
    ) -> tuple[ChatResult, Verdict]:
        started_at, started = datetime.now(UTC), time.monotonic()
        self._collector = Collector()
        outcome: Outcome = "cancelled"
        error = ""
        status: int | None = None
        reported: Usage | None = None
        verdict = ACCEPTED
        try:
            await self._consume(candidate, request, later)
            result = with_estimates(self._collector.result(), request)
            reported = result.usage
            if request.accept is not None:
                verdict = request.accept(result)
            outcome = self._outcome(candidate, verdict)
            error = verdict.problem
            await self.observer.succeeded(candidate)
        except ProviderError as failure:
            outcome, error, status = _outcome_of(failure), failure.message, failure.status
            reported = failure.usage
            await self.observer.failed(candidate, failure)
            raise
        finally:
            usage = reported or self._collector.spent(request)
            self.attempts.append(
                Attempt(
                    number=len(self.attempts) + 1,
                    model=candidate.model.slug,
                    provider=candidate.model.provider.slug,
                    source=candidate.model.source,
                    outcome=outcome,
                    started_at=started_at,
                    seconds=time.monotonic() - started,
                    first_token_seconds=self._collector.first_output_after(started),
                    error=error,
                    status=status,
                    usage=usage,
                    cost_microusd=pricing.cost_microusd(usage, candidate.model.price),
                    confidence=verdict.confidence,
                    role=candidate.role,
                    repair=repair,
                )
            )
        return result, verdict

    def _outcome(self, candidate: Candidate, verdict: Verdict) -> Outcome:
        if not verdict.ok:
            return "invalid"
        minimum = self.plan.options.min_confidence
        if minimum is not None and verdict.confidence is not None and verdict.confidence < minimum:
            return "low_confidence"
        return "ok"

    async def _consume(self, candidate: Candidate, request: ChatRequest, later: tuple[Candidate, ...]) -> None:
        """Reads one answer to its end, within the deadline and the time granted to its first token."""
        first_token = self._first_token_seconds(later)
        now = asyncio.get_running_loop().time()
        remaining = None if self.deadline is None else self.deadline - time.monotonic()
        hard_stop = None if remaining is None else now + max(remaining, 0.001)
        first_stop = None if first_token is None else now + first_token
        try:
            async with asyncio.timeout_at(_earlier(hard_stop, first_stop)) as limit:
                stream = self.call(candidate, request, first_token_seconds=first_token)
                async with aclosing(stream):
                    async for delta in stream:
                        if self._collector.add(delta):
                            limit.reschedule(hard_stop)
                        if request.on_output is not None:
                            request.on_output(self._collector.characters)
        except TimeoutError as late:
            what = "no first token" if self._collector.first_output is None else "no complete answer"
            raise ProviderError("timeout", f"{what} from {candidate.model.slug} in time", retryable=False) from late
        except UnsupportedByProvider as error:
            self.unsupported += 1
            raise ProviderError("bad_request", str(error), retryable=False) from error
        except ProviderError:
            raise
        except Exception as error:  # the call must survive a fault of ours in one adapter: others may serve
            logger.exception("asking %s failed in an unforeseen way", candidate.model.slug)
            raise ProviderError("protocol", f"unforeseen: {type(error).__name__}", retryable=False) from error

    def _first_token_seconds(self, later: tuple[Candidate, ...]) -> float | None:
        """A slow model is left only for another real one: the offline model is no reason to hurry."""
        if any(candidate.model.source != Source.OFFLINE for candidate in later):
            return self.plan.options.first_token_seconds
        return None


def _earlier(one: float | None, other: float | None) -> float | None:
    times = [moment for moment in (one, other) if moment is not None]
    return min(times) if times else None


def _worth_another_try(error: ProviderError) -> bool:
    """Passing troubles of a server that is there. One that is away or full is left at once."""
    return error.retryable and error.kind not in ("connection", "rate_limited", "overloaded")


def _outcome_of(error: ProviderError) -> Outcome:
    if error.kind == "timeout":
        return "timeout"
    return "cut" if error.kind == "cut" else "error"


def _confidence(answer: Answer) -> float:
    return answer.verdict.confidence if answer.verdict.confidence is not None else 0.0


def repair_request(request: ChatRequest, result: ChatResult, problem: str) -> ChatRequest:
    """The request again, with the refused answer and what was wrong with it."""
    refused = result.text[:20_000] or "(no text)"
    return replace(
        request,
        messages=(
            *request.messages,
            message("assistant", refused),
            message(
                "user",
                f"That answer cannot be used: {problem[:2000]}\n"
                "Give the whole answer again, corrected, as one JSON document and nothing else."
                if request.json_schema is not None
                else f"That answer cannot be used: {problem[:2000]}\nGive the whole answer again, corrected.",
            ),
        ),
    )
