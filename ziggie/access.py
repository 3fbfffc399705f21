"""Let one other account of this machine reach one folder, and nobody else. Needed only as root.

PostgreSQL refuses to run as root, so its server needs a way to its files below folders that only root may
enter. The way is an access-control entry for that one account; where the file system has none, the search
bit for others (which shows no names). Read access for others is never given.
"""

import os
import stat
import struct
from pathlib import Path

from ziggie.errors import ConfigurationError

READ, SEARCH = 4, 1
# The binary form of a POSIX access-control list, acl(5): a version, then (tag, permissions, id) per entry.
_ACL = "system.posix_acl_access"
_VERSION = 2
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def open_the_way(path: Path, *, uid: int, gid: int) -> list[str]:
    """Let `uid` pass every folder above `path`. One line for each folder whose permissions changed."""
    notes = []
    for folder in reversed(path.resolve().parents):
        if note := allow(folder, SEARCH, uid=uid, gid=gid):
            notes.append(note)
    return notes


def allow_tree(root: Path, *, uid: int, gid: int) -> None:
    """Let `uid` read everything below `root`, and run what its owner may run."""
    for folder, _folders, files in os.walk(root):
        allow(Path(folder), READ | SEARCH, uid=uid, gid=gid)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                run = SEARCH if path.stat().st_mode & stat.S_IXUSR else 0
                allow(path, READ | run, uid=uid, gid=gid)


def allow(path: Path, wanted: int, *, uid: int, gid: int) -> str:
    """Give `uid` the permission bits `wanted` on `path`; what was changed in words, or ""."""
    status = path.stat()
    if _plainly_allowed(status, wanted, uid=uid, gid=gid):
        return ""
    try:
        changed = _add_entry(path, status, wanted, uid)
    except (OSError, AttributeError):  # a file system, or a whole system, without these lists
        try:
            path.chmod(stat.S_IMODE(status.st_mode) | wanted)
        except OSError as error:
            raise ConfigurationError(
                f"The database's account (uid {uid}) cannot enter {path}: {error.strerror}. "
                "Set ZIGGIE_HOME to a folder that it can reach."
            ) from error
        return f"{path}: others may now enter it (its file system has no access-control lists)"
    return f"{path}: the database's account (uid {uid}) may now pass" if changed else ""


def _plainly_allowed(status: os.stat_result, wanted: int, *, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        granted = status.st_mode >> 6
    elif status.st_gid == gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted


def _add_entry(path: Path, status: os.stat_result, wanted: int, uid: int) -> bool:
    """Add or widen the entry of `uid`. False when it was there already."""
    entries = _read_entries(path, status)
    present = entries.get((_USER, uid), 0)
    mask = entries.get((_MASK, _NO_ID), 0)
    if present & mask & wanted == wanted:
        return False
    entries[(_USER, uid)] = present | wanted
    # The mask caps all but the owner and others: widening it must not widen what the entries themselves say.
    for key, permissions in entries.items():
        if key[0] in (_GROUP_OWNER, _GROUP, _USER) and key != (_USER, uid) and mask:
            entries[key] = permissions & mask
    capped = [entries[key] for key in entries if key[0] in (_USER, _GROUP_OWNER, _GROUP)]
    entries[(_MASK, _NO_ID)] = _union(capped)
    packed = b"".join(_ENTRY.pack(tag, entries[tag, who], who) for tag, who in sorted(entries))
    os.setxattr(path, _ACL, struct.pack("<I", _VERSION) + packed)
    return True


def _read_entries(path: Path, status: os.stat_result) -> dict[tuple[int, int], int]:
    try:
        raw = os.getxattr(path, _ACL)
    except OSError:
        mode = status.st_mode
        return {(_OWNER, _NO_ID): mode >> 6 & 7, (_GROUP_OWNER, _NO_ID): mode >> 3 & 7, (_OTHERS, _NO_ID): mode & 7}
    return {(tag, who): permissions for tag, permissions, who in _ENTRY.iter_unpack(raw[4:])}


def _union(permissions: list[int]) -> int:
    union = 0
    for bits in permissions:
        union |= bits
    return union
