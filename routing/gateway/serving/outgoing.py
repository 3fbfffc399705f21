"""The way out of a connection with a client: what is written goes out together, is bounded, and is heard to its end."""

import asyncio
from typing import cast

from routing.gateway.exchange import http as limits
from routing.gateway.exchange.outlet import outlet
from routing.gateway.exchange.sockets import drop_at_close, untaken

LINGER_SECONDS = 1.0  # for a client that still sends when it has its answer


class Outgoing(asyncio.Protocol):
    """What a connection writes. A client that takes next to nothing of it is left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outlet = outlet()
        self._transport: asyncio.Transport
        self._unsent: list[bytes] = []
        self._room: asyncio.Future[None] | None = None  # while the client reads too slowly
        self._untaken = 0  # bytes, when it was last looked at
        self._taking_timer: asyncio.TimerHandle | None = None
        self._has_parted = False  # nothing more is said

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @property
    def room(self) -> "asyncio.Future[None] | None":
        """To be waited for before more is written."""
        return self._room

    def write(self, data: bytes) -> None:
        if not (self._has_parted or self._transport.is_closing()):
            if self._room is not None:
                self._untaken += len(data)
            self._transport.write(data)

    def write_soon(self, data: bytes) -> None:
        """Together with what else is written before the event loop turns: what came together goes out together."""
        if not self._unsent:
            self._outlet.soon(self._flush)
        self._unsent.append(data)

    def leave(self) -> None:
        """Ends the connection at once, and lets go what the client has not taken: else the system keeps offering it."""
        drop_at_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def make_room(self) -> None:
        """Ends the connection, on which nothing is asked, for one that may be of more use."""
        self._close()

    def _flush(self) -> None:
        if self._unsent:
            self.write(b"".join(self._unsent))
            self._unsent.clear()

    def _close(self) -> None:
        self._transport.close()
        self._watch_taking()

    def _part(self) -> None:
        """The end, for a client that may still send: where all is closed at once, what it has not read yet is lost."""
        if self._has_parted or self._transport.is_closing():
            return
        self._flush()
        self._has_parted = True
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._close)

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # --- whether the client takes what waits for it ---

    def _watch_taking(self) -> None:
        """A transport that closes would wait for ever."""
        if self._taking_timer is None and self._transport.get_write_buffer_size():
            self._untaken = self._not_taken()
            self._taking_timer = self._loop.call_later(limits.SEND_SECONDS, self._look_whether_taken)

    def _look_whether_taken(self) -> None:
        self._taking_timer = None
        if self._untaken - self._not_taken() >= limits.SEND_BYTES:
            self._watch_taking()
        else:
            self.leave()

    def _forget_taking(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None

    def _not_taken(self) -> int:
        """Bytes, in the transport and in the system."""
        return self._transport.get_write_buffer_size() + untaken(self._transport.get_extra_info("socket"))
