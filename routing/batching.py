"""Does the work that may wait: by providers' batches at half price where they have them, else by plain calls.

    tick()       now and then in a worker: fetches what providers have answered, sends what is due
    run(id)      in a worker: one item by a plain call

A batch's worst case is held when it is sent; each item is settled once, when its answer is there (batch_money.py).
A batch that expires is sent once more; after that, and for whatever a batch could not answer, a plain call is made.
"""

import logging
from collections import defaultdict
from concurrent.futures import wait
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from django.db.models import F, Q
from django.utils import timezone

from routing import batch_money, bodies, health, ledger, receipts, rules, service, snapshot
from routing.adapters import claude_batches
from routing.adapters.base import WireRequest
from routing.adapters.claude_batches import BatchLine
from routing.attempts import Answer, Walk
from routing.batch_answers import Nobody, Told, plan_of, wire
from routing.batch_rows import has_batches, in_window, request_of
from routing.batch_traces import SENDING_FOR, taken
from routing.budgets import budgets_in_scope
from routing.demand import Demand, measure
from routing.models import BatchItem, ProviderBatch, RoutedCall
from routing.pricing import batched, worst_case_microusd
from routing.rerun import Circumstances, circumstances
from routing.types import (
    ENVELOPE,
    Candidate,
    ChatRequest,
    Plan,
    ProviderError,
    ProviderSpec,
    Snapshot,
    World,
)
from ziggie import queue
from ziggie.background import background_loop
from ziggie.errors import (
    AllProvidersFailed,
    BudgetExceeded,
    Conflict,
    InvalidInput,
    RoutingError,
    Unavailable,
    ZiggieError,
)
from ziggie.ids import uuid7

logger = logging.getLogger(__name__)

MAX_LOOKED_AT = 2_000  # of what is queued, in one tick; those looked at longest ago come first
MAX_IN_BATCH = 500
MAX_BATCH_BYTES = 32 * 1024 * 1024
POLL_EVERY = timedelta(seconds=60)
BATCH_LIFE = timedelta(hours=26)  # the provider's own limit is 24
FOUND_WITHIN = timedelta(hours=1)
PERHAPS_SENT = frozenset({"connection", "timeout", "cut", "protocol", "server"})
WAITS_FOR = timedelta(days=7)
SUBMISSIONS = 2
MAX_TRIES = 3
CALL_SECONDS = 900.0
BEAT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Due:
    """An item that a provider's batch can take."""

    row: BatchItem
    request: ChatRequest
    demand: Demand
    plan: Plan

    @property
    def candidate(self) -> Candidate:
        return self.plan.candidates[0]


def tick() -> None:
    """One round. Several workers may do theirs at the same time."""
    for pk in ProviderBatch.objects.filter(state__in=("sending", "open")).values_list("pk", flat=True):
        _look_after(pk)
    _dispatch()
    queue.wake_forgotten(BatchItem.objects.all(), Q(state="ready"), "routing.tasks.run_batch_item")


def has_work() -> bool:
    return BatchItem.objects.filter(state__in=("queued", "ready", "sent")).exists()


# --- sending -------------------------------------------------------------------------------------


def _dispatch() -> None:
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    due: defaultdict[str, list[_Due]] = defaultdict(list)
    queued = BatchItem.objects.filter(state="queued", lease_until__isnull=True)
    for row in list(queued.order_by(F("looked_at").asc(nulls_first=True), "id")[:MAX_LOOKED_AT]):
        item = _examine(row, configuration, world)
        if item is not None:
            due[item.candidate.model.provider.slug].append(item)
    for items in due.values():
        for start in range(0, len(items), MAX_IN_BATCH):
            _send(items[start : start + MAX_IN_BATCH], configuration, world)


def _examine(row: BatchItem, configuration: Snapshot, world: World) -> _Due | None:
    """The item if a provider's batch is to take it now. One that is due for a plain call is made ready."""
    waiting = BatchItem.objects.filter(pk=row.pk, state="queued", lease_until__isnull=True)
    waiting.update(looked_at=timezone.now())
    try:
        request = request_of(row)
        demand = measure(request)
        plan = rules.decide(demand, configuration, world)
    except (BudgetExceeded, Unavailable) as error:
        _give_up_if_old(row, error)
        return None
    except ZiggieError as error:
        (_give_up if error.http_status < 500 else _give_up_if_old)(row, error)
        return None
    now = datetime.now(UTC).astimezone(ZoneInfo(configuration.settings.time_zone))
    if plan.options.batch and not in_window(plan.options.batch_window, now.time()):
        return None
    if row.plain or not has_batches(plan):
        waiting.update(state="ready")
        return None
    return _Due(row, request, demand, plan)


def _give_up_if_old(row: BatchItem, error: ZiggieError) -> None:
    if timezone.now() - row.created_at > WAITS_FOR:
        _give_up(row, error)


def _give_up(row: BatchItem, error: ZiggieError) -> None:
    BatchItem.objects.filter(pk=row.pk, state="queued", lease_until__isnull=True).update(
        state="failed", error=error.message, request=None, finished_at=timezone.now()
    )


def _send(items: list[_Due], configuration: Snapshot, world: World) -> None:
    """Holds the money of all of them once, writes down that they are sent, and sends them in one batch.

    Where nobody heard its id, because this process died or the answer was lost, it stays `sending` until it has been
    looked for at the provider.
    """
    provider = items[0].candidate.model.provider
    batch = ProviderBatch.objects.create(provider=provider.slug)
    wired = _wired(items)
    stakes = {item.row.pk: _stake(item, configuration) for item, _ in wired}
    affordable = batch_money.hold(batch.pk, stakes)
    for item, _ in wired:
        if item.row.pk not in affordable:  # a plain call turns to what is free, or is refused
            BatchItem.objects.filter(pk=item.row.pk, state="queued").update(plain=True)
    seen = circumstances(configuration, world) | {"batch": True}
    going = [
        (item.row.pk.hex, sent)
        for item, sent in wired
        if item.row.pk in affordable and _take(item, batch, stakes[item.row.pk], seen)
    ]
    if not going:
        batch_money.close(batch.pk)
        batch.delete()
        return
    try:
        remote_id = background_loop().submit(claude_batches.create(provider, going)).result()
    except ProviderError as error:
        if error.kind in PERHAPS_SENT:
            ProviderBatch.objects.filter(pk=batch.pk).update(problem=error.message[:300])
        else:
            _lose(batch, error.message, plain=not error.retryable)
        return
    ProviderBatch.objects.filter(pk=batch.pk).update(remote_id=remote_id, state="open", checked_at=timezone.now())


def _wired(items: list[_Due]) -> list[tuple[_Due, WireRequest]]:
    """The items as the provider reads them, as many as one batch takes; the rest goes with the next tick."""
    wired: list[tuple[_Due, WireRequest]] = []
    size = 0
    for item in items:
        try:
            sent = wire(item.request, item.candidate)
        except (ProviderError, RoutingError, ValueError):  # a plain call finds the words for it
            BatchItem.objects.filter(pk=item.row.pk, state="queued").update(plain=True)
            continue
        size += len(orjson.dumps(sent.body))
        if size > MAX_BATCH_BYTES and wired:
            break
        wired.append((item, sent))
    return wired


def _stake(item: _Due, configuration: Snapshot) -> dict[int, int]:
    """What the item may cost at half price, by budget id."""
    model = batched(item.candidate.model)
    assert model.price is not None  # has_batches
    worst = worst_case_microusd(
        model.price,
        input_tokens=item.demand.input_at_most,
        output_tokens=item.demand.choices * item.candidate.max_output_tokens,
    )
    watching = budgets_in_scope(configuration, model, item.demand)
    return dict.fromkeys((ENVELOPE, *(budget.id for budget in watching)), worst) if worst else {}


def _take(item: _Due, batch: ProviderBatch, stake: dict[int, int], seen: Circumstances) -> bool:
    """Writes down that the item goes with the batch; False if somebody else has it."""
    if queue.claim(BatchItem.objects.all(), item.row.pk, waiting=Q(state="queued")) is None:
        return False
    row = BatchItem.objects.get(pk=item.row.pk)
    _write(
        row,
        state="sent",
        batch=batch,
        submissions=F("submissions") + 1,
        sent={
            "decision": receipts.decision(item.request, item.demand, item.plan, seen),
            "model": item.candidate.model.slug,
            "max_output_tokens": item.candidate.max_output_tokens,
            "amounts": {str(budget): amount for budget, amount in stake.items()},
            "at": timezone.now().isoformat(),
        },
        **queue.end_lease(),
    )
    return True


def _write(row: BatchItem, **columns: Any) -> None:
    queue.write_fenced(BatchItem.objects.all(), row.pk, row.fence, **columns)


# --- fetching ------------------------------------------------------------------------------------


def _look_after(pk: UUID) -> None:
    """Fetches a batch's answers if it has ended."""
    long_ago = Q(checked_at__isnull=True) | Q(checked_at__lt=timezone.now() - POLL_EVERY)
    stuck = Q(state="sending") & (Q(created_at__lt=timezone.now() - SENDING_FOR) | ~Q(problem=""))
    fence = queue.claim(ProviderBatch.objects.all(), pk, waiting=(Q(state="open") & long_ago) | stuck)
    if fence is None:
        return
    batch = ProviderBatch.objects.get(pk=pk)
    configuration = snapshot.current()
    provider = next((m.provider for m in configuration.models.values() if m.provider.slug == batch.provider), None)
    if batch.state == "sending":
        _look_for(batch, fence, provider)
        return
    try:
        if provider is None:
            raise ProviderError("not_found", f"the provider {batch.provider} is gone", retryable=False)
        ended = background_loop().submit(claude_batches.has_ended(provider, batch.remote_id)).result()
        if ended:
            background_loop().submit(_fetch(batch, provider, configuration)).result()
    except ProviderError as error:
        logger.warning("batch %s: %s", batch.remote_id, error.message)
        ended = error.kind == "not_found"
    old = timezone.now() - batch.created_at > BATCH_LIFE
    if ended or old:
        _lose(batch, "" if ended else "it did not end within its time", plain=False, state="ended")
    else:
        queue.write_fenced(ProviderBatch.objects.all(), pk, fence, checked_at=timezone.now(), **queue.end_lease())


def _look_for(batch: ProviderBatch, fence: int, provider: ProviderSpec | None) -> None:
    """A batch of which nobody heard whether it was taken: it is sent anew only if the provider has none like it."""
    columns: dict[str, Any] = {"state": "open", "problem": "", "checked_at": None}
    try:
        columns["remote_id"] = background_loop().submit(taken(batch, provider)).result() if provider else None
    except ProviderError as error:
        young = timezone.now() - batch.created_at < FOUND_WITHIN
        columns = {"problem": error.message[:300]} if young else {"remote_id": None}
    if columns.get("remote_id", "") is None:
        _lose(batch, "the provider has not taken it", plain=False)
    else:
        queue.write_fenced(ProviderBatch.objects.all(), batch.pk, fence, **columns, **queue.end_lease())


async def _fetch(batch: ProviderBatch, provider: Any, configuration: Snapshot) -> None:
    """Settles every item of which the batch tells something final."""
    rows = {row.pk.hex: row async for row in BatchItem.objects.filter(batch=batch, state="sent")}
    lines = claude_batches.results(provider, batch.remote_id)
    async with aclosing(lines):
        async for line in lines:
            row = rows.get(line.custom_id)
            if row is not None and line.kind in ("succeeded", "errored"):
                await _conclude(row, line, configuration)


async def _conclude(row: BatchItem, line: BatchLine, configuration: Snapshot) -> None:
    """Settles one item: once, whoever else tries. What gave no usable answer is done again by a plain call."""
    request, sent = request_of(row), row.sent or {}
    model = configuration.models.get(sent["model"])
    if model is None:
        return  # with the rest of the batch it is sent again, elsewhere
    candidate = Candidate(batched(model), "by a batch at half price", sent["max_output_tokens"], 0)
    walk = Walk(plan_of(sent["decision"], candidate), request, Told(line, wire(request, candidate)).ask, Nobody())
    answer = await walk.run()
    settled = await _settle(row, request, walk, answer, configuration)
    if not settled and not await RoutedCall.objects.filter(pk=row.call_id, bodies__isnull=False).aexists():
        answer = None  # it was settled before, and no receipt keeps it
    columns: dict[str, Any] = {"state": "done", "request": None, "finished_at": timezone.now()}
    if answer is None:
        columns = {"state": "queued", "plain": True, "call_id": uuid7(), "batch": None, "error": line.problem}
    await BatchItem.objects.filter(pk=row.pk, state="sent", call_id=row.call_id).aupdate(**columns)


async def _settle(
    row: BatchItem, request: ChatRequest, walk: Walk, answer: Answer | None, configuration: Snapshot
) -> bool:
    sent = row.sent or {}
    try:
        hold = await batch_money.draw(row, configuration)
    except Conflict:  # whoever did it died before it wrote so
        return False
    books = receipts.books(
        call_id=row.call_id,
        request=request,
        demand=measure(request),
        decision=sent["decision"],
        walk=walk,
        answer=answer,
        failure=None if answer else AllProvidersFailed("the batch gave no usable answer"),
        snapshot=configuration,
        cache="off",
        reserved_microusd=max(hold.amounts.values(), default=0),
        seconds=(timezone.now() - datetime.fromisoformat(sent["at"])).total_seconds(),
    )
    charges = {**books.charges, ENVELOPE: books.call.cost_microusd}
    ended = await ledger.settle(hold, call=books.call, records=books.records, charges=charges)
    rule = next((rule for rule in configuration.policy.rules if rule.name == books.call.rule), None)
    if ended and rule is not None and rule.options.store_bodies:
        await bodies.keep(row.call_id, request, answer, configuration)
    return ended


def _lose(batch: ProviderBatch, problem: str, *, plain: bool, state: str = "lost") -> None:
    """Ends a batch. What it did not answer is queued again with its money given back: once for another batch, then
    for a plain call."""
    for row in BatchItem.objects.filter(batch=batch, state="sent"):
        last = plain or row.submissions >= SUBMISSIONS
        BatchItem.objects.filter(pk=row.pk, state="sent", call_id=row.call_id).update(
            state="queued", plain=last, batch=None, sent=None, call_id=uuid7()
        )
    batch_money.close(batch.pk)
    ProviderBatch.objects.filter(pk=batch.pk).update(state=state, problem=problem[:300], **queue.end_lease())


# --- plain calls ---------------------------------------------------------------------------------


def run(item_id: str) -> bool:
    """One item by a plain call; False if another worker has it or nothing is to be done."""
    fence = queue.claim(BatchItem.objects.all(), item_id, waiting=Q(state="ready"))
    if fence is None:
        return False
    row = BatchItem.objects.get(pk=item_id)
    try:
        if row.tries > MAX_TRIES + SUBMISSIONS:
            raise InvalidInput(f"given up: {row.tries - 1} workers died or were stopped at this work")
        call_id = service.fresh_id(row.call_id)
        if call_id != row.call_id:
            row.call_id = call_id
            _write(row, call_id=call_id)
        _call(row)
        _write(row, state="done", request=None, finished_at=timezone.now(), **queue.end_lease())
    except queue.LostLease:
        return False
    except (RoutingError, InvalidInput) as error:
        _write(row, state="failed", error=error.message, request=None, finished_at=timezone.now(), **queue.end_lease())
    return True


def _call(row: BatchItem) -> None:
    call = service.submit(replace(request_of(row), deadline_seconds=CALL_SECONDS))
    try:
        while not call.done():
            wait([call], timeout=BEAT_SECONDS)
            _write(row)
    finally:
        call.cancel()
    call.result()
