"""The embedded PostgreSQL, with real servers in homes of their own."""

import contextlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from ziggie import access, embedded
from ziggie.embedded_disk import Place
from ziggie.errors import ConfigurationError, Unavailable

pytestmark = pytest.mark.flow

# A user of the database in a process of its own: says when it has it, and keeps it until stdin ends.
USER = """
import sys, pathlib
from ziggie import embedded
home = pathlib.Path(sys.argv[1])
embedded.ensure_running(home)
print("ready", flush=True)
sys.stdin.read()
embedded.stop(home)
"""


def start_user(home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_ready(user: "subprocess.Popen[str]") -> None:
    assert user.stdout is not None
    assert user.stdout.readline() == "ready\n"


def end(user: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(BrokenPipeError):
        user.communicate(timeout=60)


def connect(home: Path) -> "psycopg.Connection[tuple[object, ...]]":
    target = embedded.connection_settings(home)
    return psycopg.connect(
        host=target["HOST"], port=target["PORT"], user=target["USER"], dbname=target["NAME"], autocommit=True
    )


def remember(home: Path) -> None:
    with connect(home) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS memory (word text)")
        connection.execute("INSERT INTO memory VALUES ('kept')")


def remembered(home: Path) -> int:
    with connect(home) as connection:
        row = connection.execute("SELECT count(*) FROM memory").fetchone()
    assert row is not None
    return int(str(row[0]))


def servers_of(home: Path) -> list[psutil.Process]:
    """Keepers and postmasters of this home."""
    data = str(Place.of(home).data)
    return [p for p in psutil.process_iter(["cmdline"]) if data in (p.info["cmdline"] or [])]


def postmaster_of(home: Path) -> psutil.Process:
    return psutil.Process(int((Place.of(home).data / "postmaster.pid").read_text().split()[0]))


def run_as(uid: int, *command: str, gid: int | None = None) -> int:
    group = uid if gid is None else gid
    return subprocess.run(command, user=uid, group=group, extra_groups=[], capture_output=True, check=False).returncode


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "a home with ünusual, 'quoted' name"
    yield home
    embedded.stop(home)
    wait_until(lambda: not servers_of(home))


def test_connection_settings_create_nothing(tmp_path: Path) -> None:
    settings = embedded.connection_settings(tmp_path / "nowhere")
    assert settings["NAME"] == "ziggie"
    assert settings["HOST"].startswith("/")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_home_becomes_a_database_with_vectors_that_only_its_owner_can_enter(home: Path) -> None:
    embedded.ensure_running(home)
    with connect(home) as connection:
        assert connection.execute("SELECT '[1,2]'::vector <-> '[1,3]'::vector").fetchone() == (1.0,)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    assert stat.S_IMODE(Place.of(home).sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(Place.of(home).data.stat().st_mode) == 0o700


def test_the_server_ends_with_its_last_user_and_its_data_stays(home: Path) -> None:
    first, second = start_user(home), start_user(home)
    wait_ready(first)
    wait_ready(second)
    remember(home)
    end(first)
    assert embedded.is_running(home)
    end(second)
    assert not embedded.is_running(home)
    wait_until(lambda: not servers_of(home))
    embedded.ensure_running(home)
    assert remembered(home) == 1


def test_many_first_starts_at_once_make_one_server(home: Path) -> None:
    users = [start_user(home) for _ in range(5)]
    for user in users:
        wait_ready(user)
    assert len([p for p in servers_of(home) if p.name() == "postgres"]) == 1
    for user in users:
        end(user)
        assert user.returncode == 0
    wait_until(lambda: not servers_of(home))


def test_a_killed_user_leaves_no_server_behind(home: Path) -> None:
    user = start_user(home)
    wait_ready(user)
    remember(home)
    user.kill()
    user.communicate()
    wait_until(lambda: not servers_of(home))
    embedded.ensure_running(home)
    assert remembered(home) == 1


def test_after_kill_9_of_everything_the_next_start_has_all_data(home: Path) -> None:
    user = start_user(home)
    wait_ready(user)
    remember(home)
    everything = [psutil.Process(user.pid), *servers_of(home), *postmaster_of(home).children(recursive=True)]
    for do in (psutil.Process.suspend, psutil.Process.kill):  # or those who live on would clean up behind the others
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                do(process)
    user.communicate()
    assert (Place.of(home).data / "postmaster.pid").exists()
    embedded.ensure_running(home)
    assert remembered(home) == 1


def test_a_stale_lock_whose_process_id_is_a_strangers_by_now_does_not_block(home: Path) -> None:
    embedded.ensure_running(home)
    remember(home)
    embedded.stop(home)
    place = Place.of(home)
    place.sockets.mkdir(exist_ok=True)
    account: dict[str, Any] = {"user": place.data.stat().st_uid} if os.geteuid() == 0 else {}
    other = subprocess.Popen(["sleep", "60"], **account)
    try:
        lines = [str(other.pid), str(place.data), "1700000000", "5432", str(place.sockets), "", "0 0", "ready"]
        for path in (place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join(lines) + "\n")
        (place.sockets / ".s.PGSQL.5432").touch()
        embedded.ensure_running(home)
        assert remembered(home) == 1
    finally:
        other.kill()
        other.wait()


def test_a_killed_server_comes_back_for_those_who_use_it(home: Path) -> None:
    embedded.ensure_running(home)
    remember(home)
    old = postmaster_of(home)
    old.kill()

    def is_replaced() -> bool:
        with contextlib.suppress(OSError, IndexError, psutil.NoSuchProcess):  # its file is just being written
            return embedded.is_running(home) and postmaster_of(home).pid != old.pid
        return False

    wait_until(is_replaced)
    assert remembered(home) == 1


def test_a_killed_keeper_takes_its_server_along_and_the_next_call_starts_both(home: Path) -> None:
    embedded.ensure_running(home)
    remember(home)
    next(p for p in servers_of(home) if p.name() != "postgres").kill()
    if sys.platform == "linux":
        wait_until(lambda: not embedded.is_running(home))
    embedded.ensure_running(home)
    assert embedded.is_running(home)
    assert remembered(home) == 1


def test_an_initialisation_that_was_cut_off_is_begun_again(home: Path) -> None:
    draft = Place.of(home).folder / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    embedded.ensure_running(home)
    assert embedded.is_running(home)


def test_a_path_too_long_for_a_socket_has_its_socket_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    try:
        embedded.ensure_running(home)
        sockets = Path(embedded.connection_settings(home)["HOST"])
        assert not sockets.is_relative_to(home)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert embedded.is_running(home)
    finally:
        embedded.stop(home)
    assert not sockets.exists(), "nothing stays behind in /tmp"


def test_a_strangers_folder_in_the_place_of_the_socket_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    sockets = Place.of(home).sockets
    sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="is not ours"):
            embedded.ensure_running(home)
    finally:
        sockets.unlink()
        embedded.stop(home)


def test_data_of_another_version_is_refused_in_one_line(home: Path) -> None:
    embedded.ensure_running(home)
    embedded.stop(home)
    (Place.of(home).data / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 16"):
        embedded.ensure_running(home)


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    embedded.ensure_running(home)
    embedded.stop(home)
    (Place.of(home).data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(Unavailable, match="contains errors"):
        embedded.ensure_running(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")
def test_below_a_private_folder_root_opens_the_way_for_the_servers_account_alone(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    home = private / "deeper" / "home"
    try:
        embedded.ensure_running(home)
        assert embedded.is_running(home)
        uid = postmaster_of(home).uids().real
        assert uid != 0
        assert stat.S_IMODE(private.stat().st_mode) & 0o007 == 0, "others still may not enter"
        listing = subprocess.run(
            ["ls", private], user=uid, group=uid, extra_groups=[], capture_output=True, check=False
        )
        assert listing.returncode != 0, "the server's account may pass, not look around"
    finally:
        embedded.stop(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_access_lists_keep_what_the_group_had(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o750)
    assert access.allow(folder, access.SEARCH, uid=54321, gid=54321)
    assert access.allow(folder, access.SEARCH, uid=54321, gid=54321) == "", "the second time changes nothing"
    assert access.allow(folder, access.SEARCH, uid=54322, gid=54322)

    def run(*command: str, uid: int, gid: int) -> int:
        return subprocess.run(
            command, user=uid, group=gid, extra_groups=[], capture_output=True, check=False
        ).returncode

    for above in reversed(folder.parents):
        access.allow(above, access.SEARCH, uid=54321, gid=54321)
        access.allow(above, access.SEARCH, uid=54323, gid=54323)
    assert run_as(54321, "test", "-x", str(folder)) == 0
    assert run_as(54321, "ls", str(folder)) != 0
    assert run_as(54323, "test", "-x", str(folder)) != 0
    assert run_as(54321, "ls", str(folder), gid=0) != 0, "a named entry goes before the group's"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes accounts")
def test_root_may_use_what_an_ordinary_user_made(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    probe = None
    with contextlib.suppress(OSError):
        probe = subprocess.run([sys.executable, "-c", "import ziggie"], check=False, capture_output=True, **account)
    if probe is None or probe.returncode:
        pytest.skip("this Python is out of reach for ordinary users")
    for above in reversed([*tmp_path.parents, tmp_path]):
        access.allow(above, access.SEARCH, uid=nobody.pw_uid, gid=nobody.pw_gid)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    for _ in range(2):
        run = [sys.executable, "-c", USER, str(home)]
        user = subprocess.run(run, check=False, input="", capture_output=True, text=True, **account)
        assert (user.returncode, user.stdout) == (0, "ready\n"), user.stderr
        embedded.ensure_running(home)
        assert postmaster_of(home).uids().real == nobody.pw_uid
        embedded.stop(home)


def test_signals_for_our_terminal_do_not_reach_the_server(home: Path) -> None:
    user = start_user(home)
    wait_ready(user)
    assert os.getpgid(postmaster_of(home).pid) != os.getpgid(user.pid)
    user.send_signal(signal.SIGINT)
    user.communicate()
    wait_until(lambda: not servers_of(home))
