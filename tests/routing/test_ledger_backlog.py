"""Calls that have ended and are not yet written take memory: no more of them gather than the database keeps up with."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from routing import database
from routing.models import RoutedCall
from routing.money import coalescing, ledger
from tests.routing.test_ledger import budget, hold, receipt, snapshot
from ziggie.errors import Unavailable
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)

ENDED = 2 * coalescing.MAX_BATCH + 1  # a batch under way, and one more than fits into the next


@asynccontextmanager
async def nothing_is_written() -> AsyncIterator[None]:
    """Settlements wait for a lock; admissions need no such table."""
    async with await database.connect() as connection, connection.transaction():
        await connection.execute("LOCK TABLE routing_routedcall IN EXCLUSIVE MODE")
        yield


def end_many() -> None:
    for _ in range(ENDED):
        free = ledger.Hold(uuid7())
        call, _ = receipt(free)
        ledger.settle_soon(free, call=call, records=[], charges={})


def run(work: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120):
            await work
            await ledger.drain()

    asyncio.run(whole())


def test_a_call_is_admitted_once_those_that_have_ended_fit_into_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RESERVE_PATIENCE_SECONDS", 60.0)
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        async with nothing_is_written():
            end_many()
            admission = asyncio.create_task(hold({cloud: 600}, known))
            done, _ = await asyncio.wait([admission], timeout=0.3)
            assert not done
        assert (await admission).amounts == {cloud: 600}
        await ledger.release(await admission)

    run(work())
    assert RoutedCall.objects.count() == ENDED


def test_a_call_is_refused_where_what_has_ended_is_not_written_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RESERVE_PATIENCE_SECONDS", 0.05)
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        async with nothing_is_written():
            end_many()
            await asyncio.sleep(0)
            for amounts in ({cloud: 600}, {}):  # a call that could cost nothing is written like any other
                with pytest.raises(Unavailable, match="too many"):
                    await hold(amounts, known)
        await ledger.caught_up()

    run(work())
    assert RoutedCall.objects.count() == ENDED
