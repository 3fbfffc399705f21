"""The bundled sample video: what a newcomer sees analysed first."""

from pathlib import Path

from knowledge.models import Video
from knowledge.transcripts import parse
from knowledge.videos import NewVideo, add_video

FILE = Path(__file__).parent / "samples" / "talk.vtt"
CREATOR = "instasd"
EXTERNAL_ID = "sample"


def ensure_sample_queued() -> Video | None:
    """Queues the sample once in the life of a database; None if it was taken in before."""
    if Video.objects.filter(creator__slug=CREATOR, external_id=EXTERNAL_ID).exists():
        return None
    new = NewVideo(
        creator=CREATOR,
        title="Game sprites with ComfyUI, from sketch to sheet",
        external_id=EXTERNAL_ID,
        language="en",
    )
    video, _ = add_video(new, parse(FILE.read_bytes(), name=FILE.name))
    return video
