"""Who guesses API keys, so that guessing is slow wherever it knocks: at the gateway, at REST, at the live socket.

Wrong keys are counted for each address over all processes (rate_take). An address that has tried one is suspect for
an hour: from then on only keys that have been used from there before are served as ever; what one process has served
is told to the others. Any other, right or wrong,
counts as a guess before it is looked at, so that nobody learns faster which keys are right than wrong ones may be
tried; and who shares the address with somebody who guesses goes on working.
"""

import json
import time
import uuid
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from threading import Lock
from typing import TypeVar

from django.conf import settings
from django.db import connection

from ziggie.errors import RateLimited

K = TypeVar("K")
V = TypeVar("V")

GUESSES = 20  # unknown keys that one address may try in a minute
WINDOW_SECONDS = 62  # as the gateway's limits count a minute
SUSPECT_SECONDS = 3600.0
MAX_ADDRESSES = 10_000  # remembered by one process; any address is counted in the database
MAX_SEEN = 50_000  # pairs of an address and a key that was used from there
COUNTERS = uuid.UUID("6f1d3b52-3f0a-5c0e-9d5e-0d6a3f6a1c11")  # the namespace of addresses among the counters
MAX_HOPS, MAX_FORWARDED = 20, 1_000

SEEN_CHANNEL = "ziggie_seen"  # of pg_notify: which keys were used from where
TELL = f"SELECT pg_notify('{SEEN_CHANNEL}', %s)"
MOST_TOLD = 50  # pairs in one message, which has at most 8,000 bytes
TAKE = "SELECT granted, oldest, at FROM rate_take(%s::json, %s)"


class Gate:
    """What this process remembers: of its threads and event loops together."""

    def __init__(self) -> None:
        self._suspects: dict[str, tuple[float, float]] = {}  # suspect and shut out until when
        self._seen: dict[tuple[str, str], None] = {}
        self._lock = Lock()

    def is_suspect(self, address: str) -> bool:
        return bool(self._suspects) and self._suspects.get(address, (0.0, 0.0))[0] > time.monotonic()

    def has_seen(self, address: str, key_id: str | None) -> bool:
        """Whether this key has been used from there before."""
        return key_id is not None and (address, key_id) in self._seen

    def saw(self, address: str, key_id: str) -> bool:
        """A key that was served; whether that is news."""
        if (address, key_id) in self._seen:
            return False
        with self._lock:
            self._seen[address, key_id] = None
            _bound(self._seen, MAX_SEEN)
        return True

    def hear(self, told: str) -> None:
        """What another process saw: lines of an address and a key's id."""
        for line in told.split("\n"):
            address, found, key_id = line.partition(" ")
            if found:
                self.saw(address, key_id)

    def shut_out_for(self, address: str) -> float:
        """Seconds until another guess may be counted, 0 where one may now. The address is suspect from now on."""
        now = time.monotonic()
        with self._lock:
            _, shut_out = self._suspects.pop(address, (0.0, 0.0))
            self._suspects[address] = now + SUSPECT_SECONDS, shut_out  # among the youngest
            _bound(self._suspects, MAX_ADDRESSES)
        return max(shut_out - now, 0.0)

    def refuse(self, address: str, seconds: float) -> None:
        """Shuts the address out for so long. Raises RateLimited."""
        now = time.monotonic()
        with self._lock:
            self._suspects[address] = now + SUSPECT_SECONDS, now + seconds
        raise RateLimited("too many unknown API keys from this address", retry_after_seconds=seconds)

    def forget(self) -> None:
        """Every address starts anew in this process; the database keeps its counts."""
        with self._lock:
            self._suspects.clear()
            self._seen.clear()


gate = Gate()


def counter_of(address: str) -> str:
    return str(uuid.uuid5(COUNTERS, address))


def check(address: str, key_id: str | None) -> None:
    """To be asked of every key, None for one that is not usable: counts it where it is a guess. Raises RateLimited."""
    if gate.has_seen(address, key_id):
        return
    if key_id is None or gate.is_suspect(address):
        _count(address)
    if key_id is not None and gate.saw(address, key_id):
        with connection.cursor() as cursor:
            cursor.execute(TELL, [f"{address} {key_id}"])


def _count(address: str) -> None:
    left = gate.shut_out_for(address)
    if left > 0:
        gate.refuse(address, left)
    asked = {"place": 0, "key": counter_of(address), "asked": 1, "most": GUESSES, "hold": 0, "tokens": 0, "unused": 0}
    with connection.cursor() as cursor:
        cursor.execute(TAKE, [json.dumps([asked]), WINDOW_SECONDS])
        granted, oldest, at = cursor.fetchone()
    if not granted:
        gate.refuse(address, float(max((at if oldest is None else oldest) + WINDOW_SECONDS - at, 1)))


def _bound(kept: dict[K, V], most: int) -> None:
    """Lets the oldest go."""
    if len(kept) > most:
        del kept[next(iter(kept))]


# --- whose guess it is ---------------------------------------------------------------------------


def caller_address(peer: str, forwarded: str) -> str:
    """The address to count a guess for: the peer's, or where that is a proxy of ours (TRUSTED_PROXIES) the last
    one in X-Forwarded-For that is none. Of an IPv6 address its network: a house has 2**64 of them."""
    trusted = settings.TRUSTED_PROXIES if forwarded else ()
    return _address(peer, forwarded[-MAX_FORWARDED:] if trusted else "", tuple(trusted))


@lru_cache(maxsize=2048)
def _address(peer: str, forwarded: str, proxies: tuple[str, ...]) -> str:
    address = peer
    hops = [_without_port(hop.strip()) for hop in forwarded.split(",")[-MAX_HOPS:]] if forwarded else []
    trusted = networks(proxies)
    while hops and _is_among(address, trusted):
        address = hops.pop()
    try:
        parsed = ip_address(address)
    except ValueError:
        return peer
    if isinstance(parsed, IPv6Address):
        # without its zone, which may be any text
        return str(parsed.ipv4_mapped or ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def _without_port(hop: str) -> str:
    """Some proxies (Azure's Application Gateway) tell the port, too, with which a client came: `192.0.2.1:4321`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    host, _, port = hop.partition(":")
    return hop if ":" in port else host


@lru_cache(maxsize=8)
def networks(given: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises ValueError for an entry that is neither an address nor a network; a system check says so before."""
    return tuple(ip_network(entry, strict=False) for entry in given)


def is_proxy(peer: str) -> bool:
    """Whether it is one of ours, behind which are many callers."""
    return bool(settings.TRUSTED_PROXIES) and _is_among(peer, networks(tuple(settings.TRUSTED_PROXIES)))


def _is_among(address: str, trusted: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    # who listens on :: sees those of IPv4 as ::ffff:10.0.0.1
    inner = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return any(parsed in network or (inner is not None and inner in network) for network in trusted)
