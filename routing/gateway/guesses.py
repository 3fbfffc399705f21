"""Wrong API keys, counted for each address over all processes, so that guessing is slow wherever it knocks.

Only a request without a good key comes here: whatever an address has tried, a good key is served.
"""

import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.conf import settings

from routing.gateway.limits import limits
from routing.loops import OfLoop
from ziggie.errors import RateLimited

GUESSES = 20  # unknown keys that one address may try in a minute
MAX_ADDRESSES = 10_000  # remembered by one process; any address is counted in the database
COUNTERS = uuid.UUID("6f1d3b52-3f0a-5c0e-9d5e-0d6a3f6a1c11")  # the namespace of addresses among the counters
MAX_HOPS = 20


class Guesses:
    """What one event loop knows of addresses that have tried too many."""

    def __init__(self) -> None:
        self._shut_out: OrderedDict[str, float] = OrderedDict()  # until when

    async def count(self, address: str) -> None:
        """Counts one wrong key. Raises RateLimited for an address that has tried too many."""
        left = self._shut_out.get(address, 0.0) - time.monotonic()
        if left <= 0:
            left = await limits().event(str(uuid.uuid5(COUNTERS, address)), most=GUESSES)
        if left <= 0:
            return
        self._shut_out[address] = time.monotonic() + left
        self._shut_out.move_to_end(address)
        if len(self._shut_out) > MAX_ADDRESSES:
            self._shut_out.popitem(last=False)
        raise RateLimited("too many unknown API keys from this address", retry_after_seconds=left)

    def forget(self) -> None:
        self._shut_out.clear()


_guesses = OfLoop(Guesses)
guesses = _guesses.get


def forget_guesses() -> None:
    """Every address starts anew, in all loops of this process; the database keeps its count."""
    for known in _guesses.all():
        known.forget()


# --- whose guess it is ---------------------------------------------------------------------------


def caller_address(peer: str, forwarded: str) -> str:
    """The address to count a guess for: the peer's, or where that is a proxy of ours (TRUSTED_PROXIES) the last
    one in X-Forwarded-For that is none. Of an IPv6 address its network: a house has 2**64 of them."""
    address = peer
    hops = [hop.strip() for hop in forwarded.split(",")][-MAX_HOPS:] if forwarded else []
    trusted = networks(tuple(settings.TRUSTED_PROXIES))
    while hops and _is_among(address, trusted):
        address = hops.pop()
    try:
        parsed = ip_address(address)
    except ValueError:
        return peer
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)


@lru_cache(maxsize=8)
def networks(given: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises ValueError for an entry that is neither an address nor a network; a system check says so before."""
    return tuple(ip_network(entry, strict=False) for entry in given)


def _is_among(address: str, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        return any(ip_address(address) in network for network in trusted)
    except ValueError:
        return False
