"""A key's open streams are counted over all processes, and no dead process leaves one counted."""

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import openai
import psycopg
import pytest
from django.conf import settings
from django.db import connection

from routing import database
from routing.gateway.access.keys import Key
from routing.gateway.access.streams import MOST_BLOCKS, Streams
from tests.cancelling import settles
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import QUESTION, openai_client
from tests.servers.script import Reply
from ziggie.errors import RateLimited
from ziggie.models import ApiKey
from ziggie.values import replace

LOCKS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid IN (
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ziggie streams')
"""


def key_of(limit: int) -> Key:
    return Key(str(uuid.uuid4()), "streaming", frozenset(), frozenset(), None, None, limit, None)


def locks() -> int:
    with psycopg.connect(**database.connection_parameters()) as plain:
        row = plain.execute(LOCKS).fetchone()
    assert row is not None
    return int(row[0])


async def seen_locks() -> int:
    return await asyncio.to_thread(locks)


async def opened(streams: Streams, key: Key, wanted: int, stack: AsyncExitStack) -> int:
    """How many of so many streams, begun at once, were let in."""

    async def one() -> bool:
        try:
            await stack.enter_async_context(streams.one_of(key))
        except RateLimited:
            return False
        return True

    return sum(await asyncio.gather(*(one() for _ in range(wanted))))


def on_processes(count: int, work: Callable[[Streams], Awaitable[int]]) -> list[int]:
    """Does `work` on `count` event loops that share nothing but the database, as processes do."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: asyncio.run(work(Streams())), range(count)))


@pytest.mark.parametrize(("limit", "wanted"), [(5, 4), (300, 130)])
def test_as_many_streams_are_open_as_the_key_may_have_over_all_processes(
    transactional_db: None, limit: int, wanted: int
) -> None:
    key, everybody_has_asked = key_of(limit), threading.Barrier(3)

    async def work(streams: Streams) -> int:
        async with AsyncExitStack() as stack:
            found = await opened(streams, key, wanted, stack)
            await asyncio.to_thread(everybody_has_asked.wait, 120)
        return found

    assert sum(on_processes(3, work)) == limit


def test_most_streams_ask_nobody(transactional_db: None) -> None:
    key = key_of(10 * MOST_BLOCKS)

    async def work(streams: Streams) -> int:
        async with AsyncExitStack() as stack:
            assert await opened(streams, key, 25, stack) == 25
            return await settles(seen_locks, 3)

    assert on_processes(1, work) == [3]


@pytest.mark.parametrize(("kept_seconds", "left"), [(3600.0, 1), (0.0, 0)])
def test_a_block_of_several_streams_is_kept_for_the_next_one_for_a_while(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, kept_seconds: float, left: int
) -> None:
    monkeypatch.setattr("routing.gateway.access.streams.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("routing.gateway.access.streams.KEPT_SECONDS", kept_seconds)
    key = key_of(10 * MOST_BLOCKS)

    async def work(streams: Streams) -> int:
        async with AsyncExitStack() as stack:
            assert await opened(streams, key, 25, stack) == 25
        return await settles(seen_locks, left)

    assert on_processes(1, work) == [left]


@pytest.mark.parametrize(("before", "after", "let_in"), [(4000, 2, 1), (2, 4000, 20)])
def test_a_limit_that_has_been_changed_holds_for_the_next_stream(
    transactional_db: None, before: int, after: int, let_in: int
) -> None:
    key = key_of(before)

    async def work(streams: Streams) -> int:
        async with streams.one_of(key), AsyncExitStack() as stack:  # one goes on
            async with streams.one_of(key):
                pass
            return await opened(streams, replace(key, max_streams=after), 20, stack)

    assert on_processes(1, work) == [let_in]


def test_a_stream_that_has_ended_makes_room_in_another_process(transactional_db: None) -> None:
    key = key_of(1)

    async def work(first: Streams) -> int:
        second = Streams()
        async with first.one_of(key):
            with pytest.raises(RateLimited, match="1 streams open"):
                await second.one_of(key).__aenter__()
        for _ in range(6000):
            try:
                async with second.one_of(key):
                    return 1
            except RateLimited:
                await asyncio.sleep(0.01)
        return 0

    assert on_processes(1, work) == [1]


def test_streams_are_counted_again_when_the_connection_that_counted_them_is_lost(transactional_db: None) -> None:
    key = key_of(2)

    async def work(streams: Streams) -> int:
        async with streams.one_of(key):
            with psycopg.connect(**database.connection_parameters(), autocommit=True) as plain:
                plain.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ziggie streams'"
                    " AND datname = current_database()"
                )
            while locks():
                await asyncio.sleep(0.01)
            async with streams.one_of(key):
                with pytest.raises(RateLimited):
                    await streams.one_of(key).__aenter__()
                return await settles(seen_locks, 2)

    assert on_processes(1, work) == [2]


def test_a_caller_who_is_cancelled_while_it_asks_leaves_nothing_counted(transactional_db: None) -> None:
    key = key_of(3)

    async def work(streams: Streams) -> int:
        for delay in range(12):
            async with AsyncExitStack() as stack:
                asking = asyncio.create_task(opened(streams, key, 3, stack))
                await asyncio.sleep(delay / 1000)
                asking.cancel()
                await asyncio.wait([asking])
        for _ in range(6000):
            async with AsyncExitStack() as stack:
                if await opened(streams, key, 4, stack) == 3:
                    return 3
            await asyncio.sleep(0.01)
        return 0

    assert on_processes(1, work) == [3]


def test_a_process_that_is_killed_leaves_no_stream_counted(transactional_db: None) -> None:
    key = key_of(1)
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.stream_holder", str(connection.settings_dict["NAME"]), key.id, "1"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=settings.BASE_DIR,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    async def work(streams: Streams) -> int:
        with pytest.raises(RateLimited):
            await streams.one_of(key).__aenter__()
        holder.kill()
        holder.communicate()
        for _ in range(6000):
            try:
                async with streams.one_of(key):
                    return 1
            except RateLimited:
                await asyncio.sleep(0.01)
        return 0

    assert on_processes(1, work) == [1]


def test_a_key_has_only_so_many_open_streams(gateway: Gateway) -> None:
    ApiKey.objects.filter(pk=gateway.key_id).update(max_streams=1)
    gateway.openai.default = Reply("word " * 40, fault="stall", fault_after=3)
    completions = openai_client(gateway).chat.completions
    turns: Any = QUESTION
    with completions.create(model="gpt", messages=turns, stream=True) as first:
        next(iter(first))
        with pytest.raises(openai.RateLimitError, match="1 streams open"):
            completions.create(model="gpt", messages=turns, stream=True)
    gateway.settled(1)
    gateway.openai.default = Reply("x")
    assert list(completions.create(model="gpt", messages=turns, stream=True))
