"""What workers run for agents."""

from agents import callbacks, run_budgets, runner, waiting
from agents.models import Callback
from ziggie import queue


def execute_run(run_id: str) -> None:
    runner.execute(run_id)


def deliver_callback(callback_id: str) -> None:
    callbacks.deliver(callback_id)


def sweep() -> int:
    """Wakes a worker for each run that waits with nobody coming for it, or whose worker is gone; for each callback
    that is due. Closes what budgets runs left open, and counts what batches have cost after their runs were over."""
    run_budgets.close_left_open()
    waiting.count_late_costs()
    queue.wake_forgotten(Callback.objects.all(), callbacks.due(), deliver_callback)
    return queue.wake_forgotten(waiting.sweepable(), waiting.QUEUED, execute_run)
