"""Who waits for a window or a batch, as pages that can be gone to. Apps above this one say so themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """`kind` is "run" or "video"; `url` its page, where it can be hurried."""

    kind: str
    name: str
    url: str
    since: datetime
    reason: str


Finder = Callable[[int], list[Waiting]]
_finders: list[Finder] = []


def register(finder: Finder) -> None:
    """Called once by an app whose work waits, when it is ready. The finder gives the oldest, so many at most."""
    _finders.append(finder)


def waiting_work(limit: int) -> list[Waiting]:
    """The oldest of all of them, so many at most."""
    found = [each for finder in _finders for each in finder(limit)]
    return sorted(found, key=lambda each: each.since)[:limit]
