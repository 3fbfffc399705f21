"""Pages of the knowledge base."""

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from knowledge.models import TIERS, Creator, Video
from knowledge.reviewing import redo_on_cloud, review_of, say
from knowledge.transcripts import parse
from knowledge.videos import NewVideo, add_video, request_analysis
from knowledge.waiting import hurry, is_out
from routing.records.reviews import REVIEWING, said_in
from ziggie.errors import InvalidInput, ZiggieError
from ziggie.pages import needs, staff_page, told

PAGE_SIZE = 30


@staff_page
@require_GET
def video_list(request: HttpRequest) -> HttpResponse:
    videos = Video.objects.select_related("creator").prefetch_related("analyses").order_by("-id")
    if request.GET.get("state") in Video.STATES:
        videos = videos.filter(state=request.GET["state"])
    page = Paginator(videos, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "creators": Creator.objects.all()[:500],
        "tiers": TIERS,
        "states": Video.STATES,
        "state": request.GET.get("state", ""),
    }
    return render(request, "knowledge/list.html", context)


@staff_page
@require_GET
def video_row(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One row of the list, for a page that sits open."""
    video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
    return render(request, "knowledge/_row.html", {"video": video})


@staff_page
@require_GET
def video_page(request: HttpRequest, pk: UUID) -> HttpResponse:
    video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
    return render(request, "knowledge/video.html", _video_context(request, video))


@staff_page
@require_GET
def video_body(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The part of the video page that changes, for a page that sits open."""
    video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
    return render(request, "knowledge/_video.html", _video_context(request, video))


def _video_context(request: HttpRequest, video: Video) -> dict[str, object]:
    analysis = video.newest_analysis()
    return {
        "video": video,
        "analysis": analysis,
        "review": review_of(analysis) if analysis else None,
        "needs_review": video.state == "needs_review",
        "can_review": request.user.has_perm(REVIEWING) and video.state in ("analysed", "needs_review"),
        "transcript": getattr(video, "transcript", None),
        "in_batch": video.waits and is_out(video),
        "can_analyse": video.state not in ("queued", "analysing", "fetching"),
    }


@staff_page
@require_POST
def video_analyse(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The button on the video page."""
    video = get_object_or_404(Video, pk=pk)
    told(request, lambda: request_analysis(video))
    return redirect(video)


@staff_page
@require_POST
def video_hurry(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The button of a video that waits."""
    video = get_object_or_404(Video, pk=pk)
    told(request, lambda: hurry(video), "It is analysed now.")
    return redirect(video)


@staff_page
@needs(REVIEWING)
@require_POST
def video_review(request: HttpRequest, pk: UUID) -> HttpResponse:
    video = get_object_or_404(Video, pk=pk)
    by = request.user.get_username()
    told(request, lambda: say(video, said_in(request.POST, by=by)), "Your review is noted.")
    return redirect(video)


@staff_page
@needs(REVIEWING)
@require_POST
def video_redo(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The button that has a video analysed again on cloud."""
    video = get_object_or_404(Video, pk=pk)
    told(request, lambda: redo_on_cloud(video), "It is analysed again, by what critical work gets.")
    return redirect(video)


@staff_page
@require_POST
def video_upload(request: HttpRequest) -> HttpResponse:
    """The form on the list: a transcript file becomes a queued video."""
    upload = request.FILES.get("transcript")
    try:
        if upload is None:
            raise InvalidInput("Choose a transcript file first.")
        name = upload.name or "transcript"
        transcript = parse(upload.read(), name=name)
        new = NewVideo(
            creator=request.POST.get("creator", ""),
            title=request.POST.get("title", "").strip() or name.rsplit(".", 1)[0],
            priority=request.POST.get("priority", ""),
        )
        video, _ = add_video(new, transcript)
    except ZiggieError as error:
        messages.error(request, error.message)
        return redirect("videos")
    return redirect(video)
