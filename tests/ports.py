"""Ports for servers that have to be told where to listen."""

import random
import socket

# Below what kernels give to those who ask for any port: between the look and its use, nobody else is given one of
# them, whatever else the tests start meanwhile.
FIRST, LAST = 15_000, 32_000
_chance = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, another one each time."""
    while True:
        port = _chance.randint(FIRST, LAST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
