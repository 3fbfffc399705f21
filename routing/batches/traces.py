"""Whether a provider has taken a batch of which nobody heard: its sender died, or the answer to it was lost."""

from datetime import timedelta

from routing.adapters import claude_batches
from routing.models import BatchItem, ProviderBatch
from routing.types import ProviderSpec

SENDING_FOR = timedelta(minutes=15)
CLOCKS_DIFFER = timedelta(minutes=5)


async def taken(batch: ProviderBatch, provider: ProviderSpec) -> str | None:
    """The provider's id of it; None if it has none like it: made at that time, of that size, and not known to be
    another one of ours. Raises ProviderError.

    Should it be somebody else's after all, none of its answers will be ours, and ours are asked for again.
    """
    remote = await claude_batches.since(provider, batch.created_at - CLOCKS_DIFFER)
    size = await BatchItem.objects.filter(batch=batch, state="sent").acount()
    until = batch.created_at + SENDING_FOR + CLOCKS_DIFFER
    alike = [each.id for each in remote if each.requests == size and each.created_at < until]
    ours = ProviderBatch.objects.filter(remote_id__in=alike)
    known = {remote_id async for remote_id in ours.values_list("remote_id", flat=True)}
    return next((remote_id for remote_id in alike if remote_id not in known), None)
