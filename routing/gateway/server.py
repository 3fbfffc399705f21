"""The gateway as a server of its own: uvicorn's processes, signals and sockets, uvloop, and our own connections."""

import gc
import os
from collections.abc import Awaitable
from typing import Any

import django
import uvicorn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ziggie.gateway_settings")
django.setup()

from routing.gateway import app  # noqa: E402 - needs the app registry
from routing.gateway.http import Http, Receive, Scope, Send  # noqa: E402 - the same
from routing.gateway.protocol import Connection  # noqa: E402 - the same

STOP_SECONDS = 20
BACKLOG = 2048

# A request makes some hundreds of short-lived objects and no cycles. With Python's own thresholds the collector
# walks all of Django's objects again and again, which costs a quarter of the time.
COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER = 20_000, 20, 100


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The gateway in a process of its own."""
    if scope["type"] == "lifespan":
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, COLLECT_OLDER_AFTER, COLLECT_OLDEST_AFTER)
    await app.application(scope, receive, send)


class GatewayConnection(Connection):
    def serve(self, http: Http) -> Awaitable[None]:
        return app.serve(http)


def serve(*, host: str, port: int, workers: int) -> None:
    """Runs until SIGINT or SIGTERM; calls that are under way are finished first."""
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
        "backlog": BACKLOG,
    }
    uvicorn.run("routing.gateway.server:application", **options)
