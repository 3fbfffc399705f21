"""Money: reserve the worst case, settle what was spent, release what was not. The only writer of budget counters.

A call is admitted by a committed hold against every budget in its scope, or refused. It ends once: whoever
deletes the hold's row writes the receipt, the usage records, the counters and the rollups in that same
transaction. A call that could cost nothing holds nothing; then the receipt's id is what makes it end once.
Nothing is ever admitted without the database, and nothing here waits on the network beyond it.
"""

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import orjson

from routing import database
from routing.coalescing import Lane
from routing.ledger_rows import CallRow, UsageRow, abandoned_call, scrubbed
from routing.lines import Line, Row, array_text, integers
from routing.types import BudgetState, Snapshot
from ziggie.errors import BudgetExceeded, InvalidInput

MAX_MICROUSD = 10**15  # a billion dollars: keeps every sum of them within 64 bits
MAX_HOLD_SECONDS = 7 * 86_400.0
RESERVE_PATIENCE_SECONDS = 5.0
SETTLE_PATIENCE_SECONDS = 60.0
SETTLEMENTS_APART_SECONDS = 0.005  # few wait for them, and a statement for several costs little more than for one
SWEEP_BATCH = 200

RESERVE = """
SELECT held_budgets, held_periods, refused_by, left_microusd
FROM ledger_reserve($1::json, $2::bigint[], coalesce($3::timestamptz, now()))
"""
SETTLE = """
SELECT * FROM ledger_settle($1::uuid[], $2::uuid[], $3::json, $4::json, $5::json, coalesce($6::timestamptz, now()))
"""
# Whose receipts are there, and of which microsecond they are.
WRITTEN = """
SELECT call, (extract(epoch FROM r.created_at) * 1000000)::bigint
FROM unnest($1::uuid[]) AS call LEFT JOIN routing_routedcall r ON r.id = call
WHERE NOT EXISTS (SELECT FROM routing_reservation held WHERE held.id = call)
"""
EXPIRED = """
SELECT id, period_ids, amounts_microusd, context, created_at FROM routing_reservation
WHERE expires_at <= coalesce(%s, now()) ORDER BY expires_at LIMIT %s
"""
BALANCES = """
SELECT b.id, b.limit_microusd, coalesce(p.settled_microusd + p.held_microusd, 0)
FROM routing_budget b LEFT JOIN LATERAL (
    SELECT settled_microusd, held_microusd FROM routing_budgetperiod
    WHERE budget_id = b.id AND period = b.period AND starts_at <= now() AND (ends_at IS NULL OR ends_at > now())
    ORDER BY starts_at DESC LIMIT 1
) p ON true
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """A call's admitted worst case. `periods` says in which period of each budget the money is held; both
    mappings are empty for a call that could cost nothing."""

    call_id: UUID
    amounts: Mapping[int, int] = field(default_factory=dict)  # budget id -> micro-dollars
    periods: Mapping[int, int] = field(default_factory=dict)  # budget id -> period id

    @property
    def is_free(self) -> bool:
        return not self.amounts


@dataclass(frozen=True, slots=True)
class _Request:
    call_id: UUID
    amounts: Mapping[int, int]
    expires_in_seconds: float
    context: Mapping[str, Any]
    at: datetime | None


@dataclass(frozen=True, slots=True)
class _Refusal:
    budget_id: int
    left_microusd: int


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a call ends. Without `call` it is released. Charges are (budget id, period id, micro-dollars)."""

    call_id: UUID
    is_free: bool
    call: CallRow | None = None
    records: Sequence[UsageRow] = ()
    charges: Sequence[tuple[int | None, int | None, int]] = ()
    at: datetime | None = None


# --- what callers use ----------------------------------------------------------------------------


async def reserve(
    call_id: UUID,
    amounts: Mapping[int, int],
    snapshot: Snapshot,
    *,
    expires_in_seconds: float,
    context: Mapping[str, Any],
    at: datetime | None = None,
) -> Hold:
    """Holds `amounts` (budget id -> micro-dollars, the worst case) in each budget's current period, all or none.

    `context` is what the sweep settles from if nobody else does: any columns of CallRow and UsageRow.
    Reserving the same id again returns the hold that is there. `at` is the time that counts, now if None.
    Raises BudgetExceeded naming the budget, InvalidInput for an impossible amount, Unavailable.
    """
    wanted = {budget: amounts[budget] for budget in sorted(amounts) if amounts[budget]}
    if not wanted:
        return Hold(call_id)
    if any(not 0 < amount <= MAX_MICROUSD for amount in wanted.values()):
        raise InvalidInput("an amount to be held is out of range")
    request = _Request(call_id, wanted, min(max(expires_in_seconds, 1.0), MAX_HOLD_SECONDS), context, at)
    admission = _lanes().reserving.submit(request)
    try:
        outcome = await admission
    except asyncio.CancelledError:
        # Committed already, and cancelled before it woke up: the lane saw no reason to give the hold back.
        if not admission.cancelled() and admission.done() and admission.exception() is None:
            _give_back(admission.result())
        raise
    if isinstance(outcome, Hold):
        return outcome
    raise _exceeded(outcome, wanted[outcome.budget_id], snapshot)


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
    if call.id != hold.call_id:
        raise InvalidInput("a receipt must bear its hold's id")
    if any(not 0 <= charge <= MAX_MICROUSD for charge in charges.values()):
        raise InvalidInput("a charge is out of range")
    lines = [(budget, hold.periods.get(budget), charges[budget]) for budget in sorted(charges) if charges[budget]]
    ending = _Ending(hold.call_id, hold.is_free, call, records, lines, at)
    return await asyncio.shield(_lanes().ending.submit(ending))


async def release(hold: Hold) -> bool:
    """Gives a hold back without a receipt. False if the call had ended before. A free hold needs nothing."""
    if hold.is_free:
        return True
    return await asyncio.shield(_lanes().ending.submit(_Ending(hold.call_id, is_free=False)))


async def sweep(*, at: datetime | None = None) -> int:
    """Settles the calls whose process died, from what their hold's context tells; returns how many."""
    ended = 0
    while True:
        async with database.connection() as connection:
            rows = await (await connection.execute(EXPIRED, (at, SWEEP_BATCH))).fetchall()
        endings = [_swept(*row) for row in rows]
        lane = _lanes().ending
        results = await asyncio.gather(*(asyncio.shield(lane.submit(ending)) for ending in endings))
        ended += sum(results)
        if len(rows) < SWEEP_BATCH or not any(results):
            return ended


async def balances() -> dict[int, BudgetState]:
    """What is left of every budget in its current period, for planning. Admission does not rely on it."""
    async with database.connection() as connection:
        rows = await (await connection.execute(BALANCES)).fetchall()
    return {budget: BudgetState(left_microusd=limit - used, limit_microusd=limit) for budget, limit, used in rows}


async def drain() -> None:
    """Returns once this loop's pending admissions and settlements are done: call it before a server stops."""
    lanes = _lanes()
    await lanes.reserving.idle()
    await lanes.ending.idle()


# --- batches --------------------------------------------------------------------------------------


class _Lanes:
    def __init__(self) -> None:
        self.reserving: Lane[_Request, Hold | _Refusal] = Lane(
            _reserve_batch, patience_seconds=RESERVE_PATIENCE_SECONDS, repair=_repaired_request, orphaned=_give_back
        )
        self.ending: Lane[_Ending, bool] = Lane(
            _end_batch,
            patience_seconds=SETTLE_PATIENCE_SECONDS,
            apart_seconds=SETTLEMENTS_APART_SECONDS,
            repair=_repaired_ending,
        )


_lanes_of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lanes] = weakref.WeakKeyDictionary()


def _lanes() -> _Lanes:
    loop = asyncio.get_running_loop()
    lanes = _lanes_of.get(loop)
    if lanes is None:
        lanes = _lanes_of[loop] = _Lanes()
    return lanes


async def _reserve_batch(line: Line, requests: list[_Request], *, again: bool) -> list[Hold | _Refusal]:
    outcomes: list[Hold | _Refusal] = []
    for at, group in groupby(requests, key=lambda request: request.at):
        batch = list(group)
        budgets = sorted({budget for request in batch for budget in request.amounts})
        rows = await line.execute(RESERVE, _requests_json(batch), array_text(budgets), _moment(at))
        outcomes += map(_outcome, batch, rows)
    return outcomes


def _outcome(request: _Request, row: Row) -> Hold | _Refusal:
    held_budgets, periods, refused_by, left = row
    if refused_by is not None:
        return _Refusal(int(refused_by), int(left or 0))
    return Hold(request.call_id, request.amounts, dict(zip(integers(held_budgets), integers(periods), strict=True)))


def _moment(at: datetime | None) -> bytes | None:
    return None if at is None else at.isoformat().encode()


def _requests_json(batch: list[_Request]) -> bytes:
    return orjson.dumps(
        [
            {
                "id": request.call_id,
                "budgets": list(request.amounts),
                "amounts": list(request.amounts.values()),
                "expires_in_seconds": request.expires_in_seconds,
                "context": request.context,
            }
            for request in batch
        ]
    )


async def _end_batch(line: Line, endings: list[_Ending], *, again: bool) -> list[bool]:
    ended: set[bytes | None] = set()
    for at, group in groupby(endings, key=lambda ending: ending.at):
        batch = list({ending.call_id: ending for ending in group}.values())  # twice in one batch ends once
        ended.update(row[0] for row in await line.execute(SETTLE, *_endings_parameters(batch), _moment(at)))
    if again:
        ended |= await _ended_before(line, endings)
    results: list[bool] = []
    for ending in endings:
        call_id = str(ending.call_id).encode()
        results.append(call_id in ended)
        ended.discard(call_id)
    return results


async def _ended_before(line: Line, endings: list[_Ending]) -> set[bytes | None]:
    """The calls that these very endings ended: they were committed, and the answer that said so was lost."""
    rows = await line.execute(WRITTEN, array_text([ending.call_id for ending in endings]))
    ours = {str(ending.call_id).encode(): _microseconds(ending) for ending in endings}
    return {call for call, written in rows if call is not None and ours[call] == (written and int(written))}


def _microseconds(ending: _Ending) -> int | None:
    """Of its receipt, since 1970; no two processes write the same receipt within one."""
    return None if ending.call is None else round(ending.call.created_at.timestamp() * 1_000_000)


def _endings_parameters(batch: list[_Ending]) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    charges = [
        {"call": ending.call_id, "budget": budget, "period": period, "amount": amount}
        for ending in batch
        for budget, period, amount in ending.charges
    ]
    calls = [vars(ending.call) for ending in batch if ending.call is not None]
    records = [record.columns(ending.call) for ending in batch if ending.call is not None for record in ending.records]
    return (
        array_text([ending.call_id for ending in batch if not ending.is_free]),
        array_text([ending.call_id for ending in batch if ending.is_free]),
        orjson.dumps(charges),
        orjson.dumps(calls),
        orjson.dumps(records),
    )


def _give_back(outcome: Hold | _Refusal) -> None:
    """The caller was cancelled while its hold was being committed."""
    if isinstance(outcome, Hold):
        _lanes().ending.submit(_Ending(outcome.call_id, is_free=False))


def _repaired_request(request: _Request) -> _Request:
    return replace(request, context=scrubbed(request.context))


def _repaired_ending(ending: _Ending) -> _Ending:
    if ending.call is None:
        return ending
    return replace(ending, call=ending.call.fitting(), records=[record.fitting() for record in ending.records])


def _swept(
    call_id: UUID, periods: list[int], amounts: list[int], context: dict[str, Any], created_at: datetime
) -> _Ending:
    known = context.get("cost_microusd")
    cost = known if isinstance(known, int) and known >= 0 else max(amounts, default=0)
    if context.get("release_when_expired"):
        return _Ending(call_id, is_free=False)
    call, records = abandoned_call(call_id, context, cost_microusd=cost, created_at=created_at, now=datetime.now(UTC))
    charges = [(None, period, min(cost, amount)) for period, amount in zip(periods, amounts, strict=True)]
    return _Ending(call_id, is_free=False, call=call, records=records, charges=charges)


def _exceeded(refusal: _Refusal, needed_microusd: int, snapshot: Snapshot) -> BudgetExceeded:
    slug = next((budget.slug for budget in snapshot.budgets if budget.id == refusal.budget_id), str(refusal.budget_id))
    left_usd, needed_usd = (f"{amount / 1_000_000:.6f}" for amount in (refusal.left_microusd, needed_microusd))
    return BudgetExceeded(
        f"budget {slug} has ${left_usd} left, and this call could cost ${needed_usd}",
        details=[{"budget": slug, "left_usd": left_usd, "needed_usd": needed_usd}],
    )
