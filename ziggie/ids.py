"""Identifiers: UUIDv7, so that rows sort by the time they were made."""

import os
import struct
import time
import uuid
from collections import deque
from datetime import datetime

_VERSION = 7 << 76
_VARIANT = 2 << 62
_AT_ONCE = 512

_chances: deque[int] = deque()  # asked of the system in bulk: it costs a system call
os.register_at_fork(after_in_child=_chances.clear)


def uuid7() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562): milliseconds, 12 bits of what lies below them, 62 random bits."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    below = (nanoseconds * 4096 // 1_000_000) << 64
    return _made(milliseconds << 80 | _VERSION | below | _VARIANT | _chance() >> 2)


def _made(number: int) -> uuid.UUID:
    """The UUID of a number that is known to be one: its own constructor looks at six ways to say it, which takes
    longer than all the rest."""
    made = object.__new__(uuid.UUID)
    object.__setattr__(made, "int", number)
    object.__setattr__(made, "is_safe", uuid.SafeUUID.unknown)
    return made


def _chance() -> int:
    """64 random bits that nobody else gets."""
    try:
        return _chances.popleft()
    except IndexError:
        fresh: tuple[int, ...] = struct.unpack(f"{_AT_ONCE}Q", os.urandom(8 * _AT_ONCE))
        _chances.extend(fresh[1:])
        return fresh[0]


def derived(parent: uuid.UUID, name: str) -> uuid.UUID:
    """Always the same UUIDv7 for the same parent and name; it sorts with its parent's time."""
    chance = uuid.uuid5(parent, name).int
    time_bits = parent.int >> 80 << 80
    return uuid.UUID(int=time_bits | _VERSION | (chance & (0xFFF << 64)) | _VARIANT | (chance & ((1 << 62) - 1)))


def first_uuid7(moment: datetime) -> uuid.UUID:
    """The lowest UUIDv7 of a moment's millisecond: ids made before it are lower."""
    return uuid.UUID(int=max(int(moment.timestamp() * 1000), 0) << 80 | _VERSION | _VARIANT)
