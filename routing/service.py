"""The only public door of routing: plan, hold the money, walk, settle once, tell.

    complete(request)        the answer with its receipt; async
    submit(request)          the same for code that is not async: a concurrent.futures.Future
    complete_sync(request)   the same, waiting
    first_choice(hints)      the model that would serve first; calls nobody
    forget(call_id)          drops the answer that is kept for a call sent again after a crash

A request that bears a `call_id` is answered and paid once, however often it is sent.
"""

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

from routing import health, ledger, receipts, rules, snapshot
from routing.attempts import Answer, Walk
from routing.calling import Breakers, ask
from routing.types import ChatRequest, Hints, ModelSpec, Plan, Routed, Snapshot, World, message
from ziggie import background, live
from ziggie.errors import AllProvidersFailed, BudgetExceeded, DeadlineExceeded, RoutingError
from ziggie.ids import uuid7

LONGEST_CALL_SECONDS = 900.0
SETTLE_MARGIN_SECONDS = 60.0
PLANS = 3  # a budget that fills between planning and holding is planned around, at most this often


@dataclass(slots=True)
class OpenCall:
    """A routed call between its hold and its settlement."""

    id: UUID
    request: ChatRequest
    snapshot: Snapshot
    plan: Plan
    hold: ledger.Hold
    walk: Walk
    started: float


async def complete(request: ChatRequest) -> Routed:
    """The first acceptable answer of the plan's candidates. Raises RoutingError and its kinds."""
    if request.call_id is not None:
        known = await receipts.answered(request.call_id)
        if known is not None:
            return known
    call = await _open(request)
    answer: Answer | None = None
    failure: BaseException | None = None
    try:
        answer = await call.walk.run()
        if answer is None:
            failure = _why_no_answer(call)
    except BaseException as error:
        failure = error
        raise
    finally:
        # The client may be gone and this task cancelled: the books are closed all the same.
        await asyncio.shield(_close(call, answer, failure))
    if answer is None:
        raise failure  # type: ignore[misc]  # set above: there was no answer
    return receipts.routed(call.id, call.plan, call.walk, answer, call.snapshot, time.monotonic() - call.started)


async def _open(request: ChatRequest) -> OpenCall:
    """Plans and holds the worst case. Raises what planning raises, or BudgetExceeded."""
    call_id = request.call_id or uuid7()
    started = time.monotonic()
    for chance in range(PLANS):
        configuration = await snapshot.acurrent()
        world = await health.world(configuration)
        plan = rules.plan(request, configuration, world)
        try:
            hold = await ledger.reserve(
                call_id,
                rules.holds(plan, configuration, request),
                configuration,
                expires_in_seconds=(request.deadline_seconds or LONGEST_CALL_SECONDS) + SETTLE_MARGIN_SECONDS,
                context=receipts.context(request, plan, configuration),
            )
            break
        except BudgetExceeded:
            if chance == PLANS - 1:
                raise
    deadline = None if request.deadline_seconds is None else started + request.deadline_seconds
    walk = Walk(plan, request, ask, Breakers(), deadline=deadline)
    return OpenCall(call_id, request, configuration, plan, hold, walk, started)


def _why_no_answer(call: OpenCall) -> RoutingError:
    kind: type[RoutingError] = AllProvidersFailed
    if call.walk.deadline is not None and time.monotonic() >= call.walk.deadline:
        kind = DeadlineExceeded
    attempts = call.walk.attempts
    text = "; ".join(f"{attempt.model}: {attempt.error or attempt.outcome}" for attempt in attempts)
    error = kind(
        f"no model gave a usable answer ({text or 'none was tried'})",
        details=[{"model": a.model, "outcome": a.outcome, "error": a.error} for a in attempts],
    )
    error.call_id = str(call.id)
    return error


async def _close(call: OpenCall, answer: Answer | None, failure: BaseException | None) -> None:
    """Settles the hold with every attempt's record and the receipt, in one transaction, then tells."""
    row, records, charges = receipts.rows(
        call.id, call.request, call.plan, call.walk, answer, failure, call.snapshot, time.monotonic() - call.started
    )
    if await ledger.settle(call.hold, call=row, records=records, charges=charges):
        await live.apublish("usage", "usage.recorded", version=1, data=receipts.event(row, records))


def submit(request: ChatRequest) -> "Future[Routed]":
    """complete() on this process's own event loop. Cancelling the future cancels the call."""
    return background.background_loop().submit(complete(request))


def complete_sync(request: ChatRequest) -> Routed:
    return submit(request).result()


def first_choice(hints: Hints) -> ModelSpec:
    """The model that would serve a small request with these hints. Raises NoRoute and its kind."""
    request = ChatRequest(messages=(message("user", "?"),), hints=hints)
    configuration = snapshot.current()
    world: World = background.background_loop().submit(health.world(configuration)).result()
    return rules.plan(request, configuration, world).candidates[0].model


def forget(call_id: UUID) -> None:
    """The caller has stored the answer: the copy kept with the receipt is dropped."""
    receipts.drop_answer(call_id)
