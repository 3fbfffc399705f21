"""Taking videos in and asking for their analysis. Every change of a video that pages show goes through here."""

import hashlib
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator, validate_slug
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from knowledge.models import TIERS, AnalysisPart, Creator, Video, VideoTranscript
from knowledge.transcripts import Transcript
from routing.models import RoutedCall
from routing.planning.pricing import usd
from routing.reporting.owners import Owner
from ziggie import live, queue
from ziggie.errors import Conflict, InvalidInput, is_storable

WAITING = ("new", "no_transcript", "blocked", "needs_review", "analysed", "failed")


@dataclass(frozen=True, slots=True)
class NewVideo:
    """What a caller says of a video. `creator` is a slug; an unknown one becomes a creator of medium tier."""

    creator: str
    title: str
    external_id: str = ""
    url: str = ""
    priority: str = ""
    language: str = ""


def add_video(new: NewVideo, transcript: Transcript | None, *, wake_worker: bool = True) -> tuple[Video, bool]:
    """The video's row and whether it is new. Raises InvalidInput; nothing is stored then.

    The same external id of the same creator is the same video: a changed transcript starts a new
    analysis, an equal one changes nothing.
    """
    _check(new)
    with transaction.atomic():
        creator, _ = Creator.objects.get_or_create(slug=new.creator, defaults={"name": new.creator})
        video, created = _find_or_create(creator, new)
        if transcript is not None and store_transcript(video, transcript):
            request_analysis(video, wake_worker=wake_worker)
    return video, created


def _check(new: NewVideo) -> None:
    _check_texts(new)
    if new.priority and new.priority not in TIERS:
        raise InvalidInput(f"priority: {new.priority!r} is none of {', '.join(TIERS)}")
    try:
        validate_slug(new.creator)
    except ValidationError as error:
        raise InvalidInput(f"creator: {new.creator!r} is not a slug: use letters, digits, - and _ only") from error
    if new.url:
        try:
            URLValidator(schemes=["http", "https"])(new.url)
        except ValidationError as error:
            raise InvalidInput("url: must be a full address that begins with http:// or https://") from error


def _check_texts(new: NewVideo) -> None:
    if not new.title.strip():
        raise InvalidInput("title: must not be empty")
    limits = {"creator": 100, "title": 300, "external_id": 100, "url": 500, "language": 20}
    for field, limit in limits.items():
        value = getattr(new, field)
        if len(value) > limit:
            raise InvalidInput(f"{field}: is longer than {limit} characters")
        if not is_storable(value):
            raise InvalidInput(f"{field}: holds a NUL character or half a surrogate pair")


def _find_or_create(creator: Creator, new: NewVideo) -> tuple[Video, bool]:
    columns: dict[str, Any] = {
        "title": new.title.strip(),
        "url": new.url,
        "priority": new.priority,
        "language": new.language,
    }
    if not new.external_id:
        return Video.objects.create(creator=creator, **columns), True
    video, created = Video.objects.get_or_create(creator=creator, external_id=new.external_id, defaults=columns)
    if not created:
        changes = {name: value for name, value in columns.items() if value}
        Video.objects.filter(pk=video.pk).update(**changes)
        video.refresh_from_db()
    return video, created


def store_transcript(video: Video, transcript: Transcript) -> bool:
    """Keeps a video's transcript; False if it is the one that is there already."""
    segments = transcript.to_json()
    digest = hashlib.sha256(transcript.text.encode()).hexdigest()
    if VideoTranscript.objects.filter(video=video, sha256=digest).exists():
        return False
    VideoTranscript.objects.update_or_create(
        video=video,
        defaults={
            "format": transcript.format,
            "sha256": digest,
            "segments": segments,
            "characters": transcript.characters,
            "duration_seconds": transcript.duration_seconds or 0,
            "created_at": timezone.now(),
        },
    )
    return True


def request_analysis(video: Video, *, on_cloud: bool = False, wake_worker: bool = True) -> None:
    """Queues an analysis; `on_cloud` by what critical work gets. Raises Conflict while one is under way,
    InvalidInput without a transcript."""
    if not VideoTranscript.objects.filter(video=video).exists():
        raise InvalidInput("this video has no transcript yet: send one first")
    with transaction.atomic():
        queued = Video.objects.filter(pk=video.pk, state__in=WAITING, lease_until__isnull=True).update(
            state="queued",
            progress=0,
            step="waiting for a worker",
            error="",
            tries=0,
            on_cloud=on_cloud,
            at_once=False,
            round=F("round") + 1,
            version=F("version") + 1,
            queued_at=timezone.now(),
            finished_at=None,
        )
        if not queued:
            raise Conflict("this video is being analysed already; wait until it is done")
        video.refresh_from_db()
        announce(video)
        if wake_worker:
            queue.enqueue("knowledge.tasks.analyse_video", str(video.pk))


def announce(video: Video) -> None:
    """Tells open pages what a video's row says now."""
    analysis = video.newest_analysis() if video.state in ("analysed", "needs_review") else None
    live.publish(
        ["videos", f"video:{video.pk}"],
        "video.changed",
        version=video.version,
        data={
            "video_id": str(video.pk),
            "title": video.title,
            "creator": video.creator.slug,
            "state": video.state,
            "progress": video.progress,
            "step": video.step,
            "error": video.error,
            "model": analysis.model if analysis else "",
            "source": analysis.source if analysis else "",
            "cost_usd": usd(analysis.cost_microusd) if analysis else None,
            "saved_usd": usd(analysis.saved_microusd) if analysis else None,
            "seconds": analysis.seconds if analysis else None,
            "confidence": analysis.confidence if analysis else None,
        },
    )


def owner_of(call: RoutedCall) -> Owner | None:
    """The video that a call was made for."""
    part = AnalysisPart.objects.filter(call_id=call.pk).select_related("video").first()
    return Owner("video", part.video.title, part.video.get_absolute_url()) if part else None
