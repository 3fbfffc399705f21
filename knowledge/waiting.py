"""Analyses that may wait, where the routing rule says so: for the rule's window, or for a provider's batch.

A part that is handed in bears the id of its waiting work as its call id, until its answer is there.
"""

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet

from knowledge.models import WAITS, AnalysisPart, Video
from knowledge.videos import announce
from routing import service
from routing.batches.waiting_work import Waiting
from routing.types import ChatResult, Hints, Routed, Source, Verdict
from ziggie import queue
from ziggie.errors import Conflict, NotFound, RoutingError
from ziggie.ids import uuid7

IN_A_BATCH = "the answer of a batch"
OUT = frozenset({"queued", "ready", "sent"})
GIVEN_BACK = frozenset({"failed", "cancelled"})


def hints_of(video: Video) -> Hints:
    """What the video's analysis is routed by."""
    return Hints(task_kind="analysis", creator_tier=video.asked_tier)


def sweepable() -> QuerySet[Video]:
    """Videos without those whose batch has no answer yet: nobody needs to look at these."""
    handed_in = AnalysisPart.objects.filter(call_id__in=service.unfinished().values("pk"))
    return Video.objects.exclude(state="queued", pk__in=handed_in.values("video_id"))


def has_to_wait(video_id: str) -> bool:
    """Whether a queued video's time has not come; its page then says what it waits for."""
    video = Video.objects.select_related("creator").filter(pk=video_id, state="queued").first()
    reason = _reason(video) if video is not None else ""
    if video is None or not reason:
        return False
    queued = Video.objects.filter(pk=video.pk, state="queued", lease_until__isnull=True).exclude(step=reason)
    if queued.update(step=reason, version=F("version") + 1):
        video.refresh_from_db()
        announce(video)
    return True


def _reason(video: Video) -> str:
    if video.at_once:
        return ""
    states = _handed_in(video)
    if states & OUT:
        return video.step if video.waits else f"{WAITS} {IN_A_BATCH}"
    if states and not states & GIVEN_BACK:
        return ""
    try:
        wait = service.may_wait(service.small_request(hints_of(video)))
    except RoutingError:  # the analysis itself says so, and to whom it may concern
        return ""
    by_batch = wait is not None and wait.by_batch and not states
    return f"{WAITS} the time between {wait.window}" if wait and not wait.is_open and not by_batch else ""


def _handed_in(video: Video) -> set[str]:
    """What has become of the parts that were handed in, as far as they have no insights yet."""
    return set(service.batch_states(list(_open_parts(video).values_list("call_id", flat=True))).values())


def _open_parts(video: Video) -> QuerySet[AnalysisPart]:
    return AnalysisPart.objects.filter(video=video, round=video.round, insights__isnull=True)


def batch_for(video: Video) -> str:
    """What the video waits for if its parts are to be handed in now; "" if they are not. Raises NoRoute and its
    kind."""
    if video.at_once or _handed_in(video):
        return ""
    wait = service.may_wait(service.small_request(hints_of(video)))
    if wait is None or not wait.by_batch:
        return ""
    return f"{WAITS} {IN_A_BATCH}" if wait.is_open else f"{WAITS} the time between {wait.window}, then {IN_A_BATCH}"


def is_out(video: Video) -> bool:
    """Whether a provider has parts of it in a batch, and may answer them whoever waits."""
    return "sent" in _handed_in(video)


def answer_of(part: AnalysisPart, judge: Callable[[ChatResult], Verdict], *, least_confidence: float) -> Routed | None:
    """What a batch answered to the part; None if it was never handed in, or if the answer is of no use: then the
    part has a new call id, to be asked at once."""
    try:
        result = service.batch_result(part.call_id)
    except NotFound:
        return None
    routed = result.routed
    if routed is not None and _is_good(routed, judge(routed.result), least_confidence):
        part.call_id = UUID(routed.call_id)
    else:
        part.call_id, routed = uuid7(), None
    part.save(update_fields=["call_id"])
    return routed


def _is_good(routed: Routed, verdict: Verdict, least_confidence: float) -> bool:
    """What a local model is too unsure of is asked for again: the walk through the rule then turns to the cloud."""
    sure = verdict.confidence is None or verdict.confidence >= least_confidence
    return verdict.ok and (sure or routed.source != Source.LOCAL)


# --- taking back -----------------------------------------------------------------------------------


def hurry(video: Video) -> None:
    """Has a video that waits for its window or its batch analysed now, at the plain price. Raises Conflict."""
    with transaction.atomic():
        video = Video.objects.select_for_update(of=("self",)).select_related("creator").get(pk=video.pk)
        if not video.waits or video.lease_until is not None:
            raise Conflict("this video waits for no window and no batch")
        for call_id in _open_parts(video).values_list("call_id", flat=True):
            with suppress(NotFound, Conflict):  # it was never handed in, or is answered already
                service.cancel_batch(call_id)
        Video.objects.filter(pk=video.pk).update(at_once=True, step="waiting for a worker", version=F("version") + 1)
        video.refresh_from_db()
        announce(video)
        queue.enqueue("knowledge.tasks.analyse_video", str(video.pk))


# --- what waits, for the page ----------------------------------------------------------------------


def waiting(limit: int) -> list[Waiting]:
    """The queued videos that wait for a window or a batch, the oldest first."""
    videos = Video.objects.filter(state="queued", step__startswith=WAITS).order_by("queued_at")[:limit]
    return [
        Waiting(
            kind="video",
            name=video.title,
            url=video.get_absolute_url(),
            since=video.queued_at or video.created_at,
            reason=video.step,
        )
        for video in videos
    ]
