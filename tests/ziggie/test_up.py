"""`manage.py up` and every other command, as a person runs them: real processes in a home of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from django.conf import settings

from ziggie import embedded
from ziggie.embedded_disk import Place

pytestmark = pytest.mark.flow


def environment(home: Path, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    return kept | {"ZIGGIE_HOME": str(home), "DJANGO_SETTINGS_MODULE": "ziggie.settings"} | changes


def manage(home: Path, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=settings.BASE_DIR,
        env=environment(home, **changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def one_line(result: "subprocess.CompletedProcess[str]") -> str:
    """What went wrong, which must be all that stderr says (but for a permission that root had to give)."""
    lines = [line for line in result.stderr.strip().splitlines() if "does not run as root" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


class Up:
    """A running `manage.py up`."""

    def __init__(self, home: Path, **changes: str) -> None:
        self.home = home
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", "0"],
            cwd=settings.BASE_DIR,
            env=environment(home, **changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def address(self, seconds: float = 120) -> str:
        return self.wait_for(r"answers at (http://\S+)", seconds)[1]

    def wait_for(self, pattern: str, seconds: float = 60) -> "re.Match[str]":
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if match := re.search(pattern, line):
                    return match
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} is not in:\n" + "\n".join(self.lines))

    def start_seconds(self) -> float:
        return float(self.wait_for(r"\(([\d.]+) s after the start")[1])

    def family(self) -> list[psutil.Process]:
        """Every process of this home: the supervisor, all below it, and the database."""
        found = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        data = str(Place.of(self.home).data)
        for process in psutil.process_iter(["cmdline"]):
            if data in (process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [process, *process.children(recursive=True)]
        return list({process.pid: process for process in found}.values())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def up(home: Path) -> Iterator[Callable[..., Up]]:
    running: list[Up] = []

    def start(**changes: str) -> Up:
        running.append(Up(home, **changes))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:  # our own server
        return int(answer.status)


def gone(processes: list[psutil.Process], seconds: float = 60) -> bool:
    _gone, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if is_alive(process)]


def memory_of(process: psutil.Process) -> Any:
    """None where it has ended meanwhile."""
    try:
        return process.memory_full_info()
    except psutil.NoSuchProcess:
        return None


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_an_empty_home_becomes_a_page_and_the_second_start_shows_no_login_again(
    up: Callable[..., Up], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = up()
    assert status(first.address() + "healthz") == 200
    login = first.wait_for(r"Staff login, shown only now: admin / (\S+)")
    assert manage(home, "doctor").returncode == 0
    again = manage(home, "up", "--port", "0")
    assert again.returncode == 1
    assert "already up" in one_line(again)
    family = first.family()
    memory = [usage for process in family if (usage := memory_of(process)) is not None]
    began = time.monotonic()
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(60) == 0
    stopped_after = time.monotonic() - began
    assert stopped_after < 30  # generous: others may use this machine
    assert gone(family)

    second = up()
    second.address()
    assert not any("Staff login" in line for line in second.lines)
    assert sum(login[1] in line for line in first.lines) == 1
    figures = {
        "first_start_seconds": first.start_seconds(),
        "second_start_seconds": second.start_seconds(),
        "stop_seconds": round(stopped_after, 1),
        "processes": len(family),
        "rss_mb": sum(usage.rss for usage in memory) // 2**20,
        "pss_mb": sum(usage.pss for usage in memory) // 2**20,
    }
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(figures)}\n")


def test_kill_9_of_up_leaves_no_process_and_the_next_start_works(up: Callable[..., Up]) -> None:
    first = up()
    first.address()
    family = first.family()
    assert len(family) > 8
    first.process.kill()
    assert gone(family)
    second = up()
    assert status(second.address() + "healthz") == 200


def test_web_worker_and_database_come_back_when_killed(up: Callable[..., Up]) -> None:
    running = up()
    address = running.address()
    for process in running.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if "daphne" in words or "worker" in words or process.name() == "postgres":
                process.kill()
    running.wait_for("web ended")
    running.wait_for("worker ended")
    # The listening socket outlived the web process: the request waits for the new one.
    assert status(address + "healthz") == 200
    deadline = time.monotonic() + 60
    while (examined := manage(running.home, "doctor")).returncode and time.monotonic() < deadline:
        time.sleep(1)
    assert examined.returncode == 0, examined.stdout


def test_a_port_in_use_is_one_line_and_starts_nothing(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = manage(home, "up", "--port", str(port))
        assert result.returncode == 1
        assert f"port {port}" in one_line(result)
    assert not Place.of(home).folder.exists()


@pytest.mark.parametrize("words", [["up", "--port", "nine"], ["up", "--port", "70000"], ["up", "--sideways"], ["uppp"]])
def test_wrong_usage_is_exit_code_2_and_starts_nothing(home: Path, words: list[str]) -> None:
    assert manage(home, *words).returncode == 2
    assert not Place.of(home).folder.exists()


@pytest.mark.parametrize("words", [["help"], ["--version"], ["migrate", "--help"], ["check"]])
def test_commands_that_look_at_no_row_start_no_database(home: Path, words: list[str]) -> None:
    assert manage(home, *words).returncode == 0
    assert not Place.of(home).folder.exists()


def test_a_command_starts_the_database_for_itself_and_ends_it(home: Path) -> None:
    assert manage(home, "migrate", "--plan").returncode == 0
    assert Place.of(home).data.exists()
    assert not embedded.has_server(home)


def test_missing_tables_are_one_line(home: Path) -> None:
    result = manage(home, "seed")
    assert result.returncode == 1
    assert "manage.py migrate" in one_line(result)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "abc"),
        ("WORKERS", "two"),
        ("DATABASE_URL", "abc"),
        ("DATABASE_URL", "mysql://u:secret@h/x"),
        ("DATABASE_URL", "postgres://u:secret@h:port/x"),
    ],
)
def test_a_malformed_variable_is_named_in_one_line_without_its_value(home: Path, variable: str, value: str) -> None:
    result = manage(home, "migrate", **{variable: value})
    assert result.returncode == 1
    assert variable in one_line(result)
    assert "secret" not in result.stderr


def test_without_debug_a_secret_key_is_needed_and_nothing_starts(home: Path) -> None:
    result = manage(home, "up", "--port", "0", DEBUG="false", SECRET_KEY="")
    assert result.returncode == 1
    assert "SECRET_KEY is missing" in result.stderr
    assert not Place.of(home).folder.exists()


def test_a_database_server_that_is_down_is_one_line(home: Path) -> None:
    for words in (["migrate"], ["up", "--port", "0"]):
        result = manage(home, *words, DATABASE_URL="postgres://ziggie:secret@127.0.0.1:1/ziggie")
        assert result.returncode == 1
        assert "does not answer" in one_line(result)
        assert "secret" not in result.stderr


def test_a_redis_that_is_down_is_one_line(home: Path) -> None:
    result = manage(home, "up", "--port", "0", REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert result.returncode == 1
    assert "REDIS_URL" in one_line(result)
    assert "secret" not in result.stderr


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A PostgreSQL that is somebody else's, for DATABASE_URL."""
    home = tmp_path / "other"
    embedded.ensure_running(home, durable=False)
    target = embedded.connection_settings(home)
    with psycopg.connect(host=target["HOST"], user="ziggie", dbname="ziggie", autocommit=True) as connection:
        yield connection
    embedded.stop(home)


def url_of(server: "psycopg.Connection[tuple[object, ...]]", *, user: str, database: str) -> str:
    return f"postgres://{user}@{server.info.host.replace('/', '%2F')}/{database}"


def test_a_fresh_external_database_gets_the_extension_by_itself(
    home: Path, other_server: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    other_server.execute("CREATE DATABASE fresh TEMPLATE template0")
    result = manage(home, "migrate", DATABASE_URL=url_of(other_server, user="ziggie", database="fresh"))
    assert result.returncode == 0, result.stderr
    assert not Place.of(home).folder.exists(), "no embedded database besides"


def test_an_extension_that_cannot_be_made_is_one_line(
    home: Path, other_server: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    other_server.execute("CREATE ROLE guest LOGIN")
    other_server.execute("CREATE DATABASE bare OWNER guest TEMPLATE template0")
    result = manage(home, "migrate", DATABASE_URL=url_of(other_server, user="guest", database="bare"))
    assert result.returncode == 1
    assert "CREATE EXTENSION vector" in one_line(result)


def test_a_database_that_is_not_there_is_one_line(
    home: Path, other_server: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    result = manage(home, "migrate", DATABASE_URL=url_of(other_server, user="ziggie", database="nowhere"))
    assert result.returncode == 1
    assert '"nowhere" does not exist' in one_line(result)
