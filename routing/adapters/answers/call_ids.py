"""Ids for calls of tools that came without one."""

from routing.adapters.base import WireRequest
from routing.adapters.reading.wire import digest, dumps, protocol_error

_MOST_CALLS = 1_000  # in one answer


class CallIds:
    """Those of one answer. No other call of the conversation has one of them, were it the same call once more, since
    they stand for the turns before it; and the same answer read again gives them again."""

    def __init__(self, sent: WireRequest) -> None:
        self._sent = sent
        self._before = ""  # stands for the turns, which may hold images: worked out once, and only where it is needed

    def of(self, number: int) -> str:
        if not self._before:
            body = self._sent.body or {}
            turns = body.get("messages") or body.get("contents") or ()
            self._before = digest(dumps({"turns": turns[-2:], "all": len(turns)}).decode())
        return f"call_{digest(f'{number} {self._before}')[:16]}"


def refuse_too_many(before: int) -> None:
    """Raises ProviderError("protocol") for one more call behind `before` others, if nobody can want so many."""
    if before >= _MOST_CALLS:
        raise protocol_error(f"the answer calls more than {_MOST_CALLS} tools")
