"""Receipts as a list: filtered, newest first, by cursor. No query looks at more than SEARCHED receipts, or days."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from routing.models import RoutedCall, UsageRollup
from routing.reporting import usage
from ziggie.errors import InvalidInput, RoutingError
from ziggie.ids import first_uuid7

PAGE = 50
SEARCHED = 50_000
MAX_CHOICES = 300
LONGEST_CALL = timedelta(days=30)  # between a call's first thought and its receipt: batches wait
COLUMNS = ("rule", "model", "task_kind", "outcome", "provider", "source", "creator", "run_id")
# What a list may be asked for, and the column that it is.
FILTERS = {name: name for name in COLUMNS} | {"api_key": "api_key_id"}
PERIOD = ("day", "from", "to")
SHOWN = (
    *("id", "created_at", "policy", "policy_version", "rule", "pattern", "outcome", "model", "provider", "source"),
    *("cache", "cost_microusd", "saved_microusd", "duration_ms", "task_kind"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """One page of receipts. `older` is the cursor of the next page, "" at the end; `looked_back_to` is set where the
    search stopped before the page was full, since it had looked at enough."""

    calls: list[RoutedCall]
    older: str = ""
    looked_back_to: datetime | None = None


def find(given: Mapping[str, str]) -> Found:
    """`given` may hold what FILTERS and PERIOD name (days as YYYY-MM-DD) and before, a cursor. Raises InvalidInput."""
    before = _cursor(given.get("before", ""))
    wanted = {column: given[name] for name, column in FILTERS.items() if given.get(name)}
    if "\0" in "".join(wanted.values()):
        raise InvalidInput("a filter holds a NUL")
    newest = RoutedCall.objects.order_by("-id")
    if before is not None:
        newest = newest.filter(id__lt=before)
    during = _period(given)
    if during is not None:
        return _page(_in_period(newest, during).filter(**wanted))
    floor = _floor(newest) if wanted else None
    if floor is None:
        return _page(newest.filter(**wanted))
    found = _page(newest.filter(id__gte=floor[0], **wanted))
    return found if found.older else Found(found.calls, str(floor[0]), floor[1])


def latest(during: usage.Period, most: int) -> list[RoutedCall]:
    """The newest receipts of a period."""
    return list(_in_period(RoutedCall.objects.order_by("-id"), during).only(*SHOWN)[:most])


def _cursor(said: str) -> UUID | None:
    try:
        return UUID(said) if said else None
    except ValueError:
        raise InvalidInput("before: is no cursor of this list") from None


def _period(given: Mapping[str, str]) -> usage.Period | None:
    since, until = (given.get("day") or given.get(name, "") for name in ("from", "to"))
    return usage.period(since, until) if since or until else None


def _in_period(found: QuerySet[RoutedCall], during: usage.Period) -> QuerySet[RoutedCall]:
    """Ids tell when a call began, which bounds how far back the database has to look."""
    oldest = first_uuid7(during.since - LONGEST_CALL)
    return found.filter(pk__gte=oldest, created_at__gte=during.since, created_at__lt=during.until)


def _floor(newest: QuerySet[RoutedCall]) -> tuple[UUID, datetime] | None:
    """Where a search among so many receipts must stop; None if there are not that many."""
    last: list[Any] = list(newest.values_list("id", "created_at")[SEARCHED - 1 : SEARCHED])
    return last[0] if last else None


def _page(found: QuerySet[RoutedCall]) -> Found:
    calls = list(found.only(*SHOWN)[: PAGE + 1])
    return Found(calls[:PAGE], str(calls[PAGE - 1].id) if len(calls) > PAGE else "")


def choices(given: Mapping[str, str]) -> dict[str, list[str]]:
    """What can be chosen for each filter: what the last days' calls had, and what is chosen already."""
    since = usage.period("", "").since
    recent = UsageRollup.objects.filter(hour__gte=since)
    found = {
        name: list(recent.exclude(**{name: ""}).values_list(name, flat=True).distinct().order_by(name)[:MAX_CHOICES])
        for name in ("rule", "model", "task_kind")
    }
    found["outcome"] = ["ok", *sorted(kind.code for kind in RoutingError.__subclasses__()), "cancelled", "abandoned"]
    for name, values in found.items():
        if given.get(name) and given[name] not in values:
            values.append(given[name])
    return found
