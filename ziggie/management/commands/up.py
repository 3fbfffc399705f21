"""`manage.py up`: from an empty folder to a page that answers, then supervision until Ctrl-C.

Everything that can be refused is refused before anything starts; then the database, its tables and
rows; then this process becomes the supervisor (ziggie/supervisor.py), which needs a tenth of the memory.
"""

import os
import secrets
import socket
import sys
from argparse import ArgumentParser
from typing import Any

import psutil
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor

from knowledge.sample import ensure_sample_queued
from ziggie import checks, database, embedded, supervisor
from ziggie.commands import ZiggieCommand
from ziggie.errors import ConfigurationError, InvalidInput, Unavailable

ADMIN = "admin"
MOST_FRAME_BYTES = 4096  # of what a browser sends on the live socket: only pings


class Command(ZiggieCommand):
    help = "Starts Ziggie: database, web and workers, supervised, in the foreground."
    needs_database = False  # it has things to refuse first
    requires_system_checks = [checks.TAG]  # the others load every page, which the web process does as well

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=settings.PORT, help="default: PORT, else 8000; 0 for any")

    def handle(self, **options: Any) -> None:
        home_lock = supervisor.claim(settings.ZIGGIE_HOME)
        listener = listen(settings.HOST or "127.0.0.1", options["port"])
        check_redis()
        database.prepare()
        migrate()
        call_command("seed")
        ensure_sample_queued()
        first_login = create_first_login()
        connections.close_all()
        become_supervisor(listener, home_lock, first_login)


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. It outlives the web process: while that restarts, connections wait."""
    if not 0 <= port <= 65535:
        raise InvalidInput(f"{port} is not a port; ports are numbers from 0 to 65535.")
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unavailable(
            f"Ziggie cannot listen on {host}, port {port}: {reason}. Stop what uses it, or choose another: up --port N"
        ) from error
    return listener


def check_redis() -> None:
    if not settings.REDIS_URL:
        return
    import redis

    try:
        redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=3.0, socket_timeout=3.0).ping()
    except ValueError as error:
        raise ConfigurationError("REDIS_URL is not a Redis address such as redis://host:6379/0.") from error
    except redis.RedisError as error:
        raise Unavailable(
            f"The Redis of REDIS_URL does not answer: {error}. Start it; without REDIS_URL PostgreSQL does its work."
        ) from error


def migrate() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        sys.stderr.write("Bringing the tables up to date …\n")
        call_command("migrate", verbosity=0, interactive=False)


def create_first_login() -> str:
    """A superuser where nobody could log in yet, and the lines that say so; else ""."""
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists() or users.filter(username=ADMIN).exists():
        return ""
    password = secrets.token_urlsafe(12)
    get_user_model().objects.create_superuser(ADMIN, password=password)
    return f"\nStaff login, shown only now: {ADMIN} / {password}\nTo change it: manage.py changepassword {ADMIN}\n"


def become_supervisor(listener: socket.socket, home_lock: int, first_login: str) -> None:
    """Never returns."""
    settings.STATIC_ROOT.mkdir(exist_ok=True)  # whitenoise complains of its absence
    os.chdir(settings.BASE_DIR)
    os.environ["ZIGGIE_HOME"] = str(settings.ZIGGIE_HOME)  # it may have been relative to where we were
    host, port = listener.getsockname()[:2]
    # What listens on every address is reached on this machine's own.
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    shown = f"[{reached}]" if ":" in reached else reached
    web = [sys.executable, "-m", "daphne", "-v", "0", "--fd", str(listener.fileno())]
    web += ["--websocket-max-message-size", str(MOST_FRAME_BYTES), "ziggie.asgi:application"]
    specification = supervisor.Specification(
        programs={"web": web, "worker": [sys.executable, str(settings.BASE_DIR / "manage.py"), "worker"]},
        ready_address=(reached, port),
        ready_path="/healthz",
        announcement=f"\nZiggie answers at http://{shown}:{port}/ ({{seconds}} s after the start; Ctrl-C stops it)\n",
        first_login=first_login,
        database_home="" if settings.DATABASE_URL else str(settings.ZIGGIE_HOME),
        database_lease=-1 if settings.DATABASE_URL else embedded.lease(settings.ZIGGIE_HOME),
        inherited=[listener.fileno()],
        began_at=psutil.Process().create_time(),
    )
    supervisor.replace_this_process(specification, keep=[home_lock])
