"""One event loop on a thread of its own in each process, for connections that outlive a request's loop.

Synchronous code, request loops and the short loops of `async_to_sync` all share what lives here, so
that a process holds one connection where it would otherwise open one for each loop. After a fork
the child starts a loop of its own on first use and never touches its parent's.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_SECONDS = 1.0


class BackgroundLoop:
    """An event loop that runs on a daemon thread until the process ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="ziggie-background", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start `work` on the loop, from any thread; the future also cancels it."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` on the loop, from whichever loop the caller runs on."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        return await asyncio.wrap_future(self.submit(work))

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


_current: BackgroundLoop | None = None
_starting = threading.Lock()
# A forked child keeps its parent's loop referenced: collecting it would unregister descriptors
# from the epoll instance that parent and child share, and so deafen the parent.
_inherited: list[BackgroundLoop] = []


def background_loop() -> BackgroundLoop:
    """The loop of this process, started on first use."""
    global _current  # noqa: PLW0603 - one per process is the point
    with _starting:
        if _current is None:
            _current = BackgroundLoop()
        return _current


def _forget_after_fork() -> None:
    global _current, _starting  # noqa: PLW0603 - the child's thread and lock are not its parent's
    _starting = threading.Lock()
    if _current is not None:
        _inherited.append(_current)
        _current = None


def _stop_at_exit() -> None:
    if _current is not None:
        _current.stop()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_stop_at_exit)
