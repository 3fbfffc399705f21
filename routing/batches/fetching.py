"""Fetches what providers have answered of a batch, and settles each item once."""

import logging
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone
from msgspec import convert

from routing.adapters import claude_batches
from routing.adapters.claude_batches import BatchLine
from routing.batches import holding
from routing.batches.answers import Nobody, Told, plan_of, wire
from routing.batches.traces import SENDING_FOR, taken
from routing.configuration import snapshot
from routing.models import BatchItem, ProviderBatch, RoutedCall
from routing.money import ledger
from routing.planning.demand import measure
from routing.planning.pricing import batched
from routing.records import bodies, receipts
from routing.records.kept_calls import forget
from routing.types import ENVELOPE, Candidate, ChatRequest, PriceSpec, ProviderError, ProviderSpec, Snapshot
from routing.waiting.rows import SUBMISSIONS, request_of
from routing.walk.attempts import Answer, Walk
from ziggie import queue
from ziggie.background import background_loop
from ziggie.errors import AllProvidersFailed, Conflict
from ziggie.ids import uuid7
from ziggie.values import replace

logger = logging.getLogger(__name__)

POLL_EVERY = timedelta(seconds=60)
BATCH_LIFE = timedelta(hours=26)  # the provider's own limit is 24
FOUND_WITHIN = timedelta(hours=1)


def look_after(pk: UUID) -> None:
    """Fetches a batch's answers if it has ended; cancels it if nobody wants any of them."""
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
        ended = _has_ended(batch, provider)
        if ended:
            background_loop().submit(_fetch(batch, provider, configuration)).result()
    except ProviderError as error:
        logger.warning("batch %s: %s", batch.remote_id, error.message)
        ended = error.kind == "not_found"
    old = timezone.now() - batch.created_at > BATCH_LIFE
    if ended or old:
        lose(batch, "" if ended else "it did not end within its time", plain=False, state="ended")
    else:
        queue.write_fenced(ProviderBatch.objects.all(), pk, fence, checked_at=timezone.now(), **queue.end_lease())


def _has_ended(batch: ProviderBatch, provider: ProviderSpec) -> bool:
    """Asks the provider, and has it stop what nobody wants any more. Raises ProviderError."""
    state = background_loop().submit(claude_batches.state_of(provider, batch.remote_id)).result()
    if state == "in_progress" and not batch.items.filter(state="sent", given_up=False).exists():
        background_loop().submit(claude_batches.cancel(provider, batch.remote_id)).result()
    return state == "ended"


def _look_for(batch: ProviderBatch, fence: int, provider: ProviderSpec | None) -> None:
    """A batch of which nobody heard whether it was taken: it is sent anew only if the provider has none like it."""
    columns: dict[str, Any] = {"state": "open", "problem": "", "checked_at": None}
    try:
        columns["remote_id"] = background_loop().submit(taken(batch, provider)).result() if provider else None
    except ProviderError as error:
        young = timezone.now() - batch.created_at < FOUND_WITHIN
        columns = {"problem": error.message[:300]} if young else {"remote_id": None}
    if columns.get("remote_id", "") is None:
        lose(batch, "the provider has not taken it", plain=False)
    else:
        queue.write_fenced(ProviderBatch.objects.all(), batch.pk, fence, **columns, **queue.end_lease())


async def _fetch(batch: ProviderBatch, provider: ProviderSpec, configuration: Snapshot) -> None:
    """Settles every item of which the batch tells something final."""
    rows = {row.call_id.hex: row async for row in BatchItem.objects.filter(batch=batch, state="sent")}
    lines = claude_batches.results(provider, batch.remote_id)
    async with aclosing(lines):
        async for line in lines:
            row = rows.get(line.custom_id)
            if row is not None and line.kind in ("succeeded", "errored"):
                await _conclude(row, line, configuration)


async def _conclude(row: BatchItem, line: BatchLine, configuration: Snapshot) -> None:
    """Settles one item: once, whoever else tries. What gave no usable answer is done again by a plain call."""
    request, sent = request_of(row), row.sent or {}
    configuration = _as_sent(configuration, sent)
    model = configuration.models.get(sent["model"])
    if model is None:
        return  # with the rest of the batch it is sent again, elsewhere
    candidate = Candidate(batched(model), "by a batch at half price", sent["max_output_tokens"], 0)
    walk = Walk(plan_of(sent["decision"], candidate), request, Told(line, wire(request, candidate)).ask, Nobody())
    answer = await walk.run()
    settled = await _settle(row, request, walk, answer, configuration)
    if not settled and not await RoutedCall.objects.filter(pk=row.call_id, bodies__isnull=False).aexists():
        answer = None  # it was settled before, and no receipt keeps it
    await _write(row, answer, line.problem)


def _as_sent(configuration: Snapshot, sent: dict[str, Any]) -> Snapshot:
    """With the model at the price that the item's money was held at: staff may have changed it while the batch was
    out."""
    model, price = configuration.models.get(sent["model"]), sent.get("price")  # a model may have none
    if model is None or price is None or (held_at := convert(price, PriceSpec)) == model.price:
        return configuration
    return replace(configuration, models={**configuration.models, model.slug: replace(model, price=held_at)})


async def _write(row: BatchItem, answer: Answer | None, problem: str) -> None:
    """What becomes of an item whose call is on the books; nothing if it was taken back a moment ago: then the row
    that it left behind is looked after once more."""
    columns: dict[str, Any] = {"state": "done", "request": None, "finished_at": timezone.now()}
    if answer is None:
        paid = RoutedCall.objects.filter(pk=row.call_id).values_list("cost_microusd", flat=True)
        columns = {"state": "queued", "plain": True, "call_id": uuid7(), "batch": None, "error": problem}
        columns["spent_microusd"] = row.spent_microusd + (await paid.afirst() or 0)
    ours = BatchItem.objects.filter(pk=row.pk, state="sent", call_id=row.call_id)
    await ours.filter(given_up=False).aupdate(**columns)
    if await ours.filter(given_up=True).aupdate(state="cancelled", request=None, finished_at=timezone.now()):
        await RoutedCall.objects.filter(pk=row.call_id).aupdate(bodies=None)


async def _settle(
    row: BatchItem, request: ChatRequest, walk: Walk, answer: Answer | None, configuration: Snapshot
) -> bool:
    sent = row.sent or {}
    try:
        hold = await holding.draw(row, configuration)
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


def lose(batch: ProviderBatch, problem: str, *, plain: bool, state: str = "lost") -> None:
    """Ends a batch. What it did not answer is queued again with its money given back: once for another batch, then
    for a plain call. What is given up is over."""
    while left := list(BatchItem.objects.filter(batch=batch, state="sent")):  # again: some may be taken back meanwhile
        for row in left:
            ours = BatchItem.objects.filter(pk=row.pk, state="sent", call_id=row.call_id)
            if row.given_up:
                ours.update(state="cancelled", request=None, finished_at=timezone.now())
                forget(row.call_id)
                continue
            last = plain or row.submissions >= SUBMISSIONS
            ours.update(state="queued", plain=last, batch=None, sent=None, call_id=uuid7())
    holding.close(batch.pk)
    ProviderBatch.objects.filter(pk=batch.pk).update(state=state, problem=problem[:300], **queue.end_lease())
