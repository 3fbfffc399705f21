"""A database that is fit for use before a command begins: the embedded one, or that of DATABASE_URL.

What is wrong with it is said in one line (docs/operations.md lists them); a password is never part of it.
"""

from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any

from django.conf import settings
from django.db import DatabaseError, NotSupportedError, OperationalError, ProgrammingError, connection

from ziggie import embedded
from ziggie.embedded_disk import Place
from ziggie.errors import ConfigurationError, Unavailable, ZiggieError

OLDEST_VERSION = 15
CHECK_SECONDS = 5.0


def prepare() -> None:
    """Return once the database answers, is new enough and has the extension `vector`."""
    if settings.DATABASE_URL:
        check_external()
    else:
        embedded.ensure_running(settings.ZIGGIE_HOME)


def check_external() -> None:
    try:
        connection.ensure_connection()
    except NotSupportedError as error:  # Django's own, lower limit
        raise _too_old(str(error)) from error
    except OperationalError as error:
        raise explain(error) from error
    except UnicodeError as error:  # of looking up a host
        raise ConfigurationError(f"DATABASE_URL names a host that cannot be looked up: {error}.") from error
    if server_version() < OLDEST_VERSION:
        raise _too_old(f"this is PostgreSQL {server_version()}")
    try:
        refuse_shared_sessions()
    except OperationalError as error:  # a second connection may be one too many
        raise explain(error) from error
    ensure_vector()


def refuse_shared_sessions() -> None:
    """Raises ConfigurationError behind a pooler that lends its connections for one transaction at a time: each of ours
    has a process of PostgreSQL to itself otherwise. A pooler that lends its own by turns shows it to who asks twice."""
    other = connection.copy()
    try:
        seen = {(one is other, _backend(one)) for one in (connection, connection, other) * 5}
    finally:
        other.close()
    if len(seen) > 2 or len({backend for _, backend in seen}) < 2:
        raise ConfigurationError(
            "DATABASE_URL leads to a pooler that shares its connections between transactions (PgBouncer: "
            "pool_mode = transaction). Ziggie listens, locks and prepares statements on its connections: "
            "set pool_mode = session, or name PostgreSQL itself."
        )


def check_sessions() -> None:
    """For a web server, which no command of ours may have started. Raises ConfigurationError as refuse_shared_sessions
    does; a database that is away, or says nothing for CHECK_SECONDS, is no reason not to start: requests wait for it,
    or say so."""
    if settings.DATABASE_URL:
        checked: Future[None] = Future()
        # The server's own thread may run an event loop already, and must not wait for this one at the end either.
        Thread(target=_check_sessions, args=(checked,), daemon=True).start()
        with suppress(TimeoutError):
            checked.result(CHECK_SECONDS)


def _check_sessions(checked: Future[None]) -> None:
    try:
        with suppress(DatabaseError):
            refuse_shared_sessions()
    except Exception as error:
        checked.set_exception(error)
    else:
        checked.set_result(None)
    finally:
        connection.close()


def _backend(of: Any) -> int:
    with of.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def server_version() -> int:
    """The major version of the connected server."""
    connection.ensure_connection()
    return int(connection.connection.info.server_version) // 10_000


def ensure_vector() -> None:
    """Create the extension where it is missing and this account may."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'")
        if cursor.fetchone():
            return
        try:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except DatabaseError as error:
            raise ConfigurationError(
                "The database of DATABASE_URL has no extension vector, and it cannot be created "
                f"({_first_line(error)}). "
                "Install pgvector on its server, then let its administrator run: CREATE EXTENSION vector;"
            ) from error


def explain(error: DatabaseError) -> ZiggieError:
    """The one line for a database that failed in the middle of something."""
    if isinstance(error, ProgrammingError) and "does not exist" in str(error):
        return ConfigurationError(f"A table or column is missing ({_first_line(error)}); run: manage.py migrate")
    if not settings.DATABASE_URL:
        log = Place.of(settings.ZIGGIE_HOME).log
        return Unavailable(f"The embedded database failed: {_first_line(error)} (more in {log}); run: manage.py doctor")
    target = settings.DATABASES["default"]
    place = f"{target['HOST'] or 'local socket'}:{target['PORT'] or 5432}/{target['NAME']}"
    return Unavailable(
        f"The database of DATABASE_URL ({place}) does not answer: {_first_line(error)}. "
        "Start it or correct DATABASE_URL; without DATABASE_URL the embedded database is used."
    )


def _too_old(found: str) -> ConfigurationError:
    return ConfigurationError(f"DATABASE_URL: Ziggie needs PostgreSQL {OLDEST_VERSION} or newer; {found}.")


def _first_line(error: Exception) -> str:
    """The telling line of a libpq message, which may hold several attempts and hints."""
    lines = [line.strip(" \t-") for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "failed:" in line.partition("connection failed:")[2]]
    return (telling or lines or [type(error).__name__])[0].removeprefix("connection failed: ").rstrip(".")[:300]
