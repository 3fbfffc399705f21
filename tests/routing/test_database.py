"""Raw connections: one pool a loop, closed with it, never inherited, mended after a loss."""

import asyncio
import gc
import os
import threading
import warnings

import pytest
from django.db import connection as django_connection
from django.db import connections

from routing import database
from tests.flows.system import until
from ziggie.errors import Unavailable

pytestmark = pytest.mark.django_db(transaction=True)


async def backend() -> int:
    async with database.connection() as own:
        row = await (await own.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


def open_connections() -> set[int]:
    """The server processes that work for this test run; earlier tests' background loops keep theirs."""
    with django_connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'ziggie' AND datname = current_database()"
        )
        return {row[0] for row in cursor.fetchall()}


def test_a_loop_reuses_its_connection_and_leaves_none_behind() -> None:
    async def work() -> list[int]:
        return [await backend() for _ in range(5)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = asyncio.run(work()), asyncio.run(work())
        gc.collect()
    assert len(set(first)) == len(set(second)) == 1
    assert set(first) != set(second)
    # The server takes a moment to notice. What others open meanwhile is theirs: gateways look around for a minute.
    until(lambda: not open_connections() & {*first, *second}, 60)


def test_a_pool_never_opens_more_connections_than_its_bound() -> None:
    async def work() -> int:
        return len(set(await asyncio.gather(*(backend() for _ in range(100)))))

    assert asyncio.run(work()) <= database.MAX_CONNECTIONS


def test_loops_in_different_threads_have_pools_of_their_own() -> None:
    pids: list[int] = []
    threads = [threading.Thread(target=lambda: pids.append(asyncio.run(backend()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 3


def test_a_forked_child_opens_its_own_connection_and_leaves_its_parents_alone() -> None:
    async def work() -> tuple[int, int, int]:
        before = await backend()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with asyncio.Runner() as runner:
                    asyncio._set_running_loop(None)
                    code = 0 if runner.run(backend()) != before else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        return before, await backend(), os.waitstatus_to_exitcode(status)

    before, after, code = asyncio.run(work())
    assert code == 0
    assert before == after


async def end(pid: int) -> None:
    killer = await database.connect()
    await killer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    await killer.close()


def test_an_idle_connection_that_the_server_closed_is_replaced_unnoticed() -> None:
    async def work() -> None:
        pid = await backend()
        await end(pid)
        assert await backend() != pid

    asyncio.run(work())


def test_a_connection_that_the_server_closes_while_it_is_lent_fails_once_and_is_replaced() -> None:
    async def lose() -> None:
        async with database.connection() as own:
            await end(own.info.backend_pid)
            await own.execute("SELECT 1")

    async def work() -> None:
        with pytest.raises(Unavailable, match="went away"):
            await lose()
        assert await backend()

    asyncio.run(work())


def test_a_server_that_is_away_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["default"].settings_dict, "PORT", "1")
    monkeypatch.setattr(database, "AWAY_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(backend())


def test_a_connection_left_in_a_transaction_is_not_lent_again() -> None:
    async def work() -> bool:
        async with database.connection() as own:
            pid = own.info.backend_pid
            await own.execute("BEGIN")
        return pid == await backend()

    assert asyncio.run(work()) is False


async def test_a_statement_that_the_server_ends_is_no_fault_of_ours_and_its_connection_is_kept() -> None:
    async with database.connection() as first:
        await first.execute("SET statement_timeout = 1")
    with pytest.raises(Unavailable, match="just now"):
        async with database.connection() as same:
            await same.execute("SELECT pg_sleep(60)")
    async with database.connection() as again:
        assert again is first
    await database.close()


def test_no_statement_on_a_connection_runs_for_ever() -> None:
    async def limits() -> list[str]:
        async with database.connection() as own:
            named = [f"SHOW {name}" for name in ("statement_timeout", "idle_in_transaction_session_timeout")]
            rows = [await (await own.execute(name)).fetchone() for name in named]  # type: ignore[call-overload]
        return [row[0] for row in rows if row]

    assert asyncio.run(limits()) == ["15s", "15s"]
