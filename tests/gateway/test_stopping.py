"""`manage.py gateway` is told to stop: what is under way is finished, and it ends as a program that did its work."""

import os
import signal
import socket
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

from routing.configuration import snapshot
from routing.models import Provider, Reservation, RoutedCall, RoutingPolicy, RoutingRule, UsageRecord
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_processes import database_url, free_port
from tests.servers.script import Reply
from ziggie.models import ApiKey

PATIENCE = 120
CHAT = "/v1/chat/completions"
BODY = {"model": "gpt", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


SHORT_GRACE = """
import sys
from routing.gateway.serving import server
server.STOP_SECONDS = 1
server.serve(host="127.0.0.1", port=int(sys.argv[2]), workers=int(sys.argv[4]))
"""


# A signal that comes while the collector is at work: what its answer raises goes nowhere.
EARLY = """
import os, signal, sys, weakref
from routing.gateway.serving import server
class Thing: ...
def configured(*words, **options):
    thing = Thing()
    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    return Config(*words, **options)
Config, server.uvicorn.Config = server.uvicorn.Config, configured
server.serve(host="127.0.0.1", port=int(sys.argv[2]), workers=1)
"""


def command(told: Path, *words: str, python: tuple[str, ...] = ("manage.py", "gateway")) -> subprocess.Popen[bytes]:
    """Started, with all that it says going into a file."""
    env = {**os.environ, "DATABASE_URL": database_url()}
    arguments = [sys.executable, *python, *words]
    with told.open("wb") as file:
        return subprocess.Popen(arguments, cwd=settings.BASE_DIR, env=env, stdout=file, stderr=subprocess.STDOUT)


@contextmanager
def running(
    told: Path, *words: str, python: tuple[str, ...] = ("manage.py", "gateway")
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
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


def _in_the_background(
    url: str, headers: dict[str, str], body: dict[str, Any], path: str = CHAT
) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []

    def ask() -> None:
        try:
            answer = httpx2.post(f"{url}{path}", json=body, headers=headers, timeout=PATIENCE)
            answers.append(answer)
        except httpx2.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        ("1", signal.SIGTERM),
        ("1", signal.SIGINT),
        ("1", signal.SIGHUP),
        ("2", signal.SIGTERM),
        ("2", signal.SIGINT),
    ],
)
def test_calls_under_way_are_finished_and_settled_and_the_command_ends_with_0(
    gateway: Gateway, tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    gateway.openai.default = Reply("All of it.", latency=1.5, per_piece=0.1)
    with running(tmp_path / "told", "--workers", workers) as (process, url):
        asked = [_in_the_background(url, gateway.headers, BODY | {"stream": stream}) for stream in (False, True)]
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


def test_calls_are_finished_when_the_terminal_of_several_workers_closes(gateway: Gateway, tmp_path: Path) -> None:
    """All that it has started hear of it; uvicorn's supervisor answers by putting new workers in their place."""
    gateway.openai.default = Reply("All of it.", latency=1.5, per_piece=0.1)
    with running(tmp_path / "told", "--workers", "2") as (process, url):
        asked = [_in_the_background(url, gateway.headers, BODY | {"stream": stream}) for stream in (False, True)]
        wait_until(lambda: len(gateway.openai.calls) == 2)
        for hung_up in (*psutil.Process(process.pid).children(recursive=True), process):
            hung_up.send_signal(signal.SIGHUP)
        for thread, answers in asked:
            thread.join(PATIENCE)
            (answer,) = answers
            assert isinstance(answer, httpx2.Response), answer
            assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert [receipt.outcome for receipt in gateway.settled(2)] == ["ok", "ok"]


def test_the_use_of_a_key_just_before_the_end_is_written_down(gateway: Gateway, tmp_path: Path) -> None:
    never_soon = """
import sys
from routing.gateway.access import keys
from routing.gateway.serving import server
keys.USED_SECONDS = 3600
server.serve(host="127.0.0.1", port=int(sys.argv[2]), workers=int(sys.argv[4]))
"""
    with running(tmp_path / "told", "--workers", "1", python=("-c", never_soon)) as (process, url):
        assert httpx2.get(f"{url}/v1/models", headers=gateway.headers, timeout=PATIENCE).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert ApiKey.objects.get(pk=gateway.key_id).last_used_at is not None


OUTLASTING: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (CHAT, BODY | {"temperature": 0}),  # also for the cache
    "stream": (CHAT, BODY | {"stream": True}),
    "in a slot": ("/v1/messages", BODY | {"model": "claude"}),
    "waiting for a slot": ("/v1/messages", BODY | {"model": "claude"}),
    "embedding": ("/v1/embeddings", {"model": "embedder", "input": "text"}),
}


@pytest.mark.parametrize("kinds", [["in a slot"], list(OUTLASTING)], ids=["one", "all"])
def test_calls_that_outlast_the_grace_are_cut_and_settled_before_the_command_ends(
    gateway: Gateway, tmp_path: Path, kinds: list[str]
) -> None:
    gateway.openai.default = gateway.anthropic.default = Reply("Never.", first_token=600)
    gateway.openai.when(Reply(latency=600.0), path="/v1/embeddings")
    Provider.objects.filter(slug="anthropic").update(max_concurrency=1, timeout_seconds=600)
    RoutingRule.objects.update(options={"first_token_seconds": 600, "cache_ttl_seconds": 60, "store_bodies": True})
    snapshot.forget()
    sent = len(kinds) - ("waiting for a slot" in kinds)
    with running(tmp_path / "told", "--workers", "1", python=("-c", SHORT_GRACE)) as (process, url):
        asked = []
        for path, body in map(OUTLASTING.__getitem__, kinds):
            asked.append(_in_the_background(url, gateway.headers, body, path))
        wait_until(lambda: len(gateway.openai.calls) + len(gateway.anthropic.calls) == sent)
        wait_until(lambda: Reservation.objects.count() == len(kinds))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert not Reservation.objects.exists()
        assert [receipt.outcome for receipt in RoutedCall.objects.all()] == ["cancelled"] * len(kinds)
        for thread, answers in asked:
            thread.join(PATIENCE)
            (answer,) = answers
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert [record.cost_microusd > 0 for record in UsageRecord.objects.all()] == [True] * sent


def test_claude_is_called_without_the_anthropic_package_which_takes_seconds_to_load(
    gateway: Gateway, tmp_path: Path
) -> None:
    with running(tmp_path / "told", python=("-X", "importtime", "manage.py", "gateway")) as (process, url):
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


def test_a_signal_that_comes_amid_the_start_is_not_lost(gateway: Gateway, tmp_path: Path) -> None:
    process = command(tmp_path / "told", "--port", str(free_port()), python=("-c", EARLY))
    assert process.wait(PATIENCE) == 0
    assert "SystemExit" in (tmp_path / "told").read_text()  # it went nowhere


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_listens_on_every_address_is_reached_over_ipv4_too(gateway: Gateway, tmp_path: Path, workers: str) -> None:
    with running(tmp_path / "told", "--host", "::", "--workers", workers) as (process, _):  # it asks 127.0.0.1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_port_that_another_has_over_ipv4_is_one_line_and_exit_1(gateway: Gateway, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = command(tmp_path / "told", "--host", "::", "--port", str(taken.getsockname()[1]))
        assert process.wait(PATIENCE) == 1
    assert (tmp_path / "told").read_text().startswith("the gateway cannot listen on :::")
