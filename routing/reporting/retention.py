"""How long details are kept: months of records are made ahead, and dropped once they are old and proved.

Nothing is dropped whose sums do not agree with the rollups, which stay for ever. What is dropped leaves its sums
(UsageMonth). Every step is small or bounded in how long it may wait for a lock, so that no call waits for it.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, LiteralString

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from routing.batches.requests import forget_old
from routing.models import RateBucket, RoutingSettings, StoredBody
from routing.reporting.proof import OF_RECORD, SUMS, hourly_differences

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3
COUNTED_SECONDS = 600
LOCK_MILLISECONDS = 2_000
RECEIPTS_AT_ONCE = 2_000
MOST_RECEIPTS = 500_000  # in one run; the next goes on
BODIES_AT_ONCE = 2_000
ONE_AT_A_TIME = 7_264_002  # the advisory lock of those who drop

OLD_MONTHS = """
SELECT DISTINCT date_trunc('month', created_at, 'UTC') AT TIME ZONE 'UTC' FROM (
    SELECT created_at FROM routing_usagerecord WHERE created_at < %(before)s
    UNION ALL SELECT created_at FROM routing_routedcall WHERE created_at < %(before)s
) AS old ORDER BY 1
"""
TABLES = """
SELECT inhrelid::regclass::text FROM pg_inherits
WHERE inhparent = 'routing_usagerecord'::regclass AND inhrelid <> 'routing_usagerecord_rest'::regclass
"""
KEEP_SUMS: LiteralString = f"""
INSERT INTO routing_usagemonth AS m (month, {SUMS}, receipts, receipts_microusd, paid_by, dropped_at)
SELECT %(month)s, count(*), sum(succeeded), sum(input_tokens), sum(output_tokens), sum(cost_microusd),
       sum(baseline_microusd), sum(energy_microusd), sum(saved_microusd), 0, 0, '{{}}', now()
FROM (SELECT {OF_RECORD} FROM routing_usagerecord WHERE created_at >= %(since)s AND created_at < %(until)s) record
HAVING count(*) > 0
ON CONFLICT (month) DO UPDATE SET attempts = m.attempts + excluded.attempts,
    succeeded = m.succeeded + excluded.succeeded, input_tokens = m.input_tokens + excluded.input_tokens,
    output_tokens = m.output_tokens + excluded.output_tokens, cost_microusd = m.cost_microusd + excluded.cost_microusd,
    baseline_microusd = m.baseline_microusd + excluded.baseline_microusd,
    energy_microusd = m.energy_microusd + excluded.energy_microusd,
    saved_microusd = m.saved_microusd + excluded.saved_microusd, dropped_at = now()
"""  # noqa: S608 - literals of this project
DROP_RECEIPTS = """
WITH gone AS (
    DELETE FROM routing_routedcall WHERE id IN (
        SELECT id FROM routing_routedcall WHERE created_at >= %(since)s AND created_at < %(until)s LIMIT %(most)s)
    RETURNING cost_microusd, paid_by
)
INSERT INTO routing_usagemonth AS m (month, attempts, succeeded, input_tokens, output_tokens, cost_microusd,
    baseline_microusd, energy_microusd, saved_microusd, receipts, receipts_microusd, paid_by, dropped_at)
SELECT %(month)s, 0, 0, 0, 0, 0, 0, 0, 0, count(*), sum(cost_microusd), ledger_paid_in_all(paid_by), now()
FROM gone HAVING count(*) > 0
ON CONFLICT (month) DO UPDATE SET receipts = m.receipts + excluded.receipts,
    receipts_microusd = m.receipts_microusd + excluded.receipts_microusd,
    paid_by = ledger_paid(m.paid_by, excluded.paid_by), dropped_at = now()
RETURNING (SELECT count(*) FROM gone)
"""


@dataclass(slots=True)
class Kept:
    """What one run did: tables made, months dropped, receipts, bodies and finished waiting work deleted; months that
    could not be dropped, with the reason."""

    made: int = 0
    dropped: list[str] = field(default_factory=list)
    receipts: int = 0
    bodies: int = 0
    work: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def keep_house(now: datetime | None = None) -> Kept:
    """Makes what the next months need, and drops what is older than the settings keep. May be run at any time,
    by several at once, or never."""
    now = now or timezone.now()
    settings = RoutingSettings.objects.filter(pk=1).first() or RoutingSettings(pk=1)
    kept = Kept(made=make_months(now.astimezone(UTC).date()))
    kept.bodies = _drop_bodies(now - timedelta(days=settings.body_days))
    kept.work = forget_old(now - timedelta(days=settings.body_days))
    if settings.usage_months is not None:
        _drop_before(_months_before(now.astimezone(UTC).date(), settings.usage_months), kept)
    return kept


def make_months(today: date) -> int:
    """Makes the tables of this month and the next ones; how many it made. A busy moment is left for the next run."""
    made = 0
    for ahead in range(MONTHS_AHEAD + 1):
        try:
            with transaction.atomic(), _patient_cursor() as cursor:
                cursor.execute("SELECT usage_make_month(%s)", [_months_before(today, -ahead)])
                made += cursor.fetchone()[0]
        except OperationalError as error:
            logger.warning("the records' month could not be made now: %s", " ".join(str(error).split()))
    return made


def _patient_cursor() -> Any:
    cursor = connection.cursor()
    cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
    return cursor


def _months_before(day: date, months: int) -> date:
    """The first day of the month that many months before."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(max(year, 1), month + 1, 1)


def _drop_before(first: date, kept: Kept) -> None:
    """Drops every month before `first`. A month whose sums disagree stays, with its receipts."""
    with connection.cursor() as cursor:
        cursor.execute(OLD_MONTHS, {"before": _midnight(first)})
        old = {row[0].date() for row in cursor.fetchall()}
        cursor.execute(TABLES)
        tables = {datetime.strptime(row[0][-7:], "%Y_%m").date() for row in cursor.fetchall()}  # noqa: DTZ007 - a date
    months = sorted(old | {month for month in tables if month < first})
    for month in months:
        try:
            reason = _drop_records(month)
        except OperationalError as error:
            reason = f"the database was busy: {' '.join(str(error).split())}"
        if reason:
            kept.refused[f"{month:%Y-%m}"] = reason
            logger.error("the records of %s are not dropped: %s", f"{month:%Y-%m}", reason)
            continue
        kept.dropped.append(f"{month:%Y-%m}")
        kept.receipts += _drop_receipts(month, MOST_RECEIPTS - kept.receipts)


def _drop_records(month: date) -> str:
    """Drops a month's records in one transaction with keeping their sums; why not, or ""."""
    with transaction.atomic(), _patient_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ONE_AT_A_TIME])
        span = _span(month)
        table = _table_of(cursor, month)
        cursor.execute(f"LOCK TABLE {table or 'routing_usagerecord_rest'} IN SHARE MODE")
        wrong = hourly_differences(span["since"], span["until"])
        if wrong:
            return f"{wrong[0]}{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}"
        cursor.execute(KEEP_SUMS, span)
        cursor.execute(
            "DELETE FROM routing_usagerecord_rest WHERE created_at >= %(since)s AND created_at < %(until)s", span
        )
        if table:
            cursor.execute(f"DROP TABLE {table}")
    return ""


def _drop_receipts(month: date, most: int) -> int:
    dropped = 0
    while dropped < most:
        with connection.cursor() as cursor:
            cursor.execute(DROP_RECEIPTS, _span(month) | {"most": RECEIPTS_AT_ONCE})
            found = cursor.fetchone()
        if found is None:
            break
        dropped += found[0]
    return dropped


def _table_of(cursor: Any, month: date) -> str:
    cursor.execute("SELECT to_regclass(%s)::text", [f"routing_usagerecord_{month:%Y_%m}"])
    return cursor.fetchone()[0] or ""


def _span(month: date) -> dict[str, Any]:
    return {"month": month, "since": _midnight(month), "until": _midnight(_months_before(month, -1))}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _drop_bodies(before: datetime) -> int:
    dropped = 0
    while True:
        old = StoredBody.objects.filter(created_at__lt=before).values("pk")[:BODIES_AT_ONCE]
        count, _ = StoredBody.objects.filter(pk__in=old).delete()
        dropped += count
        if count < BODIES_AT_ONCE:
            return dropped


def forget_old_seconds() -> None:
    """Drops counts of requests that no sliding window sees any more, such as those of addresses that came once."""
    RateBucket.objects.filter(second__lt=timezone.now().timestamp() - COUNTED_SECONDS).delete()
