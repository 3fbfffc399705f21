"""What workers run for routing."""

from django.db.models import Q

from routing.batches import batching
from routing.caching import cache
from routing.configuration import snapshot
from routing.evidence import shadow
from routing.models import ShadowComparison
from routing.money import envelopes, ledger
from routing.reporting import retention
from routing.world import health
from ziggie import queue
from ziggie.background import background_loop


def sweep() -> None:
    """Settles what calls left held that nobody will end any more, keeps the cache within its bounds, and wakes
    workers for the comparisons that wait."""
    background_loop().submit(ledger.sweep()).result()
    background_loop().submit(envelopes.sweep()).result()
    background_loop().submit(cache.evict()).result()
    shadow.forget_old()
    retention.forget_old_seconds()
    if batching.has_work():
        queue.enqueue(run_batches)
    queue.wake_forgotten(ShadowComparison.objects.all(), Q(state="waiting"), compare_shadow)


def compare_shadow(comparison_id: str) -> None:
    shadow.compare(comparison_id)


def check_providers() -> None:
    """Asks each provider whether it is there, so that calls need not find out."""
    background_loop().submit(health.check_providers(snapshot.current())).result()


def keep_house() -> None:
    """Makes the tables of the next months' records, and drops details that are older than the settings keep."""
    retention.keep_house()


def run_batches() -> None:
    """Sends work that may wait and is due, and fetches what providers have answered."""
    batching.tick()


def run_batch_item(item_id: str) -> None:
    batching.run(item_id)
