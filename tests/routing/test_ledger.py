"""The ledger on a real PostgreSQL: admission, settlement, periods, the sweep, and what survives faults."""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

import pytest
from django.db import IntegrityError
from django.db.models import F, Sum
from msgspec.structs import asdict

from routing import database
from routing.models import Budget, BudgetPeriod, Reservation, RoutedCall, RoutingSettings, UsageRecord, UsageRollup
from routing.money import coalescing, keeping, ledger
from routing.money.ledger_rows import CallRow, UsageRow
from routing.reporting import proof
from routing.types import Attempt, BudgetSpec, PolicySpec, SettingsSpec, Snapshot
from ziggie.errors import BudgetExceeded, InvalidInput
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def snapshot() -> Snapshot:
    specs = tuple(
        BudgetSpec(b.id, b.slug, {}, b.period, b.limit_microusd, b.hard, b.on_exhausted)  # type: ignore[arg-type]
        for b in Budget.objects.all()
    )
    return Snapshot(1, {}, PolicySpec(1, "default", 1, ()), specs, SettingsSpec(), {})


def budget(slug: str = "cloud", limit: int = 1000, **columns: Any) -> Budget:
    return Budget.objects.create(slug=slug, limit_microusd=limit, **columns)


async def hold(amounts: Mapping[int, int], known: Snapshot, **options: Any) -> ledger.Hold:
    options = {"expires_in_seconds": 60.0, "context": {}, **options}
    return await ledger.reserve(options.pop("call_id", None) or uuid7(), amounts, known, **options)


def receipt(held: ledger.Hold, cost: int = 0, **columns: Any) -> tuple[CallRow, list[UsageRow]]:
    call = CallRow(id=held.call_id, rule="r", outcome="ok", model="m", provider="p", source="cloud",
                   cost_microusd=cost, **columns)  # fmt: skip
    return call, [UsageRow(attempt=1, model="m", provider="p", source="cloud", outcome="ok", cost_microusd=cost)]


async def spend(held: ledger.Hold, charges: Mapping[int, int], **columns: Any) -> bool:
    call, records = receipt(held, max(charges.values(), default=0), **columns)
    return await ledger.settle(held, call=call, records=records, charges=charges)


def counters(slug: str = "cloud") -> tuple[int, int, int]:
    period = BudgetPeriod.objects.filter(budget__slug=slug).latest("starts_at")
    return period.settled_microusd, period.held_microusd, period.overrun_microusd


def test_a_hold_becomes_what_was_spent_and_the_rest_is_free_again() -> None:
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        held = await hold({cloud: 600}, known)
        with pytest.raises(BudgetExceeded):
            await hold({cloud: 401}, known)
        assert await spend(held, {cloud: 100})
        await ledger.release(await hold({cloud: 900}, known))

    run(work())
    assert counters() == (100, 0, 0)
    assert not Reservation.objects.exists()
    assert RoutedCall.objects.get().cost_microusd == UsageRecord.objects.get().cost_microusd == 100
    assert UsageRollup.objects.get().cost_microusd == 100


def test_a_refusal_names_the_budget_and_what_it_has_left_and_holds_nothing() -> None:
    wide, narrow = budget("wide", 10_000_000).id, budget("narrow", 2_000_000).id
    known = snapshot()
    with pytest.raises(BudgetExceeded, match="budget narrow has") as refused:
        run(hold({wide: 3_000_000, narrow: 3_000_000}, known))
    assert refused.value.details == [{"budget": "narrow", "left_usd": "2.000000", "needed_usd": "3.000000"}]
    assert counters("wide") == counters("narrow") == (0, 0, 0)


def test_the_last_microdollar_is_admitted_and_the_next_is_not() -> None:
    cloud, known = budget(limit=5).id, snapshot()
    run(hold({cloud: 5}, known))
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 1}, known))


def test_a_soft_budget_counts_but_never_refuses() -> None:
    cloud, known = budget(limit=5, hard=False).id, snapshot()
    assert run(spend(run(hold({cloud: 500}, known)), {cloud: 500}))
    assert counters() == (500, 0, 0)


def test_settling_and_releasing_race_and_only_one_of_them_counts() -> None:
    cloud, known = budget().id, snapshot()

    async def work() -> list[bool]:
        held = await hold({cloud: 600}, known)
        return await asyncio.gather(spend(held, {cloud: 10}), ledger.release(held), spend(held, {cloud: 10}))

    assert sorted(run(work())) == [False, False, True]
    assert counters()[1] == 0
    assert counters()[0] == sum(UsageRecord.objects.values_list("cost_microusd", flat=True))


def test_a_free_call_touches_no_budget_and_is_still_written_once() -> None:
    held = run(hold({}, snapshot()))
    call, records = receipt(held)

    async def work() -> list[bool]:
        one = [ledger.settle(held, call=call, records=records, charges={}) for _ in range(3)]
        return [*await asyncio.gather(*one), await ledger.settle(held, call=call, records=records, charges={})]

    assert sorted(run(work())) == [False, False, False, True]
    assert RoutedCall.objects.count() == UsageRecord.objects.count() == UsageRollup.objects.get().calls == 1
    assert not BudgetPeriod.objects.exists()


def test_a_call_that_failed_may_be_sent_again_under_its_id() -> None:
    cloud, known = budget().id, snapshot()
    call_id = uuid7()

    async def once(outcome: str, cost: int) -> bool:
        held = await hold({cloud: 500}, known, call_id=call_id)
        call, records = receipt(held, cost)
        call = CallRow(**{**asdict(call), "outcome": outcome})
        return await ledger.settle(held, call=call, records=records, charges={cloud: cost})

    assert run(once("all_providers_failed", 30))
    assert run(once("ok", 70))
    assert (RoutedCall.objects.get().outcome, RoutedCall.objects.get().cost_microusd) == ("ok", 100)
    assert list(UsageRecord.objects.order_by("attempt").values_list("attempt", "cost_microusd")) == [(1, 30), (2, 70)]
    totals = UsageRollup.objects.aggregate(Sum("calls"), Sum("answered"), Sum("attempts"), Sum("cost_microusd"))
    assert totals == {"calls__sum": 1, "answered__sum": 1, "attempts__sum": 2, "cost_microusd__sum": 100}
    assert counters() == (100, 0, 0)


def test_reserving_an_id_again_returns_its_hold_even_when_the_budget_is_full() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    call_id = uuid7()
    first = run(hold({cloud: 100}, known, call_id=call_id))
    assert run(hold({cloud: 100}, known, call_id=call_id)) == first
    assert counters() == (0, 100, 0)


def test_a_charge_above_the_hold_is_found_out_as_overrun_and_blocks_what_follows() -> None:
    cloud, known = budget(limit=100).id, snapshot()
    assert run(spend(run(hold({cloud: 90}, known)), {cloud: 130}))
    assert counters() == (130, 0, 30)
    with pytest.raises(BudgetExceeded, match=r"\$0.000000 left"):
        run(hold({cloud: 1}, known))


def test_the_check_finds_a_budget_whose_counter_is_not_what_receipts_paid() -> None:
    cloud, wide = budget().id, budget("wide", 10_000).id
    call_id = uuid7()
    held = run(hold({cloud: 90, wide: 90}, snapshot(), call_id=call_id))
    assert run(spend(held, {cloud: 7, wide: 9}, created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    again = run(hold({cloud: 90}, snapshot(), call_id=call_id))  # the same call once more, its receipt goes on
    assert run(spend(again, {cloud: 5}))
    run(hold({cloud: 11}, snapshot(), expires_in_seconds=1.0))
    run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=2)))
    assert RoutedCall.objects.get(pk=call_id).paid_by == {str(cloud): 12, str(wide): 9}
    assert proof.differences() == []
    BudgetPeriod.objects.filter(budget_id=cloud).update(settled_microusd=F("settled_microusd") + 3)
    assert proof.differences() == ["the budget cloud counts +3 micro-dollars more than receipts say that it paid"]
    BudgetPeriod.objects.filter(budget_id=cloud).update(
        settled_microusd=F("settled_microusd") - 3, overrun_microusd=F("overrun_microusd") + 4
    )
    assert proof.differences() == ["the budget cloud excuses +4 micro-dollars more than it is above its limit"]


def test_a_charge_to_a_budget_that_was_not_held_is_counted_in_its_current_period() -> None:
    cloud, other = budget().id, budget("other").id
    assert run(spend(run(hold({cloud: 90}, snapshot())), {cloud: 7, other: 7}))
    assert counters("other") == (7, 0, 0)


def test_a_changed_limit_counts_from_the_next_call() -> None:
    row = budget(limit=100)
    known = snapshot()
    run(hold({row.id: 80}, known))
    Budget.objects.filter(pk=row.pk).update(limit_microusd=50)
    with pytest.raises(BudgetExceeded):
        run(hold({row.id: 1}, known))
    run(ledger.sweep(at=datetime.now(UTC) + timedelta(hours=1)))
    assert counters() == (80, 0, 30)
    Budget.objects.filter(pk=row.pk).update(limit_microusd=81)
    run(hold({row.id: 1}, known))
    assert counters() == (80, 1, 0)


def test_the_database_itself_refuses_an_overspent_hard_budget() -> None:
    run(hold({budget(limit=100).id: 100}, snapshot()))
    with pytest.raises(IntegrityError, match="hard_budget_not_overspent"):
        BudgetPeriod.objects.update(held_microusd=F("held_microusd") + 1)


@pytest.mark.parametrize(
    ("period", "before", "after"),
    [
        ("day", "2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z"),
        ("day", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"),  # a day of 23 hours
        ("day", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),  # a day of 25 hours
        ("week", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"),  # weeks begin on Monday
        ("month", "2026-03-31T21:59:59Z", "2026-03-31T22:00:00Z"),
    ],
)
def test_a_period_rolls_over_at_its_boundary_in_the_staffs_time_zone(period: str, before: str, after: str) -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "Europe/Berlin"})
    cloud, known = budget(limit=100, period=period).id, snapshot()
    last, first = datetime.fromisoformat(before), datetime.fromisoformat(after)
    full = run(hold({cloud: 100}, known, at=last))
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 1}, known, at=last))
    run(hold({cloud: 100}, known, at=first))
    run(spend(full, {cloud: 60}))
    old, new = BudgetPeriod.objects.order_by("starts_at")
    assert (old.settled_microusd, old.held_microusd, old.ends_at) == (60, 0, first)
    assert (new.settled_microusd, new.held_microusd, new.starts_at) == (0, 100, first)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Beirut", "America/Santiago", "Asia/Kathmandu", "Etc/GMT-14"])
def test_days_follow_one_another_without_gap_or_overlap_also_when_clocks_change(zone: str) -> None:
    """In Beirut and Santiago the clocks change at midnight, so that a day may begin at one."""
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": zone})
    cloud, known = budget(limit=10**6, period="day").id, snapshot()
    for month, day in ((3, 27), (10, 23), (9, 5), (4, 3)):
        begins = datetime(2026, month, day, tzinfo=UTC)
        for hours in range(0, 72, 6):
            at = begins + timedelta(hours=hours, minutes=30)
            run(hold({cloud: 1}, known, at=at))
            period = BudgetPeriod.objects.get(starts_at__lte=at, ends_at__gt=at)
            assert period.starts_at.astimezone(ZoneInfo(zone)).date() == at.astimezone(ZoneInfo(zone)).date()
            assert timedelta(hours=23) <= period.ends_at - period.starts_at <= timedelta(hours=25)
    held = BudgetPeriod.objects.aggregate(held=Sum("held_microusd"))["held"]
    assert held == Reservation.objects.count() == 4 * 12


@pytest.mark.parametrize(
    ("zone", "at", "begins", "ends"),
    [
        # Midnight comes twice in Havana and on the Azores, and not at all in Cairo and Santiago.
        ("America/Havana", "2026-11-01T04:30Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("America/Havana", "2026-11-01T05:30Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("America/Havana", "2026-11-01T03:59Z", "2026-10-31T04:00Z", "2026-11-01T04:00Z"),
        ("Atlantic/Azores", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-26T01:00Z"),
        ("Africa/Cairo", "2026-04-24T20:59Z", "2026-04-23T22:00Z", "2026-04-24T21:00Z"),
        ("America/Santiago", "2026-09-06T12:00Z", "2026-09-06T04:00Z", "2026-09-07T03:00Z"),
    ],
)
def test_a_day_is_that_of_the_clock_on_the_wall_where_midnight_comes_twice_or_not_at_all(
    zone: str, at: str, begins: str, ends: str
) -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": zone})
    cloud, known = budget(period="day").id, snapshot()
    run(hold({cloud: 1}, known, at=datetime.fromisoformat(at)))
    period = BudgetPeriod.objects.get()
    assert (period.starts_at, period.ends_at) == (datetime.fromisoformat(begins), datetime.fromisoformat(ends))


def test_a_month_that_begins_with_an_hour_that_comes_twice_begins_once() -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "America/Havana"})
    cloud, known = budget(limit=100, period="month").id, snapshot()
    run(hold({cloud: 100}, known, at=datetime(2026, 11, 1, 3, 59, tzinfo=UTC)))
    run(hold({cloud: 60}, known, at=datetime(2026, 11, 1, 4, 30, tzinfo=UTC)))
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 60}, known, at=datetime(2026, 11, 1, 5, 30, tzinfo=UTC)))
    october, november = BudgetPeriod.objects.order_by("starts_at")
    assert (october.held_microusd, november.held_microusd) == (100, 60)


def test_moving_the_staff_west_gives_no_second_budget_for_the_same_month() -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "Asia/Tokyo"})
    cloud, known = budget(limit=100, period="month").id, snapshot()
    run(hold({cloud: 100}, known, at=datetime(2026, 5, 10, tzinfo=UTC)))
    RoutingSettings.objects.update(time_zone="America/New_York")
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 1}, known, at=datetime(2026, 5, 31, 16, tzinfo=UTC)))  # June in Tokyo, May in New York
    run(hold({cloud: 1}, known, at=datetime(2026, 6, 1, 4, tzinfo=UTC)))
    old, new = BudgetPeriod.objects.order_by("starts_at")
    assert old.ends_at == new.starts_at == datetime(2026, 6, 1, 4, tzinfo=UTC)


def test_a_total_budget_never_rolls_over() -> None:
    cloud, known = budget(limit=100, period="total").id, snapshot()
    run(hold({cloud: 100}, known, at=datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 1}, known, at=datetime(2036, 1, 1, tzinfo=UTC)))


def test_another_time_zone_does_not_open_a_second_period_beside_the_running_one() -> None:
    cloud, known = budget(limit=100, period="month").id, snapshot()
    at = datetime(2026, 5, 10, tzinfo=UTC)
    run(hold({cloud: 100}, known, at=at))
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "Asia/Tokyo"})
    with pytest.raises(BudgetExceeded):
        run(hold({cloud: 1}, known, at=at))
    run(hold({cloud: 1}, known, at=datetime(2026, 6, 1, tzinfo=UTC)))
    old, new = BudgetPeriod.objects.order_by("starts_at")
    assert old.ends_at == new.starts_at


def test_another_kind_of_period_begins_at_once() -> None:
    row = budget(limit=100, period="month")
    at = datetime(2026, 5, 10, 12, tzinfo=UTC)
    run(hold({row.id: 100}, snapshot(), at=at))
    Budget.objects.filter(pk=row.pk).update(period="day")
    run(hold({row.id: 100}, snapshot(), at=at + timedelta(hours=1)))
    old, new = BudgetPeriod.objects.order_by("starts_at")
    assert old.ends_at == new.starts_at == at + timedelta(hours=1)


def test_a_call_that_waited_while_a_later_one_began_another_kind_of_period_is_counted_there() -> None:
    row = budget(limit=100, period="month")
    at = datetime(2026, 5, 10, 12, tzinfo=UTC)
    run(hold({row.id: 100}, snapshot(), at=at))
    Budget.objects.filter(pk=row.pk).update(period="day")
    run(hold({row.id: 60}, snapshot(), at=at + timedelta(seconds=2)))
    with pytest.raises(BudgetExceeded):
        run(hold({row.id: 60}, snapshot(), at=at + timedelta(seconds=1)))
    old, new = BudgetPeriod.objects.order_by("starts_at")
    assert old.ends_at == new.starts_at == at + timedelta(seconds=2)


def test_a_kind_of_period_that_changes_as_the_period_begins_holds_up_no_call() -> None:
    row = budget(limit=100, period="month")
    at = datetime(2026, 5, 1, tzinfo=UTC)
    run(hold({row.id: 60}, snapshot(), at=at))
    Budget.objects.filter(pk=row.pk).update(period="day")
    with pytest.raises(BudgetExceeded):
        run(hold({row.id: 60}, snapshot(), at=at))
    run(hold({row.id: 60}, snapshot(), at=at + timedelta(seconds=1)))


def test_the_sweep_settles_what_is_known_of_a_dead_call_and_marks_it_estimated() -> None:
    cloud, wide = budget().id, budget("wide").id
    context = {"rule": "r", "model": "m", "provider": "p", "source": "cloud", "task_kind": "chat",
               "input_tokens": 12, "output_tokens": 30, "cost_microusd": 250, "policy": "default"}  # fmt: skip
    held = run(hold({cloud: 200, wide: 300}, snapshot(), expires_in_seconds=1.0, context=context))
    assert run(ledger.sweep()) == 0
    assert run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=2))) == 1
    record = UsageRecord.objects.get()
    assert (record.call_id, record.cost_microusd, record.input_tokens) == (held.call_id, 250, 12)
    assert set(record.estimated) == {"input_tokens", "output_tokens", "cost"}
    assert RoutedCall.objects.get().outcome == "abandoned"
    assert record.saved_microusd == RoutedCall.objects.get().saved_microusd == -250  # paid, and nothing came of it
    assert (counters("cloud"), counters("wide")) == ((200, 0, 0), (250, 0, 0))
    assert not run(spend(held, {cloud: 1}))


def test_a_dead_call_is_not_said_to_have_cost_more_than_was_held_for_it() -> None:
    row = budget()
    run(hold({row.id: 600}, snapshot(), expires_in_seconds=1.0))
    Budget.objects.filter(pk=row.pk).update(limit_microusd=100)
    with pytest.raises(BudgetExceeded):  # the next call finds the limit lowered
        run(hold({row.id: 60}, snapshot()))
    run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=2)))
    assert RoutedCall.objects.get().reserved_microusd == 600
    (overrun,) = proof.overruns()
    assert (overrun.microusd, overrun.calls, overrun.beyond_microusd) == (500, 0, 0)


def test_a_limit_below_what_is_spent_is_told_though_no_call_comes_to_find_it() -> None:
    row = budget()
    run(spend(run(hold({row.id: 600}, snapshot())), {row.id: 600}, reserved_microusd=600))
    Budget.objects.filter(pk=row.pk).update(limit_microusd=100)
    (overrun,) = proof.overruns()
    assert (overrun.budget, overrun.microusd, overrun.calls) == ("cloud", 500, 0)
    with pytest.raises(BudgetExceeded):
        run(hold({row.id: 1}, snapshot()))
    Budget.objects.filter(pk=row.pk).update(limit_microusd=600)
    assert proof.overruns() == []


def test_a_budget_with_two_periods_of_a_moment_lets_nobody_past_another_budget() -> None:
    """As a clock that was set back may leave them."""
    twice, narrow, now = budget("twice"), budget("narrow", limit=10), datetime.now(UTC)
    for row, days in ((twice, 2), (twice, 1), (narrow, 1)):
        row.periods.create(
            period=row.period,
            starts_at=now - timedelta(days=days),
            ends_at=now + timedelta(days=1),
            limit_microusd=row.limit_microusd,
            hard=True,
        )
    with pytest.raises(BudgetExceeded):
        run(hold({twice.id: 500, narrow.id: 500}, snapshot()))
    run(hold({twice.id: 10, narrow.id: 10}, snapshot()))
    assert counters("narrow") == (0, 10, 0)
    assert proof.differences() == []


async def _renewed(held: ledger.Hold, before: datetime) -> bool:
    """Waits until the hold has another expiry than before; False if it has still the same when it is forgotten."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        row = await Reservation.objects.aget(pk=held.call_id)
        if row.expires_at != before:
            return True
        if held.call_id not in keeping.keeper().holding:
            return False
        await asyncio.sleep(0.05)
    raise AssertionError("the hold was neither renewed nor forgotten")


def test_the_hold_of_a_call_that_lives_is_renewed_and_the_sweep_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK_SECONDS", 0.05)
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        held = await hold({cloud: 100}, known, expires_in_seconds=1.0)
        expiry = (await Reservation.objects.aget(pk=held.call_id)).expires_at
        assert await _renewed(held, expiry)
        assert await ledger.sweep(at=expiry) == 0
        assert await spend(held, {cloud: 60})

    run(work())
    assert counters() == (60, 0, 0)


def test_a_hold_that_is_found_again_lives_as_long_as_a_new_one() -> None:
    cloud, known, call = budget().id, snapshot(), uuid7()
    run(hold({cloud: 100}, known, call_id=call, expires_in_seconds=1.0))
    run(hold({cloud: 100}, known, call_id=call, expires_in_seconds=600.0))  # by another process
    assert run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=300))) == 0
    assert counters() == (0, 100, 0)
    run(hold({cloud: 100}, known, call_id=call, expires_in_seconds=1.0))  # never shorter
    assert run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=300))) == 0


def test_a_hold_is_not_renewed_for_ever_nor_after_its_call_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(keeping, "LONGEST_SECONDS", -1.0)
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        held = await hold({cloud: 100}, known, expires_in_seconds=1.0)
        expiry = (await Reservation.objects.aget(pk=held.call_id)).expires_at
        assert not await _renewed(held, expiry)
        other = await hold({cloud: 100}, known)
        assert await spend(other, {cloud: 1})
        assert other.call_id not in keeping.keeper().holding

    run(work())
    assert run(ledger.sweep(at=datetime.now(UTC) + timedelta(seconds=2))) == 1


def test_two_sweeps_at_once_settle_each_hold_once() -> None:
    cloud, known = budget(limit=100_000).id, snapshot()

    async def work() -> int:
        await asyncio.gather(*(hold({cloud: 3}, known, context={"model": "m"}) for _ in range(450)))
        later = datetime.now(UTC) + timedelta(hours=1)
        return sum(await asyncio.gather(ledger.sweep(at=later), ledger.sweep(at=later)))

    assert run(work()) == 450
    assert counters() == (1350, 0, 0)
    assert UsageRecord.objects.count() == 450


def test_a_call_cancelled_while_it_is_being_admitted_holds_nothing_in_the_end() -> None:
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        for steps in range(6):
            task = asyncio.create_task(hold({cloud: 100}, known))
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await ledger.release(task.result())
        await ledger.drain()

    run(work())
    assert counters()[1] == 0 if BudgetPeriod.objects.exists() else True
    assert not Reservation.objects.exists()


def test_a_call_cancelled_between_its_admission_and_its_waking_up_holds_nothing() -> None:
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        task = asyncio.create_task(hold({cloud: 100}, known))
        await asyncio.sleep(0)
        lane = ledger._lanes().reserving
        while lane._worker is not None:  # the step in which this loop ends, the task has its result and did not run
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await ledger.drain()

    run(work())
    assert counters()[1] == 0
    assert not Reservation.objects.exists()


def test_a_fault_of_what_is_done_meanwhile_leaves_nothing_held() -> None:
    cloud, known = budget(limit=1_000).id, snapshot()

    def fails() -> None:
        raise RecursionError

    async def work() -> None:
        with pytest.raises(RecursionError):
            await ledger.reserve(uuid7(), {cloud: 10}, known, expires_in_seconds=60, context={}, meanwhile=fails)
        await ledger.drain()

    run(work())
    assert not Reservation.objects.exists()
    assert counters() == (0, 0, 0)


def test_a_settlement_goes_on_when_the_one_who_asked_for_it_is_cancelled() -> None:
    cloud, known = budget().id, snapshot()

    async def work() -> None:
        held = await hold({cloud: 100}, known)
        task = asyncio.create_task(spend(held, {cloud: 40}))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await ledger.drain()

    run(work())
    assert counters() == (40, 0, 0)


def test_a_row_that_the_database_refuses_is_mended_and_harms_no_neighbour() -> None:
    cloud, known = budget(limit=10_000).id, snapshot()
    strange = {"error": "nul \0, half a pair \ud800, " + "long " * 1000, "model": "m" * 500}

    async def work() -> list[bool]:
        holds = await asyncio.gather(*(hold({cloud: 10}, known, context=strange if n == 3 else {}) for n in range(8)))
        endings = []
        for n, held in enumerate(holds):
            call, records = receipt(held, 5)
            if n == 5:
                failed = Attempt(1, "m", "p", "cloud", "error", datetime.now(UTC), 0.1, error=strange["error"])
                call = CallRow(**{**asdict(call), **strange, "features": {"text": "\0"}, "attempts": [failed]})
                records = [UsageRow(**{**asdict(records[0]), "error": strange["error"], "input_tokens": 10**12})]
            endings.append(ledger.settle(held, call=call, records=records, charges={cloud: 5}))
        return await asyncio.gather(*endings)

    assert run(work()) == [True] * 8
    assert counters() == (40, 0, 0)
    assert UsageRecord.objects.filter(input_tokens=2**31 - 1).count() == 1


@pytest.mark.parametrize("amount", [-1, 10**15 + 1])
def test_an_impossible_amount_is_refused_before_it_reaches_the_database(amount: int) -> None:
    with pytest.raises(InvalidInput):
        run(hold({budget().id: amount}, snapshot()))


def test_a_budget_deleted_meanwhile_does_not_stop_its_calls() -> None:
    cloud, gone = budget(), budget("gone")
    known = snapshot()
    Budget.objects.filter(slug="gone").delete()
    held = run(hold({cloud.id: 10, gone.id: 10}, known))
    assert run(spend(held, {cloud.id: 5, gone.id: 5}))
    assert counters() == (5, 0, 0)


def test_operations_that_arrive_together_share_transactions() -> None:
    cloud, known = budget(limit=10**9).id, snapshot()

    async def transactions(table: LiteralString) -> int:
        async with database.connection() as own:
            row = await (await own.execute(f"SELECT count(DISTINCT xmin::text) FROM {table}")).fetchone()
        assert row is not None
        return int(row[0])

    async def work() -> int:
        holds = await asyncio.gather(*(hold({cloud: 10}, known) for _ in range(500)))
        began = await transactions("routing_reservation")
        await asyncio.gather(*(spend(held, {cloud: 5}) for held in holds))
        return began + await transactions("routing_usagerecord")

    assert run(work()) < 50
    assert counters() == (2500, 0, 0)
    assert UsageRollup.objects.get().attempts == 500


def test_calls_of_one_batch_hold_each_in_its_own_budgets_known_ones_and_refused_ones_among_them() -> None:
    """What fits as a whole goes another way than what does not: each call gets the same either way."""
    wide, narrow, soft = budget("wide", 1000).id, budget("narrow", 100).id, budget("soft", 10, hard=False).id
    known, again = snapshot(), uuid7()

    async def work() -> list[Any]:
        await hold({wide: 1}, known)  # all that is asked while this one is on its way goes together
        before = await hold({soft: 20}, known, call_id=again)
        fit = [{wide: 10, soft: 7}, {narrow: 60}, {wide: 5, narrow: 5, soft: 5}]
        asked = [hold(amounts, known) for amounts in fit]
        held = await asyncio.gather(*asked, hold({soft: 20}, known, call_id=again))
        assert [set(one.periods) for one in held] == [*map(set, fit), {soft}]
        assert held[-1] == before
        mixed = ({narrow: 30}, {narrow: 10, soft: 1}, {narrow: 5, wide: 1})
        return await asyncio.gather(*(hold(amounts, known) for amounts in mixed), return_exceptions=True)

    first, refused, last = run(work())
    assert (set(first.periods), set(last.periods)) == ({narrow}, {narrow, wide})
    assert isinstance(refused, BudgetExceeded)
    assert (counters("wide"), counters("narrow"), counters("soft")) == ((0, 17, 0), (0, 100, 0), (0, 32, 0))
    sums = dict.fromkeys(BudgetPeriod.objects.values_list("id", flat=True), 0)
    for row in Reservation.objects.all():
        for period, amount in zip(row.period_ids, row.amounts_microusd, strict=True):
            sums[period] += amount
    assert sums == dict(BudgetPeriod.objects.values_list("id", "held_microusd"))


def test_a_call_sent_again_whose_budget_was_deleted_holds_in_the_budgets_of_now() -> None:
    gone, left, call_id = budget("gone").id, budget("left", 10).id, uuid7()
    run(hold({gone: 5}, snapshot(), call_id=call_id))
    Budget.objects.filter(pk=gone).delete()
    again = run(hold({left: 10}, snapshot(), call_id=call_id))
    assert counters("left") == (0, 10, 0)
    with pytest.raises(BudgetExceeded):
        run(hold({left: 1}, snapshot()))
    assert run(spend(again, {left: 7}))
    assert counters("left") == (7, 0, 0)


def test_an_admission_that_meets_a_changed_limit_locks_in_the_order_of_a_settlement() -> None:
    """Whoever locked the second budget first would wait in a circle with who has the first."""
    first, second = budget("first").id, budget("second").id
    held = run(hold({first: 5, second: 5}, snapshot()))
    Budget.objects.filter(pk=first).update(limit_microusd=900)
    wanted = {"id": str(uuid7()), "budgets": [first, second], "amounts": [1, 1], "expires_in_seconds": 60}
    asked = [json.dumps([{**wanted, "context": {}}]), [first, second]]

    async def alone(sql: LiteralString, parameters: list[Any]) -> None:
        async with database.connection() as own:
            await own.execute(sql, parameters)

    async def work() -> None:
        async with database.connection() as other, other.transaction():
            await other.execute("SELECT FROM routing_budgetperiod WHERE budget_id = %s FOR UPDATE", (second,))
            admission = alone("SELECT * FROM ledger_reserve(%s::json, 1, %s::bigint[], '{1,1}', now())", asked)
            settlement = alone("SELECT * FROM ledger_settle(%s, '{}', '[]', '[]', '[]', now())", [[held.call_id]])
            both = []
            for statement in (admission, settlement):
                both.append(asyncio.ensure_future(statement))
                await asyncio.sleep(0.2)  # it waits for a budget
        await asyncio.gather(*both)  # DeadlockDetected, if they waited for each other

    run(work())
    assert counters("first") == counters("second") == (0, 1, 0)


def test_lost_connections_are_replaced_and_nothing_is_done_twice() -> None:
    cloud, known = budget(limit=10**9).id, snapshot()
    kill = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE application_name = 'ziggie' AND datname = current_database() AND pid <> pg_backend_pid()"""

    async def killer(stop: asyncio.Event) -> None:
        async with database.connection() as own:
            while not stop.is_set():
                await own.execute(kill)
                await asyncio.sleep(0.15)  # longer than a batch takes on a busy machine

    async def one() -> None:
        held = await hold({cloud: 10}, known)
        await asyncio.sleep(0.001)
        assert await spend(held, {cloud: 5})

    async def work() -> None:
        stop = asyncio.Event()
        killing = asyncio.create_task(killer(stop))
        for _ in range(40):
            await asyncio.gather(*(one() for _ in range(10)))
            await asyncio.sleep(0.02)
        stop.set()
        await killing

    run(work())
    assert counters() == (2000, 0, 0)
    assert not Reservation.objects.exists()
    assert UsageRecord.objects.count() == UsageRollup.objects.get().calls == 400


def test_a_statement_that_takes_too_long_is_given_up_and_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "BATCH_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(ledger, "RESERVE_PATIENCE_SECONDS", 60.0)
    cloud, known = budget(), snapshot()

    async def work() -> ledger.Hold:
        async with database.connection() as other, other.transaction():
            await other.execute("LOCK TABLE routing_reservation IN EXCLUSIVE MODE")
            held = asyncio.create_task(hold({cloud.id: 600}, known))
            await asyncio.sleep(1.0)  # the first statements are given up in this time
            assert not held.done()
        return await held

    held = run(work())
    assert held.amounts == {cloud.id: 600}
    assert counters() == (0, 600, 0)
