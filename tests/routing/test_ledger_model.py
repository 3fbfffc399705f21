"""The ledger against a model of it that fits on one page: whatever the order of operations, the books agree."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from routing.models import Budget, BudgetPeriod, Envelope, Reservation, UsageRecord, UsageRollup
from routing.money import envelopes, ledger
from routing.money.ledger_rows import CallRow, UsageRow
from routing.types import ENVELOPE, PolicySpec, SettingsSpec, Snapshot
from ziggie.errors import BudgetExceeded
from ziggie.ids import uuid7

SNAPSHOT = Snapshot(1, {}, PolicySpec(1, "default", 1, ()), (), SettingsSpec(), {})
START = datetime(2026, 3, 1, tzinfo=UTC)
AMOUNTS = st.integers(0, 60)
BUDGETS = ("a", "b", "soft")
WANTED = st.fixed_dictionaries(dict.fromkeys(BUDGETS, st.integers(0, 150)))


@dataclass
class Counter:
    """What one period of one budget should say."""

    settled: int = 0
    held: int = 0


@dataclass
class Purse:
    """What one envelope should say: what it holds in the day's periods in which it was opened last."""

    limit: int
    left: int
    is_open: bool = False
    day: datetime = START
    amounts: dict[str, int] = field(default_factory=dict)

    def of(self, slug: str, day: datetime) -> bool:
        """Whether it was opened with money of that budget on that day."""
        return self.is_open and self.day == day and slug in self.amounts


@dataclass
class Line:
    """What one call holds of one budget, in which day's period, and how much of it its envelope held before."""

    amount: int
    day: datetime
    drawn: int = 0


@dataclass
class Call:
    held: ledger.Hold
    lines: dict[str, Line]
    envelope: UUID | None = None
    taken: int = 0

    @property
    def most(self) -> int:
        return max([self.taken, *(line.amount for line in self.lines.values())])


class LedgerMachine(RuleBasedStateMachine):
    """Two hard budgets and a soft one, days that pass, limits that change, calls that end in every way, with and
    without envelopes."""

    holds = Bundle("holds")
    purses = Bundle("purses")

    @initialize(limit_a=st.integers(0, 200), limit_b=st.integers(0, 200))
    def open_books(self, limit_a: int, limit_b: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE routing_budget, routing_budgetperiod, routing_reservation, routing_routedcall,"
                           " routing_usagerecord, routing_usagerollup, routing_envelope CASCADE")  # fmt: skip
        self.loop = asyncio.Runner()
        self.now = START
        self.limits = {"a": limit_a, "b": limit_b, "soft": 50}
        self.ids = {
            slug: Budget.objects.create(slug=slug, limit_microusd=limit, period="day", hard=slug != "soft").pk
            for slug, limit in self.limits.items()
        }
        self.counters: dict[tuple[str, datetime], Counter] = {}
        self.open: dict[UUID, Call] = {}
        self.envelopes: dict[UUID, Purse] = {}
        self.recorded = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def counter(self, slug: str, at: datetime | None = None) -> Counter:
        return self.counters.setdefault((slug, at or self.now), Counter())

    def room(self, slug: str) -> int:
        if slug == "soft":
            return 10**9
        return self.limits[slug] - self.counter(slug).settled - self.counter(slug).held

    def by_id(self, amounts: Mapping[str, int]) -> dict[int, int]:
        return {self.ids[slug]: amount for slug, amount in amounts.items()}

    # --- calls ---

    def admitted(self, call: Call, work: Coroutine[Any, Any, Any], *, fits: bool) -> bool:
        if not fits:
            with pytest.raises(BudgetExceeded):
                self.run(work)
            return False
        call.held = self.run(work)
        for slug, line in call.lines.items():
            self.counter(slug, line.day).held += line.amount - line.drawn
        self.open[call.held.call_id] = call
        return True

    @rule(target=holds, amounts=st.fixed_dictionaries(dict.fromkeys(BUDGETS, AMOUNTS)))
    def reserve(self, amounts: dict[str, int]) -> ledger.Hold | MultipleResults[Any]:
        call = Call(ledger.Hold(uuid7()), {slug: Line(amount, self.now) for slug, amount in amounts.items() if amount})
        work = ledger.reserve(call.held.call_id, self.by_id(amounts), SNAPSHOT,
                              expires_in_seconds=1e5, context={"model": "m"}, at=self.now)  # fmt: skip
        fits = all(line.amount <= self.room(slug) for slug, line in call.lines.items())
        return call.held if self.admitted(call, work, fits=fits) else multiple()

    @rule(target=holds, envelope=purses, taken=st.integers(1, 60),
          amounts=st.fixed_dictionaries(dict.fromkeys(BUDGETS, AMOUNTS)))  # fmt: skip
    def draw(self, envelope: UUID, taken: int, amounts: dict[str, int]) -> ledger.Hold | MultipleResults[Any]:
        purse = self.envelopes[envelope]
        call = Call(ledger.Hold(uuid7()), {}, envelope, taken)
        fits = purse.is_open and purse.left >= taken
        for slug, amount in amounts.items():
            if not amount:
                continue
            held = purse.amounts.get(slug, 0)
            drawn = min(amount, held) if held >= amount or purse.day == self.now else 0
            call.lines[slug] = Line(amount, purse.day if drawn else self.now, drawn)
            fits = fits and amount - drawn <= self.room(slug)
        work = ledger.reserve(call.held.call_id, {ENVELOPE: taken, **self.by_id(amounts)}, SNAPSHOT, at=self.now,
                              expires_in_seconds=1e5, context={"model": "m"}, envelope_id=envelope)  # fmt: skip
        if not self.admitted(call, work, fits=fits):
            return multiple()
        purse.left -= taken
        for slug, line in call.lines.items():
            if line.drawn:
                purse.amounts[slug] -= line.drawn
        return call.held

    def ended(self, call: Call, charges: Mapping[str, int], spent: int) -> None:
        del self.open[call.held.call_id]
        purse = self.envelopes[call.envelope] if call.envelope else None
        if purse is not None:
            purse.left += call.taken - spent
        for slug, line in call.lines.items():
            charge = charges.get(slug, 0)
            counter = self.counter(slug, line.day)
            counter.held -= line.amount
            counter.settled += charge
            if purse is not None and purse.of(slug, line.day):
                over = charge - line.amount
                back = -min(over, purse.amounts[slug]) if over > 0 else max(line.drawn - charge, 0)
                purse.amounts[slug] += back
                counter.held += back

    @rule(
        held=consumes(holds),
        costs=st.fixed_dictionaries(dict.fromkeys(BUDGETS, AMOUNTS)),
        spent=st.integers(0, 70),
        how=st.sampled_from(["settle", "settle twice", "release", "settle and release"]),
    )
    def end(self, held: ledger.Hold, costs: dict[str, int], spent: int, how: str) -> None:
        """Also with charges above the hold."""
        if "settle" in how:
            self.settled(held, costs, spent)
        if "twice" in how:
            self.settled(held, costs, spent)
        if "release" in how and not held.is_free:
            self.released(held)

    def settled(self, held: ledger.Hold, costs: dict[str, int], spent: int) -> None:
        call = self.open.get(held.call_id)
        charges = {slug: costs[slug] for slug in (call.lines if call else {})}
        cost = spent if held.envelope_id else sum(charges.values())
        row = CallRow(id=held.call_id, rule="r", outcome="ok")
        record = UsageRow(1, "m", "p", "cloud", "ok", cost_microusd=cost)
        ended = self.run(ledger.settle(held, call=row, records=[record], at=self.now,
                                       charges={ENVELOPE: spent, **self.by_id(charges)}))  # fmt: skip
        assert ended == (call is not None)
        if call is not None:
            self.recorded += cost
            self.ended(call, charges, spent)

    def released(self, held: ledger.Hold) -> None:
        call = self.open.get(held.call_id)
        assert self.run(ledger.release(held)) == (call is not None)
        if call is not None:
            self.ended(call, {}, 0)

    @precondition(lambda self: len(self.open) > 2)
    @rule()
    def sweep(self) -> None:
        """Everything that is held dies."""
        paid = [call for call in self.open.values() if not call.held.is_free]
        assert self.run(ledger.sweep(at=datetime.now(UTC) + timedelta(days=2))) == len(paid)
        for call in paid:
            self.recorded += call.most
            self.ended(call, {slug: line.amount for slug, line in call.lines.items()}, call.most)

    # --- envelopes ---

    @rule(target=purses, limit=st.integers(0, 150), wanted=WANTED)
    def new_envelope(self, limit: int, wanted: dict[str, int]) -> UUID:
        envelope = uuid7()
        self.envelopes[envelope] = Purse(limit, limit)
        self.open_envelope(envelope, wanted)
        return envelope

    @rule(envelope=purses, wanted=WANTED, closes=st.booleans(), opens=st.booleans())
    def close_and_open(self, envelope: UUID, wanted: dict[str, int], *, closes: bool, opens: bool) -> None:
        """Also one that is open already, or closed; its calls go on."""
        purse = self.envelopes[envelope]
        if closes:
            assert self.run(envelopes.close_envelope(envelope)) == purse.is_open
            self.closed(purse)
        if opens:
            self.open_envelope(envelope, wanted)

    def open_envelope(self, envelope: UUID, wanted: dict[str, int]) -> None:
        purse = self.envelopes[envelope]
        opened = self.run(envelopes.open_envelope(envelope, purse.limit, self.by_id(wanted), name="a run",
                                                  expires_in_seconds=1e5, at=self.now))  # fmt: skip
        if not purse.is_open:
            holds = {s: min(n, purse.limit, max(purse.left, 0), max(self.room(s), 0)) for s, n in wanted.items()}
            purse.is_open, purse.day = True, self.now
            purse.amounts = {slug: amount for slug, amount in holds.items() if amount}
            for slug, amount in purse.amounts.items():
                self.counter(slug).held += amount
        held = {slug: amount for slug, amount in purse.amounts.items() if amount}
        assert (opened.left_microusd, opened.amounts, opened.is_open) == (purse.left, self.by_id(held), True)

    def closed(self, purse: Purse) -> None:
        purse.is_open = False
        for slug, amount in purse.amounts.items():
            self.counter(slug, purse.day).held -= amount
        purse.amounts = {}

    @precondition(lambda self: sum(purse.is_open for purse in self.envelopes.values()) > 2)
    @rule()
    def sweep_envelopes(self) -> None:
        """The owners of all envelopes die."""
        swept = self.run(envelopes.sweep(at=datetime.now(UTC) + timedelta(days=2)))
        assert swept == sum(purse.is_open for purse in self.envelopes.values())
        for purse in self.envelopes.values():
            self.closed(purse)

    # --- the world ---

    @rule(slug=st.sampled_from(["a", "b"]), limit=st.integers(0, 200), days=st.integers(0, 1))
    def time_passes(self, slug: str, limit: int, days: int) -> None:
        Budget.objects.filter(slug=slug).update(limit_microusd=limit)
        self.limits[slug] = limit
        self.now += timedelta(days=days)

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
        assert Reservation.objects.count() == sum(1 for call in self.open.values() if not call.held.is_free)
        for envelope in Envelope.objects.all():
            purse = self.envelopes[envelope.pk]
            assert (envelope.left_microusd, envelope.closed_at is None) == (purse.left, purse.is_open)
            assert sum(envelope.amounts_microusd) == sum(purse.amounts.values())
        assert sum(UsageRecord.objects.values_list("cost_microusd", flat=True)) == self.recorded
        assert sum(UsageRollup.objects.values_list("cost_microusd", flat=True)) == self.recorded


@pytest.mark.django_db(transaction=True)
def test_the_ledger_keeps_the_books_of_its_model() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_of_a_long_life_with_envelopes_agree(seed: int) -> None:
    """What chance rarely puts together: many calls of many envelopes at a time."""
    chance = Random(seed)
    machine = LedgerMachine()
    machine.open_books(400, 300)
    holds: list[ledger.Hold] = []
    purses = [machine.new_envelope(chance.randint(50, 150), _some(chance, 60)) for _ in range(3)]
    for _ in range(200):
        match chance.choice(["reserve", "draw", "draw", "draw", "end", "end", "end", "envelope", "rare"]):
            case "reserve":
                holds.append(machine.reserve(_some(chance, 40)))  # type: ignore[arg-type]
            case "draw":
                holds.append(machine.draw(chance.choice(purses), chance.randint(1, 40), _some(chance, 40)))  # type: ignore[arg-type]
            case "end" if holds:
                how = chance.choice(["settle", "settle", "settle twice", "release", "settle and release"])
                held = holds.pop(chance.randrange(len(holds)))
                if isinstance(held, ledger.Hold):
                    machine.end(held, _some(chance, 45), chance.randint(0, 45), how)
            case "envelope":
                purse, again = chance.choice(purses), chance.random() < 0.8
                machine.close_and_open(purse, _some(chance, 60), closes=chance.random() < 0.5, opens=again)
            case "rare" if chance.random() < 0.3:
                machine.time_passes("a", chance.randint(200, 500), chance.randint(0, 1))
            case "rare" if chance.random() < 0.2:
                machine.sweep()
        machine.the_books_agree()
    machine.sweep()
    machine.sweep_envelopes()
    machine.the_books_agree()
    assert all(counter.held == 0 for counter in machine.counters.values())
    machine.teardown()


def _some(chance: Random, most: int) -> dict[str, int]:
    return {slug: chance.choice([0, chance.randint(1, most)]) for slug in BUDGETS}
