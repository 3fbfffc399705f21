"""A redis-server of our own on a free port, without persistence."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_port


@contextlib.contextmanager
def running_redis(port: int = 0) -> Iterator[str]:
    """Starts the server, yields its address, stops it by its process. Skips where redis is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server")
    port = port or free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"redis-server does not answer on port {port}")
