"""What people say of a run's answer."""

from django.db import transaction
from django.db.models import F

from agents.announcing import announce
from agents.models import AgentRun
from routing import service
from routing.models import ReviewedOutcome
from routing.records.reviews import Said
from ziggie.errors import Conflict


def review_of(run: AgentRun) -> ReviewedOutcome | None:
    return service.newest_review([run.call_id])


def say(run: AgentRun, said: Said) -> None:
    """What the review form of the page says. Raises Conflict, NotFound, InvalidInput."""
    if said.good is None:
        withdraw_review(run)
    else:
        review_run(run, good=said.good, note=said.note, by=said.by)


def review_run(run: AgentRun, *, good: bool, note: str = "", by: str = "") -> None:
    """Keeps what is said of the run's answer. Raises Conflict, NotFound, InvalidInput."""
    if run.status != "completed":
        raise Conflict("this run has no answer to review")
    with transaction.atomic():
        service.review(run.call_id, good=good, note=note, by=by)
        _show(run)


def withdraw_review(run: AgentRun) -> None:
    """Raises Conflict if nothing was said."""
    with transaction.atomic():
        if not service.withdraw([run.call_id]):
            raise Conflict("nothing was said of this run")
        _show(run)


def _show(run: AgentRun) -> None:
    AgentRun.objects.filter(pk=run.pk).update(version=F("version") + 1)
    run.refresh_from_db()
    announce(run)
