"""The whole of Ziggie as real processes in a home of its own, driven from outside as its users do."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import psutil
import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0
T = TypeVar("T")
_ADDRESS = re.compile(r"Ziggie answers at (http://\S+?)/ ")
_LOGIN = re.compile(r"Staff login, shown only now: (\S+) / (\S+)")


def _kill(processes: Iterable[psutil.Process]) -> None:
    """Some of them may die with the first ones."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


class System:
    """`manage.py up` in a folder. `lines` is all that it printed."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.lines: list[str] = []
        self.url = ""
        self.login: tuple[str, str] | None = None
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.endswith("_API_KEY") and name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "REDIS_URL")
        }
        # No test reaches a model server that happens to run on this machine.
        nowhere = {"OLLAMA_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
        self.environment = inherited | nowhere | {"ZIGGIE_HOME": str(home), "PYTHONUNBUFFERED": "1"} | environment

    def start(self) -> Self:
        self.lines.clear()
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", "0"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.url = until(lambda: self._match(_ADDRESS), START_SECONDS, self.output)[1]
        if shown := self._match(_LOGIN):
            self.login = (shown[1], shown[2])
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if self.process.poll() is not None:
            raise AssertionError(f"up ended with {self.process.returncode}:\n{self.output()}")
        return pattern.search(self.output())

    def output(self) -> str:
        return "\n".join(self.lines)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_SECONDS)

    def kill_all(self) -> None:
        """kill -9 of every process at once, as a power cut would."""
        _kill(self.processes())
        self.process.wait(STOP_SECONDS)

    def kill_those_of(self, words: str) -> None:
        """kill -9 of our processes whose command line holds `words`."""
        _kill(self.processes_of(words))

    def processes(self) -> list[psutil.Process]:
        top = psutil.Process(self.process.pid)
        return [*top.children(recursive=True), top]

    def processes_of(self, words: str) -> list[psutil.Process]:
        """Our processes whose command line holds `words`."""
        found = []
        for process in self.processes():
            try:
                if words in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def manage(self, *arguments: str, timeout: float = 120.0) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def api_key(self, name: str = "tests", scopes: str = "coordinator,gateway,admin") -> str:
        done = self.manage("apikey", "create", name, "--scopes", scopes)
        assert done.returncode == 0, done.stderr
        found = re.search(r"zg_[\w-]+", done.stdout)
        assert found is not None
        return found[0]

    def client(self, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0)

    @contextmanager
    def staff_client(self) -> Iterator[httpx2.Client]:
        """A client with the session of the first staff login."""
        with httpx2.Client(base_url=self.url, timeout=60.0, follow_redirects=True) as client:
            self._log_in(client)
            yield client

    def _log_in(self, client: httpx2.Client) -> None:
        assert self.login is not None
        page = client.get("/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token is not None
        name, password = self.login
        form = {"csrfmiddlewaretoken": token[1], "username": name, "password": password}
        answer = client.post("/login/", data=form, headers={"Referer": f"{self.url}/login/"})
        assert answer.status_code == 200, answer.text[:500]
        assert "sessionid" in client.cookies

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        from ziggie.embedded import connection_settings

        place = connection_settings(self.home)
        with psycopg.connect(
            host=place["HOST"], port=place["PORT"], user=place["USER"], dbname=place["NAME"], autocommit=True
        ) as connection:
            yield connection

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        with self.database() as connection:
            return connection.execute(statement, parameters).fetchall()


def until(look: Callable[[], T | None], seconds: float, explain: Callable[[], str] = lambda: "") -> T:
    """The first truthy thing that `look` sees. Fails after `seconds`, saying what `explain` says."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds:g} s\n{explain()}")
        time.sleep(0.05)


@contextmanager
def running(home: Path, **environment: str) -> Iterator[System]:
    system = System(home, **environment)
    try:
        yield system.start()
    finally:
        system.stop()
