"""Calls as the ledger writes them, without a provider: for tests of what is done with records."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from routing.money import ledger
from routing.money.ledger_rows import CallRow, UsageRow
from ziggie.ids import uuid7

NOON = datetime(2026, 5, 10, 12, 30, tzinfo=UTC)


def book(*calls: dict[str, Any], **shared: Any) -> None:
    """Settles calls of one attempt each; columns of the receipt and of the record by name, `at` for both."""

    async def settle_all() -> None:
        await asyncio.gather(*(_settle({**shared, **call}) for call in calls or ({},)))

    asyncio.run(settle_all())


async def _settle(columns: dict[str, Any]) -> None:
    at, charges = columns.pop("at", NOON), columns.pop("charges", {})
    both = {"model": "gpt", "provider": "openai", "source": "cloud", "outcome": "ok", "cost_microusd": 250}
    both = {name: columns.pop(name, value) for name, value in both.items()} | {"created_at": at}
    record = {"input_tokens": 10, "output_tokens": 5, "baseline_microusd": 1_000, "duration_ms": 100}
    record = {name: columns.pop(name, value) for name, value in record.items()}
    saved = record["baseline_microusd"] - both["cost_microusd"]
    call = CallRow(
        id=columns.pop("id", None) or uuid7(), rule=columns.pop("rule", "r"), saved_microusd=saved, **both, **columns
    )
    row = UsageRow(attempt=1, saved_microusd=saved, **both, **record)
    assert await ledger.settle(ledger.Hold(call.id), call=call, records=[row], charges=charges)
