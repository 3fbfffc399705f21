"""Whether a client that sends no more has gone, or waits for its answer.

On the wire the two look alike until something is written: the system of who has gone answers that nobody is there.
By RFC 9112 (section 9.6) the end of what a client sends does not mean that it wants no answer.
"""

import asyncio
from collections.abc import Callable

from routing.gateway.sockets import Socket, was_reset

FIRST_LOOK_SECONDS = 1.0  # most answers are out by then
LONGEST_SECONDS = 16.0  # between two looks
# What says nothing: before an answer, and within a stream of server-sent events.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT = b":\n\n"


class Watch:
    """Asks again and again, less and less often, until it is stopped or the client has gone."""

    def __init__(self, client: Socket, *, knock: Callable[[], None], leave: Callable[[], None]) -> None:
        """`knock` writes what says nothing; `leave` is called once, when nobody is there any more."""
        self._client = client
        self._knock = knock
        self._leave = leave
        self._seconds = FIRST_LOOK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if was_reset(self._client):
            self._leave()
            return
        self._knock()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)
        self._seconds = min(2 * self._seconds, LONGEST_SECONDS)
