"""What the pages are told while things happen: every live event, and the way to send one.

An event says that a row is in a new state. It may be lost, doubled or late: PostgreSQL is the truth,
events carry the version of the row so that a page can ignore what is older than what it shows, and
pages read the truth again after a gap. Sending never fails the work that it reports on.

On the socket: {topic, type, object, id, version, at, data}. `object` names the row ("run:ID"), `id` is
the event's own UUIDv7, `at` is ISO 8601 in UTC, and `data` is null where it would have been too large.
"""

import asyncio
import concurrent.futures
import json
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict

from channels.layers import get_channel_layer
from django.db import transaction

from ziggie.background import background_loop
from ziggie.errors import Unavailable
from ziggie.ids import uuid7

logger = logging.getLogger(__name__)

# --- the events --------------------------------------------------------------------------------
# Money is a decimal string of US dollars. A field that is not known yet is left out or None.


class RunChanged(TypedDict):
    run_id: str
    status: str
    agent: NotRequired[str | None]
    level: NotRequired[str | None]
    progress: NotRequired[int]
    model: NotRequired[str | None]
    source: NotRequired[str | None]
    cost_usd: NotRequired[str | None]
    saved_usd: NotRequired[str | None]
    input_tokens: NotRequired[int | None]
    output_tokens: NotRequired[int | None]
    seconds: NotRequired[float | None]
    error: NotRequired[str | None]
    waits_for: NotRequired[str]


class VideoChanged(TypedDict):
    video_id: str
    state: str
    title: NotRequired[str]
    creator: NotRequired[str | None]
    progress: NotRequired[int]
    step: NotRequired[str | None]
    model: NotRequired[str | None]
    source: NotRequired[str | None]
    cost_usd: NotRequired[str | None]
    saved_usd: NotRequired[str | None]
    seconds: NotRequired[float | None]
    confidence: NotRequired[float | None]
    error: NotRequired[str | None]


class UsageRecorded(TypedDict):
    call_id: str
    model: str
    provider: str
    source: str
    cost_usd: str
    saved_usd: str
    input_tokens: int
    output_tokens: int
    seconds: float
    task_kind: str


class ProviderChanged(TypedDict):
    provider: str
    state: str
    reason: str


class ModelChanged(TypedDict):
    model: str
    provider: str
    state: str
    reason: str


class AlertChanged(TypedDict):
    alert_id: str
    severity: str
    title: str


Payload = RunChanged | VideoChanged | UsageRecorded | ProviderChanged | ModelChanged | AlertChanged
EventType = Literal[
    "run.changed",
    "video.changed",
    "usage.recorded",
    "provider.changed",
    "model.changed",
    "alert.raised",
    "alert.cleared",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Which row an event is about and which topics it may go to, as templates over its payload."""

    payload: type
    object: str
    topics: tuple[str, ...]


EVENTS: dict[str, Event] = {
    "run.changed": Event(RunChanged, "run:{run_id}", ("runs", "run:{run_id}")),
    "video.changed": Event(VideoChanged, "video:{video_id}", ("videos", "video:{video_id}")),
    "usage.recorded": Event(UsageRecorded, "call:{call_id}", ("usage",)),
    "provider.changed": Event(ProviderChanged, "provider:{provider}", ("providers",)),
    "model.changed": Event(ModelChanged, "model:{model}", ("providers",)),
    "alert.raised": Event(AlertChanged, "alert:{alert_id}", ("alerts",)),
    "alert.cleared": Event(AlertChanged, "alert:{alert_id}", ("alerts",)),
}

# --- the topics --------------------------------------------------------------------------------

LISTS = frozenset(topic for event in EVENTS.values() for topic in event.topics if ":" not in topic)
OBJECTS = frozenset(topic.split(":")[0] for event in EVENTS.values() for topic in event.topics if ":" in topic)
# Any topic tells what every caller of the installation does, so a gateway client's key opens none.
KEY_SCOPES = frozenset({"coordinator", "admin"})


def parse_topic(text: str) -> str | None:
    """The canonical form of a topic, or None if there is no such topic."""
    if text in LISTS:
        return text
    kind, colon, key = text.partition(":")
    if not colon or kind not in OBJECTS:
        return None
    try:
        return f"{kind}:{uuid.UUID(key)}"
    except ValueError:
        return None


def group_of(topic: str) -> str:
    """The channel layer's group of a topic; group names have no colon."""
    return "live." + topic.replace(":", ".")


# --- sending -----------------------------------------------------------------------------------

# One NOTIFY holds less than 8000 bytes, of which the envelope and its encoding take a share.
MAX_EVENT_BYTES = 5500
PUBLISH_SECONDS = 1.0  # the caller's wait; the event itself may still arrive until SEND_SECONDS
SEND_SECONDS = 5.0
PROBE_SECONDS = 2.0
REST_SECONDS = 2.0
LOG_EVERY_SECONDS = 60.0

Message = tuple[str, dict[str, Any]]


def publish(topics: str | Sequence[str], type: EventType, *, version: int, data: Payload) -> None:
    """Tell the pages once the present transaction is committed, or at once outside of one.

    `version` grows with the row's states (its fence, or any counter that never falls); a page ignores
    what is below the version that it shows. Raises ValueError for topics or fields that EVENTS does not
    name. Never raises because the live layer is down and blocks for PUBLISH_SECONDS at most.
    """
    messages = _messages(topics, type, version, data)
    if transaction.get_connection().in_atomic_block:
        transaction.on_commit(partial(_send_now, messages))
    else:
        _send_now(messages)


async def apublish(topics: str | Sequence[str], type: EventType, *, version: int, data: Payload) -> None:
    """publish() for asynchronous code, which has no transactions: tells the pages at once."""
    messages = _messages(topics, type, version, data)
    if _health.resting:
        return
    try:
        sending = asyncio.wrap_future(background_loop().submit(_send(_layer(), messages)))
        await asyncio.wait({sending}, timeout=PUBLISH_SECONDS)
        _health.settle(sending)
    except Exception as error:  # the work that is reported on must survive whatever fails here
        _health.failed(error)


def probe() -> float:
    """Seconds that one message takes out and back through the live layer. Raises Unavailable."""
    began = time.monotonic()
    try:
        background_loop().submit(_round_trip(_layer())).result(SEND_SECONDS)
    except Exception as error:  # every failure of every transport means the same here
        raise Unavailable("the live layer does not answer") from error
    return time.monotonic() - began


def _messages(topics: str | Sequence[str], type: str, version: int, data: Payload) -> list[Message]:
    event = EVENTS.get(type)
    if event is None:
        raise ValueError(f"there is no live event {type!r}")
    _check_fields(event, type, data)
    names = [topics] if isinstance(topics, str) else list(topics)
    allowed = {topic.format_map(data) for topic in event.topics}
    if wrong := [name for name in names if name not in allowed]:
        raise ValueError(f"{type} goes to {', '.join(sorted(allowed))}, not to {', '.join(wrong)}")
    body = {
        "type": type,
        "object": event.object.format_map(data),
        "id": str(uuid7()),
        "version": version,
        "at": _iso(datetime.now(UTC)),
        "data": data,
    }
    return [(group_of(name), _message(name, body)) for name in names]


def _check_fields(event: Event, type: str, data: Payload) -> None:
    known: frozenset[str] = event.payload.__required_keys__ | event.payload.__optional_keys__  # type: ignore[attr-defined]
    if unknown := set(data) - known:
        raise ValueError(f"{type} has no {', '.join(sorted(unknown))}")
    if missing := event.payload.__required_keys__ - set(data):  # type: ignore[attr-defined]
        raise ValueError(f"{type} needs {', '.join(sorted(missing))}")


def _message(topic: str, body: dict[str, Any]) -> dict[str, Any]:
    frame = _encode({"topic": topic, **body})
    if len(frame) > MAX_EVENT_BYTES:
        frame = _encode({"topic": topic, **body, "data": None})
    # `key` and `version` let a socket that lags keep the newest state of each row.
    return {
        "type": "live.event",
        "key": f"{topic} {body['object']}",
        "version": body["version"],
        "frame": frame.decode(),
    }


def _encode(frame: dict[str, Any]) -> bytes:
    """JSON as UTF-8; half of a surrogate pair, which has no UTF-8, becomes a question mark."""
    return json.dumps(frame, default=_plain, ensure_ascii=False).encode("utf-8", "replace")


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"a live event cannot carry {value.__class__.__name__}")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _send_now(messages: list[Message]) -> None:
    if _health.resting:
        return
    try:
        sending = background_loop().submit(_send(_layer(), messages))
        if _loop_is_running():  # waiting would stop the caller's event loop
            sending.add_done_callback(_health.note)
        else:
            concurrent.futures.wait([sending], timeout=PUBLISH_SECONDS)
            _health.settle(sending)
    except Exception as error:  # the work that is reported on must survive whatever fails here
        _health.failed(error)


def _layer() -> Any:
    """The channel layer. Its first use in a process imports the transport, which is not the transport's time."""
    layer = get_channel_layer()
    if layer is None:
        raise Unavailable("no channel layer is configured")
    return layer


async def _send(layer: Any, messages: list[Message]) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        for group, message in messages:  # one by one: events leave in the order in which they were published
            await layer.group_send(group, message)


async def _round_trip(layer: Any) -> None:
    async with asyncio.timeout(PROBE_SECONDS):
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "live.probe"})
        await layer.receive(channel)
        # A cancelled receive ends a channel: so do channels' own consumers leave.
        leaving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Health:
    """After a failure sending rests for a moment, so that a broken transport does not slow every task."""

    def __init__(self) -> None:
        self._rest_until = 0.0
        self._quiet_until = 0.0

    @property
    def resting(self) -> bool:
        return time.monotonic() < self._rest_until

    def settle(self, future: "Future[None] | asyncio.Future[None]") -> None:
        """Take note of how a sending ended. Raises TimeoutError if it has not, and takes note later."""
        if future.done():
            self.note(future)
        else:
            future.add_done_callback(self.note)
            raise TimeoutError

    def note(self, future: "Future[None] | asyncio.Future[None]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        now = time.monotonic()
        self._rest_until = now + REST_SECONDS
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_EVERY_SECONDS
            logger.warning("Live events are not being sent (%s); pages will read them late", error.__class__.__name__)


_health = _Health()
