"""One process of the concurrency test: many calls at once against one budget, with every way to end.

    python -m tests.routing.ledger_spender DATABASE BUDGET_ID CALLS AMOUNT SEED

Prints "ready", waits for a line on stdin, then prints one line a call that was admitted, and ends when stdin does.
May be killed at any moment.
"""

import asyncio
import random
import sys
from uuid import UUID

from tests.child import begin


async def spend_all(budget: int, calls: int, amount: int, seed: int) -> None:
    from routing.money import ledger
    from routing.money.ledger_rows import CallRow, UsageRow
    from routing.types import PolicySpec, SettingsSpec, Snapshot
    from ziggie.errors import BudgetExceeded
    from ziggie.ids import uuid7

    snapshot = Snapshot(1, {}, PolicySpec(1, "default", 1, ()), (), SettingsSpec(), {})
    chance = random.Random(seed)

    def ending(call_id: UUID, cost: int) -> tuple[CallRow, list[UsageRow]]:
        call = CallRow(id=call_id, rule="r", outcome="ok", model="m", cost_microusd=cost)
        return call, [UsageRow(1, "m", "p", "cloud", "ok", cost_microusd=cost)]

    async def one() -> None:
        await asyncio.sleep(chance.random() * 0.5)
        try:
            held = await ledger.reserve(
                uuid7(), {budget: amount}, snapshot, expires_in_seconds=1, context={"model": "m"}
            )
        except BudgetExceeded:
            return
        print(held.call_id, flush=True)
        await asyncio.sleep(chance.random() * 0.5)
        cost = chance.randint(0, amount)
        call, records = ending(held.call_id, cost)
        kind = chance.choice(["settle", "settle", "release", "race", "cut", "forget"])
        if kind in ("settle", "race"):
            await ledger.settle(held, call=call, records=records, charges={budget: cost})
        if kind in ("release", "race"):
            await ledger.release(held)
        if kind == "cut":
            task = asyncio.create_task(ledger.settle(held, call=call, records=records, charges={budget: cost}))
            await asyncio.sleep(chance.random() * 0.002)
            task.cancel()

    await asyncio.gather(*(one() for _ in range(calls)))
    await ledger.drain()


if __name__ == "__main__":
    begin(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(spend_all(*(int(word) for word in sys.argv[2:])))
    sys.stdin.read()
