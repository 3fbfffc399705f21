"""Equal requests of several processes, one of which may die at any moment.

A machine may stand still for longer than the product's lease, and then another process rightly takes over. So leases
are of minutes here, but for those that are to run out.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from routing.models import CachedAnswer
from tests.installation import Installation, installed
from tests.servers import Reply

pytestmark = [pytest.mark.flow, pytest.mark.django_db(transaction=True)]
QUESTION = "Is the disk almost full?"
LEASE = timedelta(seconds=300)
BEAT = timedelta(seconds=0.2)
SHORT = timedelta(seconds=3)


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.change_rule(
            "system query", chain=["llama3.2"], options={"cache_ttl_seconds": 3600, "first_token_seconds": None}
        )
        yield installation


class Caller:
    """A process that makes calls when it is told to."""

    def __init__(self, *deadline: str, lease: timedelta) -> None:
        arguments = [connection.settings_dict["NAME"], str(lease.total_seconds()), str(BEAT.total_seconds()), *deadline]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.routing.cache_caller", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=settings.BASE_DIR,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        )

    def call(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(QUESTION + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.line())
        return answer


@contextmanager
def callers(count: int, *deadline: str, lease: timedelta = LEASE) -> Iterator[list[Caller]]:
    started = [Caller(*deadline, lease=lease) for _ in range(count)]
    try:
        assert [caller.line() for caller in started] == ["ready"] * count
        yield started
    finally:
        for caller in started:
            caller.process.kill()
            caller.process.communicate()


def until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_two_processes_with_the_same_request_at_once_make_one_upstream_call(here: Installation) -> None:
    here.ollama.default = Reply(text="No, 40% is free.", first_token=1.0)
    with callers(2) as (one, other):
        one.call()
        other.call()
        answers = [one.answer(), other.answer()]
    assert {answer["text"] for answer in answers} == {"No, 40% is free."}
    assert sorted(answer["cache"] for answer in answers) == ["hit", "miss"]
    assert len(here.ollama.calls) == 1
    here.assert_books_are_closed()


def test_when_the_leader_is_killed_another_process_takes_over(here: Installation) -> None:
    here.ollama.queue(Reply(fault="hang"))
    here.ollama.default = Reply(text="No, 40% is free.")
    with callers(1, lease=SHORT) as (leader,), callers(2) as (one, other):
        leader.call()
        until(lambda: len(here.ollama.calls) == 1)
        one.call()
        other.call()
        time.sleep(0.5)
        leader.process.send_signal(signal.SIGKILL)
        answers = [one.answer(), other.answer()]
    assert {answer["text"] for answer in answers} == {"No, 40% is free."}
    assert sorted(answer["cache"] for answer in answers) == ["hit", "miss"]
    assert len(here.ollama.calls) == 2


def test_a_leader_that_takes_longer_than_its_lease_stays_the_leader(here: Installation) -> None:
    answered = threading.Event()
    here.ollama.default = Reply(text="No, 40% is free.", after=answered)
    with callers(2) as (one, other):
        one.call()
        until(lambda: len(here.ollama.calls) == 1)
        other.call()
        # As if nearly all of its lease had passed. The leader, which beats all the time, lengthens it.
        ends = timezone.now() + SHORT
        CachedAnswer.objects.update(expires_at=ends)
        until(lambda: CachedAnswer.objects.get().expires_at > ends)
        until(lambda: timezone.now() > ends)
        answered.set()
        answers = [one.answer(), other.answer()]
    assert sorted(answer["cache"] for answer in answers) == ["hit", "miss"]
    assert len(here.ollama.calls) == 1


def test_whoever_waits_for_a_dead_leader_keeps_its_own_deadline(here: Installation) -> None:
    here.ollama.default = Reply(fault="hang")
    with callers(1) as (leader,), callers(1, "1.5") as (hurried,):
        leader.call()
        until(lambda: len(here.ollama.calls) == 1)
        leader.process.send_signal(signal.SIGKILL)
        hurried.call()
        answer = hurried.answer()
    assert answer["error"] == "deadline"
    assert answer["seconds"] < 30
    assert CachedAnswer.objects.count() <= 1


def test_when_the_leader_fails_the_other_process_asks_for_itself(here: Installation) -> None:
    here.ollama.queue(Reply(status=500, error="no", latency=1.0))
    here.ollama.default = Reply(text="No, 40% is free.")
    with callers(2) as (leader, other):
        leader.call()
        until(lambda: len(here.ollama.calls) == 1)
        other.call()
        assert leader.answer()["error"] == "all_providers_failed"
        assert other.answer()["text"] == "No, 40% is free."
    here.assert_books_are_closed()
