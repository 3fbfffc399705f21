"""What calls go by is looked for beside them as long as calls come."""

import asyncio
import time

import pytest

from routing.configuration import snapshot
from routing.gateway import fresh
from routing.gateway.access.keys import KeyBook, book
from routing.gateway.fresh import EVERY_SECONDS, looks
from routing.world import worlds
from tests.gateway.conftest import Gateway
from tests.gateway.test_calls import post
from tests.installation import Installation
from ziggie.models import create_api_key

MOMENTS = 40  # looked at, a look apart: what a busy machine delays is not what is asked for here


def is_ready(keys: KeyBook, raw_key: str) -> bool:
    """Whether a call that comes now has to look for nothing."""
    configuration = snapshot.at_hand()
    return keys.at_hand(raw_key) is not None and configuration is not None and worlds.at_hand(configuration) is not None


def test_a_call_that_comes_long_after_the_last_one_has_to_look_for_nothing(here: Installation) -> None:
    _, raw_key = create_api_key("slow")

    async def work() -> int:
        looks().go_on()
        ready = 0
        for _ in range(MOMENTS):
            await asyncio.sleep(EVERY_SECONDS)
            ready += is_ready(book(), raw_key)
            if ready > 3:
                break
        return ready

    assert asyncio.run(work()) > 3


def test_where_no_calls_come_nobody_looks(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "IDLE_SECONDS", 0.1)

    async def work() -> bool:
        looks().go_on()
        until = time.monotonic() + 60
        while not looks().have_ended and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return looks().have_ended

    assert asyncio.run(work())


def test_looks_that_fail_go_on(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say while the database restarts."""
    monkeypatch.setattr(fresh, "EVERY_SECONDS", 0.01)
    _, raw_key = create_api_key("slow")

    async def work() -> bool:
        monkeypatch.setattr("routing.database.connection_parameters", lambda: {"host": "127.0.0.1", "port": "1"})
        looks().go_on()
        await asyncio.sleep(0.2)
        failed = not is_ready(book(), raw_key) and not looks().have_ended
        monkeypatch.undo()
        until = time.monotonic() + 60
        while not is_ready(book(), raw_key) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return failed and is_ready(book(), raw_key)

    assert asyncio.run(work())


def test_calls_of_the_gateway_keep_the_looks_going(gateway: Gateway) -> None:
    assert post(gateway).status_code == 200
    ready = 0
    for _ in range(MOMENTS):
        time.sleep(EVERY_SECONDS)
        ready += snapshot.at_hand() is not None
        if ready > 3:
            break
    assert ready > 3
