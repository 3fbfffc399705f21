"""`manage.py worker`: takes up what a dead worker left behind, then works."""

from typing import Any

from django.core.management import call_command

from monitoring import schedules, tasks
from ziggie.commands import ZiggieCommand


class Command(ZiggieCommand):
    help = "Runs queued work until it is stopped (WORKERS processes)."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        schedules.ensure()
        tasks.sweep()
        call_command("qcluster")
