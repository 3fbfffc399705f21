"""The ledger against a model of it that fits on one page: whatever the order of operations, the books agree."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from routing import ledger
from routing.ledger_rows import CallRow, UsageRow
from routing.models import Budget, BudgetPeriod, Reservation, UsageRecord, UsageRollup
from routing.types import PolicySpec, SettingsSpec, Snapshot
from ziggie.errors import BudgetExceeded
from ziggie.ids import uuid7

SNAPSHOT = Snapshot(1, {}, PolicySpec(1, "default", 1, ()), (), SettingsSpec(), {})
START = datetime(2026, 3, 1, tzinfo=UTC)
AMOUNTS = st.integers(0, 60)
BUDGETS = ("a", "b", "soft")


@dataclass
class Counter:
    """What one period of one budget should say."""

    settled: int = 0
    held: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Two hard budgets and a soft one, days that pass, limits that change, calls that end in every way."""

    holds = Bundle("holds")

    @initialize(limit_a=st.integers(0, 200), limit_b=st.integers(0, 200))
    def open_books(self, limit_a: int, limit_b: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE routing_budget, routing_budgetperiod, routing_reservation, routing_routedcall,"
                           " routing_usagerecord, routing_usagerollup CASCADE")  # fmt: skip
        self.loop = asyncio.Runner()
        self.now = START
        self.limits = {"a": limit_a, "b": limit_b, "soft": 50}
        self.ids = {
            slug: Budget.objects.create(slug=slug, limit_microusd=limit, period="day", hard=slug != "soft").pk
            for slug, limit in self.limits.items()
        }
        self.counters: dict[tuple[str, datetime], Counter] = {}
        self.open: dict[UUID, tuple[ledger.Hold, datetime, dict[str, int]]] = {}
        self.recorded = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def counter(self, slug: str, at: datetime | None = None) -> Counter:
        return self.counters.setdefault((slug, at or self.now), Counter())

    @rule(target=holds, amounts=st.fixed_dictionaries(dict.fromkeys(BUDGETS, AMOUNTS)))
    def reserve(self, amounts: dict[str, int]) -> ledger.Hold | None:
        wanted = {slug: amount for slug, amount in amounts.items() if amount}
        fits = all(
            slug == "soft" or self.counter(slug).settled + self.counter(slug).held + amount <= self.limits[slug]
            for slug, amount in wanted.items()
        )
        work = ledger.reserve(uuid7(), {self.ids[s]: n for s, n in amounts.items()}, SNAPSHOT,
                              expires_in_seconds=1e5, context={"model": "m"}, at=self.now)  # fmt: skip
        if not fits:
            with pytest.raises(BudgetExceeded):
                self.run(work)
            return None
        held: ledger.Hold = self.run(work)
        for slug, amount in wanted.items():
            self.counter(slug).held += amount
        self.open[held.call_id] = (held, self.now, wanted)
        return held

    @rule(held=holds, costs=st.fixed_dictionaries(dict.fromkeys(BUDGETS, AMOUNTS)))
    def settle(self, held: ledger.Hold | None, costs: dict[str, int]) -> None:
        """Also of holds that have ended, and with charges above the hold."""
        if held is None:
            return
        _, at, amounts = self.open.get(held.call_id, (held, self.now, {}))
        charges = {slug: costs[slug] for slug in amounts}
        call = CallRow(id=held.call_id, rule="r", outcome="ok")
        record = UsageRow(1, "m", "p", "cloud", "ok", cost_microusd=sum(charges.values()))
        ended = self.run(ledger.settle(held, call=call, records=[record], at=self.now,
                                       charges={self.ids[slug]: n for slug, n in charges.items()}))  # fmt: skip
        assert ended == (held.call_id in self.open)
        if ended:
            del self.open[held.call_id]
            self.recorded += sum(charges.values())
            for slug, amount in amounts.items():
                self.counter(slug, at).held -= amount
                self.counter(slug, at).settled += charges[slug]

    @rule(held=consumes(holds))
    def release(self, held: ledger.Hold | None) -> None:
        if held is None or held.is_free:
            return
        assert self.run(ledger.release(held)) == (held.call_id in self.open)
        _, at, amounts = self.open.pop(held.call_id, (held, self.now, {}))
        for slug, amount in amounts.items():
            self.counter(slug, at).held -= amount

    @rule()
    def sweep(self) -> None:
        """Everything that is held dies."""
        paid = {call_id: one for call_id, one in self.open.items() if not one[0].is_free}
        assert self.run(ledger.sweep(at=datetime.now(UTC) + timedelta(days=2))) == len(paid)
        for call_id, (_, at, amounts) in paid.items():
            del self.open[call_id]
            self.recorded += max(amounts.values())
            for slug, amount in amounts.items():
                self.counter(slug, at).held -= amount
                self.counter(slug, at).settled += amount

    @rule(slug=st.sampled_from(["a", "b"]), limit=st.integers(0, 200))
    def change_limit(self, slug: str, limit: int) -> None:
        Budget.objects.filter(slug=slug).update(limit_microusd=limit)
        self.limits[slug] = limit

    @rule()
    def a_day_passes(self) -> None:
        self.now += timedelta(days=1)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "counters"):
            return
        rows = {(p.budget.slug, p.starts_at): p for p in BudgetPeriod.objects.select_related("budget")}
        for key, expected in self.counters.items():
            row = rows.pop(key, None)
            found = Counter() if row is None else Counter(row.settled_microusd, row.held_microusd)
            assert found == expected, key
        assert all(p.settled_microusd == p.held_microusd == 0 for p in rows.values())
        assert Reservation.objects.count() == sum(1 for held, _, _ in self.open.values() if not held.is_free)
        assert sum(UsageRecord.objects.values_list("cost_microusd", flat=True)) == self.recorded
        assert sum(UsageRollup.objects.values_list("cost_microusd", flat=True)) == self.recorded


@pytest.mark.django_db(transaction=True)
def test_the_ledger_keeps_the_books_of_its_model() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
