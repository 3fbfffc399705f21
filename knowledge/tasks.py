"""What workers run for the knowledge base."""

from django.db.models import Q

from knowledge import analysis, waiting
from ziggie import queue


def analyse_video(video_id: str) -> None:
    analysis.analyse(video_id)


def sweep() -> int:
    """Wakes a worker for each video that waits with nobody coming for it, or whose worker is gone."""
    return queue.wake_forgotten(waiting.sweepable(), Q(state="queued"), analyse_video)
