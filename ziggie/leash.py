"""Runs one command on a leash: when whoever started us is gone, nothing that it started stays behind.

    python -I -S leash.py COMMAND ARGUMENT...      with stdin a pipe whose other end the starter holds

SIGTERM is passed on to the command alone, which may take its time. When the pipe ends (the starter
closed it, or died, however it died), or when the command ends, every process below is killed, also those
that left its process group. Exits with the command's exit code. Only the standard library is loaded.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILL_SECONDS = 5.0


def main(command: list[str]) -> int:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans below become our children instead of init's
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        close_fds=False,  # what the starter passed on is for the command
        preexec_fn=_die_with_leash,  # noqa: PLW1509  # this process has one thread
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: child.send_signal(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    with selectors.DefaultSelector() as selector:
        leash = selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        selector.register(reader, selectors.EVENT_READ)
        while child.poll() is None:
            ready = {key for key, _events in selector.select(timeout=1.0)}
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 512)
            if leash in ready:
                break
    kill_all_below(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


def kill_all_below(child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is None:
            child.kill()
        below = _descendants(os.getpid())
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap_orphans(child)
        if child.returncode is not None and not below:
            break
        time.sleep(0.01)
    if not sys.platform.startswith("linux"):  # no list of processes to read there: the group must do
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)


def _descendants(ancestor: int) -> set[int]:
    """The living processes below `ancestor`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything; state and parent follow the last one.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    below: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in below | {ancestor}} - below:
        below |= more
    return below


def _reap_orphans(child: "subprocess.Popen[bytes]") -> None:
    child.poll()
    if child.returncode is None:
        return  # it would be reaped here, and its exit code lost
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _die_with_leash() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
