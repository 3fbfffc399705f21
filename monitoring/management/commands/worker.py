"""`manage.py worker`: takes up what a dead worker left behind, then works."""

from typing import Any

from django.core.management import call_command

from monitoring import schedules, tasks
from ziggie import queue
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Runs queued work until it is stopped (WORKERS processes)."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        schedules.ensure()
        tasks.sweep()
        queue.enqueue(tasks.check_providers)  # the schedule's first turn would leave pages without news for a minute
        call_command("qcluster")
