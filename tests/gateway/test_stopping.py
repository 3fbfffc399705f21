"""`manage.py gateway` is told to stop: what is under way is finished, and it ends as a program that did its work."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

PATIENCE = 60
BODY = {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


def command(*words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DATABASE_URL": database_url()}
    arguments = [sys.executable, "manage.py", "gateway", *words]
    return subprocess.Popen(
        arguments, cwd=settings.BASE_DIR, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and its address, once it answers."""
    port = free_port()
    process = command("--port", str(port), *words)
    try:
        _wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
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
    gateway: Gateway, workers: str, number: signal.Signals
) -> None:
    gateway.openai.default = Reply("All of it.", latency=1.5, per_piece=0.1)
    with running("--workers", workers) as (process, url):
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
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()
    assert [receipt.outcome for receipt in gateway.settled(2)] == ["ok", "ok"]


def test_a_configuration_that_cannot_serve_is_told_in_one_line(gateway: Gateway) -> None:
    RoutingPolicy.objects.update(state="retired")
    snapshot.forget()
    process = command("--port", str(free_port()))
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert told.strip().splitlines()[-1].startswith("no routing policy is live")
    assert "Traceback" not in told
