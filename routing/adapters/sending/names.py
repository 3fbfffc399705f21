"""The addresses of a provider's name. Each name is looked up in a thread of its own: one that all names share waits for
as long as the servers of one name say nothing, and with it everybody who asks for another. So the internet's names keep
nobody from a server on the same machine when nobody answers for them."""

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

P = ParamSpec("P")
T = TypeVar("T")
Asked = tuple[Any, ...]  # of socket.getaddrinfo: host, port, family, type, protocol, flags
Tell = Callable[[list[Any] | None, Exception | None], None]

MOST_NAMES = 256  # at a time; any others take their turn with all other work

_under_way: dict[Asked, list[Tell]] = {}  # with all who wait for them, on whatever loop
_lock = Lock()
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def look_up(asked: Asked, tell: Tell) -> None:
    """Tells what there is, or why there is nothing, from another thread."""
    with _lock:
        if (waiting := _under_way.get(asked)) is not None:
            waiting.append(tell)
            return
        _under_way[asked] = [tell]
    try:
        Thread(target=_find, args=(asked,), daemon=True).start()
    except RuntimeError:  # the system has no thread left
        _tell_all(asked, None, OSError("the name cannot be looked up just now"))


def _find(asked: Asked) -> None:
    try:
        found = socket.getaddrinfo(*asked)
    except Exception as error:  # whatever it is, those who wait must hear of it
        _tell_all(asked, None, _why_no_socket() or error)
    else:
        _tell_all(asked, found, None)


def _why_no_socket() -> OSError | None:
    """For a name of which the system only says that it is not known, when it had no file left to ask with."""
    try:
        socket.socket().close()
    except OSError as error:
        return error
    return None


def _tell_all(asked: Asked, found: list[Any] | None, error: Exception | None) -> None:
    with _lock:
        waiting = _under_way.pop(asked, [])
    for tell in waiting:
        tell(found, error)


class _Threads(ThreadPoolExecutor):
    """The threads of an event loop, but for names."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        if work is not socket.getaddrinfo or kwargs or len(_under_way) >= MOST_NAMES:
            return super().submit(work, *args, **kwargs)
        future: Future[Any] = Future()
        look_up(args, partial(_end, future))
        return future


def _end(future: "Future[Any]", found: list[Any] | None, error: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(found)
    else:
        future.set_exception(error)


def give_threads_to_names() -> None:
    """Has whoever looks up a name on the running loop do it in this way: the HTTP client knows no other than its
    loop's. A loop that has a way of its own (uvloop) keeps it."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        _loops.add(loop)
        loop.set_default_executor(_Threads(thread_name_prefix="asyncio"))


def _forget_after_fork() -> None:
    """In a child none of these threads goes on."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = Lock()
    _under_way.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
