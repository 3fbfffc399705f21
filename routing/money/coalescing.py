"""Many small database operations as few statements: what arrives while one batch is under way forms the next.

Each caller still waits for its own operation to be committed. One bad operation never fails its neighbours,
and a server that is away for a moment is waited for. A lane has a connection of its own (lines.py).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import psycopg

from routing.money.lines import Line
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
    psycopg.errors.ReadOnlySqlTransaction,  # a standby by now
)


class Run(Protocol[Item, Result]):
    """Does a batch in one transaction; one result an item. `again`: an earlier attempt at the same batch broke
    off, so that it may have been done."""

    def __call__(self, line: Line, items: list[Item], /, *, again: bool) -> Coroutine[Any, Any, list[Result]]: ...


class Lane(Generic[Item, Result]):
    """One kind of operation on one event loop, one batch at a time.

    `patience_seconds` is how long an operation waits for a server that is away before it fails with
    Unavailable. Operations for which nobody waits are gathered for `gather_seconds`, so that their batches
    are few and large and do not keep up those for which somebody waits; one for which somebody does begins at once
    (`hurry`). `repair` makes an item that the database refuses as data acceptable. An item whose waiter gave up is
    dropped while it still queues, unless the lane is `steadfast`; if it was done all the same, `orphaned` is told.
    `given_up` is told of an item for which the server was away for too long: it may have been done or not.
    """

    def __init__(
        self,
        run: Run[Item, Result],
        *,
        patience_seconds: float,
        gather_seconds: float = 0.0,
        repair: Callable[[Item], Item] | None = None,
        orphaned: Callable[[Result], None] | None = None,
        given_up: Callable[[Item], None] | None = None,
        steadfast: bool = False,
    ) -> None:
        self._run = run
        self._line = Line()
        self._patience_seconds = patience_seconds
        self._gather_seconds = gather_seconds
        self._in_hurry = False
        self._pause: asyncio.Future[None] | None = None
        self._newest: asyncio.Future[Result] | None = None
        self._room: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that it is of
        self._repair = repair
        self._steadfast = steadfast
        self._orphaned = orphaned
        self._given_up = given_up
        self._waiting: deque[tuple[Item, asyncio.Future[Result], float]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, item: Item, *, hurry: bool = True) -> asyncio.Future[Result]:
        """The future result. Raises Unavailable at once if too much waits already."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many operations wait for the database")
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future = self._newest = loop.create_future()
        self._waiting.append((item, future, loop.time() + self._patience_seconds))
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        if hurry or len(self._waiting) >= MAX_BATCH:
            self._hurry()
        return future

    async def caught_up(self, within_seconds: float) -> None:
        """Returns once all that was submitted before is done, or after that time."""
        if self._newest is not None and not self._newest.done():
            self._hurry()
            await asyncio.wait([self._newest], timeout=within_seconds)

    @property
    def is_behind(self) -> bool:
        """Whether more waits than goes into the next batch."""
        return len(self._waiting) > MAX_BATCH

    async def room(self, within_seconds: float) -> None:
        """Returns once it is not behind, for those who are about to bring more. Raises Unavailable."""
        until = asyncio.get_running_loop().time() + within_seconds
        while self.is_behind:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.shield(self._room)
            except TimeoutError:
                raise Unavailable("too many operations wait for the database") from None

    def _hurry(self) -> None:
        self._in_hurry = True
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._worker is None

    async def idle(self) -> None:
        """Returns once nothing waits and nothing is under way."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._gather_seconds and not self._in_hurry:
                    await self._gather()
                self._in_hurry = False
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                self._tell_of_room()
                await self._finish([entry for entry in batch if self._steadfast or not entry[1].done()])
        finally:
            self._worker = None
            while self._waiting:  # the loop is ending: nobody will do these any more
                self._waiting.popleft()[1].cancel()
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        if self._room is not None and not self.is_behind and not self._room.done():
            self._room.set_result(None)

    async def _gather(self) -> None:
        """Waits until what came first has waited long enough, or somebody is in a hurry."""
        loop = asyncio.get_running_loop()
        since = self._waiting[0][2] - self._patience_seconds  # when the first of them came
        self._pause = loop.create_future()
        await asyncio.wait([self._pause], timeout=max(since + self._gather_seconds - loop.time(), 0.0))
        self._pause = None

    async def _finish(self, batch: list[tuple[Item, asyncio.Future[Result], float]], *, again: bool = False) -> None:
        """Leaves every future of the batch with a result or an exception."""
        pause = FIRST_PAUSE_SECONDS
        while batch:
            try:
                results = await self._attempt([item for item, _, _ in batch], again=again)
            except TRANSIENT as error:
                again = True
                batch = self._patient(batch, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            except Exception as error:  # whatever one item did, the others must be served
                await self._isolate(batch, error, again=again)
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

    async def _attempt(self, items: list[Item], *, again: bool) -> list[Result]:
        """A server that says nothing for too long is given up by closing the line, which is an OperationalError."""
        assert self._loop is not None
        too_long = self._loop.call_later(BATCH_TIMEOUT_SECONDS, self._line.close)
        try:
            return await self._run(self._line, items, again=again)
        finally:
            too_long.cancel()

    async def _isolate(
        self, batch: list[tuple[Item, asyncio.Future[Result], float]], error: Exception, *, again: bool
    ) -> None:
        """Serves a refused batch one by one; an item refused alone is repaired once, then fails."""
        if len(batch) > 1:
            for entry in batch:
                await self._finish([entry], again=again)
            return
        item, future, _ = batch[0]
        if self._repair is not None:
            try:
                (result,) = await self._attempt([self._repair(item)], again=again)
            except Exception as second:  # goes to the one who waits for it
                error = second
                if isinstance(second, TRANSIENT) and self._given_up is not None:
                    self._given_up(item)
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
        for item, future, deadline in batch:
            if deadline > now:
                continue
            if not future.done():
                unavailable = Unavailable("the ledger's database does not answer")
                unavailable.__cause__ = error
                future.set_exception(unavailable)
            if self._given_up is not None:
                self._given_up(item)
        return [entry for entry in batch if entry[2] > now and (entry[1].cancelled() or not entry[1].done())]
