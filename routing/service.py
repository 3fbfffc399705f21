"""The only public door of routing: plan, hold the money, walk, settle once, tell.

    complete(request)        the answer with its receipt; async
    stream(request)          its pieces as they come, then the receipt
    submit(request)          the same for code that is not async: a concurrent.futures.Future
    first_choice(hints)      the model that would serve first; calls nobody
    review(call_id, good=)   what a person says of an answer; confidence is calibrated by it (reviews.py)
    open_envelope(id, …)     money held once, for calls that name it (envelope_id) to draw from; close_envelope(id),
                             announce_envelope(id, …) before it is opened
    submit_batch(request)    the id of work that may wait; batch_result(id) is what has come of it,
                             cancel_batch(id) takes it back, hurry_batch(id) has it answered now
    may_wait(request)        whether a rule lets it wait, until when, and whether a provider's batch does it
    fresh_id, forget         for callers that may send a call again after a crash (kept_calls.py)

A request that bears a `call_id` is answered and paid once, however often it is sent. Where a rule lets equal
requests share an answer, only the first of them is paid.

Who answers in a wire format of its own (the gateway) goes the same way in steps: `open_call`, `answer`,
`close_books`, `settle` (calls.py).
"""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import cast
from uuid import UUID
from zoneinfo import ZoneInfo

from routing import streaming
from routing.adapters.answers.assembly import deltas_of
from routing.calling import ask
from routing.calls import (
    OpenCall,
    answer,
    close_books,
    is_live,
    name_call,
    open_call,
    settle,
    settle_soon,
    why_no_answer,
)
from routing.configuration import snapshot
from routing.money import envelopes
from routing.planning import rules
from routing.records import receipts
from routing.records.kept_calls import answered, forget, fresh_id
from routing.records.reviews import newest_review, review, withdraw
from routing.types import ChatRequest, Delta, Hints, ModelSpec, Plan, Routed, message
from routing.waiting.changes import answered_in_vain, cancel_batch, hurry_batch
from routing.waiting.rows import (
    BatchResult,
    MayWait,
    Terms,
    batch_result,
    batch_states,
    has_batches,
    in_window,
    submit_batch,
    unfinished,
)
from routing.walk.attempts import Answer
from routing.world import health
from ziggie import live
from ziggie.background import background_loop
from ziggie.errors import RoutingError

__all__ = [
    "BatchResult",
    "MayWait",
    "OpenCall",
    "Terms",
    "answer",
    "answered_in_vain",
    "batch_result",
    "batch_states",
    "cancel_batch",
    "close_books",
    "close_envelope",
    "complete",
    "first_choice",
    "forget",
    "fresh_id",
    "hurry_batch",
    "is_live",
    "may_wait",
    "name_call",
    "newest_review",
    "open_call",
    "open_envelope",
    "review",
    "settle",
    "settle_soon",
    "small_request",
    "stream",
    "submit",
    "submit_batch",
    "unfinished",
    "why_no_answer",
    "withdraw",
]


async def complete(request: ChatRequest, *, allowed_models: frozenset[str] = frozenset()) -> Routed:
    """The first acceptable answer of the plan. `allowed_models` are the slugs that may serve, all if it is empty.
    Raises RoutingError and its kinds."""
    if request.call_id is not None:
        known = await answered(request.call_id)
        if known is not None:
            return known
    return await _conduct(await open_call(request, allowed_models=allowed_models))


async def stream(request: ChatRequest) -> AsyncGenerator[Delta | Routed, None]:
    """The pieces of the answer, then its receipt. Raises RoutingError and its kinds; after the first piece with
    output nobody else is asked, so that a broken answer ends in an error there.

    Wrap it in contextlib.aclosing where you may leave early: that ends the call and settles what was spent.
    """
    if request.call_id is not None and (known := await answered(request.call_id)) is not None:
        for delta in deltas_of(known.result):
            yield delta
        yield known
        return
    pipe = streaming.Pipe()
    call = await open_call(request, caller=pipe.listening(ask))
    if is_live(call):
        pipe.connect(call.walk)
    conducted = asyncio.create_task(_conduct(call))
    conducted.add_done_callback(lambda _: pipe.close())
    try:
        async for piece in pipe:
            yield piece
        routed = await conducted
        if not call.walk.committed:
            for piece in deltas_of(routed.result):
                yield piece
        yield routed
    finally:
        conducted.cancel()
        await asyncio.wait([conducted])


async def _conduct(call: OpenCall) -> Routed:
    """Gets the answer and settles the call, whatever ends it."""
    found: Answer | None = None
    failure: BaseException | None = None
    try:
        found = await answer(call)
        if found is None:
            failure = why_no_answer(call)
    except BaseException as error:  # whatever ends the walk, the money is settled below
        failure = error
        raise
    finally:
        # The client may be gone and this task cancelled: the books are closed all the same.
        books = close_books(call, found, failure)
        await asyncio.shield(_settle(call, books))
    if found is None:
        raise cast("RoutingError", failure)
    return receipts.routed(books.call, call.plan, call.walk, found)


async def _settle(call: OpenCall, books: receipts.Books) -> None:
    if await settle(call, books):
        event = receipts.event(receipts.outline(books))
        await live.apublish("usage", "usage.recorded", version=1, data=event)


def submit(request: ChatRequest, *, allowed_models: frozenset[str] = frozenset()) -> "Future[Routed]":
    """complete() on this process's own event loop. Cancelling the future cancels the call."""
    return background_loop().submit(complete(request, allowed_models=allowed_models))


def announce_envelope(envelope_id: UUID, limit_microusd: int, *, name: str, api_key_id: str) -> None:
    """In the caller's transaction: from now on, no other key's calls may bear its id. Nothing is held yet."""
    envelopes.announce(envelope_id, limit_microusd, name=name, api_key_id=api_key_id)


def open_envelope(
    envelope_id: UUID, limit_microusd: int, *, like: ChatRequest, name: str, expires_in_seconds: float
) -> envelopes.Envelope:
    """Holds money for calls like this one, in the budgets that will pay for each of them. Raises Unavailable.

    Opened again, it is the same envelope, with what is left of its limit.
    """
    return (
        background_loop()
        .submit(envelopes.open_for(like, envelope_id, limit_microusd, name=name, expires_in_seconds=expires_in_seconds))
        .result()
    )


def close_envelope(envelope_id: UUID) -> bool:
    """Gives back what is left, once: True if this did it. One that was only announced is over, too. Raises
    Unavailable."""
    return background_loop().submit(envelopes.close_envelope(envelope_id)).result()


def first_choice(hints: Hints) -> ModelSpec:
    """The model that would serve a small request with these hints. Raises NoRoute and its kind."""
    return _plan_of(small_request(hints)).candidates[0].model


def small_request(hints: Hints) -> ChatRequest:
    """For those who know nothing of their requests yet but the hints."""
    return ChatRequest(messages=(message("user", "?"),), hints=hints)


def _plan_of(request: ChatRequest) -> Plan:
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    return rules.plan(request, configuration, world)


def may_wait(request: ChatRequest) -> MayWait | None:
    """How this request would wait; None if its rule lets nothing wait. Raises NoRoute and its kind."""
    plan = _plan_of(request)
    if not plan.options.batch:
        return None
    now = datetime.now(UTC).astimezone(ZoneInfo(snapshot.current().settings.time_zone))
    window = plan.options.batch_window
    is_open = in_window(window, now.time())
    return MayWait(window, is_open, by_batch=has_batches(plan))
