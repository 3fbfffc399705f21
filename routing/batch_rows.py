"""Work that may wait, as rows: handed in here, and asked for here when it is done. batching.py does the work."""

from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from uuid import UUID

from django.db.models import QuerySet

from routing import kept_requests, receipts
from routing.adapters import claude_batches
from routing.demand import measure
from routing.models import BatchItem, RoutedCall
from routing.types import ChatRequest, Plan, Routed
from ziggie.errors import Conflict, InvalidInput, NotFound
from ziggie.ids import uuid7

MAX_WAITING = 100_000
UNFINISHED = ("queued", "ready", "sent")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """`state` is queued, ready, sent, done or failed. When done, `routed` is the answer with its receipt, until
    somebody calls service.forget() for its call; when failed, `error` says why."""

    state: str
    routed: Routed | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class MayWait:
    """Work of a rule with `batch: true`. `by_batch`: a provider's batch does it, which waits for the window by
    itself; else plain calls do while the window is open."""

    window: str
    is_open: bool
    by_batch: bool


def submit_batch(request: ChatRequest) -> UUID:
    """Queues a request whose answer may wait; its id. In a transaction it is queued when that commits.

    When it is done is up to the rule that takes it: one with `batch: true` waits for its window. A request with a
    `call_id` has that as its id, and is queued once however often it is handed in; the call that answers it has
    another id. Raises InvalidInput for a request that cannot be kept, Conflict if too many wait already.
    """
    if request.accept is not None or request.on_output is not None or request.envelope_id is not None:
        raise InvalidInput("a request that waits cannot keep `accept`, `on_output` or an envelope")
    measure(request)  # raises InvalidInput for hints that cannot be meant
    if unfinished().count() >= MAX_WAITING:
        raise Conflict(f"{MAX_WAITING} requests wait already")
    kept = {"request": kept_requests.to_json(request), "api_key_id": request.api_key_id or ""}
    row, _ = BatchItem.objects.get_or_create(
        pk=request.call_id or uuid7(), defaults=kept | {"run_id": request.run_id or ""}
    )
    return row.pk


def unfinished() -> QuerySet[BatchItem]:
    """What was handed in and has no answer yet."""
    return BatchItem.objects.filter(state__in=UNFINISHED)


def batch_result(item_id: UUID) -> BatchResult:
    """Raises NotFound."""
    row = BatchItem.objects.filter(pk=item_id).first()
    if row is None:
        raise NotFound(f"there is no such work: {item_id}")
    if row.state != "done":
        return BatchResult(row.state, error=row.error)
    receipt = RoutedCall.objects.filter(pk=row.call_id, bodies__isnull=False).values().first()
    return BatchResult("done", receipts.routed_from_row(receipt) if receipt else None)


def request_of(row: BatchItem) -> ChatRequest:
    """What was handed in. The answer stays on the receipt, since the call has an id of its own."""
    kept = kept_requests.from_json(row.request or {})
    return replace(kept, call_id=row.call_id, api_key_id=row.api_key_id or None, run_id=row.run_id or None)


def has_batches(plan: Plan) -> bool:
    """Whether the provider of the plan's first model takes work by the batch."""
    first = plan.candidates[0].model
    return plan.pattern == "single" and first.provider.kind == claude_batches.KIND and first.price is not None


def in_window(window: str, now: time) -> bool:
    """Whether the time of day is in "23:00-06:00" (which goes over midnight); "" and "00:00-00:00" are always. The
    end is outside."""
    if not window:
        return True
    begins, ends = (time.fromisoformat(side) for side in window.split("-"))
    if begins < ends:
        return begins <= now < ends
    return now >= begins or now < ends


def next_change(window: str, now: datetime) -> datetime | None:
    """When the window opens, or closes if it is open; None for one that is always open. `now` bears the staff's
    time zone."""
    if not window:
        return None
    begins, ends = (time.fromisoformat(side) for side in window.split("-"))
    if begins == ends:
        return None
    at = ends if in_window(window, now.time()) else begins
    day = now.date() + timedelta(days=at <= now.time().replace(tzinfo=None))
    return datetime.combine(day, at, now.tzinfo)
