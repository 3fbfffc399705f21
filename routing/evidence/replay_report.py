"""PURE: adds up what replayed calls come to. Grows with rules, models and budgets, never with calls."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from routing.evidence.simulation import Models, Outcome, Receipt
from routing.planning.budgets import watches_model, watches_request
from routing.planning.demand import Demand
from routing.planning.pricing import usd
from routing.types import BudgetSpec, BudgetState, Source
from ziggie.errors import ZiggieError

NOBODY = "nobody"  # no model answered
MAX_REASONS = 50
MAX_REASON_CHARACTERS = 300


@dataclass(slots=True)
class Sums:
    """Calls before (recorded) and after (replayed)."""

    calls: int = 0
    moved: int = 0
    before_microusd: int = 0
    after_microusd: int = 0
    sources_before: Counter[str] = field(default_factory=Counter)
    sources_after: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, receipt: Receipt, before: Outcome, after: Outcome) -> None:
        was = receipt.model or NOBODY
        will_be = after.model.slug if after.model else NOBODY
        self.calls += 1
        self.moved += was != will_be
        self.moves[was, will_be] += 1
        self.before_microusd += before.cost_microusd
        self.after_microusd += after.cost_microusd
        if before.model:
            self.sources_before[before.model.source] += 1
        if after.model:
            self.sources_after[after.model.source] += 1

    def as_json(self) -> dict[str, Any]:
        difference = self.after_microusd - self.before_microusd
        return {
            "calls": self.calls,
            "moved": self.moved,
            "cost": {
                "before_usd": usd(self.before_microusd),
                "after_usd": usd(self.after_microusd),
                "difference_usd": usd(difference),
                "difference_microusd": difference,
            },
            "local_share": {"before": _share(self.sources_before), "after": _share(self.sources_after)},
            "moves": [
                {"from": was, "to": will_be, "calls": calls}
                for (was, will_be), calls in self.moves.most_common()
                if was != will_be
            ],
        }


def _share(sources: Counter[str]) -> float | None:
    """Of the answered calls, how many were answered locally."""
    answered = sum(sources.values())
    return round(sources[Source.LOCAL] / answered, 4) if answered else None


class BudgetPaths:
    """How each budget would have gone on under the replayed policy.

    A receipt says what was left when it was decided; the replay has spent more or less than the records by
    then, and that difference is carried on until the budget's period ends.
    """

    def __init__(self, budgets: Sequence[BudgetSpec], models: Models, time_zone: str) -> None:
        self.budgets = budgets
        self.models = models
        self.before: Counter[int] = Counter()  # micro-dollars by budget id, over all periods
        self.after: Counter[int] = Counter()
        self._zone = ZoneInfo(time_zone)
        self._shift: dict[int, int] = dict.fromkeys((budget.id for budget in budgets), 0)
        self._period: dict[int, tuple[int, ...]] = {}

    def states(self, kept: Mapping[str, Any], at: datetime) -> dict[int, BudgetState]:
        """What is left of each budget for a call decided at that time. Calls must come in order of time."""
        recorded = kept.get("budgets", {})
        local = at.astimezone(self._zone)
        found = {}
        for budget in self.budgets:
            period = _period(budget.period, local)
            if self._period.get(budget.id) != period:
                self._period[budget.id], self._shift[budget.id] = period, 0
            left, limit = recorded.get(str(budget.id), (0, 0))  # one that is not mentioned was unspent
            unspent = budget.limit_microusd - (limit - left) - self._shift[budget.id]
            found[budget.id] = BudgetState(unspent, budget.limit_microusd)
        return found

    def add(self, demand: Demand, before: Outcome, after: Outcome) -> None:
        for budget in self.budgets:
            if not watches_request(budget, demand):
                continue
            was, will_be = (self._watched(budget, outcome.spent) for outcome in (before, after))
            self.before[budget.id] += was
            self.after[budget.id] += will_be
            self._shift[budget.id] += will_be - was

    def _watched(self, budget: BudgetSpec, spent: Mapping[str, int]) -> int:
        return sum(cost for slug, cost in spent.items() if cost and watches_model(budget, self.models[slug]))

    def as_json(self, balances: Mapping[str, "Balance"], *, now: datetime, days: float) -> list[dict[str, Any]]:
        """For each budget when it would be used up, from what is left of it now."""
        return [
            {
                "slug": budget.slug,
                "period": budget.period,
                "period_end": balances[budget.slug].ends_at,
                "limit_usd": usd(budget.limit_microusd),
                "left_usd": usd(balances[budget.slug].left_microusd),
                "before": _pace(self.before[budget.id], balances[budget.slug], now=now, days=days),
                "after": _pace(self.after[budget.id], balances[budget.slug], now=now, days=days),
            }
            for budget in self.budgets
            if budget.slug in balances
        ]


def _period(kind: str, local: datetime) -> tuple[int, ...]:
    if kind == "day":
        return local.year, local.month, local.day
    if kind == "week":
        return local.isocalendar()[:2]
    return (local.year, local.month) if kind == "month" else ()


@dataclass(frozen=True, slots=True)
class Balance:
    left_microusd: int
    ends_at: datetime | None


def _pace(spent_microusd: int, balance: Balance, *, now: datetime, days: float) -> dict[str, Any]:
    """Money a day, and when it has used up what is left: null if the period ends before, or if it never does."""
    a_day = spent_microusd / days
    used_up_at = None
    if a_day > 0 and balance.left_microusd / a_day < timedelta.max.days // 1000:
        used_up_at = now + timedelta(days=balance.left_microusd / a_day)
        if balance.ends_at is not None and used_up_at >= balance.ends_at:
            used_up_at = None
    return {"usd_a_day": usd(round(a_day)), "used_up_at": used_up_at}


@dataclass(slots=True)
class Tally:
    """All that a replay finds."""

    paths: BudgetPaths
    total: Sums = field(default_factory=Sums)
    rules: dict[str, Sums] = field(default_factory=dict)  # by the rule of the replayed policy
    unserved: Counter[tuple[str, str]] = field(default_factory=Counter)  # by error code and recorded rule
    examples: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    failed: int = 0
    without_tokens: int = 0
    not_replayable: int = 0
    first_at: datetime | None = None

    def served(self, rule: str, receipt: Receipt, before: Outcome, after: Outcome) -> None:
        self._seen(receipt)
        self.total.add(receipt, before, after)
        self.rules.setdefault(rule, Sums()).add(receipt, before, after)
        self.paths.add(receipt.demand, before, after)
        self.without_tokens += after.guessed
        self.failed += after.model is None

    def refused(self, receipt: Receipt, before: Outcome, error: ZiggieError) -> None:
        """The policy serves this call with nothing."""
        self._seen(receipt)
        nothing = Outcome(None, {})
        self.total.add(receipt, before, nothing)
        self.paths.add(receipt.demand, before, nothing)
        kind = (error.code, receipt.rule)
        self.unserved[kind] += 1
        if kind not in self.examples and len(self.examples) < MAX_REASONS:
            self.examples[kind] = {"call_id": receipt.id, "reason": error.message[:MAX_REASON_CHARACTERS]}

    def _seen(self, receipt: Receipt) -> None:
        if self.first_at is None:
            self.first_at = receipt.at

    def as_json(self) -> dict[str, Any]:
        return {
            **self.total.as_json(),
            "rules": [{"rule": rule, **sums.as_json()} for rule, sums in self.rules.items()],
            "unserved": {
                "calls": sum(self.unserved.values()),
                "reasons": [
                    {"code": code, "recorded_rule": rule, "calls": calls, **self.examples.get((code, rule), {})}
                    for (code, rule), calls in self.unserved.most_common(MAX_REASONS)
                ],
            },
            "failed_again": self.failed,
            "without_tokens": self.without_tokens,
            "not_replayable": self.not_replayable,
        }
