"""Cancelling a piece of work at every place where it waits, one run after the other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Literal

Moment = Literal["waiting", "woken"]
MOST_PLACES = 500


class _Cancelled:
    """Awaits `work` and cancels the task that does so at its n-th wait.

    "waiting": while what it waits for is not there. "woken": when it is there, and before the task has run on:
    the moment in which a result can get lost.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], place: int, moment: Moment) -> None:
        self.work, self.place, self.moment = work, place, moment
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.work.__await__()
        send: Callable[[], Any] = lambda: next(steps)  # noqa: E731 - what to do with the work next
        waits = 0
        while True:
            try:
                waited_for = send()
            except StopIteration as end:
                return end.value
            waits += 1
            if waits == self.place:
                self.reached = True
                self._cancel(waited_for)
            try:
                value = yield waited_for
            except BaseException as error:  # goes to the work, as it would without us
                send = _thrower(steps, error)
            else:
                send = _sender(steps, value)

    def _cancel(self, waited_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.moment == "woken" and isinstance(waited_for, asyncio.Future):
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


def _thrower(steps: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


def _sender(steps: Generator[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: steps.send(value)


async def cancelled_everywhere(
    work: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[str], Awaitable[None]], *, every: int = 1
) -> int:
    """Runs `work` anew for each of its waits and cancels it there, at both moments; `check` is told which and looks
    at what is left. Returns how many waits there were."""
    place = 1
    while place < MOST_PLACES:
        for moment in ("waiting", "woken"):
            step = _Cancelled(work(), place, moment)
            task = asyncio.ensure_future(_run(step))
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
            await check(f"wait {place}, {moment}")
            if not step.reached:
                return place
        place += every
    raise AssertionError(f"more than {MOST_PLACES} waits")


async def _run(step: _Cancelled) -> Any:
    return await step


async def settles(look: Callable[[], AsyncIterator[Any] | Awaitable[Any]], wanted: Any, seconds: float = 60.0) -> Any:
    """What `look` sees once it is what is wanted; what it saw last if that takes too long."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()  # type: ignore[misc]
        if seen == wanted or asyncio.get_running_loop().time() > deadline:
            return seen
        await asyncio.sleep(0.01)
