"""What people say of analyses: right, wrong, or to be done again by what critical work gets."""

from typing import Any

from django.db import transaction
from django.db.models import F

from knowledge.analysis import REVIEW_BELOW
from knowledge.models import Analysis, Video
from knowledge.videos import announce, request_analysis
from routing import service
from routing.models import ReviewedOutcome, RoutedCall
from routing.records.reviews import Said
from routing.types import Hints, Source
from ziggie.errors import Conflict

DONE = ("analysed", "needs_review")


def review_of(analysis: Analysis) -> ReviewedOutcome | None:
    return service.newest_review(analysis.call_ids)


def say(video: Video, said: Said) -> None:
    """What the review form of the page says. Raises Conflict, InvalidInput."""
    if said.good is None:
        withdraw_review(video)
    else:
        review_analysis(video, good=said.good, note=said.note, by=said.by)


def review_analysis(video: Video, *, good: bool, note: str = "", by: str = "") -> None:
    """Keeps what is said of the newest analysis, for each of its calls, and with it where the video stands:
    analysed if it is right, else in need of review. Raises Conflict, InvalidInput."""
    with transaction.atomic():
        calls = RoutedCall.objects.filter(pk__in=_analysis(video).call_ids, outcome="ok").values_list("pk", flat=True)
        if not calls:
            raise Conflict("the receipts of this analysis are gone, so that nothing can be said of it")
        for call_id in calls:
            service.review(call_id, good=good, note=note, by=by)
        _put(video, "analysed" if good else "needs_review")


def withdraw_review(video: Video) -> None:
    """Takes back what was said; the video stands again where its confidence puts it. Raises Conflict."""
    with transaction.atomic():
        analysis = _analysis(video)
        if not service.withdraw(analysis.call_ids):
            raise Conflict("nothing was said of this analysis")
        _put(video, "analysed" if analysis.confidence >= REVIEW_BELOW else "needs_review")


def redo_on_cloud(video: Video, **fields: Any) -> None:
    """Queues another analysis by what critical work gets. Raises Conflict where that is no cloud model just now,
    or while an analysis is under way."""
    chosen = service.first_choice(Hints(task_kind="analysis", creator_tier="critical"))
    if chosen.source != Source.CLOUD:
        raise Conflict(f"no cloud model may serve critical work just now: {chosen.slug} would")
    request_analysis(video, on_cloud=True, **fields)


def _analysis(video: Video) -> Analysis:
    analysis = video.newest_analysis()
    if analysis is None:
        raise Conflict("this video has no analysis yet")
    return analysis


def _put(video: Video, state: str) -> None:
    if not Video.objects.filter(pk=video.pk, state__in=DONE).update(state=state, version=F("version") + 1):
        raise Conflict("this video is being analysed again; wait until it is done")
    video.refresh_from_db()
    announce(video)
