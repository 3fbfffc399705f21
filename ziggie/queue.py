"""Waking workers. The only caller of django-q.

The queue carries ids, never truth: a task looks its row up, claims it with a lease and does nothing if
somebody else has it. So a wake-up that comes twice, late or never does no harm; `sweep` tasks look for
rows that nobody woke a worker for.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone


def enqueue(task: Callable[..., Any], *args: Any) -> None:
    """Runs `task(*args)` in a worker once the present transaction is committed.

    `args` must be JSON-like. With the queue in PostgreSQL the wake-up is part of the transaction; with
    Redis it is sent on commit, and lost if Redis is away just then: the sweep finds the row.
    """
    from django.conf import settings

    path = f"{task.__module__}.{task.__qualname__}"
    if settings.REDIS_URL:
        transaction.on_commit(lambda: _send(path, *args), robust=True)
    else:
        _send(path, *args)


def _send(path: str, *args: Any) -> None:
    from django_q.tasks import async_task

    async_task(path, *args)


class LeasedRow(models.Model):
    """A row that is a job: at most one worker holds it, until `lease_until`. `fence` grows with each
    claim; a worker whose fence is old may write nothing more."""

    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    fence = models.PositiveIntegerField(default=0, editable=False)
    tries = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        abstract = True


class LostLease(Exception):
    """Another worker has taken the row over; what this one does must leave no trace."""


def claim(
    rows: models.QuerySet[Any], pk: Any, *, lease: timedelta, running_state: dict[str, Any], waiting: Q
) -> int | None:
    """Takes the row `pk` of `rows` if it waits or its lease ran out; returns the fence, or None.

    `waiting` says which rows wait for a worker, `running_state` which columns a claimed row gets.
    """
    now = timezone.now()
    free = waiting | Q(lease_until__lt=now, **running_state)
    claimed = (
        rows.filter(free, pk=pk)
        .filter(Q(lease_until__isnull=True) | Q(lease_until__lt=now))
        .update(lease_until=now + lease, fence=F("fence") + 1, tries=F("tries") + 1, **running_state)
    )
    if not claimed:
        return None
    return int(rows.values_list("fence", flat=True).get(pk=pk))


def write_fenced(rows: models.QuerySet[Any], pk: Any, fence: int, **columns: Any) -> None:
    """Writes columns of a claimed row. Raises LostLease if the claim is no longer ours."""
    if not rows.filter(pk=pk, fence=fence, lease_until__isnull=False).update(**columns):
        raise LostLease(str(pk))
