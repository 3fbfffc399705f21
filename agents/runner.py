"""Runs one agent's task through the router, within a claim of its row."""

import math
from concurrent.futures import wait
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents import callbacks, waiting
from agents.announcing import announce
from agents.asking import allowed_models, request_of
from agents.models import AgentRun
from agents.run_budgets import close_budget, open_budget, spent_microusd
from routing import service
from routing.types import Routed
from ziggie import queue
from ziggie.errors import DeadlineExceeded, ZiggieError
from ziggie.values import replace

POLL_SECONDS = 0.5
MAX_TRIES = 5
TYPICAL_ANSWER_CHARACTERS = 4000


def execute(run_id: str) -> bool:
    """Carries one queued run to its end, or hands it in for a provider's batch; False if another worker has it, its
    time has not come or nothing is to be done."""
    queued = AgentRun.objects.select_related("agent").filter(pk=run_id, status="queued").first()
    if queued is not None and waiting.has_to_wait(queued):
        return False
    if queued is not None and waiting.hand_in(queued):
        return True
    now = timezone.now()
    fence = queue.claim(
        AgentRun.objects.all(),
        run_id,
        waiting=Q(status="queued"),
        status="working",
        progress=10,
        waits_for="",
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


def _ask(run: AgentRun, fence: int) -> Routed:
    """What a batch has answered, else the routed call; meanwhile the row shows its progress and its lease is kept."""
    call_id, answered = waiting.answer_of(run)
    call_id = service.fresh_id(call_id)
    if call_id != run.call_id:
        _write(run, fence, call_id=call_id)
    if answered is not None:
        return answered
    said = 0

    def count(characters: int) -> None:
        nonlocal said
        said = characters

    request = request_of(run, on_output=count)
    request = replace(request, envelope_id=open_budget(run, request))
    call = service.submit(request, allowed_models=allowed_models(run))
    try:
        while not call.done():
            wait([call], timeout=POLL_SECONDS)
            progress = 20 + int(70 * (1 - math.exp(-said / TYPICAL_ANSWER_CHARACTERS)))
            queue.sit_out(partial(_write, run, fence, progress=progress))
    finally:
        call.cancel()
    return call.result()


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
    return {"cost_microusd": spent_microusd(run)}


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
