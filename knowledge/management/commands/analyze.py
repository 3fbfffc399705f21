"""`manage.py analyze FILE`: a transcript becomes insights, through the router."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.urls import reverse

from knowledge import analysis
from knowledge.models import TIERS, Video
from knowledge.serializers import analysis_body
from knowledge.transcripts import MAX_BYTES, Transcript, parse
from knowledge.videos import NewVideo, add_video
from ziggie.commands import ZiggieCommand
from ziggie.errors import InvalidInput, NotFound, ZiggieError

DEFAULT_CREATOR = "inbox"


class Command(ZiggieCommand):
    help = "Analyses a transcript (.vtt .srt .json3 .json .txt) and prints its insights, source, cost and saving."
    offers_json = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--creator", default=DEFAULT_CREATOR, metavar="SLUG", help="A new one is made.")
        parser.add_argument("--priority", default="", choices=TIERS, metavar="TIER", help=", ".join(TIERS))
        parser.add_argument("--title", default="")

    def handle(self, **options: Any) -> None:
        transcript = read_transcript(options["file"])
        new = NewVideo(
            creator=options["creator"],
            title=options["title"] or options["file"].stem,
            priority=options["priority"],
        )
        video, _ = add_video(new, transcript, wake_worker=False)
        self.stderr.write(f"Analysing {video.title!r} ({transcript.characters} characters) …")
        analysis.analyse(str(video.pk), at_once=True)
        video = Video.objects.select_related("creator").get(pk=video.pk)
        if video.state == "failed":
            raise ZiggieError(f"{options['file']}: the analysis failed: {video.error}")
        body = analysis_body(video)
        self.emit(body, report(body))


def read_transcript(path: Path) -> Transcript:
    """The transcript in a file. Raises InvalidInput naming file and line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # a device or a pipe has no size to be asked for
        return parse(data, name=path.name)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error


def report(body: dict[str, Any]) -> str:
    """An analysis for people at a terminal."""
    insights = body["insights"]
    lines = [body["title"], "", insights["summary"], "", "Key points"]
    lines += [f"  {_stamp(point['start_seconds'])}  {point['text']}" for point in insights["key_points"]]
    for name in ("workflow_steps", "tools", "settings", "topics"):
        if insights[name]:
            lines += ["", name.replace("_", " ").capitalize(), *(f"  - {text}" for text in insights[name])]
    lines += [
        "",
        f"Technical level {insights['technical_level']}, confidence {insights['confidence']:g} %, {body['state']}",
        f"By {body['model']} ({body['source']}) in {body['seconds']:.1f} s for ${body['cost_usd']}, "
        f"saved ${body['saved_usd']}",
        "Attempts: " + ", ".join(f"{attempt['model']} {attempt['outcome']}" for attempt in body["attempts"]),
        f"Page: {reverse('video', args=[body['video_id']])}",
    ]
    return "\n".join(lines)


def _stamp(seconds: float | None) -> str:
    if seconds is None:
        return "   -   "
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
