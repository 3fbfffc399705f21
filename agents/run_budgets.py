"""What a run may spend: an envelope of its own, announced when the run is made, opened when a worker begins, closed
once the run is over.

A worker that takes a dead one's run over finds the envelope as that one left it. Should the one that ends a run
die before it has closed the envelope, the sweep does it.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import psycopg
from django.db.models import F, Sum
from django.utils import timezone

from agents.models import AgentRun
from routing import service
from routing.models import Envelope, RoutedCall
from routing.types import ChatRequest
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

EXPIRES_SECONDS = 7_200.0  # longer than a run and its leases last
LATELY = timedelta(days=1)


def announce_budget(run: AgentRun) -> None:
    """In the transaction that makes the run: whoever else has its id may not use it, from its first moment on."""
    if run.budget_microusd is not None:
        service.announce_envelope(run.pk, run.budget_microusd, name=name_of(run), api_key_id=run.api_key_id)


def name_of(run: AgentRun) -> str:
    """How messages call its budget."""
    return f"of run {run.pk}"


def open_budget(run: AgentRun, like: ChatRequest) -> UUID | None:
    """The envelope that the run's calls, which are like this one, draw from; None for a run without a budget. What a
    batch has cost that answered nothing of use is gone from it."""
    left = left_microusd(run)
    if left is None:
        return None
    envelope = service.open_envelope(
        run.pk,
        left,
        like=like,
        name=name_of(run),
        expires_in_seconds=EXPIRES_SECONDS,
    )
    return envelope.id


def left_microusd(run: AgentRun) -> int | None:
    """Of its budget, before it begins; None for a run without one."""
    return None if run.budget_microusd is None else max(run.budget_microusd - spent_microusd(run), 0)


def spent_microusd(run: AgentRun) -> int:
    """What all calls of the run have cost: those that failed too, and those of its own API key that name it at the
    gateway. Whoever else names it there, where it has no budget, spends nothing of it."""
    calls = RoutedCall.objects.filter(run_id=str(run.pk), api_key_id=run.api_key_id)
    return calls.aggregate(cost=Sum("cost_microusd"))["cost"] or 0


def spent_by(run_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """The same for many, by run and key; nothing for those of which nothing was paid."""
    calls = RoutedCall.objects.filter(run_id__in=run_ids).values_list("run_id", "api_key_id")
    return {(run_id, key): cost for run_id, key, cost in calls.annotate(cost=Sum("cost_microusd")).order_by()}


def close_budget(run: AgentRun) -> None:
    """Gives back what a run that is over did not spend."""
    if run.budget_microusd is None:
        return
    try:
        service.close_envelope(run.pk)
    except (Unavailable, psycopg.Error):
        logger.warning("the budget of run %s could not be closed now; the sweep will close it", run.pk)


def close_left_open() -> int:
    """Closes the envelopes of runs that are over, and those of runs that ended lately before they began; returns how
    many."""
    over = AgentRun.objects.filter(status__in=AgentRun.FINAL, budget_microusd__isnull=False)
    lately = over.filter(finished_at__gte=timezone.now() - LATELY)
    left_open = over.filter(pk__in=Envelope.objects.filter(closed_at=None).values("id"))
    left_announced = lately.filter(pk__in=Envelope.objects.filter(closed_at=F("created_at")).values("id"))
    found = {pk for runs in (left_open, left_announced) for pk in runs.values_list("pk", flat=True)[:500]}
    for pk in found:
        service.close_envelope(pk)
    return len(found)
