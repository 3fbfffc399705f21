"""Runs one agent's task through the router, within a claim of its row."""

import math
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from typing import Any, cast

from django.db import transaction
from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents import callbacks
from agents.announcing import announce
from agents.models import AgentRun
from agents.run_budgets import close_budget, open_budget
from routing import service
from routing.models import RoutedCall
from routing.rules import AUTO
from routing.types import BudgetFit, ChatRequest, Hints, Routed, message
from ziggie import queue
from ziggie.errors import DeadlineExceeded, RoutingError, ZiggieError

MAX_OUTPUT_TOKENS = 4000
DEADLINE_SECONDS = 900.0
POLL_SECONDS = 0.5
MAX_TRIES = 5
TYPICAL_ANSWER_CHARACTERS = 4000


def execute(run_id: str) -> bool:
    """Carries one queued run to its end; False if another worker has it, its time has not come or nothing is to be
    done."""
    if _has_to_wait(run_id):
        return False
    now = timezone.now()
    fence = queue.claim(
        AgentRun.objects.all(),
        run_id,
        waiting=Q(status="queued"),
        status="working",
        progress=10,
        version=F("version") + 1,
        started_at=Coalesce("started_at", now),
    )
    if fence is None:
        return False
    run = AgentRun.objects.select_related("agent").get(pk=run_id)
    announce(run)
    try:
        if run.tries > MAX_TRIES:
            raise ZiggieError(f"given up: {MAX_TRIES} workers died or were stopped during this run")
        routed = _ask(run, fence)
        queue.sit_out(lambda: _write(run, fence, **_result(routed), **_spent(run), **queue.end_lease()))
        service.forget(run.call_id)
        close_budget(run)
    except ZiggieError as error:
        status = "timed_out" if isinstance(error, DeadlineExceeded) else "failed"
        columns = {"status": status, "error": error.message, "error_code": error.code, **_spent(run)}
        _write(run, fence, finished_at=timezone.now(), **columns, **queue.end_lease())
        close_budget(run)
    except queue.LostLease:
        return False
    return True


def _has_to_wait(run_id: str) -> bool:
    """Whether the rule that takes a queued run wants it to wait for its window. The sweep comes back to it."""
    run = AgentRun.objects.filter(pk=run_id, status="queued").first()
    if run is None or run.requested_model not in AUTO:
        return False
    try:
        wait = service.may_wait(_hints(run))
    except RoutingError:  # the run itself says so
        return False
    return wait is not None and not wait.is_open


def _hints(run: AgentRun) -> Hints:
    return Hints(task_kind="agent", agent_level=run.level)


def _ask(run: AgentRun, fence: int) -> Routed:
    """The routed call; meanwhile the row shows its progress and its lease is kept."""
    said = 0

    def count(characters: int) -> None:
        nonlocal said
        said = characters

    call_id = service.fresh_id(run.call_id)
    if call_id != run.call_id:
        _write(run, fence, call_id=call_id)
    request = _request(run, on_output=count)
    call = service.submit(replace(request, envelope_id=open_budget(run, request)))
    try:
        while not call.done():
            wait([call], timeout=POLL_SECONDS)
            progress = 20 + int(70 * (1 - math.exp(-said / TYPICAL_ANSWER_CHARACTERS)))
            queue.sit_out(partial(_write, run, fence, progress=progress))
    finally:
        call.cancel()
    return call.result()


def _request(run: AgentRun, **fields: Any) -> ChatRequest:
    system = (message("system", run.agent.system_prompt),) if run.agent.system_prompt else ()
    return ChatRequest(
        messages=(*system, message("user", run.prompt)),
        model=run.requested_model,
        hints=_hints(run),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        run_id=str(run.pk),
        api_key_id=run.api_key_id or None,
        deadline_seconds=DEADLINE_SECONDS,
        call_id=run.call_id,
        # Our limit of the output, not the caller's: for a run with a budget it gives way.
        budget_fit=cast("BudgetFit", run.budget_fit or ("" if run.budget_microusd is None else "clamp")),
        **fields,
    )


def _result(routed: Routed) -> dict[str, Any]:
    return {
        "status": "completed",
        "progress": 100,
        "answer": routed.result.text,
        "model": routed.model,
        "source": routed.source,
        "saved_microusd": routed.saved_microusd,
        "input_tokens": sum(attempt.usage.input_tokens or 0 for attempt in routed.attempts),
        "output_tokens": sum(attempt.usage.output_tokens or 0 for attempt in routed.attempts),
        "finished_at": timezone.now(),
    }


def _spent(run: AgentRun) -> dict[str, int]:
    """What all calls of the run have cost: those that failed too, and those that name it at the gateway."""
    calls = RoutedCall.objects.filter(run_id=str(run.pk))
    return {"cost_microusd": calls.aggregate(cost=Sum("cost_microusd"))["cost"] or 0}


def _write(run: AgentRun, fence: int, **columns: Any) -> None:
    """Changes the row if that changes what is seen, keeps the lease, tells open pages. Raises LostLease."""
    if all(getattr(run, name) == value for name, value in columns.items()):
        queue.write_fenced(AgentRun.objects.all(), run.pk, fence)
        return
    with transaction.atomic():
        queue.write_fenced(AgentRun.objects.all(), run.pk, fence, version=F("version") + 1, **columns)
        run.refresh_from_db()
        announce(run)
        callbacks.owe(run)
