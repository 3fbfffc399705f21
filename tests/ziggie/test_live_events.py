"""Publishing: typed, on commit, bounded in time and size, and never the end of the work it reports on."""

import asyncio
import json
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from channels.layers import channel_layers
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.db import transaction
from django.test import override_settings

from ziggie import live
from ziggie.background import background_loop
from ziggie.consumers import Close
from ziggie.errors import Unavailable
from ziggie.pglayer import PostgresChannelLayer

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"


class Inbox:
    """What arrives on some groups, read by a thread of its own."""

    def __init__(self, layer: Any, *groups: str) -> None:
        self.frames: list[dict[str, Any]] = []
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read(layer, groups)), daemon=True)
        self._thread.start()
        self._ready.result(60)

    async def _read(self, layer: Any, groups: tuple[str, ...]) -> None:
        channel = await layer.new_channel()
        for group in (*groups, "inbox.end"):
            await layer.group_add(group, channel)
        self._ready.set_result(None)
        while (message := await layer.receive(channel))["type"] != "inbox.end":
            self.frames.append(json.loads(message["frame"]))

    def close(self, layer: Any) -> list[dict[str, Any]]:
        """Everything that was sent before this call."""
        background_loop().submit(layer.group_send("inbox.end", {"type": "inbox.end"})).result(60)
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.frames


@pytest.fixture
def layer(own_layer: PostgresChannelLayer) -> Iterator[PostgresChannelLayer]:
    yield own_layer
    background_loop().submit(own_layer.flush()).result(60)


@pytest.fixture
def read(layer: PostgresChannelLayer) -> Callable[..., Callable[[], list[dict[str, Any]]]]:
    def start(*topics: str) -> Callable[[], list[dict[str, Any]]]:
        inbox = Inbox(layer, *(live.group_of(topic) for topic in topics))
        return lambda: inbox.close(layer)

    return start


def publish(status: str = "working", **data: Any) -> None:
    live.publish(["runs", f"run:{RUN}"], "run.changed", version=3, data={"run_id": RUN, "status": status, **data})


@pytest.mark.django_db(transaction=True)
def test_an_event_goes_to_each_of_its_topics_in_the_wire_form(read: Any) -> None:
    frames = read("runs", f"run:{RUN}", "usage")
    publish(progress=20)
    got = frames()
    assert sorted(frame["topic"] for frame in got) == [f"run:{RUN}", "runs"]
    assert {key: got[0][key] for key in ("type", "object", "version", "data")} == {
        "type": "run.changed",
        "object": f"run:{RUN}",
        "version": 3,
        "data": {"run_id": RUN, "status": "working", "progress": 20},
    }
    assert uuid.UUID(got[0]["id"]).version == 7
    assert got[0]["id"] == got[1]["id"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(got[0]["at"])) < timedelta(seconds=30)


@pytest.mark.django_db(transaction=True)
def test_events_of_a_transaction_are_sent_on_commit_in_their_order(read: Any) -> None:
    frames = read("runs")
    with transaction.atomic():
        publish("queued")
        with transaction.atomic():
            publish("working")
        publish("completed")
    assert [frame["data"]["status"] for frame in frames()] == ["queued", "working", "completed"]


@pytest.mark.django_db(transaction=True)
def test_nothing_is_sent_before_the_commit(layer: PostgresChannelLayer) -> None:
    inbox = Inbox(layer, live.group_of("runs"))
    with transaction.atomic():
        publish()
        time.sleep(0.3)
        assert inbox.frames == []
    assert len(inbox.close(layer)) == 1


def publish_and_roll_back(status: str) -> None:
    with transaction.atomic():
        publish(status)
        raise ZeroDivisionError


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_is_rolled_back_sends_nothing(read: Any) -> None:
    frames = read("runs")
    with pytest.raises(ZeroDivisionError):
        publish_and_roll_back("lost")
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError):
            publish_and_roll_back("lost too")
        publish("kept")
    assert [frame["data"]["status"] for frame in frames()] == ["kept"]


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_code_publishes_from_its_own_loop(layer: PostgresChannelLayer) -> None:
    inbox = await asyncio.to_thread(Inbox, layer, live.group_of("usage"))
    await live.apublish("usage", "usage.recorded", version=1, data=USAGE)
    assert [frame["data"]["call_id"] for frame in await asyncio.to_thread(inbox.close, layer)] == [RUN]


@pytest.mark.django_db(transaction=True)
async def test_publish_inside_of_a_running_loop_does_not_stop_it(layer: PostgresChannelLayer) -> None:
    inbox = await asyncio.to_thread(Inbox, layer, live.group_of("usage"))
    live.publish("usage", "usage.recorded", version=1, data=USAGE)
    assert len(await asyncio.to_thread(inbox.close, layer)) == 1


USAGE: live.UsageRecorded = {
    "call_id": RUN,
    "model": "llama3.2",
    "provider": "ollama",
    "source": "local",
    "cost_usd": "0.000000",
    "saved_usd": "0.090000",
    "input_tokens": 10_000,
    "output_tokens": 4_000,
    "seconds": 12.5,
    "task_kind": "analysis",
}


@pytest.mark.django_db(transaction=True)
def test_money_times_and_ids_travel_as_strings(read: Any) -> None:
    frames = read("runs")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    publish(cost_usd=Decimal("0.0000001"), saved_usd=Decimal("0E-6"), error=at, agent=uuid.UUID(RUN))
    data = frames()[0]["data"]
    assert data["cost_usd"] == "0.0000001"
    assert data["saved_usd"] == "0.000000"
    assert data["error"] == "2026-01-02T01:04:05.000Z"
    assert data["agent"] == RUN


@pytest.mark.parametrize("error", ["x" * 20_000, "日" * 3_000])
@pytest.mark.django_db(transaction=True)
def test_an_event_that_is_too_large_is_sent_without_its_data(read: Any, error: str) -> None:
    frames = read("runs")
    publish(error=error)
    [frame] = frames()
    assert frame["data"] is None
    assert frame["object"] == f"run:{RUN}"


@pytest.mark.django_db(transaction=True)
def test_the_largest_event_with_data_still_fits_into_one_notification(read: Any) -> None:
    frames = read("runs")
    publish(error="é" * 2_600)
    assert frames()[0]["data"]["error"] == "é" * 2_600


@pytest.mark.django_db(transaction=True)
def test_text_that_has_no_utf8_does_not_stop_an_event(read: Any) -> None:
    frames = read("runs")
    publish(error="half \ud83d a pair\x00")
    assert frames()[0]["data"]["error"] == "half ? a pair\x00"


@pytest.mark.parametrize(
    ("topics", "type_", "data", "says"),
    [
        ("runs", "run.exploded", {"run_id": RUN, "status": "x"}, "no live event"),
        ("videos", "run.changed", {"run_id": RUN, "status": "x"}, "not to videos"),
        (["runs", "run:other"], "run.changed", {"run_id": RUN, "status": "x"}, "not to run:other"),
        ("runs", "run.changed", {"run_id": RUN}, "needs status"),
        ("runs", "run.changed", {"run_id": RUN, "status": "x", "prompt": "secret"}, "has no prompt"),
    ],
)
def test_what_the_table_of_events_does_not_name_is_refused(topics: Any, type_: Any, data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        live.publish(topics, type_, version=1, data=data)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("runs", "runs"),
        ("videos", "videos"),
        ("usage", "usage"),
        ("alerts", "alerts"),
        ("providers", "providers"),
        (f"run:{RUN}", f"run:{RUN}"),
        (f"video:{RUN.upper()}", f"video:{RUN}"),
        ("run", None),
        ("run:", None),
        ("run:1", None),
        (f"alert:{RUN}", None),
        ("runs ", None),
        ("", None),
        ("layer.gap", None),
        (f"run:{{{RUN}}}", f"run:{RUN}"),
    ],
)
def test_topics_are_lists_or_rows(text: str, canonical: str | None) -> None:
    assert live.parse_topic(text) == canonical


@pytest.fixture(params=["refuses", "never answers"])
def broken(request: pytest.FixtureRequest) -> Iterator[RedisPubSubChannelLayer]:
    """A layer whose server is a closed port, or a port that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            server.listen(128)
        yield RedisPubSubChannelLayer(hosts=[f"redis://127.0.0.1:{server.getsockname()[1]}/0"])


@contextmanager
def in_use(broken: RedisPubSubChannelLayer) -> Iterator[None]:
    """The broken layer in the place of the good one, and little patience with it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, seconds in (("PUBLISH_SECONDS", 0.2), ("SEND_SECONDS", 1.0), ("PROBE_SECONDS", 0.5)):
            patched.setattr(live, name, seconds)
        before = channel_layers.set("default", broken)
        yield
        channel_layers.set("default", before)


@pytest.mark.django_db(transaction=True)
def test_a_transport_that_is_down_neither_raises_nor_delays_the_work(
    layer: PostgresChannelLayer,
    broken: RedisPubSubChannelLayer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REST_SECONDS", 60.0)
    with in_use(broken), caplog.at_level(logging.WARNING, "ziggie.live"):
        began = time.monotonic()
        with transaction.atomic():
            publish()
        for _ in range(100):
            publish()
        assert time.monotonic() - began < 50 * live.PUBLISH_SECONDS  # the first one waits, the other hundred do not
    assert len(caplog.records) == 1
    assert "127.0.0.1" not in caplog.text


@pytest.mark.django_db(transaction=True)
async def test_apublish_neither_raises_nor_delays_when_the_transport_is_down(
    layer: PostgresChannelLayer, broken: RedisPubSubChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST_SECONDS", 60.0)
    with in_use(broken):
        began = time.monotonic()
        for _ in range(100):
            await live.apublish("usage", "usage.recorded", version=1, data=USAGE)
        assert time.monotonic() - began < 50 * live.PUBLISH_SECONDS


@pytest.mark.django_db(transaction=True)
def test_sending_resumes_after_the_rest(
    layer: PostgresChannelLayer, broken: RedisPubSubChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REST_SECONDS", 0.1)
    inbox = Inbox(layer, live.group_of("runs"))
    with in_use(broken):
        publish("lost")
    until = time.monotonic() + 60
    while not inbox.frames and time.monotonic() < until:
        publish("sent")
    assert {frame["data"]["status"] for frame in inbox.close(layer)} == {"sent"}


@pytest.mark.django_db(transaction=True)
def test_without_a_channel_layer_work_goes_on(layer: PostgresChannelLayer) -> None:
    with override_settings(CHANNEL_LAYERS={}):
        publish()


@pytest.mark.django_db(transaction=True)
def test_the_probe_takes_a_message_out_and_back(layer: PostgresChannelLayer, broken: RedisPubSubChannelLayer) -> None:
    assert 0 < live.probe() < 60
    with in_use(broken), pytest.raises(Unavailable):
        live.probe()


def test_every_event_field_and_close_code_is_documented(settings: Any) -> None:
    text = (settings.BASE_DIR / "docs" / "live.md").read_text()
    for name, event in live.EVENTS.items():
        [line] = [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line]
        fields = event.payload.__required_keys__ | event.payload.__optional_keys__
        assert all(re.search(rf"\b{field}\b", line) for field in fields), name
        assert all(f"`{re.sub('{.*}', 'ID', topic)}`" in line for topic in event.topics), name
    assert all(f"| {code.value} |" in text for code in Close)
