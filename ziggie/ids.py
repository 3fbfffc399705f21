"""Identifiers: UUIDv7, so that rows sort by the time they were made."""

import uuid

from uuid6 import uuid7 as _uuid7


def uuid7() -> uuid.UUID:
    """A new UUIDv7 as a plain uuid.UUID (the driver does not know uuid6's subclass)."""
    return uuid.UUID(int=_uuid7().int)
