"""Keeps a few programs running, and leaves none behind.

    python -m ziggie.supervisor FD      the specification (below) is read from that descriptor, as JSON

A program that ends is started again, later each time it fails soon after its start. SIGINT, SIGTERM and
SIGHUP stop everything within STOP_SECONDS; if this process itself is killed, the leashes (ziggie/leash.py)
notice. It loads little on purpose: it stays in memory as long as the system runs (docs/adr/0003).
"""

import contextlib
import fcntl
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from ziggie import embedded
from ziggie.errors import ConfigurationError, Conflict, ZiggieError

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
STAYED_UP_SECONDS = 30.0  # after that long, a death counts as the first again
GENTLE_SECONDS = 6.0  # between asking to stop and killing
STOP_SECONDS = 10.0
CHECK_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # with a database that comes back: signals wait for that long
LONGEST_LINE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Specification:
    """What to run. `programs` maps names to command lines; the rest may stay empty."""

    programs: dict[str, list[str]]
    # Host, port and path of a page; `announcement` is printed once it answers.
    ready_address: tuple[str, int] | None = None
    ready_path: str = "/"
    ready_seconds: float = 60.0
    announcement: str = ""  # "{seconds}" in it becomes the time until then
    # Printed then too, or at the end if it never did: a password that nobody could see again.
    first_login: str = ""
    # The home whose embedded database must keep running, and the lease on it that we inherit.
    database_home: str = ""
    database_lease: int = -1
    # Descriptors that the programs inherit (the listening socket).
    inherited: list[int] = field(default_factory=list)
    began_at: float = 0.0  # time.time() when the person began to wait

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Specification":
        fields = json.loads(text)
        if fields.get("ready_address"):
            fields["ready_address"] = tuple(fields["ready_address"])
        return cls(**fields)


class Program:
    """One supervised program: its process, its output, and when to start it again."""

    def __init__(self, name: str, command: list[str], inherited: list[int]) -> None:
        self.name = name
        self.command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py")), *command]
        self.inherited = inherited
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0
        self.started_at = 0.0
        self.delay_seconds = FIRST_DELAY_SECONDS
        self.unfinished_line = b""

    def start(self) -> IO[bytes]:
        """The output of the new process, which does not block."""
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,  # the leash: never written to
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=self.inherited,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        return self.process.stdout

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def plan_restart(self) -> float:
        """Seconds until the next start: doubled with each death that came early."""
        now = time.monotonic()
        if now - self.started_at >= STAYED_UP_SECONDS:
            self.delay_seconds = FIRST_DELAY_SECONDS
        delay = self.delay_seconds
        self.delay_seconds = min(delay * 2, LONGEST_DELAY_SECONDS)
        self.start_at = now + delay
        return delay

    def forget_process(self) -> int:
        """Clear away what is left of an ended process; its exit code."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        _kill_group(self.process.pid)  # if the leash itself was killed, others of its session may live
        self.process.stdin.close()
        self.process.stdout.close()
        code = self.process.wait()
        self.process = None
        return code

    def ask_to_stop(self) -> None:
        if self.process:
            self.process.terminate()

    def stop_now(self) -> None:
        if self.process and self.process.stdin:
            self.process.stdin.close()

    def take_lines(self, more: bytes) -> list[str]:
        """The lines that are complete by now; a very long one is broken."""
        *lines, self.unfinished_line = (self.unfinished_line + more).split(b"\n")
        if len(self.unfinished_line) > LONGEST_LINE_BYTES or (not more and self.unfinished_line):
            lines.append(self.unfinished_line)
            self.unfinished_line = b""
        return [line.rstrip(b"\r").decode(errors="replace") for line in lines]


class Supervisor:
    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self.programs = [
            Program(name, command, specification.inherited) for name, command in specification.programs.items()
        ]
        self.selector = selectors.DefaultSelector()
        self.stop_signals = 0
        self.ready = specification.ready_address is None
        self.began_at = time.time()
        self.next_check = self.next_probe = 0.0
        self.exit_code = 0
        self.width = max(len(name) for name in ("ziggie", *specification.programs))
        self.probe: socket.socket | None = None

    def run(self) -> int:
        """Until a signal asks to stop. 0, or 1 when the page never answered."""
        self._listen_to_signals()
        while not self.stop_signals:
            self._start_due()
            self._handle_events(timeout=0.5 if self.ready else 0.1)
            self._handle_deaths()
            self._check_database()
            if not self.ready:
                self._check_ready(time.time() - self.began_at)
        self._stop_all()
        return self.exit_code

    def say(self, text: str, *, name: str = "ziggie") -> None:
        try:
            sys.stdout.write(f"{name:<{self.width}} | {text}\n")
            sys.stdout.flush()
        except OSError:  # whoever read our output has gone; the programs keep running
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    # --- while running ---

    def _start_due(self) -> None:
        for program in self.programs:
            if program.process is None and time.monotonic() >= program.start_at:
                self.selector.register(program.start(), selectors.EVENT_READ, program)

    def _handle_deaths(self) -> None:
        for program in self.programs:
            if program.has_ended():
                lived = time.monotonic() - program.started_at
                code = self._bury(program)
                delay = program.plan_restart()
                self.say(f"{program.name} ended with code {code} after {lived:.0f} s; starts again in {delay:g} s")

    def _bury(self, program: Program) -> int:
        assert program.process is not None
        self._handle_events(timeout=0)
        with contextlib.suppress(KeyError):
            self.selector.unregister(program.process.stdout)  # type: ignore[arg-type]  # a pipe, by construction
        for line in program.take_lines(b""):
            self.say(line, name=program.name)
        return program.forget_process()

    def _handle_events(self, *, timeout: float) -> None:
        for key, _events in self.selector.select(timeout):
            if isinstance(key.data, Program):
                self._forward(key)
            else:
                key.data()  # the signal pipe's or the probe's reader

    def _forward(self, key: selectors.SelectorKey) -> None:
        try:
            output = os.read(key.fd, 64 * 1024)
        except BlockingIOError:
            return
        if not output:
            self.selector.unregister(key.fileobj)
        for line in key.data.take_lines(output):
            self.say(line, name=key.data.name)

    def _check_database(self) -> None:
        home = self.specification.database_home
        if not home or time.monotonic() < self.next_check:
            return
        self.next_check = time.monotonic() + CHECK_SECONDS
        self._reap_strangers()
        if embedded.has_server(Path(home)):
            return
        self.say("the embedded database has gone; starting it again")
        try:
            embedded.ensure_running(Path(home), patience_seconds=PATIENCE_SECONDS)
        except ZiggieError as error:
            self.next_check = time.monotonic() + LONGEST_DELAY_SECONDS
            self.say(f"{error.message}; next try in {LONGEST_DELAY_SECONDS:g} s")

    def _reap_strangers(self) -> None:
        """Buries children that this program did not start: `up` started the database's keeper before it became us."""
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # nobody is left, or not yet there
            return
        ours = {program.process.pid for program in self.programs if program.process is not None}
        if ended is not None and ended.si_pid not in ours:
            os.waitpid(ended.si_pid, os.WNOHANG)

    def _check_ready(self, waited_seconds: float) -> None:
        """Ask for the page, and wait for the answer without holding up the rest."""
        if self.probe is None and time.monotonic() >= self.next_probe:
            self.next_probe = time.monotonic() + 0.2
            self._send_probe()
        if waited_seconds > self.specification.ready_seconds:
            self.say(f"the page does not answer after {waited_seconds:.0f} s; giving up (the lines above say why)")
            self.exit_code = 1
            self.stop_signals += 1

    def _send_probe(self) -> None:
        assert self.specification.ready_address is not None
        with contextlib.suppress(OSError):
            self.probe = socket.create_connection(self.specification.ready_address, timeout=1.0)
            self.probe.sendall(f"GET {self.specification.ready_path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            self.probe.setblocking(False)
            self.selector.register(self.probe, selectors.EVENT_READ, self._read_probe)

    def _read_probe(self) -> None:
        assert self.probe is not None
        answer = b""
        with contextlib.suppress(OSError):
            answer = self.probe.recv(32)
        self.selector.unregister(self.probe)
        self.probe.close()
        self.probe = None
        if re.match(rb"HTTP/1\.[01] [234]", answer):
            self.ready = True
            took = time.time() - (self.specification.began_at or self.began_at)
            self._announce(self.specification.announcement.replace("{seconds}", f"{took:.1f}"))

    def _announce(self, text: str) -> None:
        for line in (text + self.specification.first_login).splitlines():
            self.say(line)

    # --- stopping ---

    def _listen_to_signals(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 512))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only wakes the loop

    def _on_stop_signal(self, number: int, frame: object) -> None:
        self.stop_signals += 1

    def _stop_all(self) -> None:
        self.say("stopping")
        if not self.ready:
            self._announce("")
        began = time.monotonic()
        for program in self.programs:
            program.ask_to_stop()
        self._wait(lambda: self.stop_signals > 1 or time.monotonic() - began > GENTLE_SECONDS)
        for program in self.programs:
            program.stop_now()
        self._wait(lambda: time.monotonic() - began > STOP_SECONDS - 1)
        for program in self.programs:
            if program.process:
                _kill_group(program.process.pid)
                program.process.kill()
                self._bury(program)
        if self.specification.database_home:
            embedded.stop(Path(self.specification.database_home))

    def _wait(self, enough: Callable[[], bool]) -> None:
        """Forward output and bury the ended until all are gone or it is `enough`."""
        while any(program.process for program in self.programs) and not enough():
            self._handle_events(timeout=0.1)
            for program in self.programs:
                if program.has_ended():
                    self._bury(program)


def claim(home: Path) -> int:
    """The lock that lets one supervisor at a time use `home`; the kernel gives it back with the process."""
    descriptor = _open_claim(home)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"Ziggie is already up with {home}; stop that one first, or set another ZIGGIE_HOME.") from error
    return descriptor


def is_claimed(home: Path) -> bool:
    """Whether a supervisor uses `home` now."""
    try:
        os.close(claim(home))
    except Conflict:
        return True
    return False


def _open_claim(home: Path) -> int:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return os.open(home / "flock.up", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be used: {error.strerror}. Set ZIGGIE_HOME to a folder of your own."
        ) from error


def replace_this_process(specification: Specification, keep: list[int]) -> None:
    """Become the supervisor: same process id, little memory. `keep` are descriptors that stay open. Never returns."""
    # Through a pipe, not the command line: the announcement holds a password, and ps shows command lines.
    reader, writer = os.pipe()
    os.write(writer, specification.to_json().encode())
    os.close(writer)
    for descriptor in [*keep, *specification.inherited, reader]:
        os.set_inheritable(descriptor, True)
    if specification.database_lease >= 0:
        os.set_inheritable(specification.database_lease, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "ziggie.supervisor", str(reader)])  # noqa: S606


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main(descriptor: int) -> int:
    with open(descriptor, encoding="utf-8") as file:
        specification = Specification.from_json(file.read())
    if specification.database_lease >= 0:
        embedded.take_over(Path(specification.database_home), specification.database_lease)
    return Supervisor(specification).run()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
