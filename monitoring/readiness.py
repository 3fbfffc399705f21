"""Whether the parts that a request needs answer now. Never raises; each answer is "ok" or a reason."""

import logging
from collections.abc import Callable

from django.db import connection

from ziggie import live, queue

logger = logging.getLogger(__name__)


def check_all() -> dict[str, str]:
    return {name: _state(check) for name, check in CHECKS.items()}


def _state(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception:  # a broken part must show as broken, whatever it raises
        logger.warning("not ready: %s", check.__name__, exc_info=True)
        return "does not answer"
    return "ok"


def _database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _queue() -> None:
    queue.pending()


def _live() -> None:
    live.probe()


CHECKS: dict[str, Callable[[], None]] = {"database": _database, "queue": _queue, "live": _live}
