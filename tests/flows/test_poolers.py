"""PgBouncer between Ziggie and PostgreSQL: a session of one's own serves, one that is shared is refused."""

import asyncio
import getpass
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from routing import database
from tests.flows.system import ROOT
from tests.ziggie.live_process import database_url
from ziggie.database import check_external, check_sessions, refuse_shared_sessions
from ziggie.errors import ConfigurationError, Unavailable

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SERVER = "ziggie-postgres"  # the account of the embedded server where we are root, who may not run PgBouncer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed"),
]


@contextmanager
def pooled(folder: Path, mode: str, more: str = "") -> Iterator[None]:
    """Django's database, and so Ziggie's, is reached through a PgBouncer meanwhile."""
    settings = connections["default"].settings_dict
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    password = f" password={settings['PASSWORD']}" if settings["PASSWORD"] else ""
    account = SERVER if os.geteuid() == 0 else getpass.getuser()
    (folder / "ini").write_text(
        f"[databases]\n{settings['NAME']} = host={settings['HOST']} port={settings['PORT'] or 5432} "
        f"user={settings['USER']}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\n{more}"
    )
    for path in (folder, folder / "ini"):
        os.chown(path, pwd.getpwnam(account).pw_uid, -1)
    switch = ["-u", account] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(PGBOUNCER), *switch, str(folder / "ini")], stdout=log, stderr=log)
    before = {name: settings[name] for name in ("HOST", "PORT", "OPTIONS")}
    try:
        _wait_for(port, process, folder / "log")
        connection.close()
        settings.update(HOST="127.0.0.1", PORT=port, OPTIONS={})
        yield
    finally:
        connection.close()
        settings.update(before)
        process.terminate()
        process.wait(60)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError("PgBouncer does not listen")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where another account may read: pytest's own folders are closed to all others."""
    if os.geteuid() == 0:
        for above in (tmp_path, *tmp_path.parents):
            if above.stat().st_uid == 0 and str(above).startswith(str(Path(os.environ.get("TMPDIR", "/tmp")))):
                above.chmod(above.stat().st_mode | 0o011)
    return tmp_path


async def _timeout() -> Any:
    own = await database.connect()
    try:
        return await (await own.execute("SHOW statement_timeout")).fetchone()
    finally:
        await own.close()


def test_a_pooler_that_gives_sessions_serves_as_postgresql_itself(folder: Path) -> None:
    with pooled(folder, "session"):
        refuse_shared_sessions()
        assert asyncio.run(_timeout()) == ("15s",)


def test_a_pooler_that_shares_sessions_is_refused_with_a_word_on_what_to_do(folder: Path) -> None:
    with pooled(folder, "transaction"), pytest.raises(ConfigurationError, match="pool_mode = session"):
        refuse_shared_sessions()


def test_a_pooler_that_lends_its_connections_by_turns_is_refused(folder: Path) -> None:
    with pooled(folder, "transaction", "server_round_robin = 1\nmin_pool_size = 2\n"):
        other = connection.copy()
        with other.cursor() as held, connection.cursor() as cursor:  # so that there are two to be lent
            held.execute("BEGIN")
            cursor.execute("SELECT 1")
            held.execute("ROLLBACK")
        other.close()
        for _ in range(10):
            with pytest.raises(ConfigurationError, match="pool_mode = session"):
                refuse_shared_sessions()


def daphne() -> "subprocess.CompletedProcess[str]":
    """A web server of its own, on the database as it is reached now, if it refuses to start."""
    env = {**os.environ, "DATABASE_URL": database_url(connections["default"].settings_dict)}
    env["DJANGO_SETTINGS_MODULE"] = "ziggie.settings"
    command = [sys.executable, "-m", "daphne", "-p", "0", "-b", "127.0.0.1", "ziggie.asgi:application"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_web_server_does_not_start_behind_a_pooler_that_shares_sessions(folder: Path) -> None:
    with pooled(folder, "transaction"):
        ended = daphne()
    assert ended.returncode != 0
    assert "pool_mode = session" in ended.stderr


def test_a_web_server_starts_while_its_database_is_away(settings: Any) -> None:
    settings.DATABASE_URL = "postgres://one@localhost/ziggie"
    with altered(HOST="127.0.0.1", PORT="1"):
        check_sessions()


def test_a_web_server_starts_though_its_database_says_nothing(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is frozen, or its network is: whoever connects is let in by the system, and hears nothing."""
    monkeypatch.setattr("ziggie.database.CHECK_SECONDS", 0.2)
    settings.DATABASE_URL = "postgres://one@localhost/ziggie"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with altered(HOST="127.0.0.1", PORT=str(silent.getsockname()[1])):
            check_sessions()
            accepted, _ = silent.accept()
        accepted.close()


@contextmanager
def altered(**changes: Any) -> Iterator[None]:
    """Django's database, and so Ziggie's, is asked for in another way meanwhile."""
    settings = connections["default"].settings_dict
    before = {name: settings[name] for name in changes}
    connection.close()
    settings.update(changes)
    try:
        yield
    finally:
        connection.close()
        settings.update(before)


def test_a_time_limit_that_the_address_names_holds() -> None:
    with altered(OPTIONS={"options": "-c statement_timeout=60000"}):
        assert asyncio.run(_timeout()) == ("1min",)
    assert asyncio.run(_timeout()) == ("15s",)


def test_an_account_that_may_not_open_two_connections_is_told_so(settings: Any) -> None:
    settings.DATABASE_URL = "postgres://one@localhost/ziggie"
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE one_only LOGIN CONNECTION LIMIT 1 PASSWORD 'one'")
    try:
        with altered(USER="one_only", PASSWORD="one"), pytest.raises(Unavailable, match="too many connections"):
            check_external()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE one_only")


def test_postgresql_itself_is_no_pooler() -> None:
    refuse_shared_sessions()
