"""Requests to addresses that callers name. They reach the public internet and what CALLBACK_PRIVATE_NETWORKS allows.

An address is judged when it is connected to, after its name was resolved, so that no name can come to mean this
machine or its neighbours in between. No proxy is used and no redirect followed; an answer is read up to a limit.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import httpcore2
from django.conf import settings

from ziggie.errors import InvalidInput

MAX_URL_CHARACTERS = 2_000
MAX_ANSWER_BYTES = 64 * 1024
TOTAL_SECONDS = 15.0
CONNECT_SECONDS = 5.0
MAX_ADDRESSES = 4  # of one name, that are tried
_NAT64 = IPv6Network("64:ff9b::/96")


class NotReached(Exception):
    """No answer came; the text says why and holds nothing of the address but its host."""


def check_url(url: str, where: str) -> None:
    """Raises InvalidInput for what can never be reached; a name is judged when it is connected to."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidInput(f"{where}: is no address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput(f"{where}: must be an address that begins with https:// or http://")
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidInput(f"{where}: is longer than {MAX_URL_CHARACTERS} characters")
    if not all("!" <= character <= "~" for character in url):
        raise InvalidInput(f"{where}: has characters that must be encoded (%20, xn--…)")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"{where}: must not hold a user or a password")
    try:
        literal = ip_address(host)
    except ValueError:
        return
    if not is_allowed(literal):
        raise InvalidInput(f"{where}: {host} is no public address; see CALLBACK_PRIVATE_NETWORKS in docs/operations.md")


def is_allowed(address: IPv4Address | IPv6Address) -> bool:
    """Whether a request may go there. An IPv4 address inside an IPv6 one counts as itself."""
    address = _inner(address)
    networks = (ip_network(network, strict=False) for network in settings.CALLBACK_PRIVATE_NETWORKS)
    if any(address in network for network in networks):
        return True
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


class _Guard(httpcore2.AsyncNetworkBackend):
    """Connects to allowed addresses only."""

    def __init__(self) -> None:
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        problem: Exception = NotReached(f"{host} is no public address; see CALLBACK_PRIVATE_NETWORKS")
        for address in await _resolved(host, port):
            if not is_allowed(ip_address(address)):
                continue
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem


async def _resolved(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotReached(f"there is no host named {host}") from None
    return [str(address[4][0]) for address in found][:MAX_ADDRESSES]


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the answer; what it says is not kept. Raises NotReached."""
    timeouts = {"connect": CONNECT_SECONDS, "read": TOTAL_SECONDS, "write": TOTAL_SECONDS, "pool": TOTAL_SECONDS}
    try:
        async with (
            asyncio.timeout(TOTAL_SECONDS),
            httpcore2.AsyncConnectionPool(network_backend=_Guard()) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeouts}
            ) as answer,
            aclosing(answer.aiter_stream()) as chunks,
        ):
            read = 0
            async for chunk in chunks:
                read += len(chunk)
                if read > MAX_ANSWER_BYTES:
                    break
            return int(answer.status)
    except TimeoutError:
        raise NotReached(f"no complete answer within {TOTAL_SECONDS:g} s") from None
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        raise NotReached(f"{type(error).__name__}: the connection failed or broke off") from None
