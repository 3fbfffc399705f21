"""One routed call in steps: open it, get its answer, close its books, settle.

Every call that was opened is closed and settled, whatever happened: then nothing stays held, and no equal call
waits for it in vain. service.py goes this way for callers inside; the gateway goes it for its clients.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from msgspec import Struct

from routing import shadowing, streaming
from routing.caching import cache
from routing.calling import Breakers, ask
from routing.configuration import snapshot
from routing.money import envelopes, ledger
from routing.planning import rules
from routing.planning.budgets import may_find_more
from routing.planning.demand import Demand, measure
from routing.planning.pricing import usd
from routing.planning.rerun import Circumstances, circumstances, limited
from routing.records import bodies, receipts
from routing.types import Attempt, Candidate, ChatRequest, Plan, Snapshot, Usage, Verdict, World
from routing.walk import patterns
from routing.walk.attempts import Answer, Walk
from routing.walk.choices import Several
from routing.walk.reaching import Caller, Whole
from routing.world import worlds
from routing.world.circuits import LONGEST_RETRY_AFTER_SECONDS
from ziggie.errors import (
    AllProvidersFailed,
    BudgetExceeded,
    DeadlineExceeded,
    NoRoute,
    RoutingError,
    Unavailable,
    Unsupported,
    ZiggieError,
)
from ziggie.ids import uuid7
from ziggie.values import Value

LONGEST_CALL_SECONDS = 900.0
SETTLE_MARGIN_SECONDS = 60.0
HOLD_SECONDS = 180.0  # renewed while the process lives (keeping.py): what a dead one held comes back after so long
_BREAKERS, _DIRECT_BREAKERS = Breakers(by_package=True), Breakers(by_package=False)
PLANS = 3  # a budget that fills between planning and holding is planned around, at most this often


class OpenCall(Struct):
    """A routed call between its hold and its settlement. A call whose answer was in the cache holds nothing."""

    id: UUID
    request: ChatRequest
    demand: Demand
    snapshot: Snapshot
    plan: Plan
    seen: Circumstances
    hold: ledger.Hold
    walk: Walk
    started: float
    turn: cache.Turn
    outcome: Answer | None = None
    given_up: bool = False  # the caller went away


async def open_call(
    request: ChatRequest,
    *,
    caller: Caller = ask,
    whole: Whole | None = None,
    meanwhile: Callable[[Plan], None] | None = None,
    by_package: bool = True,
    allowed_models: frozenset[str] = frozenset(),
) -> OpenCall:
    """Plans, and holds the worst case unless an equal request's answer serves. Raises what planning raises,
    BudgetExceeded, or DeadlineExceeded while it waits for an equal request.

    `caller` and `whole` reach the providers, Claude by the anthropic package or (not `by_package`) without it;
    `allowed_models` are the slugs that may serve, all if it is empty.
    `meanwhile` is told the plan while the database holds the money; it must not raise.
    """
    call_id = request.call_id or uuid7()
    started = time.monotonic()
    deadline = started + (request.deadline_seconds or LONGEST_CALL_SECONDS)
    demand = measure(request)
    try:  # what was seen a moment ago is good enough to plan by, unless that finds no money
        planned = _planned_at_once(request, demand, allowed_models)
        if planned is None:
            planned = await _planned(call_id, request, demand, allowed_models)
    except (BudgetExceeded, NoRoute) as refused:
        if isinstance(refused, NoRoute) and not rules.lacks_money(refused):
            raise
        planned = None
    if planned is None or planned.may_find_more:
        planned = await _plan_again(call_id, request, demand, allowed_models)
    turn = cache.Turn()
    if cache.is_wanted(request, planned.plan):
        turn = await cache.enter(request, planned.plan, planned.snapshot, owner=call_id, until=deadline)
    hold = ledger.Hold(call_id)
    if turn.entry is None:
        try:
            planned, hold = await _hold(
                call_id, request, demand, planned, allowed_models, until=deadline, meanwhile=meanwhile
            )
        except BaseException as error:  # whoever waits for this call's answer goes on without it
            if isinstance(error, RoutingError) and "rule" not in error.told:
                error.told = _told(planned.plan, (), turn.state)
            await asyncio.shield(turn.release(given_up=not isinstance(error, ZiggieError)))
            raise
    observer = _BREAKERS if by_package else _DIRECT_BREAKERS
    kind = Walk if request.choices == 1 else Several
    walk = kind(planned.plan, request, caller, observer, deadline=deadline, whole=whole)
    return OpenCall(call_id, request, demand, planned.snapshot, planned.plan, planned.seen, hold, walk, started, turn)


class _Planned(Value):
    snapshot: Snapshot
    plan: Plan
    seen: Circumstances
    may_find_more: bool = False  # money that was held when the world was seen


class _View:
    """What calls of the same moment have in common, by the models that they may use: worked out for one of them."""

    def __init__(self) -> None:
        self._seen: tuple[Snapshot, World, dict[frozenset[str], tuple[Snapshot, Circumstances]]] | None = None

    def of(self, configuration: Snapshot, world: World, models: frozenset[str]) -> tuple[Snapshot, Circumstances]:
        """The configuration as far as these models go, and what the receipt says of the circumstances."""
        seen = self._seen
        if seen is None or seen[0] is not configuration or seen[1] is not world:
            seen = self._seen = configuration, world, {}
        found = seen[2].get(models)
        if found is None:
            found = limited(configuration, models), circumstances(configuration, world, models)
            seen[2][models] = found
        return found


_view = _View()  # of the process; replaced as a whole, so that threads do not meet in it


def _planned_at_once(request: ChatRequest, demand: Demand, allowed_models: frozenset[str]) -> _Planned | None:
    """For a call without an envelope, where nobody has to look for the configuration or the world."""
    configuration = snapshot.at_hand() if request.envelope_id is None else None
    world = None if configuration is None else worlds.at_hand(configuration)
    if configuration is None or world is None:
        return None
    allowed, seen = _view.of(configuration, world, allowed_models)
    plan = rules.decide(demand, allowed, world)
    return _Planned(configuration, plan, seen, may_find_more(plan, world))


async def _plan_again(call_id: UUID, request: ChatRequest, demand: Demand, allowed_models: frozenset[str]) -> _Planned:
    """By what is seen once the calls that have ended hold nothing any more."""
    await ledger.caught_up()
    return await _planned(call_id, request, demand, allowed_models, again=True)


async def _planned(
    call_id: UUID, request: ChatRequest, demand: Demand, allowed_models: frozenset[str], *, again: bool = False
) -> _Planned:
    configuration = await snapshot.acurrent()
    world = await (worlds.fresh(configuration) if again else worlds.recent(configuration))
    if request.envelope_id is not None:
        envelope = await envelopes.look(request.envelope_id, call_id=call_id)
        if envelope is None or not envelope.is_open:
            raise BudgetExceeded(f"the budget {envelope.name if envelope else 'of this call'} is closed")
        configuration, world = envelopes.seen_with(envelope, configuration, world)
    allowed, seen = _view.of(configuration, world, allowed_models)
    plan = rules.decide(demand, allowed, world)
    return _Planned(configuration, plan, seen, may_find_more(plan, world))


async def _hold(
    call_id: UUID,
    request: ChatRequest,
    demand: Demand,
    planned: _Planned,
    allowed_models: frozenset[str],
    *,
    until: float,
    meanwhile: Callable[[Plan], None] | None,
) -> tuple[_Planned, ledger.Hold]:
    """Holds the plan's worst case; plans again where a budget has filled since. Raises BudgetExceeded."""
    for chance in range(1, PLANS + 1):
        try:
            hold = await ledger.reserve(
                call_id,
                planned.plan.holds,
                planned.snapshot,
                expires_in_seconds=min(until - time.monotonic() + SETTLE_MARGIN_SECONDS, HOLD_SECONDS),
                context=receipts.context(request, planned.plan),
                envelope_id=request.envelope_id,
                meanwhile=meanwhile and partial(meanwhile, planned.plan),
                is_new=request.call_id is None,
            )
            break
        except BudgetExceeded:
            if chance == PLANS:
                raise
        planned = await _plan_again(call_id, request, demand, allowed_models)
    return planned, hold


def why_no_answer(call: OpenCall) -> RoutingError:
    """The error of a walk that ended without an answer."""
    late = call.walk.deadline is not None and time.monotonic() >= call.walk.deadline
    attempts = call.walk.attempts
    details = [{"model": a.model, "outcome": str(a.outcome), "error": a.error} for a in attempts]
    details += [{"model": s.model, "outcome": "skipped", "error": s.reason} for s in call.walk.skipped]
    text = "; ".join(f"{detail['model']}: {detail['error'] or detail['outcome']}" for detail in details)
    kind: type[RoutingError] = DeadlineExceeded if late else AllProvidersFailed
    if attempts and call.walk.refused == len(attempts):  # the same request would be refused again
        kind = Unsupported
    elif not late and (call.walk.skipped or attempts) and call.walk.unasked == sum(map(_has_failed, attempts)):
        kind = NoRoute  # all were busy: nobody was asked, so nobody has failed
    error = kind(f"no model gave a usable answer ({text or 'none was tried'})", details=details)
    if call.walk.retry_after is not None:  # a model's circuit is not open for longer
        error.retry_after_seconds = min(call.walk.retry_after, LONGEST_RETRY_AFTER_SECONDS)
    return name_call(error, call)


def _has_failed(attempt: Attempt) -> bool:
    return attempt.outcome not in ("ok", "cancelled")


def name_call(error: RoutingError, call: OpenCall) -> RoutingError:
    """The error with the call that it ended."""
    error.call_id = error.call_id or str(call.id)
    error.told = _told(call.plan, call.walk.attempts, call.turn.state)
    return error


def _told(plan: Plan, attempts: Sequence[Attempt], cache: str) -> dict[str, str]:
    """By the last attempt, or where there was none by who would have been asked first."""
    first = plan.candidates[0].model
    model, provider, source = first.slug, first.provider.slug, str(first.source)
    if attempts:
        model, provider, source = attempts[-1].model, attempts[-1].provider, str(attempts[-1].source)
    told = {"model": model, "provider": provider, "source": source, "rule": plan.rule}
    cost = usd(sum([attempt.cost_microusd for attempt in attempts]))
    return told | {"attempts": str(len(attempts)), "cache": cache, "cost-usd": cost}


def close_books(call: OpenCall, answer: Answer | None, failure: BaseException | None) -> receipts.Books:
    """What is to be written of a call that is over."""
    call.outcome = answer
    call.given_up = failure is not None and not isinstance(failure, ZiggieError)
    return receipts.books(
        call_id=call.id,
        request=call.request,
        demand=call.demand,
        decision=receipts.decision(call.request, call.demand, call.plan, call.seen),
        walk=call.walk,
        answer=answer,
        failure=failure,
        snapshot=call.snapshot,
        cache=call.turn.state,
        reserved_microusd=max(call.hold.amounts.values(), default=0),
        seconds=time.monotonic() - call.started,
    )


async def settle(call: OpenCall, books: receipts.Books) -> bool:
    """Turns the hold into what was spent, with the receipt and every attempt's record, in one transaction.
    Equal requests that wait go on meanwhile. Raises Unavailable."""
    return await _settled(call, books, _settlement(call, books, hurry=True))


def settle_soon(call: OpenCall, books: receipts.Books) -> asyncio.Future[bool]:
    """The same beside the caller; without a task of its own where nothing but the books is left to do."""
    settlement, options = _settlement(call, books, hurry=False), call.plan.options
    if call.turn.state == "off" and not options.store_bodies and options.shadow_model is None:
        return settlement
    return asyncio.get_running_loop().create_task(_settled(call, books, settlement))


def _settlement(call: OpenCall, books: receipts.Books, *, hurry: bool) -> asyncio.Future[bool]:
    """On its way to the ledger before anything else is done: a call that is refused waits for what is (caught_up)."""
    try:
        return ledger.settle_soon(call.hold, call=books.call, records=books.records, charges=books.charges, hurry=hurry)
    except Unavailable as full:  # equal requests that wait must go on all the same
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(full)
        return failed


async def _settled(call: OpenCall, books: receipts.Books, settlement: asyncio.Future[bool]) -> bool:
    if call.outcome is not None and call.plan.rule == call.turn.rule:
        await call.turn.keep(call.walk, call.outcome)
    await call.turn.release(given_up=call.given_up)
    ended = await settlement
    if ended and call.plan.options.store_bodies:
        await bodies.keep(call.id, call.request, call.outcome, call.snapshot)
    if ended and call.outcome is not None:
        baseline = call.snapshot.settings.baseline_model
        shadowing.offer(call.id, call.request, call.plan, call.outcome, baseline_model=baseline)
    return ended


def answer(call: OpenCall) -> Awaitable[Answer | None]:
    """The answer that was kept, else that of the plan's pattern; None if nobody gave a usable one."""
    return patterns.run(call.walk) if call.turn.entry is None else _from_cache(call, call.turn.entry)


def is_live(call: OpenCall) -> bool:
    """Whether pieces of the answer may go to the client while it is being made."""
    return call.turn.entry is None and streaming.is_live(call.request, call.plan)


async def _from_cache(call: OpenCall, entry: cache.Entry) -> Answer:
    model = call.snapshot.models[entry.model]
    kept = Candidate(model, "kept from an equal request", 0, 0, receipts.CACHE, calls=0)
    call.walk.attempts.append(
        Attempt(
            number=1,
            model=model.slug,
            provider=model.provider.slug,
            source=model.source,
            outcome="ok",
            started_at=datetime.now(UTC),
            seconds=0.0,
            usage=Usage(input_tokens=0, output_tokens=0),
            confidence=entry.confidence,
            role=receipts.CACHE,
            note=f"the answer of call {entry.call_id}, which cost ${usd(entry.cost_microusd)}",
        )
    )
    return Answer(entry.result, kept, Verdict(ok=True, confidence=entry.confidence), 1, entry.findings)
