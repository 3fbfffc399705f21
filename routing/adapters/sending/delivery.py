"""Whether a request has begun to go out to its provider, and what that has counted of it. What never did has cost
nothing, however it ended.

Whoever makes an attempt says so with `watched`; whoever hands bytes to a socket or reads a stream marks it. Between the
two are codecs, connections and a provider's own package, none of which has to know.
"""

from contextvars import ContextVar

from msgspec import Struct

from routing.types import Usage


class Delivery(Struct):
    """Of the requests of one attempt. Those that were only to be sent do not count. `usage` is what the provider
    has told of a stream by the time that it ended, however it did."""

    has_begun: bool = False
    usage: Usage | None = None


_watched: ContextVar[Delivery | None] = ContextVar("delivery", default=None)
under_way = _watched.get  # the attempt's that the running task makes, if one is watched


def begun() -> None:
    """For an attempt that sends nothing, or whose request was sent before it began."""
    delivery = under_way()
    if delivery is not None:
        delivery.has_begun = True


def not_begun() -> None:
    """What went out was lost before the provider saw it."""
    delivery = under_way()
    if delivery is not None:
        delivery.has_begun = False


def counted(usage: Usage | None) -> None:
    """What a stream has told, for who ends before it does: some providers count the prompt first."""
    delivery = under_way()
    if delivery is not None:
        delivery.usage = usage


def watched() -> Delivery:
    """That of an attempt which begins now, in this task."""
    delivery = Delivery()
    _watched.set(delivery)
    return delivery
