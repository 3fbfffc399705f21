"""What was used, paid and saved: summaries from the rollups, and records one by one. proof.py shows that both agree.

A summary costs as much as it has groups and hours, however many calls there were. Sums are whole micro-dollars.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from routing.models import RoutingSettings, UsageRecord
from routing.planning.pricing import usd
from ziggie.errors import InvalidInput

MAX_GROUPS = 1_000
MAX_FILE_GROUPS = 200_000  # in a file, whose reader adds up its lines
DEFAULT_DAYS = 30
YEARS = range(1971, 9999)  # far enough from the ends of time for what is added to them, and for ids
EXPORT_PAGE = 2_000

# What a summary may be grouped by: the expression over a rollup.
GROUPS: dict[str, LiteralString] = {
    "model": "model",
    "provider": "provider",
    "source": "source",
    "rule": "rule",
    "task_kind": "task_kind",
    "agent_level": "agent_level",
    "creator": "creator",
    "api_key": "api_key_id",
    "day": "to_char(hour AT TIME ZONE %(zone)s, 'YYYY-MM-DD')",
    "month": "to_char(hour AT TIME ZONE %(zone)s, 'YYYY-MM')",
    "hour": """to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')""",
}
_SUMS: LiteralString = """
    coalesce(sum(calls), 0)::bigint, coalesce(sum(attempts), 0)::bigint, coalesce(sum(succeeded), 0)::bigint,
    coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(output_tokens), 0)::bigint,
    coalesce(sum(cost_microusd), 0)::bigint, coalesce(sum(baseline_microusd), 0)::bigint,
    coalesce(sum(energy_microusd), 0)::bigint, coalesce(sum(saved_microusd), 0)::bigint,
    coalesce(sum(answered), 0)::bigint
"""
_PERIOD: LiteralString = "FROM routing_usagerollup WHERE hour >= %(since)s AND hour < %(until)s"
_LATENCY: LiteralString = """
    CROSS JOIN LATERAL unnest(latency) WITH ORDINALITY AS bucket(count, place)
    WHERE hour >= %(since)s AND hour < %(until)s AND bucket.count > 0
"""


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to before `until`: whole hours, or quarters of one (UsageRollup.hour)."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Sums:
    calls: int
    attempts: int
    succeeded: int
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    baseline_microusd: int
    energy_microusd: int
    saved_microusd: int
    answered: int


Group = tuple[str, Sums, dict[int, int]]  # its key, its sums, its attempts by latency bucket


@dataclass(frozen=True, slots=True)
class Summary:
    """All of a period, and by groups, the dearest first; `left_out` are how many more than MAX_GROUPS there are."""

    whole: Sums
    groups: list[Group]
    left_out: int


def period(since: str, until: str) -> Period:
    """From two dates (midnight at the staff's place; `until` is included) or ISO times, rounded outwards to what
    rollups are made of. Empty: the last 30 days until now. Raises InvalidInput."""
    zone = ZoneInfo(time_zone())
    now = timezone.now()
    end = _moment(until, zone, is_end=True) if until else now
    begin = _moment(since, zone, is_end=False) if since else end - timedelta(days=DEFAULT_DAYS)
    _check_order(begin, end)
    whole = _rollup_start(end, zone)
    return Period(_rollup_start(begin, zone), whole if whole == end else whole + _rollup_width(zone, end))


def _check_order(begin: datetime, end: datetime) -> None:
    if begin >= end:
        raise InvalidInput("from must be before to")


def last_days(days: int) -> Period:
    """Until now."""
    return period((timezone.now() - timedelta(days=days)).isoformat(), "")


def _rollup_width(zone: ZoneInfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset() or timedelta()
    return timedelta(minutes=15) if offset % timedelta(hours=1) else timedelta(hours=1)


def _rollup_start(moment: datetime, zone: ZoneInfo) -> datetime:
    """Where the rollup begins that a moment is in: as ledger_rollup_start finds it."""
    moment = moment.astimezone(UTC)
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % _rollup_width(zone, moment)


def time_zone() -> str:
    found = RoutingSettings.objects.values_list("time_zone", flat=True).first()
    return found or "UTC"


def _moment(said: str, zone: ZoneInfo, *, is_end: bool) -> datetime:
    """In UTC: the database knows no offsets of 16 hours and more."""
    try:
        if len(said) == len("2026-01-31"):
            day = date.fromisoformat(said) + timedelta(days=is_end)
            moment = datetime.combine(day, time.min, zone)
        else:
            moment = datetime.fromisoformat(said.replace(" ", "+"))  # a plus sign that a query string made a space
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{said[:40]!r} is no date or ISO 8601 time") from None
    if moment.year not in YEARS:
        raise InvalidInput(f"{said[:40]!r} is too far away")
    return moment


def totals(during: Period) -> Sums:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_SUMS} {_PERIOD}", _parameters(during))
        return Sums(*cursor.fetchone())


def groups(during: Period, group_by: str) -> list[Group]:
    """Each group, the dearest first. Raises InvalidInput."""
    return summary(during, group_by, most=MAX_FILE_GROUPS).groups


def summary(during: Period, group_by: str, *, most: int | None = None) -> Summary:
    """The whole and its groups, at most so many (MAX_GROUPS if not said). Raises InvalidInput."""
    whole, rows, left_out = _grouped(during, group_by, most or MAX_GROUPS)
    key = GROUPS[group_by]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {key}, place - 1, sum(bucket.count)::bigint FROM routing_usagerollup {_LATENCY} GROUP BY 1, 2",  # noqa: S608 - the same
            _parameters(during),
        )
        latencies: dict[str, dict[int, int]] = {}
        for name, place, count in cursor.fetchall():
            latencies.setdefault(name, {})[place] = count
    return Summary(whole, [(name, sums, latencies.get(name, {})) for name, sums in rows], left_out)


def group_sums(during: Period, group_by: str) -> list[tuple[str, Sums]]:
    """Key and sums of each group, the dearest first. Raises InvalidInput."""
    return _grouped(during, group_by, MAX_GROUPS)[1]


def _grouped(during: Period, group_by: str, most: int) -> tuple[Sums, list[tuple[str, Sums]], int]:
    """The whole, its groups and how many of them are left out, by one statement: they add up while calls go on."""
    key = GROUPS.get(group_by)
    if key is None:
        raise InvalidInput(f"group_by must be one of {', '.join(GROUPS)}")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {key}, {_SUMS}, count(*) OVER () - 1 {_PERIOD} GROUP BY GROUPING SETS (({key}), ())"
            f" ORDER BY grouping({key}) DESC, 7 DESC, 2 DESC, 1 LIMIT %(most)s",
            _parameters(during) | {"most": most + 1},
        )
        (_, *whole, found), *rows = cursor.fetchall()
    named = [(row[0], Sums(*row[1:-1])) for row in rows]
    return Sums(*whole), named, found - len(named)


def latencies(during: Period) -> dict[int, int]:
    """All attempts by latency bucket."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT place - 1, sum(bucket.count)::bigint FROM routing_usagerollup {_LATENCY} GROUP BY 1",  # noqa: S608 - the same
            _parameters(during),
        )
        return dict(cursor.fetchall())


def _parameters(during: Period) -> dict[str, Any]:
    return {"since": during.since, "until": during.until, "zone": time_zone()}


def percentile(buckets: dict[int, int], fraction: float) -> int | None:
    """Milliseconds below which this fraction of the attempts lies, interpolated within its bucket."""
    total = sum(buckets.values())
    if not total:
        return None
    wanted, below = fraction * total, 0
    for place in sorted(buckets):
        if below + buckets[place] >= wanted:
            part = (wanted - below) / buckets[place]
            return round(2 ** ((place + part) / 4))
        below += buckets[place]
    return round(2 ** ((max(buckets) + 1) / 4))


def group_json(key: str, sums: Sums, buckets: dict[int, int]) -> dict[str, Any]:
    return {
        "key": key,
        "calls": sums.calls,
        "attempts": sums.attempts,
        "cost_usd": usd(sums.cost_microusd),
        "saved_usd": usd(sums.saved_microusd),
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "p50_ms": percentile(buckets, 0.50),
        "p95_ms": percentile(buckets, 0.95),
        "success": round(sums.succeeded / sums.attempts, 4) if sums.attempts else None,
    }


# --- records --------------------------------------------------------------------------------------

COLUMNS = tuple(field.attname for field in UsageRecord._meta.concrete_fields)
FILTERS = ("model", "provider", "source", "outcome", "rule", "task_kind", "agent_level", "creator", "run_id", "call_id")


def records(filters: dict[str, str]) -> QuerySet[UsageRecord]:
    """Records that match `from`, `to`, `api_key` and FILTERS: a time to the microsecond, and where one of the two is
    left out, all before or after the other. Raises InvalidInput."""
    chosen = {name: filters[name] for name in FILTERS if filters.get(name)}
    if filters.get("api_key"):
        chosen["api_key_id"] = filters["api_key"]
    if "\0" in "".join(chosen.values()):
        raise InvalidInput("a filter holds a NUL")
    try:
        return UsageRecord.objects.filter(**chosen, **_times(filters))
    except ValidationError:
        raise InvalidInput(f"call_id: {chosen['call_id'][:40]!r} is not an id") from None


def _times(filters: dict[str, str]) -> dict[str, datetime]:
    zone, times = ZoneInfo(time_zone()), dict[str, datetime]()
    if filters.get("from"):
        times["created_at__gte"] = _moment(filters["from"], zone, is_end=False)
    if filters.get("to"):
        times["created_at__lt"] = _moment(filters["to"], zone, is_end=True)
    if len(times) == len(("from", "to")):
        _check_order(times["created_at__gte"], times["created_at__lt"])
    return times


def record_json(record: UsageRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in COLUMNS if not name.endswith("_microusd")}
    money = {
        name.removesuffix("_microusd") + "_usd": usd(getattr(record, name)) for name in COLUMNS if "_microusd" in name
    }
    return {**row, **money, "id": str(record.id), "call_id": str(record.call_id)}


def oldest_first(found: QuerySet[UsageRecord]) -> Iterator[UsageRecord]:
    """All of them, a page at a time: no snapshot and no copy is kept, however many there are."""
    pages = found.order_by("id")
    page = list(pages[:EXPORT_PAGE])
    while page:
        yield from page
        page = list(pages.filter(id__gt=page[-1].id)[:EXPORT_PAGE]) if len(page) == EXPORT_PAGE else []


def csv_rows(found: Iterable[UsageRecord]) -> Iterator[list[str]]:
    """A head, then a line a record."""
    head = list(record_json(UsageRecord()))
    yield head
    for record in found:
        row = record_json(record)
        yield [cell(row[name]) for name in head]


# What a spreadsheet takes for the beginning of a formula, also in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Any) -> str:
    """A spreadsheet takes a text that begins like a formula for one."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(value)
    text = value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
    is_text = isinstance(value, str) and not value.lstrip("-").replace(".", "", 1).isdigit()
    return f"'{text}" if is_text and text.startswith(_FORMULA) else text
