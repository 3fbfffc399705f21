"""A connection kept for one kind of statement, with as little as possible between the event loop and libpq.

What the ledger says to the database is a few statements, again and again. Each is prepared once; parameters and
values are bytes in PostgreSQL's text format. One statement at a time: a lane sends no second one before it knows
what became of the first.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import LiteralString
from uuid import UUID

import psycopg
from msgspec.json import encode
from psycopg import pq
from psycopg.errors import error_from_result

from routing import database

Row = list[bytes | None]
# These statements' plans do not depend on their values: planning them anew would cost more than running them. They
# are made while tables may still be empty, and kept: none may read a whole table, however small it looks by then.
# A statement that waits for a lock ends with its connection, where the server's system can tell: else it would be done
# after all, when whoever wanted it has given it up.
PREPARE_SESSION = """
SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
DO $$ BEGIN
    PERFORM set_config('client_connection_check_interval', '1s', false);
EXCEPTION WHEN invalid_parameter_value OR feature_not_supported THEN NULL;
END $$
"""
CONNECT_SECONDS = 10.0  # to all addresses that a name has
LOOK_SECONDS = 0.5  # of a socket that has failed uvloop calls the reader once, and the last words come before the end
ONLY_READS = b"25006"  # ReadOnlySqlTransaction
GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


def array_text(values: Iterable[int | UUID]) -> bytes:
    """An array parameter."""
    return b"{%b}" % encode(list(values))[1:-1]


def integers(array: bytes | None) -> list[int]:
    """The values of an integer array; [] for one that is null or empty."""
    inside = (array or b"{}")[1:-1]
    return [int(value) for value in inside.split(b",")] if inside else []


class Line:
    """One connection of one event loop. It is made when it is needed, and again when it was lost."""

    def __init__(self) -> None:
        self._connection: database.Connection | None = None
        self._loop: asyncio.AbstractEventLoop  # the one that it is of
        self._socket = -1
        self._prepared: dict[str, bytes] = {}
        self._answer: asyncio.Future[pq.abc.PGresult] | None = None
        self._last: pq.abc.PGresult | None = None
        self._is_full = False  # the socket takes no more for now
        self._timer: asyncio.TimerHandle | None = None

    async def execute(self, statement: LiteralString, *parameters: bytes | None) -> list[Row]:
        """The rows of a statement with $1, $2, …

        Raises psycopg's errors, and Unavailable where the server is away. After an OperationalError or a
        cancellation the statement may have been done or not.
        """
        pgconn = (self._connection or await self._connected()).pgconn
        name = self._prepared.get(statement)
        if name is None:
            name = b"line%d" % len(self._prepared)
            await self._say(pgconn, lambda: pgconn.send_prepare(name, statement.encode()))
            self._prepared[statement] = name
        result = await self._say(pgconn, lambda: pgconn.send_query_prepared(name, parameters))
        columns = range(result.nfields)
        return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]

    def close(self) -> None:
        """The next statement opens it again."""
        connection, self._connection = self._connection, None
        answer, self._answer = self._answer, None
        self._prepared, self._is_full = {}, False
        if self._timer is not None:
            self._timer.cancel()
        if connection is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            connection.pgconn.finish()
        if answer is not None and not answer.done():
            answer.set_exception(psycopg.OperationalError("the connection was closed"))

    async def _connected(self) -> database.Connection:
        if self._connection is None:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await database.connect()
            self._loop = asyncio.get_running_loop()
            self._connection, self._socket = connection, connection.pgconn.socket
            (await database.pool()).keep(self)
            self._loop.add_reader(self._socket, self._hear)
            self._look_later()
            await self._say(connection.pgconn, lambda: connection.pgconn.send_query(PREPARE_SESSION.encode()))
        return self._connection

    async def _say(self, pgconn: pq.abc.PGconn, send: Callable[[], None]) -> pq.abc.PGresult:
        """Sends one thing and waits for what becomes of it."""
        assert self._answer is None
        answer: asyncio.Future[pq.abc.PGresult] = self._loop.create_future()
        self._answer = answer
        try:
            send()
            self._flush()
            result = await answer
        except BaseException:  # what is answered later must not be taken for the answer to the next one
            self._answer = None
            self.close()
            raise
        self._answer = None
        if result.status not in GOOD:
            if result.error_field(pq.DiagnosticField.SQLSTATE) == ONLY_READS:
                self.close()  # who writes now is reached by another connection, if at all
            raise error_from_result(result)
        return result

    def _flush(self) -> None:
        """Writes what libpq has to write, now or when the socket takes it."""
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        try:
            is_full = bool(pgconn.flush())
        except psycopg.Error as error:
            self._fail(error)
            return
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket, self._flush)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket)
        self._is_full = is_full

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Reads what there is, whoever has been told of it or not."""
        self._hear()
        if self._connection is not None:
            self._look_later()

    def _hear(self) -> None:
        """Something can be read: a part of an answer, or that the server has gone."""
        if self._connection is None:  # closed a moment ago
            return
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._finish()
                    return
                self._last = result
        except psycopg.Error as error:
            self._fail(error)

    def _finish(self) -> None:
        result, self._last = self._last, None
        if result is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(result)

    def _fail(self, error: psycopg.Error) -> None:
        answer, self._answer = self._answer, None
        self.close()
        if answer is not None and not answer.done():
            answer.set_exception(error)
