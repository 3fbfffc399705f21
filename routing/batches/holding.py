"""What a provider's batch may cost: held once when it is sent, in an envelope that bears the batch's id.

Each item draws its part when its answer is there, and is settled at once; the rest returns when the batch is over.
"""

from collections.abc import Mapping
from uuid import UUID

from routing.models import BatchItem
from routing.money import envelopes, ledger
from routing.types import ENVELOPE, Snapshot
from ziggie.background import background_loop
from ziggie.errors import BudgetExceeded

HOLD_SECONDS = 7 * 86_400.0
SETTLE_SECONDS = 600.0
OPENINGS = 3  # room that others take meanwhile is done without


def hold(batch_id: UUID, stakes: Mapping[UUID, Mapping[int, int]]) -> set[UUID]:
    """Opens the batch's envelope for the items' worst cases (budget id -> micro-dollars, each item's under ENVELOPE
    too); returns the items that go: all, or as many as there is room for. Raises Unavailable."""
    chosen = set(stakes)
    for _ in range(OPENINGS):
        wanted = {item: stakes[item] for item in stakes if item in chosen}
        fitting = _affordable(wanted, _opened(batch_id, wanted))
        if fitting == chosen:
            return chosen
        close(batch_id)  # nothing is held that is not needed
        chosen = fitting
    return set()


def _opened(batch_id: UUID, stakes: Mapping[UUID, Mapping[int, int]]) -> envelopes.Envelope:
    wanted: dict[int, int] = {}
    for amounts in stakes.values():
        for budget, amount in amounts.items():
            wanted[budget] = wanted.get(budget, 0) + amount
    limit = wanted.pop(ENVELOPE, 0)
    opening = envelopes.open_envelope(
        batch_id, limit, wanted, name=f"of batch {batch_id}", expires_in_seconds=HOLD_SECONDS
    )
    return background_loop().submit(opening).result()


def _affordable(stakes: Mapping[UUID, Mapping[int, int]], envelope: envelopes.Envelope) -> set[UUID]:
    left = {**envelope.amounts, ENVELOPE: envelope.left_microusd}
    chosen = set()
    for item, amounts in stakes.items():
        if all(amount <= left.get(budget, 0) for budget, amount in amounts.items()):
            chosen.add(item)
            for budget, amount in amounts.items():
                left[budget] = left.get(budget, 0) - amount
    return chosen


def close(batch_id: UUID) -> None:
    """Gives back what no item has spent. Raises Unavailable."""
    background_loop().submit(envelopes.close_envelope(batch_id)).result()


async def draw(row: BatchItem, configuration: Snapshot) -> ledger.Hold:
    """The hold to settle an item from. Raises Conflict if it has been settled.

    An answer that comes when the batch's envelope is closed has been paid all the same: it is settled without a
    hold. One whose process dies before it is settled is drawn and settled again, so its hold is only given back.
    """
    assert row.batch_id is not None  # it is sent
    amounts = {int(budget): amount for budget, amount in (row.sent or {})["amounts"].items()}
    try:
        return await ledger.reserve(
            row.call_id,
            amounts,
            configuration,
            expires_in_seconds=SETTLE_SECONDS,
            context={"release_when_expired": True},
            envelope_id=row.batch_id if amounts else None,
        )
    except BudgetExceeded:
        return ledger.Hold(row.call_id)
