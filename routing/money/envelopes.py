"""Envelopes: a run, a swarm or a batch holds money once, its calls draw from it, and the rest returns.

    announce(...)             names it before anything is held, so that nobody else's calls may bear its id
    open_envelope(...)        holds the money; again with the same id: goes on with what is left
    close_envelope(id)        gives back what no call holds or has spent, once
    look(id)                  what is in it
    seen_with(envelope, ...)  PURE: configuration and world as a call of the envelope plans by them

A call names its envelope (ChatRequest.envelope_id). The ledger admits it against the envelope's limit and against
every budget that watches it, in one statement; what the envelope holds in a budget is used first. An envelope may
hold less than its limit in a budget that had no more, and nothing in one that only some of its calls touch: its
calls then need room there like any other. An envelope whose owner died is closed by the sweep; calls that are under
way keep their own holds and are settled as ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from psycopg.rows import TupleRow

from routing import database
from routing.configuration import snapshot
from routing.money.ledger import MAX_HOLD_SECONDS, MAX_MICROUSD
from routing.planning.budgets import budgets_of_every_call, envelope_budget
from routing.planning.demand import measure
from routing.types import ENVELOPE, BudgetState, ChatRequest, Snapshot, World
from ziggie.errors import InvalidInput, Unavailable
from ziggie.values import replace

MAX_NAME = 100
SWEEP_BATCH = 200
KEPT_FOR = timedelta(days=90)  # closed ones, so that a late call finds its envelope closed

OPEN = "SELECT ledger_open(%s, %s, %s, %s, %s::bigint[], %s::bigint[], %s, coalesce(%s, now()))"
CLOSE = "SELECT * FROM ledger_close(%s::uuid[])"
# One that was announced and not opened yet was closed when it was made.
ANNOUNCE = """
INSERT INTO routing_envelope (id, name, api_key_id, limit_microusd, left_microusd, period_ids, amounts_microusd,
                              expires_at, closed_at, created_at)
VALUES (%s, %s, %s, %s, %s, '{}', '{}', now(), now(), now()) ON CONFLICT DO NOTHING
"""
WITHDRAW = "UPDATE routing_envelope SET closed_at = clock_timestamp() WHERE id = %s AND closed_at = created_at"
# What the budgets have paid for it since it was announced is not left.
NARROW = "UPDATE routing_envelope SET left_microusd = least(left_microusd, %s) WHERE id = %s AND closed_at = created_at"
EXPIRED = """
SELECT id FROM routing_envelope WHERE closed_at IS NULL AND expires_at <= coalesce(%s, now())
ORDER BY expires_at LIMIT %s
"""
FORGET = """
DELETE FROM routing_envelope e WHERE closed_at < now() - %s
AND NOT EXISTS (SELECT FROM routing_reservation r WHERE r.envelope_id = e.id)
"""
# A call that is sent again holds money already: for its plan that money is still there.
LOOK = """
SELECT e.id, e.name, e.api_key_id, e.limit_microusd, e.left_microusd + coalesce(own.taken_microusd, 0),
       e.closed_at IS NULL, e.closed_at IS NOT DISTINCT FROM e.created_at, (
    SELECT coalesce(json_agg(json_build_array(p.budget_id, held.amount)), '[]') FROM (
        SELECT line.period, sum(line.amount)::bigint FROM (
            SELECT * FROM unnest(e.period_ids, e.amounts_microusd)
            UNION ALL SELECT * FROM unnest(own.period_ids, own.drawn_microusd)
        ) AS line(period, amount) GROUP BY 1
    ) AS held(period, amount) JOIN routing_budgetperiod p ON p.id = held.period
)
FROM routing_envelope e LEFT JOIN routing_reservation own ON own.id = %s AND own.envelope_id = e.id WHERE e.id = %s
"""


@dataclass(frozen=True, slots=True)
class Envelope:
    """`left_microusd` is what calls neither hold nor have spent of the limit; below zero after a call that cost more
    than it could. `amounts` is what it still holds, by budget id: empty once it is closed. `is_to_come`: it has been
    announced, and not opened yet."""

    id: UUID
    name: str
    api_key_id: str
    limit_microusd: int
    left_microusd: int
    is_open: bool
    is_to_come: bool = False
    amounts: Mapping[int, int] = field(default_factory=dict)


def announce(envelope_id: UUID, limit_microusd: int, *, name: str, api_key_id: str) -> None:
    """In the caller's transaction: not async, and by Django's connection."""
    with connection.cursor() as cursor:
        cursor.execute(ANNOUNCE, (envelope_id, name[:MAX_NAME], api_key_id, limit_microusd, limit_microusd))


async def open_envelope(
    envelope_id: UUID,
    limit_microusd: int,
    amounts: Mapping[int, int],
    *,
    name: str,
    expires_in_seconds: float,
    api_key_id: str = "",
    at: datetime | None = None,
) -> Envelope:
    """Holds `amounts` (budget id -> micro-dollars, each at most the limit), or what room there is for them.

    `name` is what messages call it; `api_key_id` is the key whose gateway calls may draw from it. One that is open
    is given more time and stays as it is; one that was closed goes on with what its calls left of its limit, and one
    that was announced begins with at most `limit_microusd`.
    Raises InvalidInput for an impossible amount, Unavailable.
    """
    if not 0 <= limit_microusd <= MAX_MICROUSD:
        raise InvalidInput("an envelope's limit is out of range")
    wanted = {budget: min(amounts[budget], limit_microusd) for budget in sorted(amounts)}
    if any(amount < 0 for amount in wanted.values()):
        raise InvalidInput("an amount to be held is out of range")
    seconds = min(max(expires_in_seconds, 1.0), MAX_HOLD_SECONDS)
    parameters = (envelope_id, name[:MAX_NAME], api_key_id, limit_microusd, list(wanted), list(wanted.values()))
    async with database.connection() as line:
        await line.execute(NARROW, (limit_microusd, envelope_id))
        await line.execute(OPEN, (*parameters, seconds, at))
    opened = await look(envelope_id)
    assert opened is not None  # closed ones are kept
    return opened


async def open_for(
    like: ChatRequest, envelope_id: UUID, limit_microusd: int, *, name: str, expires_in_seconds: float
) -> Envelope:
    """Opens an envelope for calls like this one: its whole limit is held in each budget that pays for them all."""
    configuration = await snapshot.acurrent()
    named = configuration.models.get(like.model)
    models = (named,) if named else configuration.by_name.get(like.model) or configuration.models.values()
    paying = budgets_of_every_call(configuration.budgets, models, measure(like))
    amounts = {budget.id: limit_microusd for budget in paying}
    key = like.api_key_id or ""
    return await open_envelope(
        envelope_id, limit_microusd, amounts, name=name, expires_in_seconds=expires_in_seconds, api_key_id=key
    )


async def close_envelope(envelope_id: UUID) -> bool:
    """True if this closed it. Calls of it that are under way keep what they hold until they are settled."""
    async with database.connection() as line:
        await line.execute(WITHDRAW, (envelope_id,))
        return bool(await (await line.execute(CLOSE, ([envelope_id],))).fetchall())


async def look(envelope_id: UUID, *, call_id: UUID | None = None) -> Envelope | None:
    """The envelope as `call_id`, one of its calls, may use it; None if there never was one."""
    try:
        row = await _row(envelope_id, call_id)
    except Unavailable:  # its connection was ended, say by a restart: another one may do
        row = await _row(envelope_id, call_id)
    if row is None:
        return None
    envelope, name, api_key_id, limit, left, is_open, is_to_come, held = row
    amounts = {budget: amount for budget, amount in held if amount}
    return Envelope(envelope, name, api_key_id, limit, left, is_open, is_to_come, amounts)


async def _row(envelope_id: UUID, call_id: UUID | None) -> TupleRow | None:
    async with database.connection() as line:
        return await (await line.execute(LOOK, (call_id, envelope_id), prepare=True)).fetchone()


async def sweep(*, at: datetime | None = None) -> int:
    """Closes the envelopes whose owner is gone; returns how many. Forgets those that were closed long ago."""
    closed = 0
    while True:
        async with database.connection() as line:
            ids = [row[0] for row in await (await line.execute(EXPIRED, (at, SWEEP_BATCH))).fetchall()]
            closed += len(await (await line.execute(CLOSE, (ids,))).fetchall())
            if len(ids) < SWEEP_BATCH:
                await line.execute(FORGET, (KEPT_FOR,))
                return closed


# --- planning ------------------------------------------------------------------------------------


def seen_with(envelope: Envelope, configuration: Snapshot, world: World) -> tuple[Snapshot, World]:
    """The envelope's limit is one more budget, and what it holds in the others is free for its calls."""
    limits = {budget.id: budget.limit_microusd for budget in configuration.budgets}
    budgets = dict(world.budgets)
    for budget, amount in envelope.amounts.items():
        if budget in limits:
            known = budgets.get(budget) or BudgetState(limits[budget], limits[budget])
            left, held = known.left_microusd + amount, max(known.held_microusd - amount, 0)
            budgets[budget] = replace(known, left_microusd=left, held_microusd=held)
    left = max(envelope.left_microusd, 0) if envelope.is_open else 0
    # Nothing says how much of the rest calls hold, and how much they have spent: any of it may come back.
    budgets[ENVELOPE] = BudgetState(left, envelope.limit_microusd, envelope.limit_microusd - left)
    spec = envelope_budget(envelope.name, envelope.limit_microusd)
    return replace(configuration, budgets=(*configuration.budgets, spec)), replace(world, budgets=budgets)
