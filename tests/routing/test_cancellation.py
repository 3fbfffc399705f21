"""Callers that go away at any moment leave nothing taken: no slot, hold, claim, probe or leadership."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest

from routing import database, service
from routing.caching import cache
from routing.configuration import snapshot
from routing.models import BudgetPeriod
from routing.money import ledger
from routing.types import ChatRequest, Hints, ProviderError, message
from routing.world import health, slots, worlds
from tests.cancelling import cancelled_everywhere, settles
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.ids import uuid7
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)

LEFT = """
SELECT (SELECT count(*) FROM routing_reservation)::int,
    (SELECT count(*) FROM routing_cachedanswer WHERE answer IS NULL AND expires_at > now())::int,
    (SELECT count(*) FROM routing_circuit WHERE state = 'half_open')::int,
    (SELECT coalesce(sum(held_microusd), 0) FROM routing_budgetperiod)::int,
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
        AND classid::bigint IN (%(running)s, %(waiting)s))::int
"""
NOTHING = {"holds": 0, "claims": 0, "probes": 0, "held": 0, "slots": 0, "flights": 0}
CLOUD = ChatRequest(
    (message("user", "What is a sprite?"),), hints=Hints(task_kind="validation"), max_output_tokens=50, temperature=0
)
LOCAL = replace(CLOUD, hints=Hints(task_kind="nl_query"))


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text="local")
        installation.anthropic.default = Reply(text="cloud")
        installation.change_provider("ollama", max_concurrency=1)
        installation.change_provider("anthropic", max_concurrency=1)
        yield installation


async def left() -> dict[str, int]:
    async with database.connection() as connection:
        row = await (await connection.execute(LEFT, slots.COUNTS_PARAMETERS)).fetchone()
    assert row is not None
    flights = cache._flights_of.get(asyncio.get_running_loop())
    figures = [*row, len(flights.going) if flights else 0]
    return dict(zip(NOTHING, figures, strict=True))


async def forget_answers() -> None:
    async with database.connection() as connection:
        await connection.execute("DELETE FROM routing_cachedanswer WHERE answer IS NOT NULL")


async def nothing_is_left(where: str) -> None:
    seen = await settles(left, NOTHING)
    assert seen == NOTHING, where


def test_a_call_cancelled_at_any_wait_leaves_nothing_and_its_books_are_closed(here: Installation) -> None:
    async def work() -> None:
        await service.complete(CLOUD)

    async def scenario() -> int:
        async def check(where: str) -> None:
            await nothing_is_left(where)
            await forget_answers()

        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) > 5
    here.assert_books_are_closed()


def test_a_stream_cancelled_at_any_wait_leaves_nothing(here: Installation) -> None:
    async def work() -> None:
        async with aclosing(service.stream(LOCAL)) as pieces:
            async for _ in pieces:
                pass

    async def scenario() -> int:
        async def check(where: str) -> None:
            await nothing_is_left(where)
            await forget_answers()

        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) > 5
    here.assert_books_are_closed()


def test_equal_calls_go_on_wherever_their_leader_is_cancelled(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LEASE_SECONDS", 600.0)

    async def scenario() -> int:
        async def work() -> None:
            await service.complete(LOCAL)

        async def check(where: str) -> None:
            async with asyncio.timeout(60):  # no follower waits for a lease to run out
                assert (await service.complete(LOCAL)).result.text == "local", where
            await forget_answers()

        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) > 5


@pytest.mark.parametrize("taken", [False, True])
def test_a_slot_is_free_again_wherever_the_wait_for_it_is_cancelled(here: Installation, taken: bool) -> None:
    async def scenario() -> int:
        ollama = (await snapshot.acurrent()).models["llama3.2"].provider

        async def work() -> None:
            async with slots.slot(ollama, wait_seconds=0.15):
                await asyncio.sleep(0)

        async def refused() -> None:
            with pytest.raises(ProviderError):
                await work()

        async def check(where: str) -> None:
            expected = NOTHING | {"slots": int(taken)}
            assert await settles(left, expected) == expected, where

        if not taken:
            return await cancelled_everywhere(work, check)
        async with slots.slot(ollama, wait_seconds=1):
            return await cancelled_everywhere(refused, check)

    assert asyncio.run(scenario()) > 1


def test_a_probe_cancelled_at_any_wait_lets_the_next_call_try(here: Installation) -> None:
    async def scenario() -> int:
        model = (await snapshot.acurrent()).models["llama3.2"]
        down = ProviderError("quota", "no money", retryable=False)

        async def open_and_due() -> None:
            await health.record_failure(model.provider, model, down)
            async with database.connection() as connection:
                await connection.execute("UPDATE routing_circuit SET open_until = now() - interval '1 second'")
            await health.world(await snapshot.acurrent())

        async def work() -> None:
            async with health.slot(model.provider, model, wait_seconds=1):
                await asyncio.sleep(0)

        async def check(where: str) -> None:
            await nothing_is_left(where)
            await health.world(await snapshot.acurrent())
            await work()  # raises busy if somebody still has the right to try
            await nothing_is_left(where)
            await open_and_due()

        await open_and_due()
        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) > 1


def test_money_is_free_again_wherever_its_holding_is_cancelled(here: Installation) -> None:
    async def scenario() -> int:
        configuration = await snapshot.acurrent()
        [budget] = [each.id for each in configuration.budgets if each.slug == "monthly-cloud"]

        async def work() -> None:
            hold = await ledger.reserve(uuid7(), {budget: 1000}, configuration, expires_in_seconds=60, context={})
            await ledger.release(hold)

        return await cancelled_everywhere(work, nothing_is_left)

    assert asyncio.run(scenario()) > 1
    assert {period.held_microusd for period in BudgetPeriod.objects.all()} <= {0}


@pytest.mark.parametrize("look", [worlds.recent, lambda configuration: snapshot.acurrent()])
def test_a_look_at_the_world_is_shared_by_those_who_stay(
    here: Installation, look: Callable[[Any], Awaitable[Any]]
) -> None:
    async def scenario() -> int:
        configuration = await snapshot.acurrent()

        async def work() -> None:
            snapshot.forget()
            await asyncio.gather(look(configuration), look(configuration))

        async def check(where: str) -> None:
            async with asyncio.timeout(60):
                assert await look(configuration), where

        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) >= 1


def test_database_connections_come_back_wherever_their_borrower_is_cancelled(here: Installation) -> None:
    async def scenario() -> int:
        pool = await database.pool()

        async def work() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT 1")

        async def check(where: str) -> None:
            pool._idle = [(float("-inf"), connection) for _, connection in pool._idle]  # tried before it is lent
            assert pool._permits._value == database.MAX_CONNECTIONS, where

        return await cancelled_everywhere(work, check)

    assert asyncio.run(scenario()) > 1
