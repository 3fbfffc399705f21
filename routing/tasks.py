"""What workers run for routing."""

from routing import cache, health, ledger, snapshot
from ziggie.background import background_loop


def sweep() -> None:
    """Settles what calls left held that nobody will end any more, and keeps the cache within its bounds."""
    background_loop().submit(ledger.sweep()).result()
    background_loop().submit(cache.evict()).result()


def check_providers() -> None:
    """Asks each provider whether it is there, so that calls need not find out."""
    background_loop().submit(health.check_providers(snapshot.current())).result()
