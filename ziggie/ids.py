"""Identifiers: UUIDv7, so that rows sort by the time they were made."""

import os
import time
import uuid
from datetime import datetime

_VERSION = 7 << 76
_VARIANT = 2 << 62


def uuid7() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562): milliseconds, 12 bits of what lies below them, 62 random bits."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    below = (nanoseconds * 4096 // 1_000_000) << 64
    chance = int.from_bytes(os.urandom(8), "big") >> 2
    return uuid.UUID(int=milliseconds << 80 | _VERSION | below | _VARIANT | chance)


def derived(parent: uuid.UUID, name: str) -> uuid.UUID:
    """Always the same UUIDv7 for the same parent and name; it sorts with its parent's time."""
    chance = uuid.uuid5(parent, name).int
    time_bits = parent.int >> 80 << 80
    return uuid.UUID(int=time_bits | _VERSION | (chance & (0xFFF << 64)) | _VARIANT | (chance & ((1 << 62) - 1)))


def first_uuid7(moment: datetime) -> uuid.UUID:
    """The lowest UUIDv7 of a moment's millisecond: ids made before it are lower."""
    return uuid.UUID(int=max(int(moment.timestamp() * 1000), 0) << 80 | _VERSION | _VARIANT)
