"""PostgreSQL for the async core: raw psycopg connections, pooled for each event loop.

Django's connections belong to threads and its ORM to requests; the ledger and the gateway use neither.
A pool lives and dies with its loop: a command's short loop, the sync facade's thread and a server's loop
each have their own. After a fork the child starts with empty pools. No transaction is ever left open.
"""

import asyncio
import os
import select
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import psycopg
from django.db import connections
from psycopg.rows import TupleRow

from ziggie.errors import Unavailable
from ziggie.pgrelay import sever

Connection = psycopg.AsyncConnection[TupleRow]

MAX_CONNECTIONS = 6  # of one event loop
CONNECT_TIMEOUT_SECONDS = 5
CHECKOUT_TIMEOUT_SECONDS = 10.0
AWAY_SECONDS = 5.0  # as long as the ledger waits to admit a call
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
STATEMENT_TIMEOUT_MS = 15_000
SILENT_SECONDS = 20.0  # every statement has ended by then
TRIAL_SECONDS = 5.0  # for what waits for nothing: an idle connection that is tried, a lock that is there or not
# Said on the connection and not while it is made: poolers such as PgBouncer refuse what they do not know there. What
# DATABASE_URL says itself (?options=-c statement_timeout=…) holds.
LIMITS = (
    "SELECT set_config(name, %s, false) FROM pg_settings WHERE source <> 'client'"
    " AND name IN ('statement_timeout', 'idle_in_transaction_session_timeout')"
)
TRUSTED_IDLE_SECONDS = 5.0  # a connection idle for longer is tried before it is lent
DJANGO_ONLY_OPTIONS = frozenset({"isolation_level", "server_side_binding", "assume_role", "pool"})


def connection_parameters() -> dict[str, Any]:
    """libpq's parameters of Django's default database, which is the test database during tests."""
    database = connections["default"].settings_dict
    named = {
        "dbname": database["NAME"],
        "user": database["USER"],
        "password": database["PASSWORD"],
        "host": database["HOST"],
        "port": database["PORT"],
    }
    parameters: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "ziggie",
    }
    parameters |= {name: value for name, value in named.items() if value not in ("", None)}
    parameters |= {name: value for name, value in database["OPTIONS"].items() if name not in DJANGO_ONLY_OPTIONS}
    return parameters


async def connect(**overrides: Any) -> Connection:
    """A connection outside the pool (for LISTEN). Raises Unavailable; the caller closes it."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            **{**connection_parameters(), **overrides}, autocommit=True, prepare_threshold=1
        )
        try:
            with patience(connection, CONNECT_TIMEOUT_SECONDS):
                await connection.execute(LIMITS, (str(STATEMENT_TIMEOUT_MS),), prepare=False)
        except BaseException:
            await connection.close()
            raise
    except (psycopg.OperationalError, OSError) as error:
        raise Unavailable("the database does not answer") from error
    return connection


async def connect_soon(**overrides: Any) -> Connection:
    """The same, to a server that may be away for a moment: one that restarts costs those who wait no more than that.
    Raises Unavailable."""
    until, pause = time.monotonic() + AWAY_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return await connect(**overrides)
        except Unavailable:
            if time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


@contextmanager
def patience(connection: Connection, seconds: float | None = None) -> Iterator[None]:
    """Who waits meanwhile for a server that says nothing for so long (SILENT_SECONDS) hears what is heard of one that
    went away. Nothing else ends such a wait: a server that is frozen, or lost behind a network, closes nothing."""
    longest = SILENT_SECONDS if seconds is None else seconds
    ending = asyncio.get_running_loop().call_later(longest, sever, connection)
    try:
        yield
    finally:
        ending.cancel()


@asynccontextmanager
async def turn(using: asyncio.Lock) -> AsyncIterator[None]:
    """On a connection that many share. Raises Unavailable for who waits too long for it: each of those before may have
    waited for a server that says nothing."""
    try:
        async with asyncio.timeout(CHECKOUT_TIMEOUT_SECONDS):
            await using.acquire()
    except TimeoutError:
        raise Unavailable("the database does not answer") from None
    try:
        yield
    finally:
        using.release()


class Closeable(Protocol):
    def close(self) -> None: ...


def is_quiet(connection: Connection) -> bool:
    """False if something has come on an idle connection: its end, nearly always."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


class Pool:
    """At most MAX_CONNECTIONS connections of one event loop."""

    def __init__(self) -> None:
        self._idle: list[tuple[float, Connection]] = []
        self._permits = asyncio.Semaphore(MAX_CONNECTIONS)
        self._kept: weakref.WeakSet[Closeable] = weakref.WeakSet()
        self._closed = False

    def keep(self, connection: Closeable) -> None:
        """Has a connection that is never lent closed with the others."""
        self._kept.add(connection)

    async def acquire(self) -> Connection:
        """Raises Unavailable if all connections stay busy or the server does not answer."""
        try:
            async with asyncio.timeout(CHECKOUT_TIMEOUT_SECONDS):
                await self._permits.acquire()
        except TimeoutError:
            raise Unavailable("all database connections are busy") from None
        try:
            return await self._usable()
        except BaseException:
            self._permits.release()
            raise

    async def _usable(self) -> Connection:
        while self._idle:
            since, connection = self._idle.pop()
            if connection.closed:
                continue
            if time.monotonic() - since < TRUSTED_IDLE_SECONDS and is_quiet(connection):
                return connection
            try:
                with patience(connection, TRIAL_SECONDS):
                    await connection.execute("")
            except psycopg.OperationalError:
                await connection.close()
                await self.let_go()  # they had the same server
            except BaseException:  # the caller was cancelled: nobody else holds this connection
                await connection.close()
                raise
            else:
                return connection
        return await connect_soon()

    async def release(self, connection: Connection) -> None:
        """Takes a connection back; one that was left in the middle of something is closed."""
        status = connection.info.transaction_status
        if connection.broken:  # whatever befell it may have befallen the others: they are tried before they are lent
            self._idle = [(float("-inf"), other) for _, other in self._idle]
        if self._closed or connection.closed or status != psycopg.pq.TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append((time.monotonic(), connection))
        self._permits.release()

    async def let_go(self) -> None:
        """Closes what is not lent."""
        while self._idle:
            await self._idle.pop()[1].close()

    async def close(self) -> None:
        self._closed = True
        for connection in list(self._kept):
            connection.close()
        await self.let_go()


class _LoopPools:
    """The pool of every running loop of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Pool, Any]] = weakref.WeakKeyDictionary()


_state = _LoopPools()


async def close_with_loop(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Calls `close` when the running loop ends, once this was begun and as long as it is kept.

    A suspended async generator is closed by loop.shutdown_asyncgens(), which every runner calls last: the one hook
    that asyncio has for "this loop ends"."""
    try:
        yield
    finally:
        with suppress(psycopg.Error, OSError):
            await close()


async def pool() -> Pool:
    """The running loop's pool."""
    global _state  # noqa: PLW0603 - one state a process, replaced after a fork
    if _state.pid != os.getpid():
        _state = _LoopPools()
    loop = asyncio.get_running_loop()
    known = _state.pools.get(loop)
    if known is None:
        new = Pool()
        guard = close_with_loop(new.close)
        known = _state.pools.setdefault(loop, (new, guard))
        if known[1] is guard:
            await anext(guard)
    return known[0]


@asynccontextmanager
async def connection() -> AsyncIterator[Connection]:
    """A connection in autocommit mode, for SILENT_SECONDS. Raises Unavailable where the server is away or goes away,
    leaves a statement undone, or only reads: who has become a standby serves its connections as long as they are
    kept."""
    own = await pool()
    lent = await own.acquire()
    try:
        with patience(lent):
            yield lent
    except psycopg.OperationalError as error:
        what = "went away" if lent.broken else "could not do it just now"
        raise Unavailable(f"the database {what}") from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        await lent.close()
        await own.let_go()
        raise Unavailable("the database only reads just now") from error
    finally:
        await own.release(lent)


async def close() -> None:
    """Closes the running loop's idle connections; those still lent are closed when they come back."""
    loop = asyncio.get_running_loop()
    known = _state.pools.pop(loop, None) if _state.pid == os.getpid() else None
    if known is not None:
        await known[0].close()
        await known[1].aclose()
