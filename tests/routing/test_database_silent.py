"""A database that says nothing and closes nothing: one that was frozen, or that another one has taken the place of."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from routing import database
from routing.configuration import epochs
from routing.gateway.access.streams import Streams
from routing.types import ProviderSpec, Source
from routing.world import slots
from tests.routing.between import KEY, behind, look, open_stream
from ziggie.errors import Unavailable

pytestmark = pytest.mark.django_db(transaction=True)

SILENT_SECONDS = 0.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENT_SECONDS", "TRIAL_SECONDS"):
        monkeypatch.setattr(database, name, SILENT_SECONDS)


async def lost(attempt: Callable[[], Awaitable[None]]) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await attempt()
    assert time.monotonic() - began >= 0.9 * SILENT_SECONDS


def test_who_waits_for_a_silent_database_is_told_and_the_next_one_is_served_by_what_took_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with behind(monkeypatch) as between:
            await asyncio.gather(*(look() for _ in range(database.MAX_CONNECTIONS)))
            between.fall_silent()
            await lost(look)
            await look()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_idle_connections_to_a_silent_database_are_tried_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "TRUSTED_IDLE_SECONDS", 0.0)

    async def work() -> float:
        async with behind(monkeypatch) as between:
            await asyncio.gather(*(look() for _ in range(database.MAX_CONNECTIONS)))
            between.fall_silent()
            began = time.monotonic()
            await look()
            return time.monotonic() - began

    monkeypatch.setattr(database, "TRIAL_SECONDS", 2.0)
    assert 1.8 <= asyncio.run(asyncio.wait_for(work(), 60)) < 2.0 * 2


def test_a_stream_is_counted_again_once_a_silent_database_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with behind(monkeypatch) as between:
            streams = Streams()
            async with streams.one_of(KEY):
                between.fall_silent()
                await lost(lambda: open_stream(streams))
                await open_stream(streams)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_those_who_wait_for_their_turn_at_a_silent_database_do_not_wait_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "CHECKOUT_TIMEOUT_SECONDS", SILENT_SECONDS)
    monkeypatch.setattr(database, "TRIAL_SECONDS", 4 * SILENT_SECONDS)

    async def work() -> float:
        async with behind(monkeypatch) as between:
            streams = Streams()
            async with streams.one_of(KEY):
                between.fall_silent()
                began = time.monotonic()
                ended = await asyncio.gather(*(open_stream(streams) for _ in range(9)), return_exceptions=True)
                assert all(isinstance(one, Unavailable) for one in ended)
                return time.monotonic() - began

    assert asyncio.run(asyncio.wait_for(work(), 60)) < 12 * SILENT_SECONDS


def test_a_slot_is_taken_again_once_a_silent_database_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = ProviderSpec(
        id=1, slug="home", kind="ollama", location=Source.LOCAL, base_url="http://127.0.0.1:1", max_concurrency=2
    )

    async def take() -> None:
        async with slots.slot(provider, wait_seconds=30):
            pass

    async def work() -> None:
        async with behind(monkeypatch) as between:
            await take()
            between.fall_silent()
            await lost(take)
            await take()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_changes_are_heard_of_again_after_a_silent_database_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "QUIET_SECONDS", SILENT_SECONDS)
    monkeypatch.setattr(epochs, "AGAIN_SECONDS", 0.05)

    async def work() -> None:
        async with behind(monkeypatch) as between:
            told = asyncio.Event()
            epochs.ear().follow(told.set)
            await told.wait()
            between.fall_silent()
            told.clear()
            await told.wait()  # it listens to what took its place

    asyncio.run(asyncio.wait_for(work(), 60))
