"""Waiting work that is taken back, or answered now instead of by its batch.

A provider's batch gives back none of its requests. What was sent and is not wanted any more leaves a row behind that
is given up: if it is answered all the same, that is paid, settled and forgotten. A batch that nobody wants anything
of is cancelled at its provider (batch_fetching.py).
"""

from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from routing.models import BatchItem
from routing.waiting.rows import UNFINISHED
from ziggie import queue
from ziggie.errors import Conflict, NotFound
from ziggie.ids import uuid7

LATELY = timedelta(hours=1)


@transaction.atomic
def cancel_batch(item_id: UUID) -> None:
    """Ends work that has no answer yet. Raises NotFound; Conflict if it is over."""
    row = _locked(item_id)
    _leave_behind(row)
    _write(row, state="cancelled", batch=None, sent=None, request=None, finished_at=timezone.now())


@transaction.atomic
def hurry_batch(item_id: UUID) -> None:
    """Has work answered by a plain call now, at the plain price, whatever window or batch it waits for.

    Raises NotFound; Conflict if it is over or being answered, or if its owner makes its calls.
    """
    row = _locked(item_id)
    if row.made_for:
        raise Conflict(f"this is a part of a {row.made_for}: hurry that")
    if row.state == "ready":
        raise Conflict("this is being answered already")
    _leave_behind(row)
    _write(row, state="ready", plain=True, batch=None, sent=None, call_id=uuid7())
    queue.enqueue("routing.tasks.run_batch_item", str(row.pk))


def answered_in_vain() -> list[str]:
    """The runs of work that was given up and whose batch has ended lately."""
    lately = timezone.now() - LATELY
    over = BatchItem.objects.filter(given_up=True, finished_at__gte=lately).exclude(run_id="")
    return list(over.values_list("run_id", flat=True).order_by().distinct())


def _locked(item_id: UUID) -> BatchItem:
    row = BatchItem.objects.select_for_update().filter(pk=item_id, given_up=False).first()
    if row is None:
        raise NotFound(f"there is no such work: {item_id}")
    if row.state not in UNFINISHED:
        raise Conflict(f"this is over already: {row.state}")
    return row


def _leave_behind(row: BatchItem) -> None:
    """What was sent goes on under another id, as what is given up; its call, its batch and its money are the same."""
    if row.state == "sent":
        copied = ("call_id", "state", "request", "plain", "submissions", "batch_id", "sent", "made_for", "requested_by")
        same = {name: getattr(row, name) for name in (*copied, "api_key_id", "run_id", "created_at")}
        BatchItem.objects.create(given_up=True, **same)


def _write(row: BatchItem, **columns: object) -> None:
    """A worker that holds the row may write nothing more."""
    BatchItem.objects.filter(pk=row.pk).update(**columns, fence=F("fence") + 1, **queue.end_lease())
