"""Waking workers. The only caller of django-q.

The queue carries ids, never truth: a task looks its row up, claims it with a lease and does nothing if
somebody else has it. So a wake-up that comes twice, late or never does no harm: the sweep looks for
rows that wait and for rows whose worker is gone.
"""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import psutil
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, models, transaction
from django.db.models import F, Q
from django.utils import timezone

T = TypeVar("T")
# A function, or its dotted name where the module of the function imports the caller's.
Task = Callable[..., Any] | str

LEASE = timedelta(seconds=60)
OUTAGE_SECONDS = 45.0  # of the database, that a job under way sits out; its lease lasts longer
MAX_SWEPT = 200


def enqueue(task: Task, *args: Any) -> None:
    """Runs `task(*args)` in a worker once the present transaction is committed.

    `args` must be JSON-like. With the queue in PostgreSQL the wake-up is part of the transaction; with
    Redis it is sent on commit, and lost if Redis is away just then: the sweep finds the row.
    """
    path = task if isinstance(task, str) else f"{task.__module__}.{task.__qualname__}"
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
    lease_owner = models.CharField(max_length=200, blank=True, editable=False)
    fence = models.PositiveIntegerField(default=0, editable=False)
    tries = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        abstract = True


class LostLease(Exception):
    """Another worker has taken the row over; what this one does must leave no trace."""


@lru_cache(maxsize=1)
def _owner_of(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def this_worker() -> str:
    """This process's name on leases: host, process id and start time, so that a re-used id is not it."""
    return _owner_of(os.getpid())


def owner_is_dead(owner: str) -> bool:
    """True if the lease's owner ran on this host and is gone; unknown for other hosts, so False."""
    try:
        host, pid, started = owner.rsplit(":", 2)
    except ValueError:
        return False
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True


def claim(rows: models.QuerySet[Any], pk: Any, *, waiting: Q, **columns: Any) -> int | None:
    """Takes the row `pk` if it is `waiting`, or if it is claimed by a lease that ran out; returns the
    fence of the claim, or None. `columns` are written with the claim."""
    now = timezone.now()
    free = Q(waiting, lease_until__isnull=True) | Q(lease_until__lt=now)
    if not rows.filter(free, pk=pk).update(
        lease_until=now + LEASE, lease_owner=this_worker(), fence=F("fence") + 1, tries=F("tries") + 1, **columns
    ):
        return None
    return int(rows.values_list("fence", flat=True).get(pk=pk))


def write_fenced(rows: models.QuerySet[Any], pk: Any, fence: int, **columns: Any) -> None:
    """Writes columns of a claimed row and extends its lease. Raises LostLease if it is no longer ours."""
    columns.setdefault("lease_until", timezone.now() + LEASE)
    if not rows.filter(pk=pk, fence=fence, lease_until__isnull=False).update(**columns):
        raise LostLease(str(pk))


def sit_out(write: Callable[[], T]) -> T:
    """What `write` returns, tried again while the database is away, for OUTAGE_SECONDS at most.

    For the writes of a job whose work would be lost, and paid for again. `write` is one transaction and fenced,
    because it may have been committed by the connection that broke. Within a transaction it is tried once.
    """
    until = time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            return write()
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block or time.monotonic() > until:
                raise
            connection.close()
            time.sleep(0.2)


def end_lease() -> dict[str, Any]:
    """The columns that end a claim; pass them to write_fenced with the final state."""
    return {"lease_until": None, "lease_owner": ""}


def abandoned(rows: models.QuerySet[Any]) -> list[Any]:
    """Ids of claimed rows whose worker is gone; the leases of dead workers of this host are cut short."""
    now = timezone.now()
    leased = rows.filter(lease_until__isnull=False).values_list("pk", "lease_until", "lease_owner", "fence")[:MAX_SWEPT]
    gone = []
    for pk, until, owner, fence in leased:
        if until >= now and not owner_is_dead(owner):
            continue
        rows.filter(pk=pk, fence=fence).update(lease_until=now - timedelta(seconds=1))
        gone.append(pk)
    return gone


def pending() -> int:
    """How many wake-ups no worker has taken yet."""
    from django_q.brokers import get_broker

    return int(get_broker().queue_size())


def wake_forgotten(rows: models.QuerySet[Any], waiting: Q, task: Task) -> int:
    """Enqueues `task(id)` for rows whose worker is gone and, while the queue is empty, for rows that
    still wait: nobody is coming for those. Returns how many."""
    found = abandoned(rows)
    if not pending():
        found += rows.filter(waiting, lease_until__isnull=True).values_list("pk", flat=True)[:MAX_SWEPT]
    for pk in found:
        enqueue(task, str(pk))
    return len(found)
