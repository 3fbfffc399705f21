"""The scheduled tasks, as rows of django-q. One literal table; `ensure` makes the rows match it."""

from django_q.models import Schedule

EVERY_MINUTE = {
    "sweep": "monitoring.tasks.sweep",
    "check providers": "monitoring.tasks.check_providers",
}


def ensure() -> None:
    """Adds what is missing. Staff may change a schedule's times in the admin; they are left alone."""
    for name, task in EVERY_MINUTE.items():
        Schedule.objects.get_or_create(
            name=name, defaults={"func": task, "schedule_type": Schedule.MINUTES, "minutes": 1}
        )
