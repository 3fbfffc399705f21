"""What the usage page shows, from the rollups alone: a few statements, however many calls there were."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.utils import timezone

from routing.configuration import rows
from routing.money.balances import balances
from routing.reporting import call_search, usage
from routing.reporting.chart import Amounts, draw
from ziggie.errors import InvalidInput

# What may be chosen, and the filter of receipts that a group of it leads to.
GROUPS = {
    "model": ("Model", "model"),
    "provider": ("Provider", "provider"),
    "source": ("Source", "source"),
    "rule": ("Rule", "rule"),
    "task_kind": ("Task kind", "task_kind"),
    "creator": ("Creator", "creator"),
    "api_key": ("API key", "api_key"),
    "day": ("Day", ""),
}
MAX_BARS = 92
LATEST = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody asked to see. Days are the staff's, both included."""

    first: date
    last: date
    group: str
    zone: ZoneInfo

    @property
    def during(self) -> usage.Period:
        return usage.period(self.first.isoformat(), self.last.isoformat())

    @property
    def query(self) -> str:
        return urlencode({"from": self.first, "to": self.last, "group": self.group})


def choice(asked: Mapping[str, str]) -> Choice:
    """From a query string; seven days by model where it says nothing. Raises InvalidInput."""
    zone = ZoneInfo(usage.time_zone())
    today = timezone.now().astimezone(zone).date()
    first = _day(asked.get("from", ""), today - timedelta(days=6))
    last = _day(asked.get("to", ""), today)
    group = asked.get("group") or "model"
    if first > last:
        raise InvalidInput("from must not be after to")
    if group not in GROUPS:
        raise InvalidInput(f"group must be one of {', '.join(GROUPS)}")
    return Choice(first, last, group, zone)


def _day(said: str, otherwise: date) -> date:
    try:
        day = date.fromisoformat(said) if said else otherwise
    except ValueError:
        raise InvalidInput(f"{said[:40]!r} is no date") from None
    if not 2000 <= day.year <= 2200:
        raise InvalidInput(f"{said[:40]!r} is too far away")
    return day


def presets(chosen: Choice) -> list[dict[str, Any]]:
    """Links to the usual periods."""
    today = timezone.now().astimezone(chosen.zone).date()
    begins = {"Today": today, "7 days": today - timedelta(days=6), "This month": today.replace(day=1)}
    begins["30 days"] = today - timedelta(days=29)
    return [
        {
            "label": label,
            "query": urlencode({"from": first, "to": today, "group": chosen.group}),
            "current": (chosen.first, chosen.last) == (first, today),
        }
        for label, first in begins.items()
    ]


def figures(chosen: Choice) -> dict[str, Any]:
    """Totals, groups, chart, budgets and the latest receipts."""
    during = chosen.during
    found = usage.summary(during, chosen.group)
    totals, groups = found.whole, _in_order(chosen, found.groups)
    latencies = usage.latencies(during)
    answered = {key: sums.answered for key, sums in usage.group_sums(during, "source") if key}
    by_models = sum(count for key, count in answered.items() if key != "offline")
    names = _names(chosen)
    return {
        "chosen": chosen,
        "totals": totals,
        "success": 100 * totals.answered / totals.calls if totals.calls else None,
        "local_share": 100 * answered.get("local", 0) / by_models if by_models else None,
        "offline": answered.get("offline", 0),
        "p50": usage.percentile(latencies, 0.50),
        "p95": usage.percentile(latencies, 0.95),
        "group_name": GROUPS[chosen.group][0],
        "groups": [_group(chosen, names, *group) for group in groups],
        "left_out": found.left_out,
        "chart": draw(_amounts(chosen, during)),
        "budgets": [budget | {"percent": _percent(budget)} for budget in balances()],
        "latest": call_search.latest(during, LATEST),
    }


def table(chosen: Choice) -> list[usage.Group]:
    """All groups as the page tells them: days newest first, keys by their names."""
    names = _names(chosen)
    groups = _in_order(chosen, usage.groups(chosen.during, chosen.group))
    return [(names.get(key, key), sums, latencies) for key, sums, latencies in groups]


def _names(chosen: Choice) -> dict[str, str]:
    return rows.key_names() if chosen.group == "api_key" else {}


def _in_order(chosen: Choice, groups: list[usage.Group]) -> list[usage.Group]:
    return sorted(groups, key=lambda group: group[0], reverse=True) if chosen.group == "day" else groups


def _group(
    chosen: Choice, names: Mapping[str, str], key: str, sums: usage.Sums, buckets: dict[int, int]
) -> dict[str, Any]:
    filter_name = GROUPS[chosen.group][1]
    query = {"from": chosen.first, "to": chosen.last, **({filter_name: key} if filter_name else {})}
    if chosen.group == "day":
        query = {"from": key, "to": key}
    return {
        "key": names.get(key, key),
        "query": urlencode(query) if key else "",
        "sums": sums,
        "p50": usage.percentile(buckets, 0.50),
        "p95": usage.percentile(buckets, 0.95),
        "success": 100 * sums.succeeded / sums.attempts if sums.attempts else None,
    }


def _amounts(chosen: Choice, during: usage.Period) -> list[Amounts]:
    """By day, or by month where the days are too many; days on which nothing happened have their place."""
    days = (chosen.last - chosen.first).days + 1
    by_month = days > MAX_BARS
    sums = dict(usage.group_sums(during, "month" if by_month else "day"))
    if by_month:
        keys = sorted(sums)[-MAX_BARS:]
    else:
        keys = [(chosen.first + timedelta(days=ahead)).isoformat() for ahead in range(days)]
    return [
        Amounts(key, sums[key].cost_microusd, sums[key].saved_microusd) if key in sums else Amounts(key, 0, 0)
        for key in keys
    ]


def _percent(budget: Mapping[str, Any]) -> int:
    limit, left = Decimal(budget["limit_usd"]), Decimal(budget["left_usd"])
    return min(100, round(100 * (1 - left / limit))) if limit else 100
