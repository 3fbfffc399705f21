"""What the operating system knows of a client: what it has not taken yet, and whether it is there."""

import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Protocol

AT_ONCE = struct.pack("ii", 1, 0)


class Socket(Protocol):
    """A socket, or what an event loop gives out in its place."""

    def fileno(self) -> int: ...

    def getsockopt(self, level: int, name: int, /) -> int: ...

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None: ...


def untaken(client: Socket) -> int:
    """Bytes that the client's system has not acknowledged; 0 where this system does not tell. Without them a slow
    client would seem to take nothing for as long as a third of these buffers lasts, which are megabytes."""
    with suppress(OSError, ValueError):
        (count,) = struct.unpack("i", fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(count)
    return 0


def was_reset(client: Socket) -> bool:
    """Whether the client's system has said that nobody is there. Who only writes hears that with the next write."""
    try:
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return True


def drop_at_close(client: Socket) -> None:
    """What was written and not taken is let go when the socket is closed: else the system keeps offering it."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
