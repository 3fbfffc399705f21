"""What is to be known before a policy goes live: the difference, its mistakes, and recorded traffic through it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from routing.configuration import policies
from routing.configuration.shape import Problem
from routing.evidence import replay
from routing.models import RoutingPolicy
from routing.reporting import usage
from ziggie.errors import ZiggieError

DAYS = (1, 7, 30)
CALLS = (2_000, 10_000, 50_000)  # about a second for the first on a machine of two cores


@dataclass(frozen=True, slots=True)
class Replayed:
    """`report` is replay()'s, None with a `problem`. `recorded` counts all calls of those days, replayed or not."""

    report: dict[str, Any] | None
    problem: str
    recorded: int
    days: int
    calls: int


def replayed(target: Callable[[], replay.Target], *, days: int, calls: int) -> Replayed:
    """The newest `calls` of the last `days` through a policy. Never raises for a policy that cannot be read."""
    recorded = usage.totals(usage.last_days(days)).calls
    try:
        report = replay.replay(target(), days=days, max_calls=calls)
    except ZiggieError as error:
        return Replayed(None, error.message, recorded, days, calls)
    return Replayed(report, "", recorded, days, calls)


def span_of(given: Any) -> tuple[int, int]:
    """Days and calls as a page's form says them; the nearest that is offered where it says something else."""
    return _offered(given.get("days"), DAYS, 7), _offered(given.get("calls"), CALLS, CALLS[0])


def _offered(said: Any, offered: tuple[int, ...], otherwise: int) -> int:
    return next((number for number in offered if str(number) == said), otherwise)


def problems(policy: RoutingPolicy) -> list[Problem]:
    """What publishing would be refused for, or warned of."""
    return policies.problems_if_live(policies.entry_of(policy))


def as_lines(diff: str) -> list[tuple[str, str]]:
    """PURE: each line of a difference with what it is: added, removed, rule, title or same."""
    kinds = {"+++": "title", "---": "title", "@@ ": "rule"}
    marks = {"+": "added", "-": "removed"}
    return [(kinds.get(line[:3]) or marks.get(line[:1], "same"), line) for line in diff.splitlines()]
