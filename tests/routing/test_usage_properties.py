"""Whatever was called and wherever the staff live: the books agree, and every summary is the sum of its records."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routing.models import RoutingSettings, UsageRecord
from routing.reporting import proof, retention, usage
from tests.routing.books import book

pytestmark = pytest.mark.django_db(transaction=True)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Chatham",
         "Australia/Lord_Howe", "America/St_Johns")  # fmt: skip
# Both of the year's changes of the clock in Berlin and New York lie in here.
MOMENTS = st.datetimes(datetime(2026, 3, 6), datetime(2026, 11, 3), timezones=st.just(UTC))
TOKENS = st.none() | st.integers(0, 50_000)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "at": MOMENTS,
            "model": st.sampled_from(["gpt", "llama", "offline"]),
            "provider": st.sampled_from(["openai", "ollama"]),
            "source": st.sampled_from(["cloud", "local", "offline"]),
            "outcome": st.sampled_from(["ok", "ok", "error"]),
            "rule": st.sampled_from(["a", "b"]),
            "task_kind": st.sampled_from(["", "analysis"]),
            "creator": st.sampled_from(["", "insta"]),
            "input_tokens": TOKENS,
            "output_tokens": TOKENS,
            "cost_microusd": st.integers(0, 10**9),
            "baseline_microusd": st.integers(0, 10**9),
            "duration_ms": st.integers(0, 10**7),
        }
    ),
    min_size=1,
    max_size=25,
)
loads = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def begin(zone: str) -> None:
    tables = "routing_usagerecord, routing_usagerollup, routing_routedcall, routing_usagemonth"
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {tables}")
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": zone, "usage_months": 3})


def day_of(at: datetime, zone: str) -> str:
    return at.astimezone(ZoneInfo(zone)).date().isoformat()


@loads
@given(CALLS, st.sampled_from(ZONES))
@example([{"at": datetime(2026, 5, 9, 18, 15, tzinfo=UTC)}, {"at": datetime(2026, 5, 9, 18, 14, 59, tzinfo=UTC)}],
         "Asia/Kathmandu")  # fmt: skip
def test_after_any_load_the_books_agree_and_days_are_the_staffs(calls: list[dict[str, Any]], zone: str) -> None:
    begin(zone)
    book(*calls)
    assert proof.differences() == []
    whole = usage.Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    expected = Counter(day_of(call["at"], zone) for call in calls)
    assert {key: sums.calls for key, sums, _ in usage.groups(whole, "day")} == expected
    for day, count in expected.items():
        assert usage.totals(usage.period(day, day)).calls == count
    for name in ("model", "provider", "source", "rule", "task_kind", "creator"):
        for key, sums, latencies in usage.groups(whole, name):
            rows = list(UsageRecord.objects.filter(**{name: key}))
            assert sums.attempts == sum(latencies.values()) == len(rows)
            assert sums.cost_microusd == sum(row.cost_microusd for row in rows)
            assert sums.saved_microusd == sum(row.saved_microusd for row in rows)
            assert sums.input_tokens == sum(row.input_tokens or 0 for row in rows)
            assert sums.succeeded == sum(row.outcome == "ok" for row in rows)


@loads
@given(CALLS, CALLS, st.sampled_from(ZONES))
def test_dropping_old_months_between_two_loads_keeps_the_proof_and_every_sum(
    first: list[dict[str, Any]], second: list[dict[str, Any]], zone: str
) -> None:
    begin(zone)
    whole = usage.Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    book(*first)
    before = usage.totals(whole)
    kept = retention.keep_house(datetime(2026, 9, 15, tzinfo=UTC))
    assert kept.refused == {}
    assert usage.totals(whole) == before
    book(*second)
    assert proof.differences() == []
    retention.keep_house(datetime(2026, 9, 15, tzinfo=UTC))
    assert proof.differences() == []
    assert not UsageRecord.objects.filter(created_at__lt=datetime(2026, 6, 1, tzinfo=UTC)).exists()
    assert usage.totals(whole).calls == len(first) + len(second)


def test_another_time_zone_leaves_what_was_counted_as_it_is() -> None:
    begin("UTC")
    at = datetime(2026, 5, 9, 18, 40, tzinfo=UTC)
    book(at=at)
    RoutingSettings.objects.update(time_zone="Asia/Kolkata")
    book(at=at)
    assert proof.differences() == []
    assert usage.totals(usage.period("2026-05-09", "2026-05-10")).calls == 2
    assert usage.totals(usage.period("2026-05-10", "2026-05-10")).calls == 1, "the older one was counted by whole hours"


@pytest.mark.parametrize("zone", ZONES)
def test_days_follow_each_other_without_gap_or_overlap(zone: str) -> None:
    begin(zone)
    day = date(2026, 1, 1)
    end = None
    while day < date(2027, 1, 3):
        during = usage.period(day.isoformat(), day.isoformat())
        assert end is None or during.since == end
        end, day = during.until, day + timedelta(days=1)
