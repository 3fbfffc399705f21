"""Money: reserve the worst case, settle what was spent, release what was not. The only writer of budget counters,
with envelopes.py, which opens and closes what many calls draw from.

A call is admitted by a committed hold against every budget in its scope, or refused. It ends once: whoever
deletes the hold's row writes the receipt, the usage records, the counters and the rollups in that same
transaction. A call that could cost nothing holds nothing; then the receipt's id is what makes it end once.
Nothing is ever admitted without the database, and nothing here waits on the network beyond it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from routing import database
from routing.loops import OfLoop, look_away
from routing.money import ledger_batches
from routing.money.coalescing import Lane
from routing.money.keeping import keeper
from routing.money.ledger_batches import Ending, Hold, Refusal, Request
from routing.money.ledger_rows import CallRow, UsageRow, Written, abandoned_call, scrubbed
from routing.types import ENVELOPE, Snapshot
from ziggie.errors import BudgetExceeded, Conflict, InvalidInput, Unavailable
from ziggie.values import replace

MAX_MICROUSD = 10**15  # a billion dollars: keeps every sum of them within 64 bits
MAX_HOLD_SECONDS = 7 * 86_400.0
RESERVE_PATIENCE_SECONDS = 5.0
SETTLE_PATIENCE_SECONDS = 60.0
SETTLEMENTS_GATHER_SECONDS = (
    0.025  # where nobody waits for them: a statement for several costs little more than for one
)
CATCH_UP_SECONDS = 1.0
SWEEP_BATCH = 200
ANSWERED = -1  # refuses in a budget's place: the call is over
__all__ = ["BALANCES", "Hold", "caught_up", "drain", "release", "reserve", "settle", "settle_soon", "sweep"]

# Who lives renews its holds, and may have been kept from it by a database that was away.
EXPIRED = """
SELECT id, envelope_id, period_ids, ARRAY(
    SELECT p.budget_id FROM unnest(period_ids) WITH ORDINALITY AS held(period, place)
    LEFT JOIN routing_budgetperiod p ON p.id = held.period ORDER BY place
), amounts_microusd, taken_microusd, context, created_at FROM routing_reservation
WHERE expires_at <= coalesce(%s, now() - interval '30 seconds') ORDER BY expires_at LIMIT %s
"""
# What is left of every budget in its current period, for planning. Admission does not rely on it.
BALANCES = """
SELECT b.id, b.limit_microusd, coalesce(p.settled_microusd + p.held_microusd, 0), coalesce(p.held_microusd, 0)
FROM routing_budget b LEFT JOIN LATERAL (
    SELECT settled_microusd, held_microusd FROM routing_budgetperiod
    WHERE budget_id = b.id AND period = b.period AND starts_at <= now() AND (ends_at IS NULL OR ends_at > now())
    ORDER BY starts_at DESC LIMIT 1
) p ON true
"""


# --- what callers use ----------------------------------------------------------------------------


async def reserve(
    call_id: UUID,
    amounts: Mapping[int, int],
    snapshot: Snapshot,
    *,
    expires_in_seconds: float,
    context: Mapping[str, Any],
    at: datetime | None = None,
    envelope_id: UUID | None = None,
    meanwhile: Callable[[], None] | None = None,
    is_new: bool = False,
) -> Hold:
    """Holds `amounts` (budget id -> micro-dollars, the worst case) in each budget's current period, all or none.

    With an envelope, `amounts` has under ENVELOPE what the call takes of its limit, and the money comes from what
    the envelope holds in each budget, then from the budget itself.
    `context` is what the sweep settles from if nobody else does: any columns of CallRow and UsageRow.
    Reserving the same id again returns the hold that is there. `at` is the time that counts, now if None. A hold is
    renewed while this process lives and has neither settled nor released it, up to some hours (keeping.py).
    `meanwhile` is called, if the database is asked at all, once it has been; it must not raise.
    `is_new`: nobody else ever asks for this id, so that a hold of which nobody heard in time is given back.
    While more calls have ended than are settled at once it waits: what is to be written takes memory.
    Raises BudgetExceeded naming the budget, Conflict for an envelope's call that has been answered and settled,
    InvalidInput for an impossible amount, Unavailable.
    """
    lanes = _lanes()
    if lanes.ending.is_behind or lanes.ending_drawn.is_behind:
        await lanes.room()
    wanted = _wanted(amounts)
    if not wanted:
        return Hold(call_id)
    if (envelope_id is not None) != (ENVELOPE in wanted):
        raise InvalidInput("a call of an envelope takes of its limit, and no other call does")
    seconds = min(max(expires_in_seconds, 1.0), MAX_HOLD_SECONDS)
    request = Request(call_id, wanted, seconds, context, at, envelope_id, is_new)
    lane = lanes.reserving if envelope_id is None else lanes.drawing
    begins_at_once = lane.is_idle
    admission = lane.submit(request)
    try:
        if meanwhile is not None:
            if begins_at_once:
                await asyncio.sleep(0)  # the database is asked first
            meanwhile()
        outcome = await admission
    except BaseException:
        # Committed already, and cancelled before it woke up: the lane saw no reason to give the hold back.
        if not admission.cancel() and not admission.cancelled() and admission.exception() is None:
            _give_back(admission.result())
        raise
    if isinstance(outcome, Hold):
        lanes.keeper.keep(call_id, seconds=seconds)
        return outcome
    raise _refused(outcome, wanted, snapshot)


def _wanted(amounts: Mapping[int, int]) -> dict[int, int]:
    """What is to be held, in the order of the budgets' ids. Raises InvalidInput."""
    wanted: dict[int, int] = {}
    for budget in sorted(amounts):
        amount = amounts[budget]
        if not 0 <= amount <= MAX_MICROUSD:
            raise InvalidInput("an amount to be held is out of range")
        if amount:
            wanted[budget] = amount
    return wanted


async def settle(
    hold: Hold,
    *,
    call: CallRow,
    records: Sequence[UsageRow],
    charges: Mapping[int, int],
    at: datetime | None = None,
) -> bool:
    """Writes the receipt and its records and turns the hold into what was spent (budget id -> micro-dollars).

    True if this ended the call, False if it had ended before; then nothing is written. Goes on to its end
    when the caller is cancelled. Raises Unavailable if the database stays away; the sweep settles then.
    """
    return await settle_soon(hold, call=call, records=records, charges=charges, at=at, hurry=True)


def settle_soon(
    hold: Hold,
    *,
    call: CallRow,
    records: Sequence[UsageRow],
    charges: Mapping[int, int],
    at: datetime | None = None,
    hurry: bool = False,
) -> asyncio.Future[bool]:
    """The same, on its way at once, for a caller that waits for it later (`hurry`) or not at all."""
    lanes = _lanes()
    lanes.keeper.let_go(hold.call_id)
    if call.id != hold.call_id:
        raise InvalidInput("a receipt must bear its hold's id")
    lines: list[tuple[int, int | None, int]] = []
    call.paid_by = {}
    for budget in sorted(charges):
        charge = charges[budget]
        if not 0 <= charge <= MAX_MICROUSD:
            raise InvalidInput("a charge is out of range")
        if charge and budget != ENVELOPE:
            lines.append((budget, hold.periods.get(budget), charge))
            call.paid_by[str(budget)] = charge
    spent = None if hold.envelope_id is None else charges.get(ENVELOPE, 0)
    ending = Ending(hold.call_id, hold.is_free, Written.of(call, records), lines, at, spent)
    return (lanes.ending if spent is None else lanes.ending_drawn).submit(ending, hurry=hurry)


async def caught_up() -> None:
    """Returns once the calls of this loop that have ended are settled: what they held may be what was missing."""
    lanes = _lanes()
    for lane in (lanes.ending, lanes.ending_drawn):
        await lane.caught_up(CATCH_UP_SECONDS)


async def release(hold: Hold) -> bool:
    """Gives a hold back without a receipt. False if the call had ended before. A free hold needs nothing."""
    if hold.is_free:
        return True
    keeper().let_go(hold.call_id)
    spent = None if hold.envelope_id is None else 0
    return await _end(Ending(hold.call_id, is_free=False, spent_microusd=spent))


async def sweep(*, at: datetime | None = None) -> int:
    """Settles the calls whose process died, from what their hold's context tells; returns how many."""
    ended = 0
    while True:
        async with database.connection() as connection:
            rows = await (await connection.execute(EXPIRED, (at, SWEEP_BATCH))).fetchall()
        results = await asyncio.gather(*(_end(_swept(row)) for row in rows), return_exceptions=True)
        done = [result for result in results if result is True]
        ended += len(done)
        if len(rows) < SWEEP_BATCH or not done:
            for failure in results:  # the others are settled all the same
                if isinstance(failure, BaseException):
                    raise failure
            return ended


async def drain() -> None:
    """Returns once this loop's pending admissions and settlements are done: call it before a server stops."""
    lanes = _lanes()
    for lane in (lanes.reserving, lanes.drawing, lanes.ending, lanes.ending_drawn):
        await lane.idle()


# --- lanes --------------------------------------------------------------------------------------


class _Lanes:
    def __init__(self) -> None:
        self.keeper = keeper()
        self.reserving: Lane[Request, Hold | Refusal] = Lane(
            ledger_batches.reserve,
            patience_seconds=RESERVE_PATIENCE_SECONDS,
            repair=_repaired_request,
            orphaned=_give_back,
            given_up=_give_up,
        )
        self.drawing: Lane[Request, Hold | Refusal] = Lane(
            ledger_batches.draw,
            patience_seconds=RESERVE_PATIENCE_SECONDS,
            repair=_repaired_request,
            orphaned=_give_back,
            given_up=_give_up,
        )
        self.ending: Lane[Ending, bool] = Lane(
            ledger_batches.end,
            patience_seconds=SETTLE_PATIENCE_SECONDS,
            gather_seconds=SETTLEMENTS_GATHER_SECONDS,
            repair=_repaired_ending,
            steadfast=True,
        )
        self.ending_drawn: Lane[Ending, bool] = Lane(
            ledger_batches.end_drawn,
            patience_seconds=SETTLE_PATIENCE_SECONDS,
            gather_seconds=SETTLEMENTS_GATHER_SECONDS,
            repair=_repaired_ending,
            steadfast=True,
        )

    async def room(self) -> None:
        """Returns once no more calls have ended than can be settled at once. Raises Unavailable."""
        for lane in (self.ending, self.ending_drawn):
            await lane.room(RESERVE_PATIENCE_SECONDS)


_lanes = OfLoop(_Lanes).get


def _end(ending: Ending, *, hurry: bool = True) -> asyncio.Future[bool]:
    lanes = _lanes()
    return (lanes.ending if ending.spent_microusd is None else lanes.ending_drawn).submit(ending, hurry=hurry)


def _give_back(outcome: Hold | Refusal) -> None:
    """The caller was cancelled while its hold was being committed."""
    if isinstance(outcome, Hold):
        spent = None if outcome.envelope_id is None else 0
        with suppress(Unavailable):  # where too much waits already, the sweep gives it back
            _end(Ending(outcome.call_id, is_free=False, spent_microusd=spent))


def _give_up(request: Request) -> None:
    """It may hold money although the database did not say so in time: then nobody will ever settle it, and the sweep
    would take it for spent. A call that is sent again under its id may hold that money by now, and keeps it."""
    if request.is_new:
        spent = None if request.envelope_id is None else 0
        with suppress(Unavailable):
            _end(Ending(request.call_id, is_free=False, spent_microusd=spent)).add_done_callback(look_away)


def _repaired_request(request: Request) -> Request:
    return replace(request, context=scrubbed(request.context))


def _repaired_ending(ending: Ending) -> Ending:
    return ending if ending.written is None else replace(ending, written=ending.written.fitting())


def _swept(row: TupleRow) -> Ending:
    call_id, envelope_id, periods, budgets, amounts, taken, context, created_at = row
    known, held = context.get("cost_microusd"), max([*amounts, taken or 0])
    cost = known if isinstance(known, int) and known >= 0 else held
    if context.get("release_when_expired"):
        return Ending(call_id, is_free=False, spent_microusd=None if envelope_id is None else 0)
    call, records = abandoned_call(call_id, context, cost_microusd=cost, created_at=created_at, now=datetime.now(UTC))
    call.reserved_microusd = held
    lines = zip(budgets, periods, amounts, strict=True)
    charges = [(budget, period, min(cost, amount)) for budget, period, amount in lines]
    call.paid_by = {str(budget): amount for budget, _, amount in charges if budget is not None and amount}
    spent = None if envelope_id is None else cost
    return Ending(call_id, is_free=False, written=Written.of(call, records), charges=charges, spent_microusd=spent)


def _refused(refusal: Refusal, wanted: Mapping[int, int], snapshot: Snapshot) -> BudgetExceeded | Conflict:
    if refusal.budget_id == ANSWERED:
        return Conflict("this call has been answered and settled")
    names = {ENVELOPE: "of its run"} | {budget.id: budget.slug for budget in snapshot.budgets}
    slug = names.get(refusal.budget_id, str(refusal.budget_id))
    if refusal.left_microusd is None:
        return BudgetExceeded(f"the budget {slug} is closed", details=[{"budget": slug}])
    left_usd, needed_usd = (f"{microusd / 1e6:.6f}" for microusd in (refusal.left_microusd, wanted[refusal.budget_id]))
    return BudgetExceeded(
        f"budget {slug} has ${left_usd} left, and this call could cost ${needed_usd}",
        details=[{"budget": slug, "left_usd": left_usd, "needed_usd": needed_usd}],
    )
