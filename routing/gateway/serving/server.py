"""The gateway as a server of its own: uvicorn's processes, signals and sockets, uvloop, and our own connections."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

import django
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess, multiprocess

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.gateway_settings")
django.setup()

from routing.gateway import app  # noqa: E402 - needs the app registry
from routing.gateway.exchange.http import Http, Receive, Scope, Send  # noqa: E402 - the same
from routing.gateway.exchange.sockets import allow_many  # noqa: E402 - the same
from routing.gateway.serving.protocol import Connection  # noqa: E402 - the same
from routing.gateway.serving.refusals import UNREAD, refusal  # noqa: E402 - the same
from ziggie.errors import ConfigurationError  # noqa: E402 - the same

STOP_SECONDS = 20
START_SECONDS = 30  # a worker that says nothing for so long is replaced; on a busy machine one needs some to begin
BACKLOG = 2048

# A request makes some hundreds of short-lived objects and no cycles. With Python's own thresholds the collector
# walks all of Django's objects again and again, which costs a quarter of the time.
COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER = 20_000, 10, 10


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The gateway in a process of its own."""
    if scope["type"] == "lifespan":
        if parent_process() is not None:  # the supervisor, which hears of a closed terminal too, answers for all
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER)
    await app.application(scope, receive, send)


class GatewayConnection(Connection):
    def serve(self, http: Http) -> Awaitable[None]:
        return app.serve(http)

    def refusal(self, status: int, url: bytes) -> bytes:
        return refusal(UNREAD[status], url)


class _Stop:
    """What a signal does until uvicorn answers it. It is remembered: where it comes amid a callback of the collector,
    what is raised there goes nowhere."""

    was_asked = False

    def __call__(self, *_: Any) -> None:
        self.was_asked = True
        sys.exit(0)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: _Stop) -> None:
        super().__init__(config)
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.should_exit = self.should_exit or self._stop.was_asked
        await super().startup(sockets)


class Worker(multiprocess.Process):
    """One of several. uvicorn's own waits for the answer of one that has died meanwhile, for as long as another may
    take to begin: nobody replaces any worker, or hears a signal, until then."""

    def _healthcheck(self, timeout: float) -> bool | None:
        try:
            self.parent_conn.send(b"ping")
            wait([self.parent_conn, self.process.sentinel], timeout)
            return bool(self.parent_conn.recv()) if self.parent_conn.poll() else None
        except (OSError, EOFError):
            return None


def _stop_when_hung_up() -> None:
    """A terminal that closes says so with SIGHUP, which ends a process at once, and its calls with it; not one that was
    started by nohup. uvicorn's supervisor of several workers has an answer of its own: it begins them anew by turns."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def serve(*, host: str, port: int, workers: int) -> None:
    """Runs until SIGINT or SIGTERM, and returns or exits with 0; calls that are under way are finished first, as far
    as that takes no longer than STOP_SECONDS. Raises ConfigurationError where no worker could start."""
    allow_many()
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn answers signals itself while it runs, and sends them to whoever was there before when it is done.
        signal.signal(number, stop)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "http": GatewayConnection,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_graceful_shutdown": STOP_SECONDS,
        "timeout_worker_healthcheck": START_SECONDS,
        "backlog": BACKLOG,
    }
    has_failed = False
    config = uvicorn.Config("routing.gateway.serving.server:application", **options)
    if workers == 1:
        _stop_when_hung_up()
        # the loop's own socket of :: would be deaf to IPv4, as those of several workers and of the web server are not
        sockets = [config.bind_socket()] if ":" in host else None
        try:
            _Server(config, stop).run(sockets)
        except SystemExit as end:
            has_failed = end.code == STARTUP_FAILURE
    else:
        multiprocess.Process = Worker  # type: ignore[misc]  # the supervisor takes them by this name
        supervisor = Multiprocess(config, sockets=[config.bind_socket()])
        supervisor.run()
        has_failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    if has_failed:
        raise ConfigurationError("the gateway could not start; the log says why")
