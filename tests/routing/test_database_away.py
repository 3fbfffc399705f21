"""A database that is away for a moment, as one is that restarts."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from django.db import connections

from routing import database
from routing.gateway.access.keys import Key
from routing.gateway.access.streams import Streams
from routing.types import ProviderSpec, Source
from routing.world import slots
from tests.routing.between import Between
from ziggie.errors import Unavailable

pytestmark = pytest.mark.django_db(transaction=True)

KEY = Key("00000000-0000-0000-0000-000000000001", "tests", frozenset(), frozenset(), None, None, 10, None)
HOME = ProviderSpec(
    id=1, slug="home", kind="ollama", location=Source.LOCAL, base_url="http://127.0.0.1:1", max_concurrency=2
)


@asynccontextmanager
async def behind(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Between]:
    between = Between()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        async with between.standing(Path(folder)):
            with monkeypatch.context() as there:
                there.setitem(connections["default"].settings_dict, "HOST", folder)
                try:
                    yield between
                finally:
                    await database.close()


async def look() -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


async def stream(streams: Streams) -> None:
    async with streams.one_of(KEY):
        pass


async def run() -> None:
    async with slots.slot(HOME, wait_seconds=30):
        pass


def test_looks_streams_and_slots_wait_for_a_database_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AWAY_SECONDS", 60.0)

    async def work() -> None:
        async with behind(monkeypatch) as between:
            streams = Streams()
            await asyncio.gather(look(), stream(streams), run())
            await asyncio.sleep(0.2)  # what the stream was counted in goes back
            between.go_away(1.0)
            await asyncio.sleep(0.1)  # they hear of it
            await asyncio.gather(look(), stream(streams), run())

    asyncio.run(asyncio.wait_for(work(), 120))


def test_one_that_stays_away_is_waited_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AWAY_SECONDS", 0.3)

    async def work() -> None:
        async with behind(monkeypatch) as between:
            between.deaf = True
            ended = await asyncio.gather(look(), stream(Streams()), return_exceptions=True)
            assert [type(one) for one in ended] == [Unavailable, Unavailable]

    asyncio.run(asyncio.wait_for(work(), 120))
