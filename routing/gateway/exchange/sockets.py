"""What the operating system knows of a client: what it has not taken yet, and whether it is there."""

import fcntl
import resource
import socket
import struct
import termios
from contextlib import suppress
from typing import Protocol, overload

MOST_FILES = 65_536
AT_ONCE = struct.pack("ii", 1, 0)
ACKED_AT = 120  # tcpi_bytes_acked in Linux's tcp_info


class Socket(Protocol):
    """A socket, or what an event loop gives out in its place."""

    def fileno(self) -> int: ...

    @overload
    def getsockopt(self, level: int, name: int, /) -> int: ...

    @overload
    def getsockopt(self, level: int, name: int, length: int, /) -> bytes: ...

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None: ...


def allow_many() -> None:
    """Raises this process's limit of open sockets as far as its system lets it, up to MOST_FILES. Most systems begin
    with 1,024, of which a stream takes two, and a client that only connects one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # it serves fewer clients then
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_files() -> int:
    """How many files and sockets this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def untaken(client: Socket) -> int:
    """Bytes that the client's system has not acknowledged; 0 where this system does not tell. Without them a slow
    client would seem to take nothing for as long as a third of these buffers lasts, which are megabytes."""
    with suppress(OSError, ValueError):
        (count,) = struct.unpack("i", fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(count)
    return 0


def taken(server: Socket) -> int:
    """Bytes that the other's system has acknowledged since the connection began; 0 where this system does not tell.
    What waits behind TLS cannot be counted otherwise: its transport has handed on all that it was given."""
    with suppress(OSError, AttributeError, struct.error):
        told = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED_AT + 8)
        return int(struct.unpack_from("=Q", told, ACKED_AT)[0])
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
