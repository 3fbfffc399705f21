"""Sends waiting work that is due: to providers in batches, or on to the workers who make plain calls."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import F, Q
from django.utils import timezone
from msgspec import to_builtins

from routing.adapters import claude_batches
from routing.adapters.base import WireRequest
from routing.adapters.reading.wire import dumps
from routing.batches import holding
from routing.batches.answers import wire
from routing.batches.fetching import lose
from routing.configuration import snapshot
from routing.models import BatchItem, ProviderBatch
from routing.money import envelopes
from routing.money.envelopes import Envelope
from routing.planning import rules
from routing.planning.budgets import budgets_in_scope
from routing.planning.demand import Demand, measure
from routing.planning.pricing import batched, worst_case_microusd
from routing.planning.rerun import Circumstances, circumstances, limited
from routing.records import receipts
from routing.types import ENVELOPE, Candidate, ChatRequest, Plan, ProviderError, Snapshot, UnsupportedByProvider, World
from routing.waiting.rows import has_batches, in_window, request_of
from routing.world import health
from ziggie import queue
from ziggie.background import background_loop
from ziggie.errors import BudgetExceeded, RoutingError, Unavailable, ZiggieError

MAX_LOOKED_AT = 2_000  # of what is queued, in one tick; those looked at longest ago come first
MAX_IN_BATCH = 500
MAX_BATCH_BYTES = 32 * 1024 * 1024
PERHAPS_SENT = frozenset({"connection", "timeout", "cut", "protocol", "server"})
WAITS_FOR = timedelta(days=7)
NO_BATCH = "no provider's batch can answer it"


@dataclass(frozen=True, slots=True)
class _Due:
    """An item that a provider's batch can take, and what its decision depended on."""

    row: BatchItem
    request: ChatRequest
    demand: Demand
    plan: Plan
    seen: Circumstances

    @property
    def candidate(self) -> Candidate:
        return self.plan.candidates[0]


def dispatch() -> None:
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    due: defaultdict[str, list[_Due]] = defaultdict(list)
    for row in list(_waiting().order_by(F("looked_at").asc(nulls_first=True), "id")[:MAX_LOOKED_AT]):
        item = _examine(row, configuration, world)
        if item is not None:
            due[item.candidate.model.provider.slug].append(item)
    for items in due.values():
        for start in range(0, len(items), MAX_IN_BATCH):
            _send(items[start : start + MAX_IN_BATCH], configuration)


def _waiting() -> Any:
    return BatchItem.objects.filter(state="queued", lease_until__isnull=True)


def _examine(row: BatchItem, configuration: Snapshot, world: World) -> _Due | None:
    """The item if a provider's batch is to take it now. One that is due for a plain call is made ready, or is its
    owner's again."""
    _waiting().filter(pk=row.pk).update(looked_at=timezone.now())
    own_configuration, own_world = _as_seen_by(row, configuration, world)
    try:
        request = request_of(row)
        demand = measure(request)
        plan = rules.decide(demand, limited(own_configuration, row.allowed_models), own_world)
    except ZiggieError as error:
        _refused(row, error)
        return None
    plain = row.plain or not has_batches(plan)
    if row.plain and row.made_for:
        _give_up(row, row.error or NO_BATCH)
        return None
    now = datetime.now(UTC).astimezone(ZoneInfo(configuration.settings.time_zone))
    if plan.options.batch and not in_window(plan.options.batch_window, now.time()):
        return None
    if plain and row.made_for:
        _give_up(row, NO_BATCH)
    elif plain:
        _waiting().filter(pk=row.pk).update(state="ready")
    else:
        seen = circumstances(own_configuration, own_world, row.allowed_models) | {"batch": True}
        return _Due(row, request, demand, plan, seen)
    return None


def _as_seen_by(row: BatchItem, configuration: Snapshot, world: World) -> tuple[Snapshot, World]:
    """What is left of the item's own limit is one more budget."""
    if row.limit_microusd is None:
        return configuration, world
    left = row.limit_microusd - row.spent_microusd
    own = Envelope(row.pk, limit_name(row), row.api_key_id, row.limit_microusd, left, is_open=True)
    return envelopes.seen_with(own, configuration, world)


def limit_name(row: BatchItem) -> str:
    """What messages call the item's own limit."""
    return f"of {row.made_for or 'request'} {row.run_id or row.pk}"


def _refused(row: BatchItem, error: ZiggieError) -> None:
    """What may pass is waited for: for a while, and not if it is the owner's or the item's own money that is short."""
    own = isinstance(error, BudgetExceeded) and (bool(row.made_for) or row.limit_microusd is not None)
    passes = isinstance(error, BudgetExceeded | Unavailable) or error.http_status >= 500
    if own or not passes or timezone.now() - row.created_at > WAITS_FOR:
        _give_up(row, error.message)


def _give_up(row: BatchItem, problem: str) -> None:
    _waiting().filter(pk=row.pk).update(state="failed", error=problem, request=None, finished_at=timezone.now())


def _send(items: list[_Due], configuration: Snapshot) -> None:
    """Holds the money of all of them once, writes down that they are sent, and sends them in one batch.

    Where nobody heard its id, because this process died or the answer was lost, it stays `sending` until it has been
    looked for at the provider.
    """
    provider = items[0].candidate.model.provider
    batch = ProviderBatch.objects.create(provider=provider.slug)
    wired = _wired(items)
    stakes = {item.row.pk: _stake(item, configuration) for item, _ in wired}
    affordable = holding.hold(batch.pk, stakes)
    for item, _ in wired:
        if item.row.pk not in affordable:  # a plain call turns to what is free, or is refused
            _waiting().filter(pk=item.row.pk).update(plain=True)
    going = [
        (item.row.call_id.hex, sent)
        for item, sent in wired
        if item.row.pk in affordable and _take(item, batch, stakes[item.row.pk])
    ]
    if not going:
        holding.close(batch.pk)
        batch.delete()
        return
    try:
        remote_id = background_loop().submit(claude_batches.create(provider, going)).result()
    except ProviderError as error:
        if error.kind in PERHAPS_SENT:
            ProviderBatch.objects.filter(pk=batch.pk).update(problem=error.message[:300])
        else:
            lose(batch, error.message, plain=not error.retryable)
        return
    ProviderBatch.objects.filter(pk=batch.pk).update(remote_id=remote_id, state="open", checked_at=timezone.now())


def _wired(items: list[_Due]) -> list[tuple[_Due, WireRequest]]:
    """The items as the provider reads them, as many as one batch takes; the rest goes with the next tick."""
    wired: list[tuple[_Due, WireRequest]] = []
    size = 0
    for item in items:
        try:
            sent = wire(item.request, item.candidate)
            length = len(dumps(sent.body or {}))
        except (ProviderError, RoutingError, UnsupportedByProvider, ValueError):  # a plain call finds the words for it
            _waiting().filter(pk=item.row.pk).update(plain=True)
            continue
        size += length
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
        input_tokens=item.demand.most_input(model),
        output_tokens=item.demand.choices * item.candidate.max_output_tokens,
    )
    watching = budgets_in_scope(configuration, model, item.demand)
    return dict.fromkeys((ENVELOPE, *(budget.id for budget in watching)), worst) if worst else {}


def _take(item: _Due, batch: ProviderBatch, stake: dict[int, int]) -> bool:
    """Writes down that the item goes with the batch; False if somebody else has it, or it was taken back."""
    fence = queue.claim(BatchItem.objects.all(), item.row.pk, waiting=Q(state="queued", call_id=item.row.call_id))
    if fence is None:
        return False
    decision = receipts.decision(item.request, item.demand, item.plan, item.seen)
    sent = {
        "decision": to_builtins(decision, order="deterministic"),
        "model": item.candidate.model.slug,
        "price": to_builtins(item.candidate.model.price),
        "max_output_tokens": item.candidate.max_output_tokens,
        "amounts": {str(budget): amount for budget, amount in stake.items()},
        "at": timezone.now().isoformat(),
    }
    columns = {"state": "sent", "batch": batch, "submissions": F("submissions") + 1, "sent": sent}
    try:
        queue.write_fenced(BatchItem.objects.all(), item.row.pk, fence, **columns, **queue.end_lease())
    except queue.LostLease:
        return False
    return True
