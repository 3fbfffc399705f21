"""Work that may wait, as rows: handed in here, and asked for here when it is done. batching.py does the work,
batch_changes.py takes it back or hurries it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from uuid import UUID

from django.db.models import QuerySet

from routing.adapters import claude_batches
from routing.models import BatchItem, RoutedCall
from routing.planning.demand import measure
from routing.records import kept_answers, kept_requests
from routing.types import ChatRequest, Plan, Routed
from ziggie.errors import Conflict, InvalidInput, NotFound
from ziggie.ids import uuid7
from ziggie.values import replace

MAX_WAITING = 100_000
SUBMISSIONS = 2  # to providers' batches; then a plain call is made
UNFINISHED = ("queued", "ready", "sent")


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose work it is and what it may cost.

    `made_for` ("run" or "video") is an owner who makes plain calls itself: work that no provider's batch can answer
    ends as failed, and is the owner's again. `limit_microusd` is the most that all calls for it may cost together.
    `allowed_models` are the slugs that may serve, all if it is empty.
    """

    made_for: str = ""
    requested_by: str = ""
    external_id: str = ""
    limit_microusd: int | None = None
    allowed_models: Collection[str] = ()


FREELY = Terms()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """`state` is queued, ready, sent, done, failed or cancelled. When done, `routed` is the answer with its receipt,
    until somebody calls service.forget() for its call; when failed, `error` says why. `spent_microusd` went into
    batches' answers that were of no use."""

    state: str
    routed: Routed | None = None
    error: str = ""
    spent_microusd: int = 0


@dataclass(frozen=True, slots=True)
class MayWait:
    """Work of a rule with `batch: true`. `by_batch`: a provider's batch does it, which waits for the window by
    itself; else plain calls do while the window is open."""

    window: str
    is_open: bool
    by_batch: bool


def submit_batch(request: ChatRequest, terms: Terms = FREELY) -> UUID:
    """Queues a request whose answer may wait; its id. In a transaction it is queued when that commits.

    When it is done is up to the rule that takes it: one with `batch: true` waits for its window. A request with a
    `call_id` has that as its id, and is queued once however often it is handed in; the call that answers it has
    another id. Raises InvalidInput for a request that cannot be kept, Conflict if too many wait already.
    """
    row = row_of(request, terms)
    make_room(1)
    BatchItem.objects.bulk_create([row], ignore_conflicts=True)
    return row.pk


def row_of(request: ChatRequest, terms: Terms) -> BatchItem:
    """The row that keeps a request, not saved yet. Raises InvalidInput for one that cannot be kept."""
    if request.accept is not None or request.on_output is not None or request.envelope_id is not None:
        raise InvalidInput("a request that waits cannot keep `accept`, `on_output` or an envelope")
    if request.choices != 1:
        raise InvalidInput("a request that waits has one answer: hand in one for each that is wanted")
    measure(request)  # raises InvalidInput for hints that cannot be meant
    return BatchItem(
        pk=request.call_id or uuid7(),
        request=kept_requests.to_json(request),
        api_key_id=request.api_key_id or "",
        run_id=request.run_id or "",
        made_for=terms.made_for,
        requested_by=terms.requested_by,
        external_id=terms.external_id,
        limit_microusd=terms.limit_microusd,
        allowed_models=sorted(terms.allowed_models),
    )


def make_room(count: int) -> None:
    """Raises Conflict if so many more would be too many."""
    if unfinished().count() + count > MAX_WAITING:
        raise Conflict(f"no more than {MAX_WAITING} requests may wait; hand it in again when some of them are done")


def unfinished() -> QuerySet[BatchItem]:
    """What was handed in and has no answer yet."""
    return BatchItem.objects.filter(state__in=UNFINISHED, given_up=False)


def batch_states(item_ids: Collection[UUID]) -> dict[UUID, str]:
    """The state of each of them that was handed in."""
    return dict(BatchItem.objects.filter(pk__in=item_ids).values_list("pk", "state"))


def batch_result(item_id: UUID) -> BatchResult:
    """Raises NotFound."""
    row = BatchItem.objects.filter(pk=item_id, given_up=False).first()
    if row is None:
        raise NotFound(f"there is no such work: {item_id}")
    if row.state != "done":
        return BatchResult(row.state, error=row.error, spent_microusd=row.spent_microusd)
    receipt = RoutedCall.objects.filter(pk=row.call_id, bodies__isnull=False).values().first()
    routed = kept_answers.routed_from_row(receipt) if receipt else None
    return BatchResult("done", routed, spent_microusd=row.spent_microusd)


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
