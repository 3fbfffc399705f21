"""The live socket, /ws/live/?topics=runs,usage,run:ID: who may listen to what, and within which limits.

    no staff session and no key        refused before the handshake ends (HTTP 403)
    unknown or forbidden topic         4403        session or key no longer good     4401
    anything but a ping from the page  4400        too many sockets or topics        4429
    reads too slowly                   4408        a message above 1 KiB             4413
    something here is broken           4500

The page sends {"type": "ping"} and gets {"type": "pong"}; everything else on the socket is an event of
ziggie.live, or {"type": "live.gap"} in the same shape: some events were lost, read the page's data anew.
"""

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.db import DatabaseError
from django.urls import path, re_path

from ziggie import live
from ziggie.auth import Caller, authenticate_key, raw_key_of
from ziggie.errors import RateLimited
from ziggie.guesses import caller_address
from ziggie.models import PREFIX
from ziggie.outbox import Outbox
from ziggie.pglayer import GAP_GROUP
from ziggie.web_origin import OriginCheck

logger = logging.getLogger(__name__)

SUBPROTOCOL = "ziggie.live"
Scope = dict[str, Any]


class Close(IntEnum):
    """All from the range for applications: daphne's socket library refuses to send the standard's own codes."""

    BAD_MESSAGE = 4400
    SIGNED_OUT = 4401
    FORBIDDEN = 4403
    TOO_SLOW = 4408
    TOO_LARGE = 4413
    TOO_MANY = 4429
    BROKEN = 4500


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    max_topics = 32
    max_sockets_per_caller = 200  # in this process
    max_message_chars = 1024
    max_messages_per_minute = 60
    max_waiting_frames = 256
    frames_per_second = 200.0
    send_seconds = 10.0
    recheck_seconds = 60.0

    _sockets: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._identity: str | None = None
        self._groups: list[str] = []
        self._outbox = Outbox(limit=self.max_waiting_frames)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._heard: deque[float] = deque(maxlen=self.max_messages_per_minute)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # however the socket ended
            await self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        if message["type"] == "live.event":
            # Past channels' own dispatch, which visits the database thread before each message.
            self._outbox.add(key=message["key"], version=message["version"], frame=message["frame"])
        else:
            await super().dispatch(message)

    async def layer_gap(self, message: dict[str, Any]) -> None:
        self._outbox.lose()

    # --- coming and going ----------------------------------------------------------------------

    async def connect(self) -> None:
        try:
            caller = await caller_of(self.scope)
        except DatabaseError:
            await self.accept(_subprotocol(self.scope))
            await self._shut(Close.BROKEN)
            return
        if caller is None:
            await self._shut(None)
            return
        topics, refusal = self._admit(caller)
        await self._join(caller, topics)
        await self.accept(_subprotocol(self.scope))
        if refusal is None:
            self._tasks = [asyncio.create_task(self._guard(work)) for work in (self._pump, self._recheck)]
        else:
            await self._shut(refusal)  # a browser learns the code only after the socket was accepted

    def _admit(self, caller: Caller) -> tuple[list[str], Close | None]:
        try:
            query = parse_qs(self.scope["query_string"].decode("latin1"), max_num_fields=16)
        except ValueError:
            return [], Close.TOO_MANY
        names = [name.strip() for name in ",".join(query.get("topics", [])).split(",")]
        topics = {live.parse_topic(name) for name in names}
        if len(topics) > self.max_topics or self._sockets[_identity(caller)] >= self.max_sockets_per_caller:
            return [], Close.TOO_MANY
        if None in topics or not may_listen(caller):
            return [], Close.FORBIDDEN
        return [topic for topic in topics if topic], None

    async def _join(self, caller: Caller, topics: list[str]) -> None:
        """Before the handshake ends, so that whatever is published after it reaches this socket."""
        self._identity = _identity(caller)
        self._sockets[self._identity] += 1
        for group in (GAP_GROUP, *map(live.group_of, topics)) if topics else ():
            await self.channel_layer.group_add(group, self.channel_name)
            self._groups.append(group)

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._identity is not None:
            self._sockets[self._identity] -= 1
            if self._sockets[self._identity] <= 0:
                del self._sockets[self._identity]
        for group in self._groups:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def _shut(self, code: Close | None) -> None:
        if not self._closing:
            self._closing = True
            # A plain int: that library also looks at the exact type.
            await self.close(None if code is None else int(code))

    # --- what the page says --------------------------------------------------------------------

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._closing:
            return
        problem = self._problem_with(text_data)
        if problem is None:
            await self.send(text_data='{"type": "pong"}')
        else:
            await self._shut(problem)

    def _problem_with(self, text: str | None) -> Close | None:
        now = time.monotonic()
        if len(self._heard) == self._heard.maxlen and now - self._heard[0] < 60:
            return Close.TOO_MANY
        self._heard.append(now)
        if text is None:
            return Close.BAD_MESSAGE
        if len(text) > self.max_message_chars:
            return Close.TOO_LARGE
        try:
            return None if json.loads(text) == {"type": "ping"} else Close.BAD_MESSAGE
        except (ValueError, RecursionError):
            return Close.BAD_MESSAGE

    # --- the two tasks of an open socket -------------------------------------------------------

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TimeoutError:
            await self._shut(Close.TOO_SLOW)
        except Exception:  # a socket whose task died must not look alive
            logger.exception("Live socket: a task failed")
            await self._shut(Close.BROKEN)

    async def _pump(self) -> None:
        """Send what waits, at a bounded pace: a server that does not wait for slow readers (daphne) would
        otherwise buffer without limit until its keepalive drops them."""
        credit, last = self.frames_per_second, time.monotonic()
        while True:
            frame = await self._outbox.take()
            if self._closing:
                return
            async with asyncio.timeout(self.send_seconds):
                await self.send(text_data=frame)
            now = time.monotonic()
            credit = min(self.frames_per_second, credit + (now - last) * self.frames_per_second) - 1
            last = now
            if credit < 0:
                await asyncio.sleep(-credit / self.frames_per_second)

    async def _recheck(self) -> None:
        """Ends the socket of a session that is over, of a key that was withdrawn, of staff who are no longer."""
        while not self._closing:
            await asyncio.sleep(self.recheck_seconds)
            try:
                caller = await caller_of(self.scope)
            except DatabaseError:
                continue  # nobody is signed out by an outage
            if caller is None:
                await self._shut(Close.SIGNED_OUT)
            elif not may_listen(caller):
                await self._shut(Close.FORBIDDEN)


async def caller_of(scope: Scope) -> Caller | None:
    """Who opened the socket, as the database says now. A key that is shown decides, not a session beside it."""
    if raw_key := _raw_key(scope):
        try:
            caller: Caller | None = await database_sync_to_async(authenticate_key)(raw_key, _address(scope))
        except RateLimited:  # a handshake has no word for it
            return None
        return caller
    store = import_module(settings.SESSION_ENGINE).SessionStore
    user = await get_user({"session": store(scope["cookies"].get(settings.SESSION_COOKIE_NAME))})
    if not (user.is_active and user.is_staff):
        return None
    return Caller(name=user.get_username(), scopes=frozenset(), is_staff=True)


def may_listen(caller: Caller) -> bool:
    return caller.is_staff or not live.KEY_SCOPES.isdisjoint(caller.scopes)


def _identity(caller: Caller) -> str:
    return caller.key_id or f"user {caller.name}"


def _address(scope: Scope) -> str:
    forwarded = [value.decode("latin1") for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
    return caller_address((scope.get("client") or ("",))[0], ",".join(forwarded))


def _raw_key(scope: Scope) -> str:
    """The key in the headers or, for browsers, which cannot set those, among the offered subprotocols."""
    headers = {name.lower(): value.decode("latin1") for name, value in scope["headers"]}
    offered = [name for name in scope.get("subprotocols", ()) if name.startswith(PREFIX)]
    return raw_key_of(headers.get(b"authorization", ""), headers.get(b"x-api-key", "")) or "".join(offered[:1])


def _subprotocol(scope: Scope) -> str | None:
    """A browser that offers subprotocols fails unless one is chosen; better ours than the key."""
    offered: list[str] = scope.get("subprotocols") or []
    return SUBPROTOCOL if SUBPROTOCOL in offered else next(iter(offered), None)


websocket_urlpatterns = [path("ws/live/", LiveConsumer.as_asgi()), re_path(r"", WebsocketDenier.as_asgi())]
live_socket = OriginCheck(CookieMiddleware(URLRouter(websocket_urlpatterns)))
