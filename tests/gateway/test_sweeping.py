"""A gateway without workers beside it gives back what a killed one held."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest
from django.utils import timezone

from routing.gateway import sweeping
from routing.models import Reservation, RoutedCall
from routing.reporting import proof
from tests.routing.test_ledger import budget, hold, snapshot

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_a_killed_process_held_is_settled_by_another_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "EVERY_SECONDS", 0.01)
    of = budget()
    known = snapshot()

    async def held() -> None:
        await hold({of.pk: 100}, known)

    async def swept() -> None:
        task = asyncio.create_task(sweeping.sweep_now_and_then())
        async with asyncio.timeout(60):
            while await Reservation.objects.aexists():
                await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(held())
    Reservation.objects.update(expires_at=timezone.now() - timedelta(minutes=1))
    asyncio.run(swept())
    assert RoutedCall.objects.count() == 1
    assert proof.differences() == []
