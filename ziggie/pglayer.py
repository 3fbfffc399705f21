"""A channel layer on PostgreSQL LISTEN/NOTIFY: the live layer of an installation without Redis.

    group_send -> pg_notify -> [one LISTEN connection a process] -> the hub of each event loop -> channels

Delivery is at most once: what is sent while nobody listens is gone. A channel that joined GAP_GROUP
is told {"type": GAP_TYPE} whenever it may have missed something (the connection was lost and is back,
or its own queue ran over), so that its owner can read the truth from the database again.

A process holds one connection that listens (once a channel exists in it) and one that notifies (once
it has sent), whatever the number of its event loops, threads and consumers. As in channels_redis'
pub/sub layer, a name without "!" reaches every process that receives on it, not just one of them.
"""

import asyncio
import time
import uuid
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
from channels.layers import BaseChannelLayer

from ziggie.background import BackgroundLoop, background_loop
from ziggie.pgrelay import MAX_MESSAGE_BYTES, Relay

GAP_GROUP = "layer.gap"
GAP_TYPE = "layer.gap"
_GAP: bytes = msgpack.packb({"type": GAP_TYPE})
_CHANNEL, _GROUP = "c", "g"


class PostgresChannelLayer(BaseChannelLayer):  # type: ignore[misc]  # channels has no types
    """`using` is the Django database alias, `capacity` the messages that wait in one channel before
    the oldest is dropped, `expiry` the seconds after which a channel without a receiver is forgotten."""

    extensions = ["groups", "flush"]

    def __init__(
        self, *, using: str = "default", prefix: str = "ziggie", expiry: int = 60, capacity: int = 100
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.using = using
        self.prefix = prefix
        self._relays: dict[BackgroundLoop, Relay] = {}
        self._hubs: dict[asyncio.AbstractEventLoop, _Hub] = {}

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send to one channel. Raises TypeError for a bad name, ValueError for a message above 1 MiB."""
        self.require_valid_channel_name(channel)
        await self._notify(_CHANNEL, channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send to every member of the group, in every process."""
        self.require_valid_group_name(group)
        await self._notify(_GROUP, group, message)

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel of this process. Whatever is sent to it from now on waits for its receiver."""
        channel = f"{prefix.rstrip('.')}.{uuid.uuid4().hex}!{uuid.uuid4().hex[:8]}"
        hub = self._hub()
        hub.open(channel)
        await self._listen(hub)
        return channel

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of the channel, in the order in which PostgreSQL committed them."""
        self.require_valid_channel_name(channel)
        hub = self._hub()
        if channel not in hub.mailboxes:
            hub.open(channel)
            await self._listen(hub)
        message: dict[str, Any] = msgpack.unpackb(await hub.take(channel), strict_map_key=False)
        return message

    async def group_add(self, group: str, channel: str) -> None:
        """Make the channel a member. It has to be one of this event loop: made by new_channel()."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        hub = self._hub()
        if channel not in hub.mailboxes:
            raise RuntimeError("group_add() takes channels of this process, as new_channel() makes them")
        hub.groups.setdefault(group, set()).add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove the channel from the group; does nothing if it is no member."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._hub().leave(group, channel)

    async def flush(self) -> None:
        """Forget every channel and group of this process and close its connections; use opens them anew."""
        self._hubs.clear()
        await self.close()

    async def close(self) -> None:
        """Close the connections of this process to the database; use opens them anew."""
        background = background_loop()
        relay = self._relays.pop(background, None)
        if relay is not None:
            await background.run(relay.close())

    async def _notify(self, kind: str, name: str, message: dict[str, Any]) -> None:
        if not isinstance(message, dict):
            raise TypeError("a message is a dict")
        blob = msgpack.packb([kind, name, msgpack.packb(message)])
        if len(blob) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(blob)} bytes is above the limit of {MAX_MESSAGE_BYTES}")
        background, relay = self._relay()
        await background.run(relay.notify(blob))

    async def _listen(self, hub: "_Hub") -> None:
        background, relay = self._relay()
        await background.run(relay.attach(hub))

    def _relay(self) -> tuple[BackgroundLoop, Relay]:
        background = background_loop()
        # setdefault is atomic: two threads that come first agree on one relay.
        return background, self._relays.setdefault(background, Relay(using=self.using, name=f"{self.prefix}_live"))

    def _hub(self) -> "_Hub":
        loop = asyncio.get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            for other in [other for other in self._hubs if other.is_closed()]:
                self._hubs.pop(other, None)
            hub = self._hubs[loop] = _Hub(loop, capacity=self.capacity, expiry_seconds=self.expiry)
        return hub


class _Mailbox:
    """The messages that wait for one channel's receiver."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.gap_due = False
        self.receivers = 0


class _Hub:
    """The channels and groups of one event loop. Only `publish` and `gap` may be called from elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, capacity: int, expiry_seconds: float) -> None:
        self.loop = loop
        self.capacity = capacity
        self.expiry_seconds = expiry_seconds
        self.mailboxes: dict[str, _Mailbox] = {}
        self.groups: dict[str, set[str]] = {}
        self._unattended: dict[str, float] = {}

    def publish(self, blob: bytes) -> None:
        """Hand a message over to the loop, from any thread. Raises RuntimeError once the loop is closed."""
        self.loop.call_soon_threadsafe(self._deliver, blob)

    def gap(self) -> None:
        """Tell the members of GAP_GROUP that messages may be missing, from any thread."""
        self.loop.call_soon_threadsafe(self._deliver, msgpack.packb([_GROUP, GAP_GROUP, _GAP]))

    def open(self, channel: str) -> None:
        self._sweep()
        self.mailboxes[channel] = _Mailbox()
        self._unattended[channel] = time.monotonic()

    async def take(self, channel: str) -> bytes:
        mailbox = self.mailboxes[channel]
        self._unattended.pop(channel, None)
        if mailbox.gap_due:
            mailbox.gap_due = False
            return _GAP
        mailbox.receivers += 1
        try:
            return await mailbox.queue.get()
        except asyncio.CancelledError:
            # Channels ends a consumer by cancelling its receive; a caller with a timeout comes back.
            if mailbox.receivers == 1 and self.mailboxes.get(channel) is mailbox:
                self._unattended[channel] = time.monotonic()
            raise
        finally:
            mailbox.receivers -= 1

    def leave(self, group: str, channel: str) -> None:
        members = self.groups.get(group, set())
        members.discard(channel)
        if not members:
            self.groups.pop(group, None)

    def _deliver(self, blob: bytes) -> None:
        kind, name, message = msgpack.unpackb(blob)
        channels = tuple(self.groups.get(name, ())) if kind == _GROUP else (name,)
        for channel in channels:
            if mailbox := self.mailboxes.get(channel):
                self._put(mailbox, message, wants_gap=channel in self.groups.get(GAP_GROUP, ()))

    def _put(self, mailbox: _Mailbox, message: bytes, *, wants_gap: bool) -> None:
        if mailbox.queue.qsize() >= self.capacity:
            mailbox.queue.get_nowait()
            mailbox.gap_due = wants_gap
            self._sweep()
        mailbox.queue.put_nowait(message)

    def _sweep(self) -> None:
        """Forget the channels whose receiver has gone for good, with their memberships."""
        oldest = time.monotonic() - self.expiry_seconds
        for channel in [name for name, since in self._unattended.items() if since < oldest]:
            del self._unattended[channel]
            self.mailboxes.pop(channel, None)
            for group in [name for name, members in self.groups.items() if channel in members]:
                self.leave(group, channel)
