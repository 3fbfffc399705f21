"""The two connections behind the PostgreSQL channel layer: one that listens, one that notifies.

Both live on the process's background loop. No operation waits for ever: one that outlives its limit
has its socket shut down, which ends it at once, where cancelling it would first ask a server that
does not answer.
"""

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import psycopg
from django.db import connections
from psycopg import sql

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]
logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024
# NOTIFY takes less than 8000 bytes; a longer message travels as several in one transaction.
_PART_CHARS = 7900
_OPERATION_SECONDS = 5.0
_QUIET_SECONDS = 20.0
_BACKOFF_SECONDS = (0.1, 5.0)
_CONNECTION_DEFAULTS = {"application_name": "ziggie live"}
_random = secrets.SystemRandom()


class Hub(Protocol):
    """Where arrivals go: the channels of one event loop. Both raise RuntimeError once that loop is closed."""

    def publish(self, blob: bytes) -> None: ...

    def gap(self) -> None: ...


class Relay:
    """Every method runs on the background loop of the process that made it."""

    def __init__(self, *, using: str, name: str) -> None:
        self._using = using
        self._name = name
        self._hubs: set[Hub] = set()
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._sender: Connection | None = None
        self._sending = asyncio.Lock()
        self._assembly = _Assembly()

    async def attach(self, hub: Hub) -> None:
        """Deliver to `hub` from now on; waits a bounded time until the connection really listens.

        With the database down it returns all the same: the hub is told of the gap once it is back.
        """
        self._hubs.add(hub)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen_for_ever())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), _OPERATION_SECONDS)

    async def notify(self, blob: bytes) -> None:
        """Send `blob` to every process that listens. Raises psycopg.Error or TimeoutError."""
        parts = _split(blob)
        async with self._sending:
            reused = self._sender is not None
            try:
                await self._send(parts)
            except psycopg.OperationalError:
                # A connection that sat idle over a restart of the server fails on first use.
                if not reused:
                    raise
                await self._send(parts)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener})
        if self._sender is not None:
            await self._sender.close()
        self._listener = self._sender = None
        self._listening.clear()

    async def _send(self, parts: list[str]) -> None:
        connection = self._sender = self._sender or await self._connect()
        statement = "SELECT pg_notify(%s, part) FROM unnest(%s::text[]) AS part"
        try:
            await _bounded(connection, connection.execute(statement, [self._name, parts]))
        except BaseException:
            # Also when cancelled: the state of the connection is unknown, so the next send opens another.
            self._sender = None
            await connection.close()
            raise

    async def _listen_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen(missed=failures > 0)
            except Exception as error:  # whatever ended this connection, the next one must be tried
                if self._listening.is_set() or not failures:
                    reason = str(error).partition("\n")[0] or type(error).__name__
                    logger.warning("Live layer: the listening connection is lost, trying again: %s", reason)
            failures = 0 if self._listening.is_set() else failures
            self._listening.clear()
            self._assembly = _Assembly()
            failures += 1
            await asyncio.sleep(_backoff_seconds(failures))

    async def _listen(self, *, missed: bool) -> None:
        """Listen and deliver until the connection fails; one that is quiet is asked whether it lives."""
        connection = await self._connect()
        try:
            await _bounded(connection, connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._name))))
            self._listening.set()
            if missed:
                logger.info("Live layer: listening again")
                self._tell(lambda hub: hub.gap())
            while True:
                async for notification in connection.notifies(timeout=_QUIET_SECONDS):
                    self._arrived(notification.payload)
                await _bounded(connection, connection.execute("SELECT 1"))
        finally:
            await connection.close()

    def _arrived(self, payload: str) -> None:
        try:
            blob = self._assembly.add(payload)
        except ValueError:
            logger.warning("Live layer: ignored a notification that is not from this program")
            return
        if blob is not None:
            self._tell(lambda hub: hub.publish(blob))

    def _tell(self, news: Callable[[Hub], None]) -> None:
        for hub in list(self._hubs):
            try:
                news(hub)
            except RuntimeError:  # its event loop is closed
                self._hubs.discard(hub)

    async def _connect(self) -> Connection:
        parameters = connections[self._using].get_connection_params()
        for ours in ("cursor_factory", "context"):  # Django's, for synchronous connections
            parameters.pop(ours, None)
        for name, value in _CONNECTION_DEFAULTS.items():
            parameters.setdefault(name, value)
        async with asyncio.timeout(_OPERATION_SECONDS):
            return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


class _Assembly:
    """Puts the parts of long messages together. Those of one transaction arrive in order, with none between."""

    def __init__(self) -> None:
        self._key = ""
        self._parts: list[str] = []

    def add(self, payload: str) -> bytes | None:
        """The message that this part completes, if it does. Raises ValueError for what is no part."""
        key, index, count, text = payload.split(".")
        if key != self._key or int(index) != len(self._parts):
            self._key, self._parts = key, []
        if int(index) != len(self._parts):
            return None  # its beginning was sent before this connection listened
        self._parts.append(text)
        if len(self._parts) < int(count):
            return None
        whole, self._parts = "".join(self._parts), []
        return base64.b64decode(whole, validate=True)


def _split(blob: bytes) -> list[str]:
    text = base64.b64encode(blob).decode()
    parts = [text[start : start + _PART_CHARS] for start in range(0, len(text), _PART_CHARS)]
    key = secrets.token_hex(6)
    return [f"{key}.{index}.{len(parts)}.{part}" for index, part in enumerate(parts)]


async def _bounded(connection: Connection, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` on `connection`. Raises TimeoutError, with the connection broken, when it takes too long."""
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=_OPERATION_SECONDS)
    finally:
        if not task.done():
            sever(connection)
            await asyncio.wait({task}, timeout=_OPERATION_SECONDS)
    if not done:
        raise TimeoutError("the database did not answer")
    return task.result()


def sever(connection: Connection) -> None:
    """Ends it as if the server had gone: whoever waits for an answer on it hears so at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def _backoff_seconds(failures: int) -> float:
    first, longest = _BACKOFF_SECONDS
    return _random.uniform(0.5, 1.0) * min(longest, first * 2.0 ** min(failures, 10))
