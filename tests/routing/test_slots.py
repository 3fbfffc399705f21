import asyncio
import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from routing import database
from routing.types import ProviderError, ProviderSpec, Source
from routing.world import slots
from tests.cancelling import settles

pytestmark = pytest.mark.django_db(transaction=True)

PROVIDER_ID = 77


def provider(limit: int | None, *, id: int = PROVIDER_ID) -> ProviderSpec:
    return ProviderSpec(id, "ollama", "ollama", Source.LOCAL, "", max_concurrency=limit)


def start(limit: int, calls: int, log: Path) -> "subprocess.Popen[str]":
    words = [connection.settings_dict["NAME"], PROVIDER_ID, limit, calls, log]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.routing.slot_holder", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=settings.BASE_DIR,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )


def counts() -> dict[int, tuple[int, int]]:
    """Running and waiting calls by provider id, as the planner sees them."""
    with psycopg.connect(**database.connection_parameters()) as plain:
        rows = plain.execute(slots.COUNTS, slots.COUNTS_PARAMETERS).fetchall()
    return {provider_id: (running, waiting) for provider_id, running, waiting in rows}


async def becomes(wanted: dict[int, tuple[int, int]]) -> None:
    """Returns once the planner sees that: slots go back beside the calls that had them."""

    async def seen() -> dict[int, tuple[int, int]]:
        return counts()

    assert await settles(seen, wanted) == wanted


def test_a_limit_holds_over_several_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    processes = [start(3, 40, log) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    at_once = list(accumulate(1 if sign == "+" else -1 for sign in log.read_text()))
    assert len(at_once) == 160
    assert max(at_once) == 3
    assert at_once[-1] == 0
    asyncio.run(becomes({}))


def test_a_killed_process_leaves_no_slot_behind(tmp_path: Path) -> None:
    async def take() -> str:
        async with slots.slot(provider(1), wait_seconds=60):
            return "mine"

    holder = start(1, 0, tmp_path / "unused")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert counts() == {PROVIDER_ID: (1, 0)}
    finally:
        holder.kill()
        holder.wait()
    assert asyncio.run(take()) == "mine"


async def test_a_call_that_waits_too_long_is_told_so_and_leaves_the_queue() -> None:
    async with slots.slot(provider(1), wait_seconds=60):
        with pytest.raises(ProviderError, match="all 1 slots of ollama") as caught:
            async with slots.slot(provider(1), wait_seconds=0.2):
                pytest.fail("two at once")
        assert (caught.value.kind, caught.value.retryable) == ("busy", False)
        await becomes({PROVIDER_ID: (1, 0)})


async def test_those_who_wait_are_counted_and_served_in_their_order() -> None:
    served = []

    async def one(number: int) -> None:
        async with slots.slot(provider(1), wait_seconds=60):
            served.append(number)

    async with slots.slot(provider(1), wait_seconds=60):
        waiting = []
        for number in range(5):
            waiting.append(asyncio.create_task(one(number)))
            await becomes({PROVIDER_ID: (1, number + 1)})
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2, 3, 4]
    await becomes({})


async def test_cancelled_calls_leave_nothing_taken_at_whatever_moment() -> None:
    async def hold() -> None:
        async with slots.slot(provider(2), wait_seconds=60):
            await asyncio.sleep(0.01)

    for round_number in range(40):
        tasks = [asyncio.create_task(hold()) for _ in range(6)]
        await asyncio.sleep(round_number * 0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await becomes({})


async def test_providers_do_not_share_their_slots_and_some_have_no_limit() -> None:
    async with (
        slots.slot(provider(1), wait_seconds=60),
        slots.slot(provider(1, id=PROVIDER_ID + 1), wait_seconds=60),
        slots.slot(provider(None, id=PROVIDER_ID + 2), wait_seconds=60),
    ):
        assert counts() == {PROVIDER_ID: (1, 0), PROVIDER_ID + 1: (1, 0)}


async def test_work_goes_on_after_the_database_cut_the_connection() -> None:
    async with slots.slot(provider(1), wait_seconds=60):
        with psycopg.connect(**database.connection_parameters(), autocommit=True) as plain:
            plain.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
                " WHERE application_name = 'ziggie slots' AND datname = current_database()"
            )
    for _ in range(2):
        try:
            async with slots.slot(provider(1), wait_seconds=60):
                break
        except Exception as error:  # the first one may be the one who notices
            assert type(error).__name__ == "Unavailable"  # noqa: PT017
    await becomes({})
