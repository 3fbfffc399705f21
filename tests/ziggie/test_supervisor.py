"""The supervisor, run as the program that it is, over real child processes."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ziggie import embedded, supervisor
from ziggie.embedded_disk import Place
from ziggie.supervisor import Specification

pytestmark = pytest.mark.flow

# A program like django-q's: a parent, a child, a grandchild that left the session and ignores SIGTERM.
FAMILY = """
import os, signal, sys, time
note = open(sys.argv[1], "a", buffering=1)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note.write(f"{os.getpid()}\\n")
    time.sleep(600)
note.write(f"{os.getpid()}\\n")
print("family is here", flush=True)
time.sleep(600)
"""


class Running:
    """A supervisor process and the lines that it printed so far."""

    def __init__(self, specification: Specification) -> None:
        reader, writer = os.pipe()
        os.write(writer, specification.to_json().encode())
        os.close(writer)
        lease = specification.database_lease
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ziggie.supervisor", str(reader)],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[reader, *specification.inherited, *([lease] if lease >= 0 else [])],
            start_new_session=True,
        )
        os.close(reader)
        self.lines: list[str] = []
        self.enough_read = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.enough_read:
                break
        self.process.stdout.close()

    def stop_reading(self) -> None:
        self.enough_read = True
        self._reader.join(60)

    def wait_for(self, pattern: str, *, times: int = 1, seconds: float = 60) -> list[str]:
        found: list[str] = []

        def enough() -> bool:
            found[:] = [line for line in self.lines if re.search(pattern, line)]
            return len(found) >= times

        wait_until(enough, seconds=seconds, otherwise=lambda: f"{pattern!r} is not in {self.lines}")
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(60)
        return code


def wait_until(
    condition: Callable[[], object], *, seconds: float = 60, otherwise: Callable[[], str] = lambda: "not in time"
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(**fields: Any) -> Running:
        running.append(Running(Specification(**fields)))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def script(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-u", "-c", text, *map(str, arguments)]


def family(note: Path) -> list[str]:
    return script(FAMILY, note)


def members(note: Path) -> list[int]:
    wait_until(lambda: note.exists() and len(note.read_text().split()) == 3)
    return [int(pid) for pid in note.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def test_output_bears_the_name_of_its_program_and_keeps_its_lines(start: Callable[..., Running]) -> None:
    noisy = "import sys, time; print('one\\ntwo'); sys.stderr.write('three\\n'); print('x' * 40000); time.sleep(60)"
    running = start(programs={"web": script(noisy), "worker": script("print('four'); import time; time.sleep(60)")})
    running.wait_for(r"^web    \| one$")
    running.wait_for(r"^web    \| two$")
    running.wait_for(r"^web    \| three$")
    running.wait_for(r"^worker \| four$")
    running.wait_for(r"^web    \| x{10000,}")
    assert running.stop() == 0


def test_a_program_that_dies_comes_back_later_each_time(start: Callable[..., Running]) -> None:
    running = start(programs={"web": script("import sys; print('here'); sys.exit(3)")})
    running.wait_for("starts again in 4 s")
    told = running.wait_for("web ended with code 3")
    assert [re.search(r"again in ([\d.]+) s", line)[1] for line in told] == ["0.5", "1", "2", "4"]  # type: ignore[index]
    assert len(running.wait_for("here")) == 4
    assert running.stop() == 0


def test_the_delay_is_capped_and_forgotten_after_a_long_life() -> None:
    program = supervisor.Program("web", ["true"], [])
    program.started_at = time.monotonic()
    delays = [program.plan_restart() for _ in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    program.started_at = time.monotonic() - supervisor.STAYED_UP_SECONDS
    assert program.plan_restart() == 0.5


def test_a_program_killed_from_outside_comes_back_and_leaves_no_children(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start(programs={"worker": family(tmp_path / "pids")})
    old = members(tmp_path / "pids")
    running.wait_for("family is here")
    (tmp_path / "pids").unlink()
    leash = psutil.Process(running.process.pid).children()[0]
    (parent,) = (process for process in leash.children() if process.pid == min(old))
    parent.kill()
    running.wait_for("family is here", times=2)
    wait_until(lambda: not alive(old))
    assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything_within_ten_seconds(
    start: Callable[..., Running], tmp_path: Path, number: int
) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    running = start(programs={"worker": family(tmp_path / "pids"), "web": script(stubborn)})
    pids = members(tmp_path / "pids")
    running.wait_for("deaf")
    below = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
    began = time.monotonic()
    assert running.stop(number) == 0
    assert time.monotonic() - began < 30  # generous: others may use this machine
    assert alive([*pids, *below]) == []


def test_a_program_may_finish_what_it_does_before_it_stops(start: Callable[..., Running], tmp_path: Path) -> None:
    careful = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_): time.sleep(1); pathlib.Path(sys.argv[1]).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('here')\n"
        "while True: time.sleep(1)"
    )
    running = start(programs={"worker": script(careful, tmp_path / "finished")})
    running.wait_for("here")
    running.stop()
    assert (tmp_path / "finished").exists()


def test_kill_9_of_the_supervisor_leaves_no_process(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(programs={"worker": family(tmp_path / "pids")})
    pids = members(tmp_path / "pids")
    below = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
    running.stop(signal.SIGKILL)
    wait_until(lambda: not alive([*pids, *below]))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of their parent's death on Linux only")
def test_kill_9_of_a_leash_takes_its_program_along(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(programs={"worker": script("print('here'); import time; time.sleep(600)")})
    running.wait_for("here")
    leash = psutil.Process(running.process.pid).children()[0]
    (program,) = leash.children()
    leash.kill()
    running.wait_for("here", times=2)
    assert alive([program.pid]) == []
    assert running.stop() == 0


def test_the_announcement_waits_for_the_page(start: Callable[..., Running]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = (
            "import http.server, socket, sys, time\n"
            "print('slow start'); time.sleep(1)\n"
            "server = http.server.HTTPServer(('', 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)\n"
            "server.socket = socket.socket(fileno=int(sys.argv[1])); server.serve_forever()"
        )
        running = start(
            programs={"web": script(server, listener.fileno())},
            inherited=[listener.fileno()],
            ready_address=listener.getsockname(),
            announcement="it answers after {seconds} s\n",
            first_login="admin / secret",
        )
        running.wait_for(r"it answers after \d+\.\d s")
        assert running.lines.index("ziggie | admin / secret") > running.lines.index("web    | slow start")
        assert running.stop() == 0


def test_a_page_that_never_answers_ends_in_exit_code_1_and_still_shows_the_first_login(
    start: Callable[..., Running],
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        running = start(
            programs={"web": script("import time; time.sleep(600)")},
            ready_address=silent.getsockname(),
            ready_seconds=1.0,
            first_login="admin / secret",
        )
        assert running.process.wait(60) == 1
    running.wait_for("does not answer")
    running.wait_for("admin / secret")


def test_programs_outlive_the_reader_of_their_output(start: Callable[..., Running]) -> None:
    running = start(programs={"web": script("import time\nwhile True: print('tick'); time.sleep(0.05)")})
    running.wait_for("tick")
    below = psutil.Process(running.process.pid).children(recursive=True)
    running.stop_reading()
    time.sleep(0.5)
    assert all(process.is_running() for process in below)
    assert running.stop() == 0


def test_a_database_that_is_killed_comes_back_while_supervised(start: Callable[..., Running], tmp_path: Path) -> None:
    home = tmp_path / "home"
    embedded.ensure_running(home)
    running = start(
        programs={"web": script("import time; time.sleep(600)")},
        database_home=str(home),
        database_lease=embedded.lease(home),
    )
    data = str(Place.of(home).data)
    wait_until(lambda: psutil.Process(running.process.pid).children())
    embedded.stop(home)
    assert embedded.is_running(home), "the supervisor holds it"
    for process in psutil.process_iter(["cmdline"]):  # keeper and server
        if data in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    running.wait_for("the embedded database has gone")
    wait_until(lambda: embedded.is_running(home))
    assert running.stop() == 0
    assert not embedded.has_server(home)
