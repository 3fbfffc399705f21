"""Several budgets over each call, several gateways, and a database that cuts connections while staff edit budgets."""

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import psutil
import psycopg
from django.db import connection
from django.db.models import Sum

from routing import database, service
from routing.models import (
    Budget,
    BudgetPeriod,
    Envelope,
    Reservation,
    RoutedCall,
    RoutingRule,
    UsageRecord,
    UsageRollup,
)
from routing.money import envelopes, ledger
from routing.reporting import proof
from routing.types import ChatRequest, message
from tests.flows.system import until
from tests.gateway.conftest import Gateway
from tests.gateway.test_processes import MOST, gateways, many_models, moods
from tests.servers.script import Reply
from ziggie.ids import uuid7

__all__ = ["gateways"]

CALLS = 200
RUN_LIMIT = 10 * MOST
PATTERNS = ("single", "verify", "cascade", "ensemble", "critique")
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'ziggie' AND random() < 0.2
"""
EDITS = (
    f"UPDATE routing_budget SET limit_microusd = {3 * MOST} WHERE slug = 'edited'",
    "UPDATE routing_budget SET period = 'day' WHERE slug = 'edited'",
    f"UPDATE routing_budget SET limit_microusd = {90 * MOST}, hard = false WHERE slug = 'edited'",
    "UPDATE routing_budget SET enabled = false WHERE slug = 'switched'",
    "DELETE FROM routing_budgetperiod WHERE budget_id = (SELECT id FROM routing_budget WHERE slug = 'gone');"
    " DELETE FROM routing_budget WHERE slug = 'gone'",
)


def budgets(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=40 * MOST)  # of all cloud models
    rows: list[tuple[str, dict[str, Any], int, str, bool, str]] = [
        ("key", {"api_keys": [gateway.key_id]}, 35 * MOST, "day", True, "deny"),
        ("bob", {"creators": ["bob"]}, 10 * MOST, "week", True, "local"),
        ("kind", {"task_kinds": ["analysis"]}, 15 * MOST, "total", True, "deny"),
        ("soft", {"task_kinds": ["analysis"]}, 2 * MOST, "month", False, "deny"),
        ("edited", {"locations": ["cloud"]}, 50 * MOST, "month", True, "deny"),
        ("switched", {"locations": ["cloud"]}, 50 * MOST, "month", True, "deny"),
        ("gone", {"locations": ["cloud"]}, 50 * MOST, "month", True, "deny"),
        *((f"house-{n}", {"providers": [f"p{n}"]}, 2 * MOST, "month", True, "deny") for n in range(4)),
    ]
    for slug, scope, limit, period, hard, on_exhausted in rows:
        Budget.objects.create(
            slug=slug, scope=scope, limit_microusd=limit, period=period, hard=hard, on_exhausted=on_exhausted
        )


def body_of(number: int, chance: random.Random, runs: list[UUID]) -> dict[str, Any]:
    said: dict[str, str] = {}
    model = f"m{number % 20}"
    if chance.random() < 0.3:
        model, said["pattern"] = "auto", chance.choice(PATTERNS)
    if chance.random() < 0.3:
        said["run_id"] = str(chance.choice(runs))
    if chance.random() < 0.3:
        said["task_kind"] = "analysis"
    if chance.random() < 0.3:
        said["creator"] = "bob"
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "what"}], "metadata": said}
    if chance.random() < 0.8:
        asked["max_tokens"] = 50
    return asked | {"stream": chance.random() < 0.5}


async def call_all(gateway: Gateway, urls: list[str], bodies: list[dict[str, Any]], outcomes: Counter[str]) -> None:
    limits = httpx2.Limits(max_connections=40, max_keepalive_connections=0)
    async with httpx2.AsyncClient(limits=limits, timeout=120, headers=gateway.headers) as client:

        async def one(number: int, body: dict[str, Any]) -> None:
            try:
                answer = await client.post(f"{urls[number % len(urls)]}/v1/chat/completions", json=body)
                outcomes[str(answer.status_code)] += 1
            except httpx2.HTTPError:
                outcomes["broken"] += 1

        await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))


def spared() -> psycopg.Connection[Any]:
    """A connection that is not among those that are cut."""
    return psycopg.connect(**{**database.connection_parameters(), "application_name": "tests"}, autocommit=True)


def disturb(stop: threading.Event) -> None:
    """Cuts connections and edits budgets for as long as calls run."""
    with spared() as own:
        for turn in range(10_000):
            if stop.wait(0.1):
                return
            own.execute(CUT if turn % 2 else "SELECT 1")
            if turn % 4 == 0 and turn // 4 < len(EDITS):
                own.execute(EDITS[turn // 4])


def watch(stop: threading.Event, above: list[tuple[str, int]]) -> None:
    """What hard budgets that nobody edits have settled and held beyond their limits."""
    with spared() as own:
        while not stop.wait(0.01):
            above += own.execute(
                "SELECT b.slug, p.settled_microusd + p.held_microusd - p.limit_microusd FROM routing_budgetperiod p"
                " JOIN routing_budget b ON b.id = p.budget_id WHERE p.hard AND b.slug <> 'edited'"
                " AND p.settled_microusd + p.held_microusd > p.limit_microusd"
            ).fetchall()


def test_no_budget_of_many_is_overspent_while_connections_are_cut_and_budgets_edited(
    gateway: Gateway, gateways: dict[int, str]
) -> None:
    chance = random.Random(1)
    budgets(gateway)
    many_models(gateway)
    RoutingRule.objects.update(chain=["m1", "m2", "m3", "llama"])
    gateway.openai.queue(*(reply for reply in moods(chance) if reply.fault not in ("hang", "stall")))
    gateway.openai.default = Reply("One two", input_tokens=20, output_tokens=50)
    like = ChatRequest((message("user", "what"),), api_key_id=gateway.key_id)
    runs = [uuid7(), uuid7()]
    for run in runs:
        service.open_envelope(run, RUN_LIMIT, like=like, name=f"of run {run}", expires_in_seconds=3600)
    stop, above, outcomes = threading.Event(), list[tuple[str, int]](), Counter[str]()
    threads = [threading.Thread(target=watch, args=(stop, above)), threading.Thread(target=disturb, args=(stop,))]
    for thread in threads:
        thread.start()
    try:
        bodies = [body_of(number, chance, runs) for number in range(CALLS)]
        asyncio.run(call_all(gateway, list(gateways.values()), bodies, outcomes))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert sum(outcomes.values()) == CALLS
    assert outcomes["200"] >= 10
    assert above == []
    for pid in gateways:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not any(map(psutil.pid_exists, gateways)), 60)  # what they had begun to settle is settled
    connection.close()  # it was among those that were cut
    later = datetime.now(UTC) + timedelta(hours=2)
    asyncio.run(ledger.sweep(at=later))
    asyncio.run(envelopes.sweep(at=later))
    assert not Reservation.objects.exists()
    assert not BudgetPeriod.objects.exclude(held_microusd=0).exists()
    assert proof.differences() == []
    sums = {
        rows.aggregate(total=Sum("cost_microusd"))["total"]
        for rows in (UsageRecord.objects, UsageRollup.objects, RoutedCall.objects)
    }
    assert sums == {BudgetPeriod.objects.get(budget__slug="cloud").settled_microusd}
    for run in runs:
        drawn = RoutedCall.objects.filter(run_id=str(run)).aggregate(total=Sum("cost_microusd"))["total"] or 0
        assert Envelope.objects.get(pk=run).left_microusd == RUN_LIMIT - drawn
