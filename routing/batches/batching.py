"""Does the work that may wait: by providers' batches at half price where they have them, else by plain calls.

    tick()       now and then in a worker: fetches what providers have answered, sends what is due
    run(id)      in a worker: one item by a plain call

A batch's worst case is held when it is sent; each item is settled once, when its answer is there (batch_money.py).
A batch that expires is sent once more; after that, and for whatever a batch could not answer, a plain call is made.
"""

from concurrent.futures import wait
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from routing import service
from routing.batches.fetching import look_after
from routing.batches.sending import dispatch, limit_name
from routing.models import BatchItem, ProviderBatch
from routing.types import ChatRequest
from routing.waiting.rows import SUBMISSIONS, request_of
from ziggie import queue
from ziggie.errors import InvalidInput, RoutingError
from ziggie.values import replace

MAX_TRIES = 3
CALL_SECONDS = 900.0
BEAT_SECONDS = 5.0
ENVELOPE_MARGIN_SECONDS = 600.0


def tick() -> None:
    """One round. Several workers may do theirs at the same time."""
    for pk in ProviderBatch.objects.filter(state__in=("sending", "open")).values_list("pk", flat=True):
        look_after(pk)
    dispatch()
    queue.wake_forgotten(BatchItem.objects.all(), Q(state="ready"), "routing.tasks.run_batch_item")


def has_work() -> bool:
    return BatchItem.objects.filter(state__in=("queued", "ready", "sent")).exists()


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
    except queue.LostLease:  # it was taken back, or another worker has it
        return False
    except (RoutingError, InvalidInput) as error:
        _write(row, state="failed", error=error.message, request=None, finished_at=timezone.now(), **queue.end_lease())
    finally:
        if row.limit_microusd is not None:
            service.close_envelope(row.pk)
    return True


def _call(row: BatchItem) -> None:
    request = replace(request_of(row), deadline_seconds=CALL_SECONDS)
    request = replace(request, envelope_id=_envelope(row, request))
    call = service.submit(request, allowed_models=frozenset(row.allowed_models))
    try:
        while not call.done():
            wait([call], timeout=BEAT_SECONDS)
            _write(row)
    finally:
        call.cancel()
    call.result()


def _envelope(row: BatchItem, request: ChatRequest) -> UUID | None:
    """What is left of the item's own limit, to pay the call from; None where it has no limit."""
    if row.limit_microusd is None:
        return None
    left = max(row.limit_microusd - row.spent_microusd, 0)
    name, expires = limit_name(row), CALL_SECONDS + ENVELOPE_MARGIN_SECONDS
    return service.open_envelope(row.pk, left, like=request, name=name, expires_in_seconds=expires).id


def _write(row: BatchItem, **columns: Any) -> None:
    queue.write_fenced(BatchItem.objects.all(), row.pk, row.fence, **columns)
