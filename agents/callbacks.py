"""Tells whoever asked for a run that it is over: its JSON, signed, to the address they gave.

    owe(run)       in the transaction that ends the run: the row that is the job
    deliver(id)    in a worker: one try; later ones after growing pauses, MAX_ATTEMPTS in all

A worker that dies in between has its try made again: the receiver tells repetitions apart by X-Ziggie-Delivery.
"""

import hashlib
import hmac
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from rest_framework.renderers import JSONRenderer

from agents.announcing import announce
from agents.models import AgentRun, Callback
from ziggie import outbound, queue
from ziggie.background import background_loop
from ziggie.errors import InvalidInput

PAUSES_SECONDS = (10, 60, 300, 1_800, 7_200)
MAX_ATTEMPTS = len(PAUSES_SECONDS) + 1
MAX_PROBLEM_CHARACTERS = 300


def check_url(url: str) -> None:
    """Raises InvalidInput for an address that no callback can go to."""
    if not settings.CALLBACK_SECRET:
        raise InvalidInput("callback_url: this installation cannot sign callbacks; its staff must set CALLBACK_SECRET")
    outbound.check_url(url, "callback_url")


def owe(run: AgentRun) -> None:
    """Has a run that has just ended delivered, if its caller wants that. Belongs into the transaction that ends it."""
    if run.callback_url and run.status in AgentRun.FINAL:
        queue.enqueue("agents.tasks.deliver_callback", str(Callback.objects.create(run=run).pk))


def due() -> Q:
    return Q(state="waiting", next_at__lte=timezone.now())


def deliver(callback_id: str) -> bool:
    """Makes one try; False if another worker makes it, or none is due."""
    rows = Callback.objects.all()
    fence = queue.claim(rows, callback_id, waiting=due(), attempts=F("attempts") + 1)
    if fence is None:
        return False
    callback = rows.select_related("run__agent").get(pk=callback_id)
    status, problem = _post(callback)
    columns = _outcome(callback, status, problem)
    try:
        with transaction.atomic():
            queue.write_fenced(rows, callback.pk, fence, status=status, **columns, **queue.end_lease())
            _show(callback.run)
    except queue.LostLease:
        return False
    return True


def _post(callback: Callback) -> tuple[int | None, str]:
    """The answer's status, and what is wrong with it; "" if it was taken."""
    if callback.attempts > MAX_ATTEMPTS:
        return None, "the workers that tried to deliver it died"
    body = _body(callback.run)
    try:
        url = callback.run.callback_url
        status = background_loop().submit(outbound.post(url, body, _headers(callback, body))).result()
    except outbound.NotReached as error:
        return None, str(error)[:MAX_PROBLEM_CHARACTERS]
    if 300 <= status < 400:
        return status, f"answered {status}, and redirects are not followed"
    return status, "" if status < 300 else f"answered {status}"


def _body(run: AgentRun) -> bytes:
    from agents.shapes import RunSerializer

    return bytes(JSONRenderer().render(RunSerializer(run).data))


def _headers(callback: Callback, body: bytes) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "user-agent": "ziggie",
        "x-ziggie-event": "run.finished",
        "x-ziggie-delivery": str(callback.pk),
        "x-ziggie-signature": signature(body, at=int(time.time())),
    }


def signature(body: bytes, *, at: int) -> str:
    """`t=UNIX,v1=HEX`: HMAC-SHA256 of "UNIX." and the body, by CALLBACK_SECRET."""
    digest = hmac.new(settings.CALLBACK_SECRET.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _outcome(callback: Callback, status: int | None, problem: str) -> dict[str, Any]:
    now = timezone.now()
    if not problem:
        return {"state": "delivered", "problem": "", "next_at": None, "delivered_at": now}
    if callback.attempts >= MAX_ATTEMPTS:
        return {"state": "failed", "problem": problem, "next_at": None}
    pause = timedelta(seconds=PAUSES_SECONDS[callback.attempts - 1])
    return {"state": "waiting", "problem": problem, "next_at": now + pause}


def _show(run: AgentRun) -> None:
    """Tells open pages to look at the run again."""
    AgentRun.objects.filter(pk=run.pk).update(version=F("version") + 1)
    run.refresh_from_db(fields=["version"])
    announce(run)
