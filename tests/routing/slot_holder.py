"""One process that wants slots of a provider.

    python -m tests.routing.slot_holder DATABASE PROVIDER_ID LIMIT CALLS LOG

Appends "+" to LOG when a call begins and "-" before it ends. CALLS 0: takes one slot, prints "held" and
keeps it until it is killed.
"""

import asyncio
import os
import random
import sys

from tests.child import begin


async def main(provider_id: int, limit: int, calls: int, log: str) -> None:
    from routing.types import ProviderSpec, Source
    from routing.world import slots

    provider = ProviderSpec(provider_id, "ollama", "ollama", Source.LOCAL, "", max_concurrency=limit)
    if calls == 0:
        async with slots.slot(provider, wait_seconds=60):
            print("held", flush=True)
            await asyncio.sleep(600)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)

    async def one() -> None:
        async with slots.slot(provider, wait_seconds=120):
            os.write(file, b"+")
            await asyncio.sleep(random.uniform(0.001, 0.02))
            os.write(file, b"-")

    await asyncio.gather(*(one() for _ in range(calls)))


if __name__ == "__main__":
    begin(sys.argv[1])
    asyncio.run(main(*(int(word) for word in sys.argv[2:5]), sys.argv[5]))
