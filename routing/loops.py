"""What every event loop of a process has one of: connections, lanes, what was seen last."""

import asyncio
import os
from collections.abc import Callable
from threading import get_ident
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")


class OfLoop(Generic[T]):
    """Made for a loop when it first asks, forgotten with it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()
        # Most processes have one loop that asks. asyncio.get_running_loop() costs a system call (Python 3.11 looks
        # whether the process was forked), so a loop that runs and has asked from this thread is taken to be the
        # one: no loop here ever moves to another thread.
        self._last: tuple[int, asyncio.AbstractEventLoop, T] | None = None
        _all.add(self)

    def get(self) -> T:
        """The running loop's."""
        last, thread = self._last, get_ident()
        if last is not None and last[0] == thread and last[1].is_running():
            return last[2]
        loop = asyncio.get_running_loop()
        made = self._made.get(loop)
        if made is None:
            made = self._made[loop] = self._make()
        self._last = thread, loop, made
        return made

    def forget_last(self) -> None:
        self._last = None

    def all(self) -> list[T]:
        return list(self._made.values())

    def pop(self) -> T | None:
        """The running loop's, which has none from now on; None if it had none."""
        self._last = None
        return self._made.pop(asyncio.get_running_loop(), None)


_all: WeakSet[OfLoop[Any]] = WeakSet()


def look_away(done: "asyncio.Future[Any]") -> None:
    """To be called when work is done for which nobody waits, and whose failure is no news: whoever needs what it was to
    bring fails by that."""
    if not done.cancelled():
        done.exception()


def _forget_after_fork() -> None:
    """In a child its parent's loop still looks as if it ran."""
    for made in list(_all):
        made.forget_last()


os.register_at_fork(after_in_child=_forget_after_fork)
