"""What waits for a batch window, what was sent, and what has come of it. Read-only; no texts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, Q

from routing.batches.waiting_work import waiting_work
from routing.configuration import snapshot
from routing.models import BatchItem, ProviderBatch, RoutedCall
from routing.waiting.rows import UNFINISHED, in_window, next_change

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Window:
    """A rule whose work may wait. `changes_at` is when it opens, or closes if it is open; None: it is always open."""

    rule: str
    window: str
    is_open: bool
    changes_at: datetime | None


def overview() -> dict[str, Any]:
    """For the page of waiting work: windows, counts by state, the oldest that waits, the newest sent and finished."""
    items = BatchItem.objects.defer("request", "sent")
    over = items.filter(state__in=("done", "failed", "cancelled"))
    counts = dict.fromkeys(BatchItem.STATES, 0)
    counts |= dict(BatchItem.objects.values_list("state").annotate(count=Count("pk")).order_by())
    return {
        "windows": windows(datetime.now(UTC)),
        "owners": waiting_work(SHOWN),
        "counts": counts,
        "waiting": items.filter(state__in=UNFINISHED).select_related("batch").order_by("id")[:SHOWN],
        "batches": ProviderBatch.objects.annotate(
            sent=Count("items"), done=Count("items", filter=Q(items__state="done"))
        ).order_by("-created_at")[:SHOWN],
        "finished": _with_receipts(list(over.order_by("-finished_at")[:SHOWN])),
        "limit": SHOWN,
    }


def windows(now: datetime) -> list[Window]:
    """One for each rule of the live policy with `batch: true`, in the staff's time zone."""
    configuration = snapshot.current()
    local = now.astimezone(ZoneInfo(configuration.settings.time_zone))
    return [
        Window(
            rule.name,
            rule.options.batch_window,
            in_window(rule.options.batch_window, local.time()),
            next_change(rule.options.batch_window, local),
        )
        for rule in configuration.policy.rules
        if rule.options.batch
    ]


def _with_receipts(items: list[BatchItem]) -> list[tuple[BatchItem, RoutedCall | None]]:
    calls = RoutedCall.objects.only("model", "source", "cost_microusd", "saved_microusd", "outcome")
    receipts = calls.in_bulk([item.call_id for item in items])
    return [(item, receipts.get(item.call_id)) for item in items]
