"""What workers run for agents."""

from django.db.models import Q

from agents import runner
from agents.models import AgentRun
from ziggie import queue


def execute_run(run_id: str) -> None:
    runner.execute(run_id)


def sweep() -> int:
    """Wakes a worker for each run that waits with nobody coming for it, or whose worker is gone."""
    return queue.wake_forgotten(AgentRun.objects.all(), Q(status="queued"), execute_run)
