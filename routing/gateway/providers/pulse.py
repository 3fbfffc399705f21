"""How long an event loop has listened, in beats: time in which it stood still is none."""

import asyncio

from routing.loops import OfLoop

BEAT_SECONDS = 0.25


class Pulse:
    """Of one event loop. Beats while somebody counts, and for `LASTING` beats from then on."""

    LASTING = 8

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = 0
        self.beats = 0

    def count(self) -> int:
        """The beats until now; those of the next two seconds will be counted."""
        self._asked_at = self.beats
        if self._timer is None:
            self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)
        return self.beats

    def _beat(self) -> None:
        """A loop that stood still owes many beats, and makes one: what happened meanwhile it has yet to hear."""
        self.beats += 1
        is_counted = self.beats - self._asked_at < self.LASTING
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat) if is_counted else None


pulse = OfLoop(Pulse).get
