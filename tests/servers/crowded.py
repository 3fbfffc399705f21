"""A server that accepts nobody, with so many at its door that a connection to it never comes to be."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

AT_THE_DOOR = 4  # the first one or two are still taken in by the system


@contextmanager
def crowded() -> Iterator[int]:
    """Its port."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(AT_THE_DOOR):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


def others_at_the_door(port: int) -> int:
    """How many of this process are trying to connect, beside those that were there from the beginning."""
    there = [c for c in psutil.Process().net_connections("tcp4") if c.raddr and c.raddr.port == port]
    return len(there) - AT_THE_DOOR
