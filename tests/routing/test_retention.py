"""Records by month: none is ever lost or refused, what is old is dropped once it is proved, and the proof goes on."""

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import Client

from monitoring import schedules
from routing.models import (
    Budget,
    BudgetPeriod,
    RoutedCall,
    RoutingSettings,
    StoredBody,
    UsageMonth,
    UsageRecord,
    UsageRollup,
)
from routing.reporting import proof, retention, usage
from tests.routing.books import NOON, book
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_old_tables() -> Any:
    yield
    with connection.cursor() as cursor:
        cursor.execute(retention.TABLES)
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {name}")


def tables() -> dict[str, int]:
    """Records by the table that holds them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM routing_usagerecord GROUP BY 1")
        return {name.removeprefix("routing_usagerecord_"): count for name, count in cursor.fetchall()}


def keep(months: int | None = 2, **columns: Any) -> retention.Kept:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"usage_months": months, **columns})
    return retention.keep_house(NOW)


def test_without_any_job_every_record_is_kept_whatever_its_date() -> None:
    for at in (datetime(1999, 1, 1, tzinfo=UTC), NOON, datetime(2091, 1, 1, tzinfo=UTC)):
        book(at=at)
    assert tables() == {"rest": 3}
    assert proof.differences() == []


def test_months_are_made_ahead_and_take_over_what_the_rest_had_of_them() -> None:
    book({"at": NOW}, {"at": NOW}, {"at": NOON})
    assert retention.make_months(NOW.date()) == retention.MONTHS_AHEAD + 1
    assert tables() == {"2026_11": 2, "rest": 1}
    book(at=NOW + timedelta(days=40))
    assert tables()["2026_12"] == 1
    assert retention.make_months(NOW.date()) == 0
    assert proof.differences() == []


def test_a_month_that_begins_and_ends_with_a_year_has_its_own_bounds() -> None:
    retention.make_months(date(2026, 12, 31))
    book({"at": datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)}, {"at": datetime(2027, 1, 1, tzinfo=UTC)})
    assert tables() == {"2026_12": 1, "2027_01": 1}


def test_what_budgets_paid_is_proved_when_the_receipts_are_gone() -> None:
    row = Budget.objects.create(slug="old", limit_microusd=1_000)
    book({"at": NOON, "charges": {row.pk: 250}}, {"at": NOON, "charges": {row.pk: 50}})
    assert keep().receipts == 2
    book(at=NOON, charges={row.pk: 7})
    assert keep().receipts == 1
    assert UsageMonth.objects.get().paid_by == {str(row.pk): 307}
    assert proof.differences() == []
    BudgetPeriod.objects.update(settled_microusd=306)
    assert proof.differences() == ["the budget old counts -1 micro-dollars more than receipts say that it paid"]


def test_a_call_that_is_being_settled_is_not_stopped_by_making_months() -> None:
    """The rest is locked by somebody: making months gives up and says so, and no call fails."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE routing_usagerecord_rest IN ROW EXCLUSIVE MODE")
            held.set()
            done.wait(120)
        connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    was, retention.LOCK_MILLISECONDS = retention.LOCK_MILLISECONDS, 50
    try:
        assert retention.make_months(NOW.date()) == 0
        book(at=NOW)
    finally:
        retention.LOCK_MILLISECONDS = was
        done.set()
        thread.join()
    assert tables() == {"rest": 1}


def test_calls_go_on_while_months_are_made_and_dropped() -> None:
    """Records of every month keep coming; none is refused or lost, and each is counted or was proved."""
    done = threading.Event()
    failures: list[BaseException] = []

    def keep_on() -> None:
        try:
            while not done.is_set():
                keep()
        except BaseException as failure:
            failures.append(failure)
        finally:
            connections.close_all()

    thread = threading.Thread(target=keep_on)
    thread.start()
    try:
        for turn in range(8):
            book(*({"at": datetime(2026, 1 + (turn * 5 + n) % 12, 7, tzinfo=UTC)} for n in range(25)))
    finally:
        done.set()
        thread.join(120)
    assert failures == []
    assert proof.differences() == []
    assert usage.totals(usage.period("2026-01-01", "2026-12-31")).calls == 200


def test_django_reads_writes_and_deletes_single_records_by_their_id() -> None:
    retention.make_months(NOW.date())
    book({"at": NOW}, {"at": NOON})
    for record in UsageRecord.objects.all():
        assert UsageRecord.objects.get(pk=record.pk).created_at == record.created_at
    first = UsageRecord.objects.order_by("created_at")[0]
    UsageRecord.objects.filter(pk=first.pk).update(error="looked at")
    assert UsageRecord.objects.get(pk=first.pk).error == "looked at"
    first.delete()
    assert UsageRecord.objects.count() == 1


def test_the_admin_lists_and_opens_records_of_all_months(admin_client: Client) -> None:
    retention.make_months(NOW.date())
    book({"at": NOW}, {"at": NOON})
    page = admin_client.get("/admin/routing/usagerecord/")
    assert page.content.count(b"gpt") >= 2
    record = UsageRecord.objects.filter(created_at=NOW).get()
    assert admin_client.get(f"/admin/routing/usagerecord/{record.pk}/change/").status_code == 200


def test_old_months_are_dropped_with_their_receipts_and_the_proof_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    retention.make_months(date(2026, 5, 1))
    for month in (5, 6, 8, 9, 10, 11):
        book({"at": datetime(2026, month, 3, tzinfo=UTC)}, {"at": datetime(2026, month, 28, tzinfo=UTC)})
    summary = usage.totals(usage.period("2026-05-01", "2026-11-30"))
    kept = keep(months=2)
    assert kept.dropped == ["2026-05", "2026-06", "2026-07", "2026-08"]
    assert (kept.receipts, kept.refused) == (6, {})
    assert set(tables()) == {"rest", "2026_11"}
    assert RoutedCall.objects.count() == UsageRecord.objects.count() == 6
    assert usage.totals(usage.period("2026-05-01", "2026-11-30")) == summary, "rollups stay"
    assert proof.differences() == []
    call_command("usage", "check")
    said = capsys.readouterr().out
    assert "record by record from 2026-09-03 on; 2026-05 to 2026-08 by the sums of records since dropped" in said
    assert keep(months=2).dropped == [], "a second run has nothing to do"


def test_without_a_number_of_months_nothing_is_dropped() -> None:
    book(at=datetime(2001, 1, 1, tzinfo=UTC))
    assert keep(months=None).dropped == []
    assert UsageRecord.objects.count() == 1


def test_a_month_whose_sums_disagree_is_not_dropped_and_the_others_are() -> None:
    book({"at": datetime(2026, 3, 3, tzinfo=UTC)}, {"at": datetime(2026, 4, 3, tzinfo=UTC)})
    UsageRollup.objects.filter(hour__month=3).update(cost_microusd=251)
    kept = keep()
    assert kept.dropped == ["2026-04"]
    assert "cost +1" in kept.refused["2026-03"]
    assert [record.created_at.month for record in UsageRecord.objects.all()] == [3]
    assert [call.created_at.month for call in RoutedCall.objects.all()] == [3]
    assert len(proof.differences()) == 1


def test_the_rollups_of_a_dropped_month_are_still_proved() -> None:
    book(at=datetime(2026, 3, 3, tzinfo=UTC))
    keep()
    assert UsageMonth.objects.get().cost_microusd == 250
    UsageRollup.objects.update(input_tokens=11)
    assert proof.differences() == ["2026-03 (its records are dropped): the rollups are off by input +1"]


def test_a_record_that_comes_after_its_month_was_dropped_counts_and_is_dropped_with_the_next_run() -> None:
    march = datetime(2026, 3, 3, tzinfo=UTC)
    book(at=march)
    keep()
    book(at=march, cost_microusd=7)
    assert proof.differences() == []
    assert keep().dropped == ["2026-03"]
    assert (UsageMonth.objects.get().attempts, UsageMonth.objects.get().cost_microusd) == (2, 257)
    assert not UsageRecord.objects.exists()
    assert proof.differences() == []


def test_bodies_are_purged_after_their_own_days() -> None:
    for days in (1, 6, 8, 400):
        StoredBody.objects.create(call_id=uuid7(), request={}, created_at=NOW - timedelta(days=days))
    assert keep(body_days=7).bodies == 2
    assert StoredBody.objects.count() == 2


def test_the_schedule_runs_it() -> None:
    from django.utils.module_loading import import_string
    from django_q.models import Schedule

    schedules.ensure()
    row = Schedule.objects.get(name="keep house")
    import_string(row.func)()
    assert (row.minutes, row.schedule_type) == (60, Schedule.MINUTES)
    today = datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [f"routing_usagerecord_{today:%Y_%m}"])
        assert cursor.fetchone()[0]


def test_rows_that_were_there_before_are_moved_by_the_migration_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    book({"at": NOW}, {"at": NOON}, {"at": datetime(2001, 2, 3, tzinfo=UTC)})
    rows = list(UsageRecord.objects.order_by("id").values())
    try:
        call_command("migrate", "routing", "0006", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT relkind::text FROM pg_class WHERE relname = 'routing_usagerecord'")
            assert cursor.fetchone() == ("r",)
    finally:
        call_command("migrate", verbosity=0)
    assert list(UsageRecord.objects.order_by("id").values()) == rows
    assert tables() == {"2026_11": 1, "2026_05": 1, "2001_02": 1}
    assert proof.differences() == []
