"""`manage.py gateway`: the gateway alone, for speed and for replicas."""

import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.db import connection

from routing.configuration import snapshot
from ziggie.checks import TAG
from ziggie.commands import ZiggieCommand
from ziggie.errors import ConfigurationError, InvalidInput

MAX_WORKERS = 256
DEFAULT_PORT = 8400


class Command(ZiggieCommand):
    requires_system_checks = (TAG,)  # Django's own are of pages and admin, which this process has not
    help = "Serves /v1/ alone, without pages and REST, as fast as it goes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=settings.HOST or "127.0.0.1")
        parser.add_argument("--port", type=int, default=DEFAULT_PORT)
        parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: 1")

    def handle(self, **options: Any) -> None:
        host, port, workers = options["host"], options["port"], options["workers"]
        if not 0 <= port < 65_536:
            raise InvalidInput("--port: must be from 0 to 65535")
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidInput(f"--workers: must be from 1 to {MAX_WORKERS}")
        port = _free_port(host, port)
        snapshot.load()  # what is wrong with the configuration is said in one line, before any worker starts
        connection.close()
        from routing.gateway.serving.server import serve

        shown = f"[{host}]" if ":" in host else host
        self.stdout.write(f"The gateway listens on http://{shown}:{port}/v1 ({workers} worker(s)).")
        self.stdout.flush()
        serve(host=host, port=port, workers=workers)


def _free_port(host: str, port: int) -> int:
    """This port, or for 0 any that is free. Raises ConfigurationError where nobody could listen: uvicorn says so in a
    log and ends with a code of its own."""
    family, is_both = (socket.AF_INET6, socket.has_dualstack_ipv6()) if ":" in host else (socket.AF_INET, False)
    try:
        with socket.create_server((host, port), family=family, dualstack_ipv6=is_both) as server:
            found: int = server.getsockname()[1]
            return found
    except OSError as error:
        raise ConfigurationError(f"the gateway cannot listen on {host}:{port}: {error.strerror or error}") from error
