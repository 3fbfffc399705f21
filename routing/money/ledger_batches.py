"""What the ledger says to the database: a batch of admissions or of endings as one statement."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, LiteralString
from uuid import UUID

from msgspec import field
from msgspec.json import encode

from routing.money.ledger_rows import Written
from routing.money.lines import Line, Row, array_text, integers
from routing.types import ENVELOPE
from ziggie.values import Value

RESERVE: LiteralString = """
SELECT held_budgets, held_periods, refused_by, left_microusd
FROM ledger_reserve($1::json, $2::integer, $3::bigint[], $4::bigint[], coalesce($5::timestamptz, now()))
"""
DRAW: LiteralString = """
SELECT held_budgets, held_periods, refused_by, left_microusd
FROM ledger_draw($1::json, $2::bigint[], coalesce($3::timestamptz, now()))
"""
SETTLE: LiteralString = """
SELECT * FROM ledger_settle($1::uuid[], $2::uuid[], $3::json, $4::json, $5::json, coalesce($6::timestamptz, now()))
"""
SETTLE_DRAWN: LiteralString = """
SELECT * FROM ledger_settle_drawn(
    $1::uuid[], $2::bigint[], $3::json, $4::json, $5::json, coalesce($6::timestamptz, now()))
"""
# The calls that hold nothing any more, and of which microsecond their receipts are.
WRITTEN: LiteralString = """
SELECT call, (extract(epoch FROM r.created_at) * 1000000)::bigint
FROM unnest($1::uuid[]) AS call LEFT JOIN routing_routedcall r ON r.id = call
WHERE NOT EXISTS (SELECT FROM routing_reservation held WHERE held.id = call)
"""


class Hold(Value):
    """A call's admitted worst case. `periods` says in which period of each budget the money is held; both
    mappings are empty for a call that could cost nothing. What it takes of its envelope's limit is the amount of
    the budget ENVELOPE, which has no period."""

    call_id: UUID
    amounts: Mapping[int, int] = field(default_factory=dict)  # budget id -> micro-dollars
    periods: Mapping[int, int] = field(default_factory=dict)  # budget id -> period id
    envelope_id: UUID | None = None

    @property
    def is_free(self) -> bool:
        return not self.amounts


class Request(Value):
    """`is_new`: nobody else ever asks for this call."""

    call_id: UUID
    amounts: Mapping[int, int]
    expires_in_seconds: float
    context: Mapping[str, Any]
    at: datetime | None
    envelope_id: UUID | None = None
    is_new: bool = False


class Refusal(Value):
    budget_id: int
    left_microusd: int | None  # None: the envelope is closed


class Ending(Value):
    """How a call ends. Without `written` it is released. Charges are (budget id, period id, micro-dollars).
    `spent_microusd` is what a call of an envelope cost in all, None for the others."""

    call_id: UUID
    is_free: bool
    written: Written | None = None
    charges: Sequence[tuple[int | None, int | None, int]] = ()
    at: datetime | None = None
    spent_microusd: int | None = None


async def reserve(line: Line, requests: list[Request], *, again: bool) -> list[Hold | Refusal]:
    """An admission that was committed before is answered with what it holds."""
    outcomes: list[Hold | Refusal] = []
    for at, batch in _at_one_time(requests):
        wanted: dict[int, int] = {}
        for request in batch:
            for budget, amount in request.amounts.items():
                wanted[budget] = wanted.get(budget, 0) + amount
        budgets = sorted(wanted)
        amounts = array_text([wanted[budget] for budget in budgets])
        operations = encode([_request_json(request) for request in batch])
        calls = b"%d" % len(batch)
        rows = await line.execute(RESERVE, operations, calls, array_text(budgets), amounts, _moment(at))
        outcomes += map(_outcome, batch, rows) if len(rows) == len(batch) else _all_held(batch, *rows)
    return outcomes


async def draw(line: Line, requests: list[Request], *, again: bool) -> list[Hold | Refusal]:
    """The same for calls of envelopes."""
    outcomes: list[Hold | Refusal] = []
    for at, batch in _at_one_time(requests):
        budgets = sorted({budget for request in batch for budget in request.amounts} - {ENVELOPE})
        operations = encode([_request_json(request) for request in batch])
        outcomes += map(_outcome, batch, await line.execute(DRAW, operations, array_text(budgets), _moment(at)))
    return outcomes


def _at_one_time(requests: list[Request]) -> Iterator[tuple[datetime | None, list[Request]]]:
    for at, group in groupby(requests, key=lambda request: request.at):
        yield at, list(group)


def _all_held(batch: list[Request], row: Row) -> Iterator[Hold]:
    """Of the one row that stands for all of them."""
    every = dict(zip(integers(row[0]), integers(row[1]), strict=True))
    for request in batch:
        held = every if len(request.amounts) == len(every) else {budget: every[budget] for budget in request.amounts}
        yield Hold(request.call_id, request.amounts, held)


def _outcome(request: Request, row: Row) -> Hold | Refusal:
    """Of the row of its operation."""
    held_budgets, periods, refused_by, left = row
    if refused_by is not None:
        return Refusal(int(refused_by), None if left is None else int(left))
    held = dict(zip(integers(held_budgets), integers(periods), strict=True))
    return Hold(request.call_id, request.amounts, held, request.envelope_id)


def _request_json(request: Request) -> dict[str, Any]:
    amounts, drawn = request.amounts, {}
    if request.envelope_id is not None:
        drawn = {"envelope": request.envelope_id, "taken": amounts[ENVELOPE]}
        amounts = {budget: amount for budget, amount in amounts.items() if budget != ENVELOPE}
    return {
        "id": request.call_id,
        "budgets": list(amounts),
        "amounts": list(amounts.values()),
        "expires_in_seconds": request.expires_in_seconds,
        "context": request.context,
        **drawn,
    }


def _moment(at: datetime | None) -> bytes | None:
    return None if at is None else at.isoformat().encode()


async def end(line: Line, endings: list[Ending], *, again: bool) -> list[bool]:
    """Whether each call ended here."""
    ended: set[bytes | None] = set()
    for at, batch in _by_time(endings):
        ended.update(row[0] for row in await line.execute(SETTLE, *_endings_parameters(batch), _moment(at)))
    return await _results(line, endings, ended, again=again)


async def end_drawn(line: Line, endings: list[Ending], *, again: bool) -> list[bool]:
    """The same for calls of envelopes."""
    ended: set[bytes | None] = set()
    for at, batch in _by_time(endings):
        held, _, *rows = _endings_parameters(batch)
        spent = array_text([ending.spent_microusd or 0 for ending in batch])
        ended.update(row[0] for row in await line.execute(SETTLE_DRAWN, held, spent, *rows, _moment(at)))
    return await _results(line, endings, ended, again=again)


def _by_time(endings: list[Ending]) -> Iterator[tuple[datetime | None, list[Ending]]]:
    for at, group in groupby(endings, key=lambda ending: ending.at):
        yield at, list({ending.call_id: ending for ending in group}.values())  # twice in one batch ends once


async def _results(line: Line, endings: list[Ending], ended: set[bytes | None], *, again: bool) -> list[bool]:
    if again:
        ended |= await _ended_before(line, endings)
    if len(ended) == len(endings):  # nearly always
        return [True] * len(endings)
    results = []
    for ending in endings:
        call_id = str(ending.call_id).encode()
        results.append(call_id in ended)
        ended.discard(call_id)
    return results


async def _ended_before(line: Line, endings: list[Ending]) -> set[bytes | None]:
    """The calls that these very endings ended: they were committed, and the answer that said so was lost."""
    rows = await line.execute(WRITTEN, array_text([ending.call_id for ending in endings]))
    ours = {str(ending.call_id).encode(): _microseconds(ending) for ending in endings}
    return {call for call, written in rows if call is not None and ours[call] == (written and int(written))}


def _microseconds(ending: Ending) -> int | None:
    """Of its receipt, since 1970; no two processes write the same receipt within one."""
    return None if ending.written is None else round(ending.written.created_at.timestamp() * 1_000_000)


def _endings_parameters(batch: list[Ending]) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    charges = [
        {"call": ending.call_id, "budget": budget, "period": period, "amount": amount}
        for ending in batch
        for budget, period, amount in ending.charges
    ]
    written = [ending.written for ending in batch if ending.written is not None]
    return (
        array_text([ending.call_id for ending in batch if not ending.is_free]),
        array_text([ending.call_id for ending in batch if ending.is_free]),
        encode(charges),
        b"[%b]" % b",".join([one.call for one in written]),
        b"[%b]" % b",".join([one.records for one in written if one.records]),
    )
