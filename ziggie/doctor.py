"""What `manage.py doctor` looks at: named checks, each of which says how it is or what to do.

An app adds its own in a module `doctor.py`, which is found by itself:

    @check("printer")
    def printer() -> str:
        raise Problem("it is out of paper", hint="put some in")

A check returns a few words, or raises Problem (or any ZiggieError). One that looks at several things,
like the providers, yields a Finding for each.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import autodiscover_modules

from ziggie import database, supervisor
from ziggie.errors import ZiggieError

State = Literal["ok", "warning", "failed"]
LEAST_FREE_BYTES, LITTLE_FREE_BYTES = 500 * 1024**2, 2 * 1024**3
MOST_CLOCK_SECONDS = 5.0
QUEUE_SECONDS, QUEUE_SECONDS_WHEN_DOWN = 10.0, 2.0
LIVE_SECONDS = 5.0
# When this program was written: a clock that shows less is wrong.
NOT_BEFORE = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Finding:
    """One line of the report. Only "failed" makes the doctor's exit code 1."""

    name: str
    state: State
    text: str
    hint: str = ""


class Problem(ZiggieError):
    """A check that failed, and what to do. `needed=False`: Ziggie works without it."""

    def __init__(self, message: str, *, hint: str, needed: bool = True) -> None:
        super().__init__(message)
        self.hint = hint
        self.needed = needed


CheckFunction = Callable[[], str | Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    name: str
    function: CheckFunction
    needs: str


_checks: dict[str, Check] = {}


def check(name: str, *, needs: str = "") -> Callable[[CheckFunction], CheckFunction]:
    """Add a check to the report, under this name, after those that are there.

    It is passed over, as failed, where the check that it `needs` has failed.
    """

    def register(function: CheckFunction) -> CheckFunction:
        _checks[name] = Check(name, function, needs)
        return function

    return register


def examine() -> Iterator[Finding]:
    """Run every check. None stops another."""
    autodiscover_modules("doctor")
    failed = set()
    for one in _checks.values():
        if one.needs in failed:
            failed.add(one.name)
            yield Finding(one.name, "failed", f"not looked at, it needs: {one.needs}")
            continue
        for finding in _run(one.name, one.function):
            if finding.state == "failed":
                failed.add(one.name)
            yield finding


def _run(name: str, function: CheckFunction) -> Iterator[Finding]:
    try:
        result = function()
        if isinstance(result, str):
            yield Finding(name, "ok", result)
        else:
            yield from result
    except Problem as problem:
        yield Finding(name, "failed" if problem.needed else "warning", problem.message, problem.hint)
    except ZiggieError as error:
        yield Finding(name, "failed", error.message)
    except DatabaseError as error:
        yield Finding(name, "failed", database.explain(error).message)
    except Exception as error:  # the other checks must still run, whatever this one met
        yield Finding(name, "failed", f"{type(error).__name__}: {error}", "This is a fault in the check itself.")


@check("database")
def check_database() -> str:
    database.prepare()
    version = database.server_version()
    where = "of DATABASE_URL" if settings.DATABASE_URL else f"embedded in {settings.ZIGGIE_HOME}"
    return f"PostgreSQL {version}, {where}"


@check("vector", needs="database")
def check_vector() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        row = cursor.fetchone()
    if row is None:
        raise Problem("the extension is missing", hint="as the database's administrator: CREATE EXTENSION vector;")
    return f"pgvector {row[0]}"


@check("migrations", needs="database")
def check_migrations() -> str:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        raise Problem(f"{len(plan)} not applied, first {plan[0][0]}", hint="manage.py migrate")
    return "all applied"


def echo(word: str) -> str:
    """What the queue check lets a worker run."""
    return word


@check("queue", needs="database")
def check_queue() -> str:
    """A task goes through the queue and comes back from a worker."""
    from django_q.models import Task  # not before the apps are loaded

    from ziggie import queue

    # Where nothing was started here, workers of another machine may answer; that none does is no fault.
    is_up = supervisor.is_claimed(settings.ZIGGIE_HOME)
    patience = QUEUE_SECONDS if is_up else QUEUE_SECONDS_WHEN_DOWN
    word, began = uuid.uuid4().hex, time.monotonic()
    queue.enqueue(echo, word)
    while (waited := time.monotonic() - began) < patience:
        for task in Task.objects.filter(func=f"{__name__}.echo"):
            if task.result == word:
                task.delete()
                return f"a worker answered in {waited:.1f} s"
        time.sleep(0.1)
    hint = "see what the workers print" if is_up else "start them: make up"
    raise Problem(f"no worker answered within {patience:.0f} s", hint=hint, needed=is_up)


@check("live", needs="" if settings.REDIS_URL else "database")
def check_live() -> str:
    began = time.monotonic()
    try:
        async_to_sync(_live_round_trip)()
    except TimeoutError as error:
        raise Problem(
            f"a message did not come back within {LIVE_SECONDS:.0f} s",
            hint="is REDIS_URL right?" if settings.REDIS_URL else "the live layer needs the database",
        ) from error
    return f"a message came back in {(time.monotonic() - began) * 1000:.0f} ms"


async def _live_round_trip() -> None:
    layer = get_channel_layer()
    assert layer is not None
    group, word = f"doctor.{uuid.uuid4().hex}", uuid.uuid4().hex
    async with asyncio.timeout(LIVE_SECONDS):
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        try:
            await layer.group_send(group, {"type": "doctor", "word": word})
            while (await layer.receive(channel)).get("word") != word:
                pass
        finally:
            await layer.group_discard(group, channel)


@check("disk")
def check_disk() -> str:
    free = shutil.disk_usage(settings.ZIGGIE_HOME).free
    text = f"{free / 1024**3:.1f} GB free for {settings.ZIGGIE_HOME}"
    if free < LITTLE_FREE_BYTES:
        raise Problem(text, hint="free some, or move ZIGGIE_HOME", needed=free < LEAST_FREE_BYTES)
    return text


@check("clock", needs="database")
def check_clock() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    now = datetime.now(UTC)
    assert row is not None
    apart = abs((now - row[0]).total_seconds())
    if now < NOT_BEFORE or apart > MOST_CLOCK_SECONDS:
        raise Problem(
            f"it shows {now:%Y-%m-%d %H:%M} UTC, {apart:.0f} s apart from the database's",
            hint="let both machines set their clocks by NTP; budgets and leases go by it",
        )
    return f"{now:%Y-%m-%d %H:%M:%S} UTC, {apart:.1f} s apart from the database's"
