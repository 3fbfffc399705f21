"""Envelopes beside periods, other budgets, and calls that are sent again."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError

from routing import database
from routing.models import BudgetPeriod, Envelope, Reservation, RoutedCall
from routing.money import envelopes, ledger
from routing.reporting import proof
from routing.types import ENVELOPE
from tests.routing.test_ledger import budget, counters, receipt, run, snapshot
from ziggie.errors import BudgetExceeded, Conflict, InvalidInput
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
MAY = datetime(2026, 5, 31, 23, 59, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, 0, 1, tzinfo=UTC)


def opened(limit: int, amounts: Mapping[int, int], envelope: UUID | None = None, **options: Any) -> UUID:
    envelope = envelope or uuid7()
    options = {"name": "of run 1", "expires_in_seconds": 60.0, **options}
    run(envelopes.open_envelope(envelope, limit, amounts, **options))
    return envelope


async def draw(envelope: UUID, taken: int, amounts: Mapping[int, int], **options: Any) -> ledger.Hold:
    options = {"expires_in_seconds": 60.0, "context": {}, **options}
    wanted = {ENVELOPE: taken, **amounts}
    call_id = options.pop("call_id", None) or uuid7()
    return await ledger.reserve(call_id, wanted, options.pop("known"), envelope_id=envelope, **options)


async def pay(held: ledger.Hold, cost: int, *budgets: int) -> bool:
    call, records = receipt(held, cost)
    charges = dict.fromkeys((ENVELOPE, *budgets), cost)
    return await ledger.settle(held, call=call, records=records, charges=charges)


def left(envelope: UUID) -> int:
    return Envelope.objects.get(pk=envelope).left_microusd


def test_an_envelope_holds_once_and_its_calls_hold_no_more() -> None:
    cloud, known = budget(limit=1000).id, snapshot()
    envelope = opened(600, {cloud: 600})

    async def work() -> None:
        first = await draw(envelope, 400, {cloud: 400}, known=known)
        with pytest.raises(BudgetExceeded, match=r"has \$0.000200 left, and this call could cost \$0.000300"):
            await draw(envelope, 300, {cloud: 300}, known=known)
        assert await pay(first, 50, cloud)
        assert not await pay(first, 50, cloud)
        await ledger.release(await draw(envelope, 550, {cloud: 550}, known=known))

    run(work())
    assert (left(envelope), counters()) == (550, (50, 550, 0))
    assert run(envelopes.close_envelope(envelope))
    assert not run(envelopes.close_envelope(envelope))
    assert counters() == (50, 0, 0)


def test_many_calls_at_once_share_an_envelope_and_never_more_than_it_holds() -> None:
    cloud, known = budget(limit=1000).id, snapshot()
    envelope = opened(500, {cloud: 500})

    async def one() -> int:
        try:
            held = await draw(envelope, 30, {cloud: 30}, known=known)
        except BudgetExceeded:
            return 0
        assert await pay(held, 10, cloud)
        return 10

    async def work() -> list[int]:
        return [cost for _ in range(5) for cost in await asyncio.gather(*(one() for _ in range(40)))]

    spent = sum(run(work()))
    assert (left(envelope), counters()) == (500 - spent, (spent, 500 - spent, 0))
    assert proof.differences() == []


def test_an_envelope_gets_what_room_there_is_and_its_calls_may_find_more_later() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    run(ledger.reserve(uuid7(), {cloud: 70}, known, expires_in_seconds=60, context={}))
    envelope = opened(80, {cloud: 80})
    assert Envelope.objects.get().amounts_microusd == [30]
    with pytest.raises(BudgetExceeded, match=r"budget cloud has \$0.000030 left"):
        run(draw(envelope, 50, {cloud: 50}, known=known))
    run(ledger.sweep(at=datetime.now(UTC).replace(year=2099)))
    with pytest.raises(BudgetExceeded):
        run(draw(envelope, 50, {cloud: 50}, known=known))  # the sweep charged it in full
    BudgetPeriod.objects.update(settled_microusd=20)
    assert run(pay(run(draw(envelope, 50, {cloud: 50}, known=known)), 50, cloud))
    assert counters() == (70, 0, 0)


def test_a_call_in_a_new_period_draws_what_the_envelope_holds_in_the_old_one_or_holds_in_the_new_one() -> None:
    cloud, known = budget(limit=100, period="month").id, snapshot()
    envelope = opened(100, {cloud: 60}, at=MAY)

    async def work() -> None:
        old = await draw(envelope, 40, {cloud: 40}, known=known, at=JUNE)
        new = await draw(envelope, 50, {cloud: 50}, known=known, at=JUNE)
        assert await pay(old, 30, cloud)
        assert await pay(new, 45, cloud)

    run(work())
    may, june = BudgetPeriod.objects.order_by("starts_at")
    assert (may.settled_microusd, may.held_microusd) == (30, 30)
    assert (june.settled_microusd, june.held_microusd) == (45, 0)
    assert (left(envelope), proof.differences()) == (25, [])


def test_a_call_outlives_its_envelope() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    envelope = opened(100, {cloud: 100})
    held = run(draw(envelope, 60, {cloud: 60}, known=known))
    run(envelopes.close_envelope(envelope))
    assert counters() == (0, 60, 0)
    assert run(pay(held, 20, cloud))
    assert (left(envelope), counters()) == (80, (20, 0, 0))


def test_an_envelope_that_is_opened_again_goes_on_with_what_is_left_of_its_limit() -> None:
    cloud, known = budget(limit=1000).id, snapshot()
    envelope = opened(100, {cloud: 100})
    assert run(pay(run(draw(envelope, 60, {cloud: 60}, known=known)), 60, cloud))
    run(envelopes.close_envelope(envelope))
    with pytest.raises(BudgetExceeded, match="is closed"):
        run(draw(envelope, 10, {cloud: 10}, known=known))
    opened(100, {cloud: 100}, envelope)
    assert Envelope.objects.get().amounts_microusd == [40]
    with pytest.raises(BudgetExceeded):
        run(draw(envelope, 41, {cloud: 41}, known=known))


def test_a_call_of_an_envelope_that_is_sent_again_takes_its_money_once_and_not_after_it_was_answered() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    envelope, call_id = opened(100, {cloud: 100}), uuid7()
    first = run(draw(envelope, 60, {cloud: 60}, known=known, call_id=call_id))
    again = run(draw(envelope, 60, {cloud: 60}, known=known, call_id=call_id, expires_in_seconds=600.0))
    assert (again, left(envelope)) == (first, 40)
    assert run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=300))) == 0  # it lives as long as a new one
    seen = run(envelopes.look(envelope, call_id=call_id))
    assert (seen.left_microusd, seen.amounts) == (100, {cloud: 100})
    assert run(pay(again, 5, cloud))
    assert not run(pay(first, 5, cloud))
    with pytest.raises(Conflict):
        run(draw(envelope, 60, {cloud: 60}, known=known, call_id=call_id))
    assert (left(envelope), RoutedCall.objects.count()) == (95, 1)


def test_the_sweep_settles_a_dead_call_of_an_envelope_and_closes_the_dead_envelope() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    envelope = opened(100, {cloud: 100})
    run(draw(envelope, 60, {cloud: 60}, known=known, context={"model": "m"}))
    later = datetime.now(UTC).replace(year=2099)
    assert run(ledger.sweep(at=later)) == run(envelopes.sweep(at=later)) == 1
    assert (left(envelope), counters()) == (40, (60, 0, 0))
    assert RoutedCall.objects.get().outcome == "abandoned"
    assert not Reservation.objects.exists()


def test_a_call_cancelled_while_it_is_drawn_gives_its_money_back() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    envelope = opened(100, {cloud: 100})

    async def work() -> None:
        for pause in range(8):
            task = asyncio.create_task(draw(envelope, 60, {cloud: 60}, known=known))
            await asyncio.sleep(pause / 1000)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, ledger.Hold):  # it was admitted before it was cancelled
                await ledger.release(outcome)
            await ledger.drain()

    run(work())
    assert (left(envelope), Reservation.objects.count(), counters()) == (100, 0, (0, 100, 0))


def test_an_envelope_is_looked_at_again_where_the_connection_is_ended_meanwhile() -> None:
    envelope = opened(100, {budget(limit=100).id: 100})
    end = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
             AND wait_event_type = 'Lock' AND query LIKE '%routing_envelope%' AND pid <> pg_backend_pid()"""

    async def work() -> envelopes.Envelope | None:
        async with await database.connect() as own, await database.connect() as other:
            await own.execute("BEGIN")
            await own.execute("LOCK TABLE routing_envelope IN ACCESS EXCLUSIVE MODE")
            looking = asyncio.create_task(envelopes.look(envelope))
            async with asyncio.timeout(30):
                while not await (await other.execute(end)).fetchall():
                    await asyncio.sleep(0.01)
            await own.execute("ROLLBACK")
            return await looking

    seen = run(work())
    assert seen is not None
    assert seen.left_microusd == 100


def test_the_database_itself_refuses_what_an_envelope_cannot_have() -> None:
    opened(100, {budget(limit=100).id: 100})
    for columns in ({"amounts_microusd": [-1]}, {"left_microusd": 101}, {"closed_at": MAY}):
        with pytest.raises(IntegrityError):
            Envelope.objects.update(**columns)


@pytest.mark.parametrize(("limit", "amount"), [(-1, 0), (10**15 + 1, 0), (10, -1)])
def test_impossible_amounts_are_refused(limit: int, amount: int) -> None:
    with pytest.raises(InvalidInput):
        opened(limit, {budget().id: amount})
    assert not Envelope.objects.exists()


def test_money_that_nobody_holds_is_found_out() -> None:
    opened(100, {budget(limit=200).id: 100})
    assert proof.differences() == []
    BudgetPeriod.objects.update(held_microusd=101)
    assert proof.differences() == ["the budget cloud holds +1 micro-dollars more than calls and envelopes do"]
