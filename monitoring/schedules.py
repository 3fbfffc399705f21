"""The scheduled tasks, as rows of django-q. One literal table; `ensure` makes the rows match it."""

from django_q.models import Schedule

# What runs, and after how many minutes again.
SCHEDULES = {
    "sweep": ("monitoring.tasks.sweep", 1),
    "check providers": ("monitoring.tasks.check_providers", 1),
    "keep house": ("monitoring.tasks.keep_house", 60),
}


def ensure() -> None:
    """Adds what is missing. Staff may change a schedule's times in the admin; they are left alone."""
    for name, (task, minutes) in SCHEDULES.items():
        Schedule.objects.get_or_create(
            name=name, defaults={"func": task, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
