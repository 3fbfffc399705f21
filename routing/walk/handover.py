"""Getting what must be given back, by callers who may be cancelled at any moment."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_going: set[asyncio.Task[Any]] = set()  # a loop itself keeps no task alive


async def owned(getting: Coroutine[Any, Any, T], give_back: Callable[[T], Coroutine[Any, Any, Any]]) -> T:
    """What `getting` gets. A caller who is cancelled owns nothing: what is got all the same, if only between its
    being there and the caller's waking up, is given back beside it."""
    attempt = beside(getting)
    try:
        return await asyncio.shield(attempt)
    except asyncio.CancelledError:
        attempt.add_done_callback(lambda done: _return(done, give_back))
        raise


def beside(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task that goes on to its end, whoever stops waiting for it."""
    task = asyncio.get_running_loop().create_task(work)
    _going.add(task)
    task.add_done_callback(_going.discard)
    return task


def _return(done: "asyncio.Task[T]", give_back: Callable[[T], Coroutine[Any, Any, Any]]) -> None:
    if not done.cancelled() and done.exception() is None:
        beside(give_back(done.result()))
