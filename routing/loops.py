"""What every event loop of a process has one of: connections, lanes, what was seen last."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class OfLoop(Generic[T]):
    """Made for a loop when it first asks, forgotten with it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()
        self._last: tuple[asyncio.AbstractEventLoop, T] | None = None  # most processes have one loop that asks

    def get(self) -> T:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        made = self._made.get(loop)
        if made is None:
            made = self._made[loop] = self._make()
        self._last = loop, made
        return made

    def all(self) -> list[T]:
        return list(self._made.values())

    def pop(self) -> T | None:
        """The running loop's, which has none from now on; None if it had none."""
        self._last = None
        return self._made.pop(asyncio.get_running_loop(), None)
