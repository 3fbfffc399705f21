"""What workers run for agents."""

from django.db.models import Q

from agents import callbacks, run_budgets, runner
from agents.models import AgentRun, Callback
from ziggie import queue


def execute_run(run_id: str) -> None:
    runner.execute(run_id)


def deliver_callback(callback_id: str) -> None:
    callbacks.deliver(callback_id)


def sweep() -> int:
    """Wakes a worker for each run that waits with nobody coming for it, or whose worker is gone; for each callback
    that is due. Closes what budgets runs left open."""
    run_budgets.close_left_open()
    queue.wake_forgotten(Callback.objects.all(), callbacks.due(), deliver_callback)
    return queue.wake_forgotten(AgentRun.objects.all(), Q(status="queued"), execute_run)
