"""What workers run on a schedule."""

import agents.tasks
import knowledge.tasks
import routing.tasks


def sweep() -> None:
    """Hands on what dead workers left behind, and closes the books on calls that nobody ended."""
    routing.tasks.sweep()
    knowledge.tasks.sweep()
    agents.tasks.sweep()


def check_providers() -> None:
    routing.tasks.check_providers()


def keep_house() -> None:
    routing.tasks.keep_house()
