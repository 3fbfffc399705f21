"""Time in which a loop listens."""

import asyncio
import time

import pytest

from routing.gateway.providers import pulse


async def test_a_loop_that_stood_still_has_not_listened_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.05)
    counted = pulse.Pulse()
    start = counted.count()
    time.sleep(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert counted.beats - start <= 2


async def test_it_beats_for_a_while_after_the_last_who_asked_and_then_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.01)
    counted = pulse.Pulse()
    for rounds in (1, 2):
        counted.count()
        async with asyncio.timeout(30):
            while counted.beats < rounds * counted.LASTING:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert counted.beats == rounds * counted.LASTING
