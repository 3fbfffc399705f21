"""Several processes, one budget, sudden deaths: never a micro-dollar over the limit, and all sums agree."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Sum

from routing.models import Budget, BudgetPeriod, Reservation, RoutedCall, UsageRecord, UsageRollup
from routing.money import ledger

pytestmark = pytest.mark.django_db(transaction=True)

AMOUNT = 1_000
LIMIT = 100 * AMOUNT
PROCESSES = 4
CALLS = 125


def start(budget: Budget, seed: int) -> "subprocess.Popen[str]":
    words = [connection.settings_dict["NAME"], budget.pk, CALLS, AMOUNT, seed]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.routing.ledger_spender", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=settings.BASE_DIR,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )


def line_of(spender: "subprocess.Popen[str]") -> str:
    assert spender.stdout is not None
    return spender.stdout.readline().strip()


def watch_limit(stop: threading.Event, seen: list[int]) -> None:
    while not stop.wait(0.01):
        period = BudgetPeriod.objects.first()
        if period is not None:
            seen.append(period.settled_microusd + period.held_microusd)
    connection.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_500_calls_from_4_processes_never_pass_a_budget_that_fits_100_of_them(seed: int) -> None:
    budget = Budget.objects.create(slug="cloud", limit_microusd=LIMIT)
    stop, seen = threading.Event(), list[int]()
    watcher = threading.Thread(target=watch_limit, args=(stop, seen))
    watcher.start()
    spenders = [start(budget, seed * 10 + number) for number in range(PROCESSES)]
    try:
        assert [line_of(spender) for spender in spenders] == ["ready"] * PROCESSES
        for spender in spenders:
            assert spender.stdin is not None
            spender.stdin.write("go\n")
            spender.stdin.flush()
        assert all(line_of(spenders[0]) for _ in range(5))  # in the middle of its work
        time.sleep(0.05)
        spenders[0].send_signal(signal.SIGKILL)
        outputs = [spender.communicate(timeout=120)[0] for spender in spenders]
    finally:
        stop.set()
        watcher.join()
        for spender in spenders:
            spender.kill()
            spender.wait()
    assert [spender.returncode for spender in spenders] == [-signal.SIGKILL, 0, 0, 0]
    assert sum(output.count("\n") for output in outputs) > 50
    assert seen
    assert max(seen) <= LIMIT

    asyncio.run(ledger.sweep(at=datetime.now(UTC) + timedelta(hours=1)))
    period = BudgetPeriod.objects.get()
    records = UsageRecord.objects.aggregate(total=Sum("cost_microusd"))["total"]
    assert not Reservation.objects.exists()
    assert period.held_microusd == 0
    assert period.settled_microusd <= LIMIT
    assert period.settled_microusd == records
    assert period.settled_microusd == UsageRollup.objects.aggregate(total=Sum("cost_microusd"))["total"]
    assert period.settled_microusd == RoutedCall.objects.aggregate(total=Sum("cost_microusd"))["total"]
    assert (
        RoutedCall.objects.count() == UsageRecord.objects.count() == UsageRollup.objects.aggregate(n=Sum("calls"))["n"]
    )
