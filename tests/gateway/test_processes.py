"""Four gateways, one budget, five hundred calls at once; an upstream that fails, clients that leave, kill -9."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2
import psutil
import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum

from routing import service
from routing.configuration import snapshot
from routing.models import (
    Budget,
    BudgetPeriod,
    Envelope,
    LanguageModel,
    Price,
    Provider,
    Reservation,
    RoutedCall,
    UsageRecord,
    UsageRollup,
)
from routing.money import envelopes, ledger
from routing.reporting import proof
from routing.types import ChatRequest, message
from tests.flows.system import until
from tests.gateway.conftest import Gateway
from tests.ports import free_port
from tests.servers.script import Reply
from ziggie.ids import uuid7

PROCESSES = 4
CALLS = 500
MODELS = 50
MOST = 16 + 4 + 5 * 50  # what one call could cost: 16 and 4 tokens in, 50 out
LIMIT = 100 * MOST
RUN_LIMIT = 20 * MOST  # a run holds a fifth of it
STRANDED = 5
WAITING: dict[str, Any] = {"model": "llama", "max_tokens": 50, "messages": [{"role": "user", "content": "what"}]}


def database_url() -> str:
    known = connection.settings_dict
    login = ":".join(quote(part, safe="") for part in (known["USER"], known["PASSWORD"]) if part)
    host = quote(known["HOST"], safe="") + (f":{known['PORT']}" if known["PORT"] else "")
    return f"postgres://{login}@{host}/{known['NAME']}"


@pytest.fixture
def gateways(gateway: Gateway) -> Iterator[dict[int, str]]:
    """Real gateways on the database of this test: process ids and addresses."""
    env = {**os.environ, "DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "ziggie.gateway_settings"}
    ports = [free_port() for _ in range(PROCESSES)]
    words = [sys.executable, "-m", "tests.gateway.gateways", *map(str, ports)]
    starter = subprocess.Popen(words, cwd=settings.BASE_DIR, env=env, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(starter.stdout.readline()) for _ in ports]
    try:
        for port in ports:
            until(lambda port=port: _answers(f"http://127.0.0.1:{port}/healthz"), 60)
        yield {pid: f"http://127.0.0.1:{port}" for pid, port in zip(pids, ports, strict=True)}
        starter.wait(60)
    finally:
        for pid in pids:
            _kill(pid, signal.SIGKILL)
        starter.kill()
        starter.communicate()


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).is_success
    except httpx2.HTTPError:
        return False


def many_models(gateway: Gateway) -> None:
    """The upstream under many names: one whose failures came in a row would be called no more."""
    with transaction.atomic():
        Provider.objects.filter(slug="ollama").update(timeout_seconds=120)
        for number in range(MODELS):
            provider = Provider.objects.create(
                slug=f"p{number}", kind="openai", location="cloud", base_url=gateway.openai.base_url,
                api_key="sk-upstream", timeout_seconds=8,
            )  # fmt: skip
            model = LanguageModel.objects.create(
                slug=f"m{number}", provider=provider, name="gpt-4o-mini", capabilities=["chat"],
                context_window=128_000, max_output_tokens=4096,
            )  # fmt: skip
            Price.objects.create(model=model, input_usd_per_mtok=1, output_usd_per_mtok=5)
    snapshot.forget()


def moods(chance: random.Random) -> list[Reply]:
    """Answers of all kinds, more of the good ones."""
    good = [
        Reply("One two three four", input_tokens=chance.randint(1, 20), output_tokens=chance.randint(1, 50),
              latency=chance.random() * 0.2, per_piece=chance.random() * 0.05)
        for _ in range(300)
    ]  # fmt: skip
    bad = [
        Reply("One two three four", fault=fault, fault_after=2, latency=chance.random() * 0.1)
        for fault in ("cut", "truncated", "end_early", "garbage", "error_in_stream", "reset", "stall", "hang", "hang")
        for _ in range(12)
    ] + [Reply(status=status, error="no") for status in (400, 500, 503) for _ in range(8)]  # type: ignore[arg-type]
    replies = good + bad
    chance.shuffle(replies)
    return replies


class Clients:
    """Five hundred of them. Some leave, some stream, some ask for several answers, some name the run that pays. A few
    more wait at the first gateway for a provider that never answers."""

    def __init__(self, gateway: Gateway, urls: list[str], run: UUID, chance: random.Random) -> None:
        self.gateway, self.urls, self.run, self.chance = gateway, urls, run, chance
        self.outcomes: Counter[str] = Counter()
        self.under_way = threading.Event()

    async def all(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx2.AsyncClient(limits=limits, timeout=90, headers=self.gateway.headers) as client:
            waiting = [self.ask(client, self.urls[0], WAITING) for _ in range(STRANDED)]
            await asyncio.gather(*waiting, *(self.one(client, number) for number in range(CALLS)))

    async def one(self, client: httpx2.AsyncClient, number: int) -> None:
        body: dict[str, Any] = {
            "model": f"m{number % MODELS}",
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "what"}],
        }
        body["stream"] = self.chance.random() < 0.5
        if self.chance.random() < 0.15:
            body["n"] = self.chance.randint(2, 3)
        if self.chance.random() < 0.3:
            body["metadata"] = {"run_id": str(self.run)}
        patience = self.chance.choice([90.0, 90.0, 0.3 + self.chance.random()])
        await asyncio.sleep(self.chance.random() * 2)
        await self.ask(client, self.urls[number % len(self.urls)], body, patience)
        if self.outcomes["200"] > 20:
            self.under_way.set()

    async def ask(self, client: httpx2.AsyncClient, url: str, body: dict[str, Any], patience: float = 90.0) -> None:
        try:
            async with asyncio.timeout(patience):
                answer = await client.post(f"{url}/v1/chat/completions", json=body)
                self.outcomes[str(answer.status_code)] += 1
        except TimeoutError:
            self.outcomes["left"] += 1
        except httpx2.HTTPError:
            self.outcomes["broken"] += 1


def watch_limit(stop: threading.Event, seen: list[int]) -> None:
    while not stop.wait(0.02):
        period = BudgetPeriod.objects.first()
        if period is not None:
            seen.append(period.settled_microusd + period.held_microusd)
    connection.close()


def test_500_calls_through_4_gateways_never_pass_a_budget_that_fits_100_of_them(
    gateway: Gateway, gateways: dict[int, str]
) -> None:
    chance = random.Random(1)
    Budget.objects.update(limit_microusd=LIMIT)
    many_models(gateway)
    gateway.openai.queue(*moods(chance))
    gateway.openai.default = Reply("One two", input_tokens=20, output_tokens=50, latency=0.05)
    gateway.ollama.default = Reply(fault="hang")
    like = ChatRequest((message("user", "what"),), api_key_id=gateway.key_id)
    run = uuid7()
    service.open_envelope(run, RUN_LIMIT, like=like, name=f"of run {run}", expires_in_seconds=3600)
    stop, seen = threading.Event(), list[int]()
    watcher = threading.Thread(target=watch_limit, args=(stop, seen))
    watcher.start()
    clients = Clients(gateway, list(gateways.values()), run, chance)
    calling = threading.Thread(target=lambda: asyncio.run(clients.all()))
    calling.start()
    victim, *others = gateways
    try:
        assert clients.under_way.wait(120)
        until(lambda: len(gateway.ollama.calls) == STRANDED, 60)
        _kill(victim, signal.SIGKILL)
        service.close_envelope(run)  # with calls of it under way
        calling.join(150)
        for pid in others:
            _kill(pid, signal.SIGTERM)
        gone = time.monotonic() + 60
        while any(psutil.pid_exists(pid) for pid in others) and time.monotonic() < gone:
            time.sleep(0.05)
    finally:
        stop.set()
        watcher.join()
        calling.join(60)
    assert sum(clients.outcomes.values()) == CALLS + STRANDED
    assert clients.outcomes["200"] >= 50
    assert clients.outcomes["402"] >= 50
    assert clients.outcomes["broken"] >= STRANDED
    assert clients.outcomes["left"]
    assert {"ok", "all_providers_failed"} <= set(RoutedCall.objects.values_list("outcome", flat=True))
    assert max(seen) <= LIMIT
    _assert_the_books_agree(run)


def _assert_the_books_agree(run: UUID) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    asyncio.run(ledger.sweep(at=later))
    assert asyncio.run(envelopes.sweep(at=later)) == 0
    assert not Reservation.objects.exists()
    period = BudgetPeriod.objects.get()
    assert (period.held_microusd, period.overrun_microusd) == (0, 0)
    assert 0 < period.settled_microusd <= LIMIT
    sums = [
        rows.aggregate(total=Sum("cost_microusd"))["total"]
        for rows in (UsageRecord.objects, UsageRollup.objects, RoutedCall.objects)
    ]
    assert sums == [period.settled_microusd] * 3
    drawn = RoutedCall.objects.filter(run_id=str(run)).aggregate(total=Sum("cost_microusd"))["total"]
    assert Envelope.objects.get(pk=run).left_microusd == RUN_LIMIT - drawn
    assert proof.differences() == []
