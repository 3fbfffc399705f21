"""What a routed call was made for, as a page that can be gone to. Apps above this one say so themselves."""

from collections.abc import Callable
from dataclasses import dataclass

from routing.models import RoutedCall


@dataclass(frozen=True, slots=True)
class Owner:
    """`kind` is "run" or "video"."""

    kind: str
    name: str
    url: str


Finder = Callable[[RoutedCall], Owner | None]
_finders: list[Finder] = []


def register(finder: Finder) -> None:
    """Called once by an app that makes calls, when it is ready."""
    _finders.append(finder)


def owners_of(call: RoutedCall) -> list[Owner]:
    return [owner for finder in _finders if (owner := finder(call)) is not None]
