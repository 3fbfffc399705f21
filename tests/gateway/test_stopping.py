"""`manage.py gateway` is told to stop: what is under way is finished, and it ends as a program that did its work."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from django.conf import settings

from routing import snapshot
from routing.models import RoutingPolicy
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_processes import database_url, free_port
from tests.servers.script import Reply

PATIENCE = 120
BODY = {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


def command(told: Path, *words: str, python: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Started, with all that it says going into a file."""
    env = {**os.environ, "DATABASE_URL": database_url()}
    arguments = [sys.executable, *python, "manage.py", "gateway", *words]
    with told.open("wb") as file:
        return subprocess.Popen(arguments, cwd=settings.BASE_DIR, env=env, stdout=file, stderr=subprocess.STDOUT)


@contextmanager
def running(told: Path, *words: str, python: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command and its address, once it answers."""
    port = free_port()
    process = command(told, "--port", str(port), *words, python=python)
    try:
        _wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None
        with suppress(httpx2.HTTPError):
            httpx2.get(url, timeout=5).raise_for_status()
            return
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def _in_the_background(url: str, headers: dict[str, str], **changes: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []

    def ask() -> None:
        try:
            answer = httpx2.post(f"{url}/v1/chat/completions", json=BODY | changes, headers=headers, timeout=PATIENCE)
            answers.append(answer)
        except httpx2.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_under_way_are_finished_and_settled_and_the_command_ends_with_0(
    gateway: Gateway, tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    gateway.openai.default = Reply("All of it.", latency=1.5, per_piece=0.1)
    with running(tmp_path / "told", "--workers", workers) as (process, url):
        asked = [_in_the_background(url, gateway.headers, stream=stream) for stream in (False, True)]
        wait_until(lambda: len(gateway.openai.calls) == 2)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        for thread, answers in asked:
            thread.join(PATIENCE)
            (answer,) = answers
            assert isinstance(answer, httpx2.Response), answer
            assert answer.status_code == 200
            assert "data: [DONE]" in answer.text or answer.json()["choices"][0]["message"]["content"] == "All of it."
    assert "Traceback" not in (tmp_path / "told").read_text()
    assert [receipt.outcome for receipt in gateway.settled(2)] == ["ok", "ok"]


def test_claude_is_called_without_the_anthropic_package_which_takes_seconds_to_load(
    gateway: Gateway, tmp_path: Path
) -> None:
    with running(tmp_path / "told", python=("-X", "importtime")) as (process, url):
        for stream in (False, True):
            body = {**BODY, "model": "claude", "stream": stream}
            answer = httpx2.post(f"{url}/v1/messages", json=body, headers=gateway.headers, timeout=PATIENCE)
            assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    imported = {line.rpartition("|")[2].strip() for line in (tmp_path / "told").read_text().splitlines()}
    assert "routing.gateway.app" in imported
    assert "anthropic" not in imported


def test_a_configuration_that_cannot_serve_is_told_in_one_line(gateway: Gateway, tmp_path: Path) -> None:
    RoutingPolicy.objects.update(state="retired")
    snapshot.forget()
    process = command(tmp_path / "told", "--port", str(free_port()))
    assert process.wait(PATIENCE) == 1
    told = (tmp_path / "told").read_text()
    assert told.strip().splitlines()[-1].startswith("no routing policy is live")
    assert "Traceback" not in told
