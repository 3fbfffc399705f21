"""A database that is away for a moment, as one is that restarts."""

import asyncio

import pytest

from routing import database
from routing.gateway.access.streams import Streams
from routing.types import ProviderSpec, Source
from routing.world import slots
from tests.routing.between import behind, look, open_stream
from ziggie.errors import Unavailable

pytestmark = pytest.mark.django_db(transaction=True)

HOME = ProviderSpec(
    id=1, slug="home", kind="ollama", location=Source.LOCAL, base_url="http://127.0.0.1:1", max_concurrency=2
)


async def run() -> None:
    async with slots.slot(HOME, wait_seconds=30):
        pass


def test_looks_streams_and_slots_wait_for_a_database_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AWAY_SECONDS", 60.0)

    async def work() -> None:
        async with behind(monkeypatch) as between:
            streams = Streams()
            await asyncio.gather(look(), open_stream(streams), run())
            await asyncio.sleep(0.2)  # what the stream was counted in goes back
            between.go_away(1.0)
            await asyncio.sleep(0.1)  # they hear of it
            await asyncio.gather(look(), open_stream(streams), run())

    asyncio.run(asyncio.wait_for(work(), 120))


def test_one_that_stays_away_is_waited_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AWAY_SECONDS", 0.3)

    async def work() -> None:
        async with behind(monkeypatch) as between:
            between.deaf = True
            ended = await asyncio.gather(look(), open_stream(Streams()), return_exceptions=True)
            assert [type(one) for one in ended] == [Unavailable, Unavailable]

    asyncio.run(asyncio.wait_for(work(), 120))
