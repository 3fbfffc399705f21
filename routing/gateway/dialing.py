"""Reaching a provider's server: all addresses of its name, TLS, and why it cannot be reached."""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from routing.adapters.trust import ssl_context, tls_failure
from routing.gateway.connections import Broken, Connection
from routing.types import ProviderError

Address = tuple[bool, str, int]  # TLS, host, port

NEXT_SECONDS = 0.25  # between one address of a name and the next, as RFC 8305 has it
MOST_ADDRESSES = 8


async def dial(address: Address) -> Connection:
    """A new connection. Of a name that has several addresses one that does not answer keeps nobody from the next.
    Raises Broken."""
    tls, host, port = address
    try:
        context = ssl_context() if tls else None
    except ProviderError as error:
        raise Broken(error.kind, error.message) from None
    if _is_literal(host):
        return await _connect(host, port, context, host)
    addresses = await _looked_up(host, port)
    if len(addresses) == 1:
        return await _connect(addresses[0], port, context, host)
    return await _race([partial(_connect, one, port, context, host) for one in addresses])


async def _race(ways: Iterable[Callable[[], Coroutine[Any, Any, Connection]]]) -> Connection:
    """The connection that is there first; each way begins a moment after the one before, or once that has failed.
    Raises Broken as the first that failed did."""
    left, first = deque(ways), None
    under_way: set[asyncio.Task[Connection]] = set()
    try:
        while left or under_way:
            if left:
                under_way.add(asyncio.create_task(left.popleft()()))
            patience = NEXT_SECONDS if left else None
            done, under_way = await asyncio.wait(under_way, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if connected := _connected(done):
                return connected
            first = first or next((error for task in done if isinstance(error := task.exception(), Broken)), None)
    finally:
        for task in under_way:
            task.add_done_callback(_let_go)
            task.cancel()
    raise first.anew() if first else Broken("connection", "no connection to the provider")


def _connected(done: Iterable[asyncio.Task[Connection]]) -> Connection | None:
    """One of the connections that are there; others are closed."""
    there = [task.result() for task in done if not task.cancelled() and task.exception() is None]
    for another in there[1:]:
        another.close()
    return there[0] if there else None


def _let_go(task: asyncio.Task[Connection]) -> None:
    """What came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _looked_up(host: str, port: int) -> list[str]:
    """The addresses of a name, each once. Raises Broken."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Broken("connection", "no connection to the provider: its name cannot be looked up") from None
    return list(dict.fromkeys(str(row[4][0]) for row in found))[:MOST_ADDRESSES]


async def _connect(host: str, port: int, context: ssl.SSLContext | None, name: str) -> Connection:
    """Raises Broken."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, host, port, ssl=context, server_hostname=name if context else None
        )
    except ssl.SSLError as error:
        raise Broken("connection", tls_failure(error)) from None
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = f": {os.strerror(number).lower()}" if number and number > 0 else ""
        raise Broken("connection", f"no connection to the provider{reason}") from None
    return connection
