"""The only public door of routing: plan, hold the money, walk, settle once, tell.

    complete(request)        the answer with its receipt; async
    submit(request)          the same for code that is not async: a concurrent.futures.Future
    first_choice(hints)      the model that would serve first; calls nobody
    fresh_id, forget         for callers that may send a call again after a crash (kept_calls.py)

A request that bears a `call_id` is answered and paid once, however often it is sent.
"""

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from routing import health, ledger, receipts, rules, snapshot
from routing.attempts import Answer, Walk
from routing.calling import Breakers, ask
from routing.kept_calls import answered, forget, fresh_id
from routing.ledger_rows import CallRow
from routing.types import ChatRequest, Hints, ModelSpec, Plan, Routed, Snapshot, message
from ziggie import live
from ziggie.background import background_loop
from ziggie.errors import AllProvidersFailed, BudgetExceeded, DeadlineExceeded, RoutingError
from ziggie.ids import uuid7

__all__ = ["complete", "first_choice", "forget", "fresh_id", "submit"]

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
        known = await answered(request.call_id)
        if known is not None:
            return known
    call = await _open(request)
    answer: Answer | None = None
    failure: BaseException | None = None
    try:
        answer = await call.walk.run()
        if answer is None:
            failure = _why_no_answer(call)
    except BaseException as error:  # whatever ends the walk, the money is settled below
        failure = error
        raise
    finally:
        # The client may be gone and this task cancelled: the books are closed all the same.
        row = await asyncio.shield(_close(call, answer, failure))
    if answer is None:
        raise cast("RoutingError", failure)
    return receipts.routed(row, call.plan, call.walk, answer)


async def _open(request: ChatRequest) -> OpenCall:
    """Plans and holds the worst case. Raises what planning raises, or BudgetExceeded."""
    call_id = request.call_id or uuid7()
    started = time.monotonic()
    longest = request.deadline_seconds or LONGEST_CALL_SECONDS
    for chance in range(1, PLANS + 1):
        configuration = await snapshot.acurrent()
        plan = rules.plan(request, configuration, await health.world(configuration))
        try:
            hold = await ledger.reserve(
                call_id,
                plan.holds,
                configuration,
                expires_in_seconds=longest + SETTLE_MARGIN_SECONDS,
                context=receipts.context(request, plan),
            )
            break
        except BudgetExceeded:
            if chance == PLANS:
                raise
    walk = Walk(plan, request, ask, Breakers(), deadline=started + longest)
    return OpenCall(call_id, request, configuration, plan, hold, walk, started)


def _why_no_answer(call: OpenCall) -> RoutingError:
    late = call.walk.deadline is not None and time.monotonic() >= call.walk.deadline
    attempts = call.walk.attempts
    text = "; ".join(f"{attempt.model}: {attempt.error or attempt.outcome}" for attempt in attempts)
    kind: type[RoutingError] = DeadlineExceeded if late else AllProvidersFailed
    error = kind(
        f"no model gave a usable answer ({text or 'none was tried'})",
        details=[{"model": a.model, "outcome": a.outcome, "error": a.error} for a in attempts],
    )
    error.call_id = str(call.id)
    return error


async def _close(call: OpenCall, answer: Answer | None, failure: BaseException | None) -> CallRow:
    """Settles the hold with every attempt's record and the receipt, in one transaction, then tells."""
    records = receipts.usage_rows(call.walk, answer, call.snapshot)
    row = receipts.call_row(
        call_id=call.id,
        request=call.request,
        plan=call.plan,
        walk=call.walk,
        answer=answer,
        failure=failure,
        records=records,
        reserved_microusd=max(call.hold.amounts.values(), default=0),
        seconds=time.monotonic() - call.started,
    )
    paid = receipts.charges(call.walk, call.request, call.snapshot)
    if await ledger.settle(call.hold, call=row, records=records, charges=paid):
        await live.apublish("usage", "usage.recorded", version=1, data=receipts.event(row, records))
    return row


def submit(request: ChatRequest) -> "Future[Routed]":
    """complete() on this process's own event loop. Cancelling the future cancels the call."""
    return background_loop().submit(complete(request))


def first_choice(hints: Hints) -> ModelSpec:
    """The model that would serve a small request with these hints. Raises NoRoute and its kind."""
    request = ChatRequest(messages=(message("user", "?"),), hints=hints)
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    return rules.plan(request, configuration, world).candidates[0].model
