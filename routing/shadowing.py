"""Beside an answered call: whether a copy of it goes to the rule's shadow model, and the row that says so.

Nothing here can delay or fail the call. A copy that cannot be written down is not made.
"""

import asyncio
import logging
from uuid import UUID

import orjson
import psycopg

from routing import database
from routing.money.ledger_rows import scrubbed
from routing.records import kept_requests
from routing.records.receipts import CACHE
from routing.types import ChatRequest, Plan
from routing.walk.attempts import Answer
from routing.walk.comparing import parts_text
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

SHARES = 10_000
MAX_WAITING = 1_000  # what waits beyond this is not sampled at all
MAX_BYTES = 512 * 1024

OFFER = """
INSERT INTO routing_shadowcomparison (id, policy, policy_version, rule, task_kind, model, shadow_model,
    judge_model, state, winner, preferences, problem, cost_microusd, bodies, created_at, lease_owner, fence, tries)
SELECT %s, %s, %s, %s, %s, %s, %s, %s, 'waiting', '', '[]', '', 0, %s, now(), '', 0, 0
WHERE (SELECT count(*) FROM routing_shadowcomparison WHERE state = 'waiting') < %s
ON CONFLICT DO NOTHING
"""
_offering: set[asyncio.Task[None]] = set()


def is_sampled(call_id: UUID, plan: Plan, answer: Answer) -> bool:
    """The same calls every time: by their ids, which are random at that end."""
    options = plan.options
    if options.shadow_model is None or answer.candidate.role == CACHE:
        return False
    if options.shadow_model == answer.candidate.model.slug:
        return False
    return call_id.int % SHARES < options.shadow_percent * SHARES // 100


def offer(call_id: UUID, request: ChatRequest, plan: Plan, answer: Answer, *, baseline_model: str) -> None:
    """Has a comparison written down if the call is in the sample; returns at once. Who will judge it is settled
    here, by the rule that served the call."""
    if is_sampled(call_id, plan, answer):
        judge = plan.options.shadow_judge or baseline_model
        task = asyncio.get_running_loop().create_task(_write(call_id, request, plan, answer, judge))
        _offering.add(task)
        task.add_done_callback(_offering.discard)


async def offered() -> None:
    """Returns once what was offered on this loop is written down."""
    loop = asyncio.get_running_loop()
    if tasks := [task for task in _offering if task.get_loop() is loop]:
        await asyncio.wait(tasks)


async def _write(call_id: UUID, request: ChatRequest, plan: Plan, answer: Answer, judge: str) -> None:
    try:
        bodies = {"request": kept_requests.to_json(request), "answer": parts_text(answer.result.parts)}
        text = orjson.dumps(scrubbed(bodies)).decode()
        if len(text) > MAX_BYTES:
            return
        columns = (call_id, plan.policy, plan.version, plan.rule, plan.features.task_kind, answer.candidate.model.slug)
        async with database.connection() as connection:
            await connection.execute(OFFER, (*columns, plan.options.shadow_model, judge, text, MAX_WAITING))
    except (Unavailable, psycopg.Error, TypeError, ValueError) as error:
        logger.warning("call %s is not compared with its shadow: %s", call_id, type(error).__name__)
