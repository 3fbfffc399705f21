"""Many small database operations as few statements: what arrives while one batch is under way forms the next.

Each caller still waits for its own operation to be committed. One bad operation never fails its neighbours,
and a server that is away for a moment is waited for.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import psycopg

from routing import database
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 256
MAX_WAITING = 20_000
BATCH_TIMEOUT_SECONDS = 20.0
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
# The server's state, not our words, is why these failed: the same statement may work in a moment.
TRANSIENT = (
    Unavailable,
    TimeoutError,
    psycopg.OperationalError,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


class Lane(Generic[Item, Result]):
    """One kind of operation on one event loop, one batch at a time.

    `run` does a batch in one transaction and returns one result an item. `patience_seconds` is how long an
    operation waits for a server that is away before it fails with Unavailable. `repair` makes an item that
    the database refuses as data acceptable. An item whose waiter gave up is dropped while it still queues;
    if it was done all the same, `orphaned` is told.
    """

    def __init__(
        self,
        run: Callable[[database.Connection, list[Item]], Awaitable[list[Result]]],
        *,
        patience_seconds: float,
        repair: Callable[[Item], Item] | None = None,
        orphaned: Callable[[Result], None] | None = None,
    ) -> None:
        self._run = run
        self._patience_seconds = patience_seconds
        self._repair = repair
        self._orphaned = orphaned
        self._waiting: deque[tuple[Item, asyncio.Future[Result], float]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """The future result. Raises Unavailable at once if too much waits already."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many operations wait for the database")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future, loop.time() + self._patience_seconds))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return future

    async def idle(self) -> None:
        """Returns once nothing waits and nothing is under way."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                await self._finish([entry for entry in batch if not entry[1].done()])
        finally:
            self._worker = None
            while self._waiting:  # the loop is ending: nobody will do these any more
                self._waiting.popleft()[1].cancel()

    async def _finish(self, batch: list[tuple[Item, asyncio.Future[Result], float]]) -> None:
        """Leaves every future of the batch with a result or an exception."""
        pause = FIRST_PAUSE_SECONDS
        while batch:
            try:
                results = await self._attempt([item for item, _, _ in batch])
            except TRANSIENT as error:
                batch = self._patient(batch, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            except Exception as error:  # whatever one item did, the others must be served
                await self._isolate(batch, error)
                return
            else:
                for (_, future, _), result in zip(batch, results, strict=True):
                    self._hand_over(future, result)
                return

    def _hand_over(self, future: asyncio.Future[Result], result: Result) -> None:
        if not future.done():
            future.set_result(result)
        elif self._orphaned is not None:
            self._orphaned(result)

    async def _attempt(self, items: list[Item]) -> list[Result]:
        async with asyncio.timeout(BATCH_TIMEOUT_SECONDS), database.connection() as connection:
            return await self._run(connection, items)

    async def _isolate(self, batch: list[tuple[Item, asyncio.Future[Result], float]], error: Exception) -> None:
        """Serves a refused batch one by one; an item refused alone is repaired once, then fails."""
        if len(batch) > 1:
            for entry in batch:
                await self._finish([entry])
            return
        item, future, _ = batch[0]
        if self._repair is not None:
            try:
                (result,) = await self._attempt([self._repair(item)])
            except Exception as second:  # goes to the one who waits for it
                error = second
            else:
                self._hand_over(future, result)
                return
        logger.error("an operation on the ledger was refused: %s", type(error).__name__)
        if not future.done():
            future.set_exception(error)

    def _patient(
        self, batch: list[tuple[Item, asyncio.Future[Result], float]], error: Exception
    ) -> list[tuple[Item, asyncio.Future[Result], float]]:
        """The entries that wait on; the others fail with Unavailable. One whose waiter gave up is tried again like
        them: it may have been done although the server did not say so, and then has to be undone."""
        now = asyncio.get_running_loop().time()
        for _, future, deadline in batch:
            if deadline <= now and not future.done():
                unavailable = Unavailable("the ledger's database does not answer")
                unavailable.__cause__ = error
                future.set_exception(unavailable)
        return [entry for entry in batch if entry[2] > now and (entry[1].cancelled() or not entry[1].done())]
