"""Guesses of API keys at the gateway, counted without a thread: see ziggie/guesses.py for what counts as one."""

from routing.gateway.access.keys import Key, book
from routing.gateway.access.limits import limits
from routing.gateway.exchange.http import Http
from ziggie.errors import Unauthorized
from ziggie.guesses import GUESSES, caller_address, counter_of, gate


async def authenticated(http: Http) -> Key:
    """The key of a request. Raises Unauthorized, RateLimited after too many guesses, or Forbidden. Who names no key
    guesses none: many programs look first whether one is needed."""
    if not http.raw_key:
        raise Unauthorized("an API key is needed")
    address, keys = caller_address(http.address, http.forwarded), book()
    is_counted = gate.is_suspect(address) and not gate.has_seen(address, keys.id_of(http.raw_key))
    if is_counted:
        await _count(address)
    try:
        key = keys.at_hand(http.raw_key) or await keys.authenticate(http.raw_key)
    except Unauthorized:
        if not is_counted:
            await _count(address)
        raise
    if gate.saw(address, key.id):
        keys.tell_others(f"{address} {key.id}")
    return key


async def _count(address: str) -> None:
    left = gate.shut_out_for(address) or await limits().event(counter_of(address), most=GUESSES)
    if left > 0:
        gate.refuse(address, left)
