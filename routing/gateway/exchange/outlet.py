"""Writes to sockets, held back until the event loop has run all that is ready.

A write wakes the process at the other end, which may take the processor from this one. Written one after the other at
the end of a turn, the answers of many calls wake it once, and each of them waits for no more than the turn.
"""

import asyncio
import logging
from collections.abc import Callable

from routing.loops import OfLoop

logger = logging.getLogger(__name__)


class Outlet:
    """Of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Callable[[], None]] = []

    def soon(self, write: Callable[[], None]) -> None:
        """`write` is called before the loop waits for anything again, in the order of asking."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(write)

    def then(self, work: Callable[[], None]) -> None:
        """`work` is called once what was to be written has been."""
        self._loop.call_soon(work)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            try:
                write()
            except Exception:  # the others' answers must go out all the same
                logger.exception("writing to a socket failed")


outlet = OfLoop(Outlet).get
