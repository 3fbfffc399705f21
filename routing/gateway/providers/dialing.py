"""Reaching a provider's server: all addresses of its name, TLS, and why it cannot be reached."""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, zip_longest
from threading import Thread
from typing import Any

from routing.adapters.sending.trust import ssl_context, tls_failure
from routing.gateway.providers.connections import Broken, Connection
from routing.loops import OfLoop
from routing.types import ProviderError

Address = tuple[bool, str, int]  # TLS, host, port
Place = tuple[int, tuple[str, int]]  # family, address and port
Lookup = asyncio.Future[list[Any] | None]  # None for a name that nobody knows

NEXT_SECONDS = 0.25  # between one address of a name and the next, as RFC 8305 has it
MOST_ADDRESSES = 64  # those that refuse are passed at once

_lookups: OfLoop[dict[tuple[str, int], Lookup]] = OfLoop(dict)  # that are under way: one for all who ask


async def dial(address: Address) -> Connection:
    """A new connection. Of a name that has several addresses one that does not answer keeps nobody from the next.
    Raises Broken."""
    tls, host, port = address
    try:
        context = ssl_context() if tls else None
    except ProviderError as error:
        raise Broken(error.kind, error.message) from None
    if _is_literal(host):
        return await _connect(context, host, host=host, port=port)
    return await _connect(context, host, sock=await _first(await _looked_up(host, port)))


async def _first(places: Iterable[Place]) -> socket.socket:
    """A connection to the place that answers first; each is tried a moment after the one before, or once that has
    failed. TLS begins behind that: its handshake may take longer than a moment. Raises Broken as the first that failed
    did."""
    left, first = deque(places), None
    under_way: set[asyncio.Task[socket.socket]] = set()
    try:
        while left or under_way:
            if left:
                under_way.add(asyncio.create_task(_reached(*left.popleft())))
            patience = NEXT_SECONDS if left else None
            done, under_way = await asyncio.wait(under_way, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if there := [task.result() for task in done if task.exception() is None]:
                for another in there[1:]:
                    another.close()
                return there[0]
            first = first or next((error for task in done if isinstance(error := task.exception(), Broken)), None)
    finally:
        for task in under_way:
            task.add_done_callback(_let_go)
            task.cancel()
    raise first.anew() if first else Broken("connection", "no connection to the provider")


async def _reached(family: int, place: tuple[str, int]) -> socket.socket:
    """Raises Broken."""
    made = None
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, place)
    except BaseException as error:  # the socket is closed also where who dials is cancelled
        if made is not None:
            made.close()
        if isinstance(error, OSError):
            raise _unreachable(error) from None
        raise
    return made


def _let_go(task: asyncio.Task[socket.socket]) -> None:
    """What came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _looked_up(host: str, port: int) -> list[Place]:
    """The addresses of a name, each once, those of IPv6 and IPv4 by turns: a network that has only one of them is
    common. Raises Broken."""
    asked = _lookups.get()
    lookup = asked.get((host, port))
    if lookup is None:
        loop = asyncio.get_running_loop()
        lookup = asked[host, port] = loop.create_future()
        lookup.add_done_callback(lambda _: asked.pop((host, port), None))
        Thread(target=_look_up, args=(loop, lookup, host, port), daemon=True).start()
    found = await asyncio.shield(lookup)
    if found is None:
        raise Broken("connection", "no connection to the provider: its name cannot be looked up")
    places = list(dict.fromkeys((int(row[0]), (_scoped(row[4]), port)) for row in found))
    like_first = [place for place in places if place[0] == places[0][0]]
    others = [place for place in places if place[0] != places[0][0]]
    by_turns = chain.from_iterable(zip_longest(like_first, others))
    return [place for place in by_turns if place is not None][:MOST_ADDRESSES]


def _look_up(loop: asyncio.AbstractEventLoop, lookup: Lookup, host: str, port: int) -> None:
    """In a thread of the name's own: of those that a loop has for all names (uvloop: two), each waits for as long as
    the servers of one name say nothing, and with it everybody who asks for another."""
    found: list[Any] | None = None
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(_tell, lookup, found)


def _tell(lookup: Lookup, found: list[Any] | None) -> None:
    if not lookup.done():
        lookup.set_result(found)


def _scoped(found: tuple[Any, ...]) -> str:
    """An address as text, with the link that it is on where it is one of such."""
    return f"{found[0]}%{found[3]}" if len(found) > 3 and found[3] else str(found[0])


async def _connect(context: ssl.SSLContext | None, name: str, **where: Any) -> Connection:
    """Raises Broken."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, **where, ssl=context, server_hostname=name if context else None
        )
    except ssl.SSLError as error:
        raise Broken("connection", tls_failure(error)) from None
    except (OSError, UnicodeError) as error:
        raise _unreachable(error) from None
    return connection


def _unreachable(error: OSError | UnicodeError) -> Broken:
    number = error.errno if isinstance(error, OSError) else None
    reason = f": {os.strerror(number).lower()}" if number and number > 0 else ""
    return Broken("connection", f"no connection to the provider{reason}")
