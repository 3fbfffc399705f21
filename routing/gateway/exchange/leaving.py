"""Whether a client that sends no more has gone, or waits for its answer.

On the wire the two look alike until something is written: the system of who has gone answers that nobody is there.
By RFC 9112 (section 9.6) the end of what a client sends does not mean that it wants no answer. So it is written what
says nothing, or not yet: the answer's first letters, which are the same for every answer.
"""

import asyncio
from collections.abc import Callable

from routing.gateway.exchange.sockets import Socket, was_reset

FIRST_LOOK_SECONDS = 0.01
LONGEST_SECONDS = 16.0  # between two looks
COMMENT = b":\n\n"  # within a stream of server-sent events
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Prelude:
    """What may be written before an answer, and of which the answer leaves out what has been."""

    def __init__(self, version: bytes, *, may_continue: bool) -> None:
        """`version`: how every answer begins; `may_continue`: the client knows interim answers."""
        self._version = version
        self._may_continue = may_continue
        self.length = 0  # of what has been written of the answer

    def next(self) -> bytes:
        """The next letter; once all are told, an interim answer is made of them. b"" where that is not known."""
        begin = self.length
        if begin < len(self._version):
            self.length += 1
            return self._version[begin : begin + 1]
        if not self._may_continue:
            return b""
        self.length = 0
        return CONTINUE[len(self._version) :]


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
