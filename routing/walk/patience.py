"""How long an attempt may be silent while somebody else could serve instead. Decides by the clock it is given."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from routing.types import ChatRequest, Delta

SILENCE_SECONDS = 20.0  # within an answer; a rule that grants more to a first token grants it here, too
RENEWALS = 20  # within that time: not with each of a thousand pieces


@dataclass(slots=True)
class Patience:
    """Over an answer that nobody has seen yet: its first piece must come in time, and no silence after a piece of
    text may be long. What a client has seen is waited for to the end, as nobody else may answer any more."""

    limit: asyncio.Timeout
    hard_stop: float | None  # on the event loop's clock
    silence_seconds: float | None
    _renewed: float = float("-inf")

    @classmethod
    def of(
        cls, limit: asyncio.Timeout, request: ChatRequest, *, hard_stop: float | None, first_token: float
    ) -> "Patience":
        # Servers may hold tool calls back until they are whole.
        return cls(limit, hard_stop, None if request.tools else max(first_token, SILENCE_SECONDS))

    def heard(self, piece: Delta, now: float, *, first: bool, is_seen: bool) -> None:
        """A model may think in silence after it has said that it thinks: only text has to go on."""
        until = self.hard_stop
        if self.silence_seconds is not None and piece.text and not is_seen:
            if now - self._renewed < self.silence_seconds / RENEWALS:
                return
            self._renewed = now
            quiet_until = now + self.silence_seconds
            until = quiet_until if until is None else min(until, quiet_until)
        elif not first:
            return
        self.limit.reschedule(until)


def waited_for_reader(kept_waiting: Callable[[], float] | None, seconds: float) -> bool:
    """Whether an answer that was asked for so long ago has waited for its reader for most of that time."""
    return kept_waiting is not None and kept_waiting() > seconds / 2
