"""Connections to providers, kept for each address and event loop and reused."""

import asyncio
import time
from collections import deque
from functools import partial

from routing.gateway.providers.connections import Broken, Connection
from routing.gateway.providers.dialing import Address, dial

KEEP_SECONDS = 4.0  # shorter than any server's own, so that a request seldom meets a connection being closed
KEPT_CONNECTIONS = 512  # of one address
CONNECT_SECONDS = 5.0


class Pool:
    """Kept connections of one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Address, deque[Connection]] = {}
        self._coming: dict[Address, deque[asyncio.Task[Connection]]] = {}  # being opened, and asked for by nobody yet
        self._sweeping: asyncio.TimerHandle | None = None

    def take(self, address: Address) -> Connection | None:
        """The connection used last, if one is still fresh."""
        idle = self._idle.get(address)
        oldest = time.monotonic() - KEEP_SECONDS
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                if connection.idle_since > oldest:
                    return connection
                connection.close()
        return None

    def expect(self, address: Address) -> None:
        """Somebody is about to want a connection: one begins to be opened if none is kept."""
        if self._idle.get(address) or sum(map(len, self._coming.values())) >= KEPT_CONNECTIONS:
            return
        opening = asyncio.get_running_loop().create_task(_opened(address))
        self._coming.setdefault(address, deque()).append(opening)
        opening.add_done_callback(partial(self._came, address))

    def _came(self, address: Address, opening: asyncio.Task[Connection]) -> None:
        coming = self._coming.get(address, deque())
        if opening in coming:  # nobody waits for it
            coming.remove(opening)
            if not opening.cancelled() and opening.exception() is None:
                self._keep(address, opening.result())

    async def open(self, address: Address, until: float | None = None) -> Connection:
        """A new connection. Raises Broken; "timeout" if it is not there by `until` (time.monotonic's), "busy" where no
        file is left for it here."""
        coming = self._coming.get(address)
        opening = coming.pop() if coming else asyncio.get_running_loop().create_task(_opened(address))
        try:
            async with asyncio.timeout(None if until is None else max(until - time.monotonic(), 0.0)):
                try:
                    return await opening
                except asyncio.CancelledError:  # also by the time that is up, and perhaps in this very moment
                    if opening.done() and not opening.cancelled() and opening.exception() is None:
                        self._keep(address, opening.result())
                    raise
                except Broken as broken:
                    if broken.kind != "busy" or not self._let_go():
                        raise
                await asyncio.sleep(0)  # what was let go is closed
                return await _opened(address)
        except TimeoutError:
            raise Broken("timeout", "no connection to the provider in the time that was left") from None
        finally:
            del opening  # the error that it ended with leads back to here

    def give_back(self, address: Address, connection: Connection) -> None:
        if not connection.reusable:
            connection.close()
            return
        connection.reused = True
        self._keep(address, connection)

    def _keep(self, address: Address, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        idle = self._idle.setdefault(address, deque())
        idle.append(connection)
        if len(idle) > KEPT_CONNECTIONS:
            idle.popleft().close()
        if self._sweeping is None:
            self._sweep_later(connection.loop)

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = loop.call_later(KEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes what is not fresh any more, be there another exchange or not."""
        self._sweeping = None
        oldest = time.monotonic() - KEEP_SECONDS
        for address, idle in list(self._idle.items()):
            while idle and idle[0].idle_since < oldest:
                idle.popleft().close()
            if not idle:
                del self._idle[address]
        if self._idle:
            self._sweep_later(loop)

    def _let_go(self) -> bool:
        """Closes what is kept; whether that was anything."""
        kept = [connection for idle in self._idle.values() for connection in idle]
        self._idle.clear()
        for connection in kept:
            connection.close()
        return bool(kept)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._let_go()
        for coming in self._coming.values():
            while coming:
                coming.popleft().cancel()


async def _opened(address: Address) -> Connection:
    """Raises Broken."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await dial(address)
    except TimeoutError:
        raise Broken("connection", "nobody answered in time") from None
