"""A database that does what it is told and cannot be heard: nothing stays held for a call that was refused."""

import asyncio
import tempfile
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from django.db import connections

from routing import database
from routing.models import Budget, BudgetPeriod, Reservation
from routing.money import ledger
from routing.money.lines import Line
from routing.types import PolicySpec, SettingsSpec, Snapshot
from tests.routing.between import Between
from ziggie.errors import Unavailable
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)


def counters() -> tuple[int, int]:
    period = BudgetPeriod.objects.get()
    return period.settled_microusd, period.held_microusd


@pytest.mark.parametrize("is_new", [True, False])
def test_a_hold_that_was_not_heard_of_in_time_is_given_back_unless_its_call_may_come_again(
    monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    monkeypatch.setattr(ledger, "RESERVE_PATIENCE_SECONDS", 0.3)
    cloud = Budget.objects.create(slug="cloud", limit_microusd=1000).pk
    known = Snapshot(1, {}, PolicySpec(1, "default", 1, ()), (), SettingsSpec(), {})

    async def hold(amount: int) -> ledger.Hold:
        return await ledger.reserve(uuid7(), {cloud: amount}, known, expires_in_seconds=60, context={}, is_new=is_new)

    async def work(folder: Path) -> tuple[int, int]:
        between = Between()
        async with between.standing(folder):
            real = database.connection_parameters()["host"]
            monkeypatch.setitem(connections["default"].settings_dict, "HOST", str(folder))
            await hold(1)
            between.deaf = True
            with pytest.raises(Unavailable):
                await hold(600)
            monkeypatch.setitem(connections["default"].settings_dict, "HOST", real)
            held_meanwhile = await asyncio.to_thread(counters)
            between.deaf = False
            monkeypatch.setitem(connections["default"].settings_dict, "HOST", str(folder))
            await ledger.drain()
            await database.close()
        monkeypatch.setitem(connections["default"].settings_dict, "HOST", real)
        return held_meanwhile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        assert asyncio.run(work(Path(folder))) == (0, 601)
    assert counters() == (0, 1 if is_new else 601)
    assert Reservation.objects.count() == (1 if is_new else 2)


def test_a_statement_that_waits_for_a_lock_ends_with_its_connection() -> None:
    """Else it would be done once the lock is free, when whoever wanted it has given it up."""
    cloud = Budget.objects.create(slug="cloud", limit_microusd=1000)

    async def work() -> None:
        line = Line()
        assert await line.execute("SELECT 1") == [[b"1"]]
        async with database.connection() as looking, database.connection() as other, other.transaction():
            await other.execute("SELECT FROM routing_budget WHERE id = %s FOR UPDATE", (cloud.pk,))
            waiting = asyncio.ensure_future(line.execute("UPDATE routing_budget SET limit_microusd = 5"))
            await _until(looking, "wait_event_type = 'Lock'", 1)
            line.close()
            with pytest.raises(psycopg.OperationalError):
                await waiting
            await _until(looking, "wait_event_type = 'Lock'", 0)
        await database.close()

    asyncio.run(work())
    cloud.refresh_from_db()
    assert cloud.limit_microusd == 1000


async def _until(connection: database.Connection, state: LiteralString, sessions: int) -> None:
    """Until so many sessions of this database are in this state."""
    asked: LiteralString = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND " + state
    for _ in range(600):
        if await (await connection.execute(asked)).fetchone() == (sessions,):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not {sessions} sessions with {state}")
