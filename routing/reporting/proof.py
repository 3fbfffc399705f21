"""The proof that records, rollups, receipts, budgets' counters and holds agree to the micro-dollar, and how far back
it reaches.

Months whose records were dropped are proved by their sums (UsageMonth), which were compared with the rollups hour by
hour before anything was dropped.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

from django.db import connection

from routing.models import UsageMonth

MAX_DIFFERENCES = 100
NAMES = ("attempts", "succeeded", "input", "output", "cost", "baseline", "energy", "saved")
SUMS: LiteralString = """
    attempts, succeeded, input_tokens, output_tokens, cost_microusd, baseline_microusd, energy_microusd, saved_microusd
"""
_KEY: LiteralString = "model, provider, source, rule, task_kind, agent_level, creator, api_key_id"
_COUNTED: LiteralString = """
    coalesce(sum(attempts), 0)::bigint, coalesce(sum(succeeded), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint,
    coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(cost_microusd), 0)::bigint,
    coalesce(sum(baseline_microusd), 0)::bigint, coalesce(sum(energy_microusd), 0)::bigint,
    coalesce(sum(saved_microusd), 0)::bigint
"""
# A record's share of each sum, in the order of SUMS.
OF_RECORD: LiteralString = """
    1 AS attempts, (outcome = 'ok')::integer AS succeeded, coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens, cost_microusd, baseline_microusd, energy_microusd, saved_microusd
"""
_MINUS: LiteralString = """
    -attempts, -succeeded, -input_tokens, -output_tokens, -cost_microusd, -baseline_microusd, -energy_microusd,
    -saved_microusd
"""
_HOURS: LiteralString = f"""
SELECT hour, {_KEY}, {_COUNTED} FROM (
    SELECT date_trunc('hour', hour, 'UTC') AS hour, {_KEY}, {SUMS} FROM routing_usagerollup
    WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s) AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
    UNION ALL
    SELECT date_trunc('hour', created_at, 'UTC'), {_KEY}, {_MINUS}
    FROM (SELECT created_at, {_KEY}, {OF_RECORD} FROM routing_usagerecord WHERE
        (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)) AS record
) AS both_ways
WHERE (date_trunc('month', hour, 'UTC') AT TIME ZONE 'UTC')::date NOT IN (SELECT month FROM routing_usagemonth)
GROUP BY hour, {_KEY} HAVING ({_COUNTED}) IS DISTINCT FROM (0, 0, 0, 0, 0, 0, 0, 0)
ORDER BY hour LIMIT {MAX_DIFFERENCES}
"""  # noqa: S608 - literals of this file
_MONTHS: LiteralString = f"""
SELECT month, {_COUNTED} FROM (
    SELECT month, {_MINUS.strip()} FROM routing_usagemonth
    UNION ALL
    SELECT m.month, r.* FROM routing_usagemonth m JOIN LATERAL (SELECT {SUMS} FROM routing_usagerollup
        WHERE hour >= m.month::timestamp AT TIME ZONE 'UTC'
        AND hour < (m.month + interval '1 month') AT TIME ZONE 'UTC') r ON true
    UNION ALL
    SELECT m.month, r.* FROM routing_usagemonth m JOIN LATERAL (SELECT {_MINUS} FROM (
        SELECT {OF_RECORD} FROM routing_usagerecord WHERE created_at >= m.month::timestamp AT TIME ZONE 'UTC'
        AND created_at < (m.month + interval '1 month') AT TIME ZONE 'UTC') AS record) r ON true
) AS both_ways(month, attempts, succeeded, input_tokens, output_tokens, cost_microusd, baseline_microusd,
               energy_microusd, saved_microusd)
GROUP BY month HAVING ({_COUNTED}) IS DISTINCT FROM (0, 0, 0, 0, 0, 0, 0, 0) ORDER BY month
"""  # noqa: S608 - the same
_WHOLE: LiteralString = """
SELECT (SELECT coalesce(sum(calls), 0) FROM routing_usagerollup),
       (SELECT count(*) FROM routing_routedcall) + (SELECT coalesce(sum(receipts), 0) FROM routing_usagemonth),
       (SELECT coalesce(sum(cost_microusd), 0) FROM routing_routedcall)
           + (SELECT coalesce(sum(receipts_microusd), 0) FROM routing_usagemonth),
       (SELECT coalesce(sum(cost_microusd), 0) FROM routing_usagerecord)
           + (SELECT coalesce(sum(cost_microusd), 0) FROM routing_usagemonth)
"""
# One statement, so that what moves meanwhile is seen on both sides or on neither.
_HELD: LiteralString = """
SELECT b.slug, p.held_microusd - coalesce(held.amount, 0) FROM routing_budgetperiod p
JOIN routing_budget b ON b.id = p.budget_id
LEFT JOIN (
    SELECT period, sum(amount) AS amount FROM (
        SELECT line.period, line.amount FROM routing_reservation,
            LATERAL unnest(period_ids, amounts_microusd) AS line(period, amount)
        UNION ALL SELECT line.period, line.amount FROM routing_envelope,
            LATERAL unnest(period_ids, amounts_microusd) AS line(period, amount)
    ) AS line GROUP BY 1
) AS held ON held.period = p.id
WHERE p.held_microusd <> coalesce(held.amount, 0) ORDER BY b.slug
"""


_PAID: LiteralString = """
WITH paid AS (
    SELECT key::bigint AS budget, sum(value::bigint) AS amount FROM (
        SELECT paid.* FROM routing_routedcall, LATERAL jsonb_each_text(paid_by) AS paid
        UNION ALL SELECT paid.* FROM routing_usagemonth, LATERAL jsonb_each_text(paid_by) AS paid
    ) AS each GROUP BY 1
), counted AS (
    SELECT budget_id AS budget, sum(settled_microusd) AS amount FROM routing_budgetperiod GROUP BY 1
)
SELECT b.slug, coalesce(counted.amount, 0) - coalesce(paid.amount, 0) FROM routing_budget b
LEFT JOIN paid ON paid.budget = b.id LEFT JOIN counted ON counted.budget = b.id
WHERE coalesce(counted.amount, 0) <> coalesce(paid.amount, 0) ORDER BY b.slug
"""
# The same as the CHECK constraint, and that no more is excused than there is.
_OVERRUNS: LiteralString = """
SELECT b.slug, p.overrun_microusd - CASE WHEN p.hard
    THEN greatest(0, p.settled_microusd + p.held_microusd - p.limit_microusd) ELSE 0 END AS off
FROM routing_budgetperiod p JOIN routing_budget b ON b.id = p.budget_id
WHERE p.overrun_microusd <> CASE WHEN p.hard
    THEN greatest(0, p.settled_microusd + p.held_microusd - p.limit_microusd) ELSE 0 END ORDER BY b.slug
"""
# A present period follows its budget's limit with the next call only, and where nothing is left there is none.
_BEYOND: LiteralString = """
SELECT b.slug, p.starts_at, above.amount, coalesce(beyond.calls, 0), coalesce(beyond.amount, 0)
FROM routing_budgetperiod p JOIN routing_budget b ON b.id = p.budget_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN b.enabled AND p.period = b.period AND p.starts_at <= now() AND coalesce(p.ends_at > now(), true)
        THEN CASE WHEN b.hard THEN p.settled_microusd + p.held_microusd - b.limit_microusd ELSE 0 END
        ELSE p.overrun_microusd END AS amount
) AS above
LEFT JOIN LATERAL (
    SELECT count(*) AS calls, sum((paid_by->>p.budget_id::text)::bigint - reserved_microusd)::bigint AS amount
    FROM routing_routedcall WHERE created_at >= p.starts_at AND (p.ends_at IS NULL OR created_at < p.ends_at)
    AND (paid_by->>p.budget_id::text)::bigint > reserved_microusd
) AS beyond ON true
WHERE above.amount > 0 ORDER BY p.starts_at, b.slug
"""


@dataclass(frozen=True, slots=True)
class Overrun:
    """How far a hard budget is above its limit in one period. Of that, `calls` cost `beyond_microusd` more than was
    held for them, since a provider counted more tokens than it was allowed; the rest is a limit that was lowered."""

    budget: str
    starts_at: datetime
    microusd: int
    calls: int
    beyond_microusd: int

    def __str__(self) -> str:
        return (
            f"{self.budget}, from {self.starts_at:%Y-%m-%d}: {self.microusd} micro-dollars above its limit;"
            f" {self.calls} calls cost {self.beyond_microusd} more than was held for them"
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the proof goes: each record from `records_from` on (None without any), and the sums of the months
    whose records are gone, from `months_from` to `months_until` (None where none are)."""

    records_from: datetime | None
    months_from: date | None
    months_until: date | None

    def __str__(self) -> str:
        each = f"record by record from {self.records_from:%Y-%m-%d} on" if self.records_from else "without any record"
        if self.months_from is None:
            return each
        return f"{each}; {self.months_from:%Y-%m} to {self.months_until:%Y-%m} by the sums of records since dropped"


def reach() -> Reach:
    months = list(UsageMonth.objects.order_by("month").values_list("month", flat=True))
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(created_at) FROM routing_usagerecord")
        (first,) = cursor.fetchone()
    return Reach(first, months[0] if months else None, months[-1] if months else None)


def differences() -> list[str]:
    """Where rollups, records and receipts do not agree to the micro-dollar: nowhere, if all is well."""
    found = hourly_differences()
    with connection.cursor() as cursor:
        cursor.execute(_MONTHS)
        found += [
            f"{row[0]:%Y-%m} (its records are dropped): the rollups are off by {_off(row[1:])}"
            for row in cursor.fetchall()
        ]
        cursor.execute(_WHOLE)
        rolled, receipts, receipt_cost, record_cost = cursor.fetchone()
        cursor.execute(_HELD)
        unheld = cursor.fetchall()
        cursor.execute(_PAID)
        unpaid = cursor.fetchall()
        cursor.execute(_OVERRUNS)
        excused = cursor.fetchall()
    for rows, wrong in (
        (unheld, "holds {:+} micro-dollars more than calls and envelopes do"),
        (unpaid, "counts {:+} micro-dollars more than receipts say that it paid"),
        (excused, "excuses {:+} micro-dollars more than it is above its limit"),
    ):
        found += [f"the budget {slug} {wrong.format(more)}" for slug, more in rows]
    if rolled != receipts:
        found.append(f"the rollups count {rolled} calls, and there are {receipts} receipts")
    if receipt_cost != record_cost:
        found.append(f"receipts cost {receipt_cost} micro-dollars, records {record_cost}")
    return found


def overruns() -> list[Overrun]:
    """Hard budgets that are above their limit in some period: found out, never admitted."""
    with connection.cursor() as cursor:
        cursor.execute(_BEYOND)
        return [Overrun(*row) for row in cursor.fetchall()]


def hourly_differences(since: datetime | None = None, until: datetime | None = None) -> list[str]:
    """Hours and keys whose rollups are not the sums of their records; the first 100."""
    with connection.cursor() as cursor:
        cursor.execute(_HOURS, {"since": since, "until": until})
        rows = cursor.fetchall()
    return [f"{row[0]:%Y-%m-%d %H}h {row[1] or '-'}: the rollup is off by {_off(row[9:])}" for row in rows]


def _off(sums: Any) -> str:
    return ", ".join(f"{name} {n:+}" for name, n in zip(NAMES, sums, strict=True) if n)
