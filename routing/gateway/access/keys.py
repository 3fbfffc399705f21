"""API keys in memory: looked up by hash, and again as soon as the configuration's epoch moves."""

import asyncio
import hashlib
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg

from routing import database
from routing.configuration.epochs import ear
from routing.loops import OfLoop, look_away
from ziggie.errors import Forbidden, Unauthorized
from ziggie.guesses import MOST_TOLD, TELL
from ziggie.values import value

CHECK_SECONDS = 0.5
UNKNOWN_CHECK_SECONDS = 0.02  # for an unknown key the database is looked at this often
STALE_SECONDS = 2.0  # older than this nobody is served from memory
SCOPE = "gateway"
USED_RESOLUTION_SECONDS = 60.0
USED_SECONDS = 3.0  # a use is written down so soon, whether or not another request comes
USUAL_STREAMS = 4_000
KEPT_SEEN = 1_000

EPOCH = "SELECT epoch FROM routing_configepoch WHERE id = 1"
KEYS = """
SELECT secret.key_hash, k.id, k.name, k.scopes, k.allowed_models, k.requests_per_minute, k.tokens_per_minute,
       k.max_streams, least(k.expires_at, secret.valid_until)
FROM ziggie_apikey k CROSS JOIN LATERAL (
    SELECT k.key_hash, NULL::timestamptz AS valid_until
    UNION ALL SELECT f.key_hash, f.valid_until FROM ziggie_formersecret f WHERE f.key_id = k.id
) AS secret WHERE k.enabled
"""
# A key that somebody is changing just now is passed over: no look may wait for that.
USED = """
UPDATE ziggie_apikey SET last_used_at = now()
WHERE id IN (SELECT id FROM ziggie_apikey WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) RETURNING id
"""


@value
class Key:
    """A usable API key, as one of its secrets opens it."""

    id: str
    name: str
    scopes: frozenset[str]
    allowed_models: frozenset[str]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_streams: int
    expires_at: datetime | None  # of the key or of this secret, whichever is earlier


class KeyBook:
    """The keys of one event loop."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Key] = {}
        self._epoch = -1
        self._checked_at = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._used: dict[str, float] = {}  # when it was written that a key was used; 0.0 until it is
        self._seen: list[str] = []  # keys and from where they were used, for the other processes
        self._writing: asyncio.TimerHandle | None = None
        ear().follow(self._expire)

    def at_hand(self, raw_key: str) -> Key | None:
        """A usable key, where nobody has to look for it or at the database."""
        key = self._keys.get(_digest(raw_key))
        if (
            key is None
            or SCOPE not in key.scopes
            or time.monotonic() - self._checked_at >= CHECK_SECONDS
            or (key.expires_at is not None and key.expires_at <= datetime.now(UTC))
        ):
            return None
        self._note_use(key)
        return key

    async def authenticate(self, raw_key: str) -> Key:
        """Raises Unauthorized, or Forbidden for a key without the scope."""
        digest = _digest(raw_key)
        age = time.monotonic() - self._checked_at
        if age >= STALE_SECONDS:
            await self.look()
        elif age >= CHECK_SECONDS:
            self._start_refresh().add_done_callback(look_away)
        key = self._keys.get(digest) or await self._made_just_now(digest)
        if key is None or (key.expires_at is not None and key.expires_at <= datetime.now(UTC)):
            raise Unauthorized("this API key is unknown, disabled or expired")
        if SCOPE not in key.scopes:
            raise Forbidden(f"this API key lacks the scope {SCOPE!r}")
        self._note_use(key)
        return key

    async def _made_just_now(self, digest: bytes) -> Key | None:
        """What a look finds that has not begun before now, or hardly."""
        since = time.monotonic() - UNKNOWN_CHECK_SECONDS
        while self._checked_at < since:  # one that was under way has perhaps not seen it
            await self.look()
        return self._keys.get(digest)

    def id_of(self, raw_key: str) -> str | None:
        """Of a key that is in memory, without a look."""
        key = self._keys.get(_digest(raw_key))
        return None if key is None else key.id

    # --- following the database ---

    def _start_refresh(self) -> asyncio.Task[None]:
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._check())
        return self._checking

    async def look(self) -> None:
        """At the database, now. Raises Unavailable where the database does not answer."""
        await asyncio.shield(self._start_refresh())

    async def _check(self) -> None:
        try:
            asked_at = time.monotonic()
            async with database.connection() as connection:
                row = await (await connection.execute(EPOCH)).fetchone()
                epoch = int(row[0]) if row else 0
                if epoch != self._epoch:
                    rows = await (await connection.execute(KEYS)).fetchall()
                    self._keys = {bytes(row[0]): _key(row) for row in rows}
                    self._epoch = epoch
                used = [key_id for key_id, noted_at in self._used.items() if noted_at == 0.0]
                if used:
                    written = await (await connection.execute(USED, (used,))).fetchall()
                    for key_id in used:  # of one that was passed over the next use is noted anew
                        del self._used[key_id]
                    self._used.update((str(row[0]), asked_at) for row in written)
                self._checked_at = asked_at
                told, self._seen = self._seen[:MOST_TOLD], self._seen[MOST_TOLD:]
                if told:
                    with suppress(psycopg.Error):  # nobody needs it so much that a look should fail
                        await connection.execute(TELL, ("\n".join(told),))
        finally:
            self._checking = None

    def tell_others(self, seen: str) -> None:
        """That a key was used from an address for the first time. What is too much at a time is not told."""
        if len(self._seen) < KEPT_SEEN:
            self._seen.append(seen)
            self._write_soon()

    async def flush(self) -> None:
        """Writes what is known of uses, for a server that stops. Raises Unavailable."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        while 0.0 in self._used.values():  # a look that was under way may have begun before the last use
            await self.look()

    def _write_uses(self) -> None:
        self._writing = None
        if self._seen or 0.0 in self._used.values():
            self._start_refresh().add_done_callback(self._write_the_rest)

    def _write_the_rest(self, check: asyncio.Task[None]) -> None:
        """Later, what a look that failed or had begun before a use has not written."""
        look_away(check)
        if (self._seen or 0.0 in self._used.values()) and not check.cancelled():
            self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(USED_SECONDS, self._write_uses)

    def _expire(self) -> None:
        """The next request looks at the database first."""
        self._checked_at = float("-inf")

    def _note_use(self, key: Key) -> None:
        """Remembers that the key was used: written at the next look or in some seconds, at most once a minute."""
        noted_at = self._used.get(key.id)
        if noted_at is None or (noted_at and time.monotonic() - noted_at > USED_RESOLUTION_SECONDS):
            self._used[key.id] = 0.0
            self._write_soon()


def _digest(raw_key: str) -> bytes:
    return hashlib.sha256(raw_key.encode("utf-8", "replace")).digest()


def _key(row: tuple[Any, ...]) -> Key:
    _, key_id, name, scopes, allowed, requests, tokens, streams, expires_at = row
    return Key(
        str(key_id), name, frozenset(scopes), frozenset(allowed), requests, tokens, streams or USUAL_STREAMS, expires_at
    )


_books = OfLoop(KeyBook)
book = _books.get
