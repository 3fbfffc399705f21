"""Runs one PostgreSQL server for as long as somebody uses it. Started by `ziggie.embedded`, never imported.

    python -I -S embedded_keeper.py SERVER_LOCK_FD USERS_LOCK SOCKET_FOLDER UID:GID POSTGRES ARGUMENT...

Users hold a shared flock on USERS_LOCK, which the kernel gives back however they die. Once this process
gets the exclusive one, nobody is left: the server is stopped and both end. A server that dies while it is
used is started again. SERVER_LOCK_FD is a held flock that the server inherits, so it stays held until the
last process of the server is gone. SOCKET_FOLDER is removed at the end. UID:GID is empty where no change of
user is needed.
Only the standard library is loaded: this process lives as long as the system does.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.2
# A server that ends this soon has not really started; after as many of those in a row there is no point in going on.
QUICK_DEATH_SECONDS = 10.0
QUICK_DEATHS = 4
FAST_SHUTDOWN_SECONDS = 8.0
LOG_LIMIT_BYTES = 10 * 1024 * 1024
PR_SET_PDEATHSIG = 1


class Keeper:
    def __init__(self, arguments: list[str]) -> None:
        server_lock, users_lock, self.sockets, self.account, *self.command = arguments
        self.server_lock = int(server_lock)
        self.users = os.open(users_lock, os.O_RDWR)
        self.asked_to_stop = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(self) -> int:
        """The server's exit code when it ended for good."""
        quick_deaths = 0
        while True:
            started = time.monotonic()
            server = self._start()
            if not self._outlive(server):
                return self._shut_down(server)
            if server.returncode == 0:
                return 0  # stopped on purpose, from outside
            quick_deaths = quick_deaths + 1 if time.monotonic() - started < QUICK_DEATH_SECONDS else 1
            if quick_deaths >= QUICK_DEATHS:
                return server.returncode or 1
            time.sleep(POLL_SECONDS * 2**quick_deaths)

    def _start(self) -> "subprocess.Popen[bytes]":
        uid, _, gid = self.account.partition(":")
        change: dict[str, object] = {"user": int(uid), "group": int(gid), "extra_groups": []} if uid else {}
        keeper = os.getpid()

        def die_with_keeper() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
                if os.getppid() != keeper:
                    os._exit(1)

        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]  # the keywords come from a dict
            self.command,
            stdin=subprocess.DEVNULL,
            pass_fds=(self.server_lock,),
            preexec_fn=die_with_keeper,  # noqa: PLW1509  # this process has one thread
            **change,
        )

    def _outlive(self, server: "subprocess.Popen[bytes]") -> bool:
        """True when the server ended first, False when it is to be stopped."""
        while server.poll() is None:
            if self.asked_to_stop or self._nobody_is_left():
                return False
            if os.fstat(2).st_size > LOG_LIMIT_BYTES:
                os.ftruncate(2, 0)
            time.sleep(POLL_SECONDS)
        return not (self.asked_to_stop or self._nobody_is_left())

    def _nobody_is_left(self) -> bool:
        """From the moment this is true, newcomers wait until this process has ended."""
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _shut_down(self, server: "subprocess.Popen[bytes]") -> int:
        # SIGINT ends sessions and writes a checkpoint; SIGQUIT ends at once and costs a recovery, never data.
        for number, seconds in ((signal.SIGINT, FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(seconds)
                break
        with contextlib.suppress(OSError):  # not empty after a hard end; the next start clears it
            os.rmdir(self.sockets)
        return server.returncode or 0

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self.asked_to_stop = True


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1:]).run())
