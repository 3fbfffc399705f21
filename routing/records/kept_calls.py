"""Calls that were settled before and are sent again, because their caller died before it had the answer."""

from uuid import UUID

from routing import database
from routing.models import RoutedCall
from routing.records import kept_answers
from routing.types import Routed
from ziggie.errors import RoutingError
from ziggie.ids import uuid7

RECEIPT = "SELECT to_json(c) FROM routing_routedcall c WHERE id = %s"
RETRYABLE = ("abandoned", "cancelled")


async def answered(call_id: UUID) -> Routed | None:
    """The answer that this call had; None if it was never settled. Raises the error that it ended with."""
    async with database.connection() as connection:
        found = await (await connection.execute(RECEIPT, (call_id,))).fetchone()
    if found is None:
        return None
    row = found[0]
    if row["bodies"]:
        return kept_answers.routed_from_row(row)
    kind = next((kind for kind in RoutingError.__subclasses__() if kind.code == row["outcome"]), RoutingError)
    raise kind(row["error"] or "this call is over and its answer was not kept")


def fresh_id(call_id: UUID) -> UUID:
    """The id to call with: this one, or a new one if a call with it was given up without an answer."""
    given_up = RoutedCall.objects.filter(pk=call_id, outcome__in=RETRYABLE).exists()
    return uuid7() if given_up else call_id


def forget(call_id: UUID) -> None:
    """The caller has stored the answer: the copy beside the receipt is dropped."""
    RoutedCall.objects.filter(pk=call_id).update(bodies=None)
