"""Runs that may wait, where the routing rule says so: for the rule's window, or for a provider's batch.

A run that is handed in bears the id of its waiting work as its call id, until its answer is there. What no batch can
answer is asked by the run itself, within the window.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from agents.announcing import announce
from agents.asking import allowed_models, request_of
from agents.models import AgentRun
from agents.run_budgets import left_microusd, spent_by
from routing import service
from routing.batches.waiting_work import Waiting
from routing.planning.rules import AUTO
from routing.types import Routed
from ziggie import queue
from ziggie.errors import Conflict, NotFound, RoutingError
from ziggie.ids import uuid7

IN_A_BATCH = "the answer of a batch"
RUNS_AT_ONCE = 1_000  # whose costs are looked up
OUTLASTED = timedelta(minutes=25)  # by a call of the longest kind, and the sweep that settles a dead one
QUEUED = Q(status="queued")
GIVEN_BACK = ("failed", "cancelled")


def sweepable() -> QuerySet[AgentRun]:
    """Runs without those whose batch has no answer yet: nobody needs to look at these."""
    return AgentRun.objects.exclude(status="queued", call_id__in=service.unfinished().values("pk"))


def has_to_wait(run: AgentRun) -> bool:
    """Whether a queued run's time has not come; its page then says what it waits for. The sweep comes back to it."""
    reason = _reason(run)
    if reason and reason != run.waits_for:
        with transaction.atomic():
            if AgentRun.objects.filter(QUEUED, pk=run.pk, lease_until__isnull=True).update(**_shown(reason)):
                run.refresh_from_db()
                announce(run)
    return bool(reason)


def _reason(run: AgentRun) -> str:
    if run.at_once or run.requested_model not in AUTO:
        return ""
    state = service.batch_states([run.call_id]).get(run.call_id)
    if state == "done":
        return ""
    if state is not None and state not in GIVEN_BACK:
        return run.waits_for or IN_A_BATCH
    try:
        wait = service.may_wait(request_of(run))
    except RoutingError:  # the run itself says so
        return ""
    by_batch = wait is not None and wait.by_batch and state is None
    return f"the time between {wait.window}" if wait and not wait.is_open and not by_batch else ""


def _shown(reason: str) -> dict[str, Any]:
    return {"waits_for": reason, "version": F("version") + 1}


def hand_in(run: AgentRun) -> bool:
    """Queues the run's call for a provider's batch, if its rule wants that and there is one: True if it did."""
    reason = _batch_for(run)
    if not reason:
        return False
    fence = queue.claim(AgentRun.objects.all(), run.pk, waiting=Q(QUEUED, at_once=False))
    if fence is None:
        return False
    run = AgentRun.objects.select_related("agent").get(pk=run.pk)
    terms = service.Terms(
        made_for="run",
        requested_by=run.requested_by,
        limit_microusd=left_microusd(run),
        allowed_models=allowed_models(run),
    )
    try:
        with transaction.atomic():
            service.submit_batch(request_of(run), terms)
            columns = {**_shown(reason), "tries": 0, **queue.end_lease()}
            queue.write_fenced(AgentRun.objects.all(), run.pk, fence, **columns)
            run.refresh_from_db()
            announce(run)
    except Conflict as error:  # too many wait: the sweep comes back to it
        columns = {**_shown(error.message[:200]), "tries": 0, **queue.end_lease()}
        queue.write_fenced(AgentRun.objects.all(), run.pk, fence, **columns)
    return True


def _batch_for(run: AgentRun) -> str:
    """What the run waits for if it goes by a batch now; "" if it does not."""
    if run.at_once or run.requested_model not in AUTO or service.batch_states([run.call_id]):
        return ""
    try:
        wait = service.may_wait(request_of(run))
    except RoutingError:
        return ""
    if wait is None or not wait.by_batch:
        return ""
    return IN_A_BATCH if wait.is_open else f"the time between {wait.window}, then {IN_A_BATCH}"


def is_out(run: AgentRun) -> bool:
    """Whether a provider has the run's call in a batch, and may answer it whoever waits."""
    return service.batch_states([run.call_id]).get(run.call_id) == "sent"


def answer_of(run: AgentRun) -> tuple[UUID, Routed | None]:
    """The call id to go on with, and what a batch has answered to it: None if the run is to ask by itself."""
    try:
        result = service.batch_result(run.call_id)
    except NotFound:
        return run.call_id, None
    routed = result.routed
    return (uuid7(), None) if routed is None else (UUID(routed.call_id), routed)


# --- taking back -----------------------------------------------------------------------------------


def hurry_run(run: AgentRun) -> AgentRun:
    """Has a run that waits for its window or its batch answered now, at the plain price. Raises Conflict."""
    with transaction.atomic():
        run = AgentRun.objects.select_for_update(of=("self",)).select_related("agent").get(pk=run.pk)
        if run.status != "queued" or not run.waits_for or run.lease_until is not None:
            raise Conflict("this run waits for no window and no batch")
        if run.budget_microusd is not None and is_out(run):
            raise Conflict(
                "the batch that answers this run is out and may still be paid from the run's budget: "
                "let it come, or cancel the run and ask again"
            )
        take_back(run)
        columns: dict[str, Any] = {**_shown(""), "at_once": True}
        AgentRun.objects.filter(pk=run.pk).update(**columns)
        run.refresh_from_db()
        announce(run)
        queue.enqueue("agents.tasks.execute_run", str(run.pk))
    return run


def take_back(run: AgentRun) -> None:
    """Ends what waits for a batch on the run's behalf, if anything does."""
    with suppress(NotFound, Conflict):  # it was never handed in, or is answered already
        service.cancel_batch(run.call_id)


def count_late_costs() -> int:
    """Puts what was settled after their runs were over on these runs: batches that answered too late, or were hurried,
    and calls that named them at the gateway and outlasted them. Returns how many."""
    changed = 0
    over = AgentRun.objects.filter(status__in=AgentRun.FINAL)
    lately = over.filter(finished_at__gte=timezone.now() - OUTLASTED).values_list("pk", flat=True)
    runs = list({*service.answered_in_vain(), *map(str, lately)})
    for start in range(0, len(runs), RUNS_AT_ONCE):
        some = runs[start : start + RUNS_AT_ONCE]
        paid = spent_by(some)
        for pk, key, cost in over.filter(pk__in=some).values_list("pk", "api_key_id", "cost_microusd"):
            spent = paid.get((str(pk), key), 0)
            if spent == cost:
                continue
            AgentRun.objects.filter(pk=pk).update(cost_microusd=spent, version=F("version") + 1)
            announce(AgentRun.objects.select_related("agent").get(pk=pk))
            changed += 1
    return changed


# --- what waits, for the page ----------------------------------------------------------------------


def waiting(limit: int) -> list[Waiting]:
    """The queued runs that wait for a window or a batch, the oldest first."""
    runs = AgentRun.objects.filter(QUEUED).exclude(waits_for="").select_related("agent").order_by("id")[:limit]
    return [
        Waiting(
            kind="run",
            name=f"{run.agent.name}: {run.prompt[:80]}",
            url=run.get_absolute_url(),
            since=run.created_at,
            reason=f"waits for {run.waits_for}",
        )
        for run in runs
    ]
