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
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID

from routing import health, ledger, receipts, rules, snapshot, worlds
from routing.attempts import Answer, Caller, Walk
from routing.calling import Breakers, ask
from routing.demand import Demand, measure
from routing.kept_calls import answered, forget, fresh_id
from routing.types import ChatRequest, Hints, ModelSpec, Plan, Routed, Snapshot, message
from ziggie import live
from ziggie.background import background_loop
from ziggie.errors import AllProvidersFailed, BudgetExceeded, DeadlineExceeded, RoutingError, Unsupported
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
    demand: Demand
    snapshot: Snapshot
    plan: Plan
    decision: receipts.Decision
    hold: ledger.Hold
    walk: Walk
    started: float


async def complete(request: ChatRequest) -> Routed:
    """The first acceptable answer of the plan's candidates. Raises RoutingError and its kinds."""
    if request.call_id is not None:
        known = await answered(request.call_id)
        if known is not None:
            return known
    call = await open_call(request)
    answer: Answer | None = None
    failure: BaseException | None = None
    try:
        answer = await call.walk.run()
        if answer is None:
            failure = why_no_answer(call)
    except BaseException as error:  # whatever ends the walk, the money is settled below
        failure = error
        raise
    finally:
        # The client may be gone and this task cancelled: the books are closed all the same.
        books = close_books(call, answer, failure)
        await asyncio.shield(_settle(call, books))
    if answer is None:
        raise cast("RoutingError", failure)
    return receipts.routed(books.call, call.plan, call.walk, answer)


async def open_call(
    request: ChatRequest, *, caller: Caller = ask, allowed_models: frozenset[str] = frozenset()
) -> OpenCall:
    """Plans and holds the worst case. Raises what planning raises, or BudgetExceeded.

    `caller` reaches the providers; `allowed_models` are the slugs that may serve, all if it is empty.
    """
    call_id = request.call_id or uuid7()
    started = time.monotonic()
    longest = request.deadline_seconds or LONGEST_CALL_SECONDS
    demand = measure(request)
    for chance in range(1, PLANS + 1):
        configuration = await snapshot.acurrent()
        # What was seen a moment ago is good enough to plan by, unless a plan made by it was just refused.
        world = await worlds.recent(configuration) if chance == 1 else await health.world(configuration)
        plan = rules.decide(demand, _limited(configuration, allowed_models), world)
        decision = receipts.decision(request, demand, plan)
        try:
            hold = await ledger.reserve(
                call_id,
                plan.holds,
                configuration,
                expires_in_seconds=longest + SETTLE_MARGIN_SECONDS,
                context=receipts.context(decision, plan),
            )
            break
        except BudgetExceeded:
            if chance == PLANS:
                raise
    walk = Walk(plan, request, caller, Breakers(), deadline=started + longest)
    return OpenCall(call_id, request, demand, configuration, plan, decision, hold, walk, started)


def _limited(configuration: Snapshot, allowed_models: frozenset[str]) -> Snapshot:
    """The configuration as a caller who may use only some models sees it."""
    if not allowed_models:
        return configuration
    return replace(
        configuration,
        models={slug: model for slug, model in configuration.models.items() if slug in allowed_models},
        by_name={
            name: tuple(model for model in models if model.slug in allowed_models)
            for name, models in configuration.by_name.items()
        },
    )


def why_no_answer(call: OpenCall) -> RoutingError:
    """The error of a walk that ended without an answer."""
    late = call.walk.deadline is not None and time.monotonic() >= call.walk.deadline
    attempts = call.walk.attempts
    text = "; ".join(f"{attempt.model}: {attempt.error or attempt.outcome}" for attempt in attempts)
    kind: type[RoutingError] = DeadlineExceeded if late else AllProvidersFailed
    if attempts and call.walk.unsupported == len(attempts):
        kind = Unsupported
    error = kind(
        f"no model gave a usable answer ({text or 'none was tried'})",
        details=[{"model": a.model, "outcome": a.outcome, "error": a.error} for a in attempts],
    )
    error.call_id = str(call.id)
    return error


def close_books(call: OpenCall, answer: Answer | None, failure: BaseException | None) -> receipts.Books:
    """What is to be written of a call that is over."""
    return receipts.books(
        call_id=call.id,
        request=call.request,
        demand=call.demand,
        decision=call.decision,
        walk=call.walk,
        answer=answer,
        failure=failure,
        snapshot=call.snapshot,
        reserved_microusd=max(call.hold.amounts.values(), default=0),
        seconds=time.monotonic() - call.started,
    )


async def settle(call: OpenCall, books: receipts.Books) -> bool:
    """Turns the hold into what was spent, with the receipt and every attempt's record, in one transaction."""
    return await ledger.settle(call.hold, call=books.call, records=books.records, charges=books.charges)


async def _settle(call: OpenCall, books: receipts.Books) -> None:
    if await settle(call, books):
        event = receipts.event(books.call, books.records)
        await live.apublish("usage", "usage.recorded", version=1, data=event)


def submit(request: ChatRequest) -> "Future[Routed]":
    """complete() on this process's own event loop. Cancelling the future cancels the call."""
    return background_loop().submit(complete(request))


def first_choice(hints: Hints) -> ModelSpec:
    """The model that would serve a small request with these hints. Raises NoRoute and its kind."""
    request = ChatRequest(messages=(message("user", "?"),), hints=hints)
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    return rules.plan(request, configuration, world).candidates[0].model
