"""Real processes around the live layer: a web server, a listener, a publisher.

Run as a program it is one of the latter two: `python -m tests.ziggie.live_process listen GROUP` prints
what arrives, `… publish COUNT RUN_ID` sends run.changed events, each line on stdout a JSON document.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0
Environment = Mapping[str, str]
LEAN = {"DJANGO_SETTINGS_MODULE": "tests.ziggie.live_settings"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def database_url(config: dict[str, Any]) -> str:
    """DATABASE_URL for a child process that shall use the database of Django's `config`."""
    login = ":".join(quote(part, safe="") for part in (config["USER"], config["PASSWORD"]) if part)
    options = {"host": config["HOST"], "port": config["PORT"], **config.get("OPTIONS", {})}
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items() if value)
    return f"postgresql://{login}@/{config['NAME']}?{query}"


class Child:
    """A child process whose output lines can be awaited; ended with the `with` block."""

    def __init__(
        self, *arguments: str, environment: Environment = MappingProxyType({}), pass_fds: tuple[int, ...] = ()
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=inherited | {"DJANGO_SETTINGS_MODULE": "ziggie.settings", "PYTHONUNBUFFERED": "1"} | dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=pass_fds,
        )
        self.output: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def line(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first line from now on that matches."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(Empty):
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
                if match := re.search(pattern, line):
                    return match
        raise AssertionError(f"no line matches {pattern!r} in:\n" + "".join(self.output[-40:]))

    def documents(self) -> list[dict[str, Any]]:
        """All JSON documents printed so far."""
        return [json.loads(line) for line in list(self.output) if line.startswith("{")]

    def end(self) -> list[dict[str, Any]]:
        """All that it printed once it has ended by itself."""
        assert self.process.wait(120) == 0, "".join(self.output[-40:])
        self._reader.join()
        return self.documents()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            self._lines.put(line)


@contextlib.contextmanager
def web_server(
    *options: str, environment: Environment, application: str = "ziggie.asgi:application", port: int = 0
) -> Iterator[int]:
    """daphne on `port`, or on a free one; yields the port once it answers."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        port = listening.getsockname()[1]
        descriptor = listening.fileno()
        command = ("-m", "daphne", "--fd", str(descriptor), *options, application)
        with Child(*command, pass_fds=(descriptor,), environment=environment) as child:
            listening.close()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            try:
                connection.request("GET", "/")
                connection.getresponse()
            except OSError as error:
                raise AssertionError("the web server does not answer:\n" + "".join(child.output[-40:])) from error
            yield port


@contextlib.contextmanager
def listener(group: str, environment: Environment) -> Iterator[Child]:
    """A process with one channel in `group`; yields once it really listens."""
    with Child("-m", "tests.ziggie.live_process", "listen", group, environment=LEAN | dict(environment)) as child:
        child.line("^{.*listening")
        yield child


def publisher(count: int, run_id: str, environment: Environment) -> Child:
    """A process that publishes so many events, and waits for each as long as it takes."""
    return _publisher(str(count), run_id, environment=environment)


@contextlib.contextmanager
def tireless_publisher(run_id: str, environment: Environment) -> Iterator[Child]:
    """One that publishes until the end of the `with` block, with the patience that workers have."""
    with _publisher("without end", run_id, environment=environment) as child:
        yield child


def _publisher(*arguments: str, environment: Environment) -> Child:
    return Child("-m", "tests.ziggie.live_process", "publish", *arguments, environment=LEAN | dict(environment))


async def _listen(group: str) -> None:
    from channels.layers import get_channel_layer

    from ziggie.pglayer import GAP_GROUP

    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await layer.group_add(GAP_GROUP, channel)
    print('{"type": "listening"}')
    while True:
        print(json.dumps(await layer.receive(channel)))


def _publish(count: str, run_id: str) -> None:
    from ziggie import live

    if count != "without end":
        live.PUBLISH_SECONDS = live.SEND_SECONDS = 60.0
    for number in range(int(count)) if count != "without end" else itertools.count():
        began = time.monotonic()
        live.publish("runs", "run.changed", version=number, data={"run_id": run_id, "status": "working"})
        print(json.dumps({"sent": number, "seconds": time.monotonic() - began}))
        time.sleep(0.02)


def main(command: str, *arguments: str) -> None:
    import django

    django.setup()
    if command == "listen":
        asyncio.run(_listen(arguments[0]))
    else:
        _publish(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
