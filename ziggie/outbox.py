"""What one live socket has still to be sent."""

import asyncio
import json
from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple

from ziggie.ids import uuid7


class _Entry(NamedTuple):
    key: str
    version: int
    frame: str


class Outbox:
    """First in, first out, at most `limit` frames. One that runs full keeps only the newest frame of each
    `key`; if that is not enough the oldest are dropped and a frame "live.gap" says so."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[_Entry] = deque()
        self._lost = False
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, *, key: str, version: int, frame: str) -> None:
        self._waiting.append(_Entry(key, version, frame))
        if len(self._waiting) > self._limit:
            self._compact()
        while len(self._waiting) > self._limit:
            self._waiting.popleft()
            self._lost = True
        self._filled.set()

    def lose(self) -> None:
        """Events may have been lost before they came here."""
        self._lost = True
        self._filled.set()

    async def take(self) -> str:
        """The next frame, as soon as there is one."""
        await self._filled.wait()
        if self._lost:
            self._lost = False
            frame = _gap_frame()
        else:
            frame = self._waiting.popleft().frame
        if not self._waiting:
            self._filled.clear()
        return frame

    def _compact(self) -> None:
        newest: dict[str, _Entry] = {}
        for entry in self._waiting:
            other = newest.pop(entry.key, None)
            newest[entry.key] = other if other is not None and other.version > entry.version else entry
        self._waiting = deque(newest.values())


def _gap_frame() -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    frame = {"topic": "live", "type": "live.gap", "object": None, "id": str(uuid7()), "version": 0, "at": at}
    return json.dumps(frame | {"data": None})
