"""Clients' own work that may wait: many requests handed in at once, and what is told of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson
from django.db import transaction
from django.utils import timezone

from routing.models import BatchItem, RoutedCall
from routing.records.kept_calls import forget
from routing.types import ChatRequest
from routing.waiting.rows import UNFINISHED, Terms, batch_result, make_room, row_of
from ziggie.errors import Conflict

MAX_AT_ONCE = 500
FORGOTTEN_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class NewWork:
    request: ChatRequest
    terms: Terms


@dataclass(frozen=True, slots=True)
class Shown:
    """A row and the receipt of the call that answered it. `by` is how it was answered, or is being answered: by a
    provider's batch, or by a plain call; None while nobody knows."""

    row: BatchItem
    call: RoutedCall | None

    @property
    def by(self) -> Literal["batch", "call"] | None:
        if self.row.batch_id is not None:
            return "batch"
        return "call" if self.row.plain or self.row.state == "ready" or self.call is not None else None

    @property
    def cost_microusd(self) -> int:
        return self.row.spent_microusd + (self.call.cost_microusd if self.call else 0)


def hand_in(new: Sequence[NewWork]) -> tuple[list[BatchItem], int]:
    """The rows in their order, and how many of them are new: the same external id of the same caller is the same work.

    All are queued, or none. Raises InvalidInput, or Conflict: too many wait, or an external id was another request's.
    """
    rows = [row_of(each.request, each.terms) for each in new]
    for row in rows:
        row.digest = _digest(row) if row.external_id else ""
    with transaction.atomic():
        make_room(len(rows))
        BatchItem.objects.bulk_create(rows, ignore_conflicts=True)
        kept = [_kept(row) for row in rows]
    return kept, sum(row.pk == one.pk for row, one in zip(rows, kept, strict=True))


def _digest(row: BatchItem) -> str:
    said = [row.request, row.limit_microusd]
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _kept(row: BatchItem) -> BatchItem:
    """The row itself, or the earlier one with its external id."""
    if not row.external_id:
        return row
    kept = BatchItem.objects.get(requested_by=row.requested_by, external_id=row.external_id)
    if kept.digest != row.digest:
        raise Conflict(f"external_id: {row.external_id!r} was handed in before, and is another request")
    return kept


def shown(rows: Sequence[BatchItem]) -> list[Shown]:
    columns = ("model", "source", "cost_microusd", "saved_microusd", "outcome")
    over = [row.call_id for row in rows if row.state in ("done", "failed")]
    calls = RoutedCall.objects.only(*columns).in_bulk(over)
    return [Shown(row, calls.get(row.call_id)) for row in rows]


def answer_of(row: BatchItem) -> str | None:
    """The text; None while there is none, and once it is forgotten."""
    routed = batch_result(row.pk).routed if row.state == "done" else None
    return None if routed is None else routed.result.text


def forget_work(item_id: UUID) -> None:
    """Drops work that is over, and its answer. Raises Conflict if it is not over."""
    row = BatchItem.objects.filter(pk=item_id).first()
    if row is not None and not BatchItem.objects.filter(pk=item_id).exclude(state__in=UNFINISHED).delete()[0]:
        raise Conflict("this is not over: cancel it first")
    if row is not None:
        forget(row.call_id)


def forget_old(before: datetime) -> int:
    """Drops what was over before that moment, with its answers; returns how many."""
    dropped = 0
    old = BatchItem.objects.filter(finished_at__lt=min(before, timezone.now())).exclude(state__in=UNFINISHED)
    while chunk := dict(old.values_list("pk", "call_id")[:FORGOTTEN_AT_ONCE]):
        RoutedCall.objects.filter(pk__in=chunk.values(), bodies__isnull=False).update(bodies=None)
        dropped += BatchItem.objects.filter(pk__in=chunk).delete()[0]
    return dropped
