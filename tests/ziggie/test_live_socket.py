"""Who may open the live socket, what comes out of it, and what it does about abuse."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.sessions import CookieMiddleware
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.test import Client

from ziggie import live
from ziggie.consumers import SUBPROTOCOL, Close, LiveConsumer, live_socket
from ziggie.models import ApiKey, create_api_key
from ziggie.outbox import Outbox
from ziggie.pglayer import GAP_GROUP, GAP_TYPE, PostgresChannelLayer

SOON = 60
RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
Headers = list[tuple[bytes, bytes]]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def layer(transactional_db: None, own_layer: PostgresChannelLayer) -> AsyncIterator[PostgresChannelLayer]:
    yield own_layer
    await own_layer.flush()


@pytest.fixture
def staff(transactional_db: None) -> User:
    return User.objects.create_user("ada", password="x", is_staff=True)


@pytest.fixture
def cookie(staff: User) -> Headers:
    return cookie_of(staff)


def cookie_of(user: User) -> Headers:
    client = Client()
    client.force_login(user)
    return [(b"cookie", f"sessionid={client.cookies['sessionid'].value}".encode())]


def make_key(*scopes: str) -> str:
    return create_api_key("-".join(scopes), scopes=list(scopes))[1]


class Strict(LiveConsumer):
    """The same socket with limits that a test can reach."""

    max_sockets_per_caller = 2
    max_messages_per_minute = 5
    recheck_seconds = 0.1


strict_socket = CookieMiddleware(Strict.as_asgi())


def socket(
    headers: Headers, topics: str = "runs", app: Any = live_socket, subprotocols: tuple[str, ...] = ()
) -> WebsocketCommunicator:
    return WebsocketCommunicator(app, f"/ws/live/?topics={topics}", headers=headers, subprotocols=list(subprotocols))


async def closed_with(communicator: WebsocketCommunicator) -> int:
    """The code with which an accepted socket is closed next."""
    output = await communicator.receive_output(SOON)
    assert output["type"] == "websocket.close", output
    return int(output["code"])


async def refused(communicator: WebsocketCommunicator) -> bool:
    """True if the handshake itself is refused: HTTP 403."""
    accepted, _ = await communicator.connect(SOON)
    return not accepted


async def accepted(communicator: WebsocketCommunicator) -> WebsocketCommunicator:
    assert (await communicator.connect(SOON))[0]
    return communicator


async def announce(status: str = "working", version: int = 1, run_id: str = RUN) -> None:
    await live.apublish("runs", "run.changed", version=version, data={"run_id": run_id, "status": status})


# --- who ---------------------------------------------------------------------------------------


async def test_a_staff_session_hears_its_topics_and_no_others(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie, f"runs,run:{RUN}"))
    await live.apublish("usage", "usage.recorded", version=1, data=USAGE)
    await announce()
    frame = await open_socket.receive_json_from(SOON)
    assert (frame["topic"], frame["type"], frame["data"]["status"]) == ("runs", "run.changed", "working")
    assert await open_socket.receive_nothing(0.2)
    await open_socket.disconnect()


USAGE: live.UsageRecorded = {
    "call_id": RUN,
    "model": "m",
    "provider": "p",
    "source": "local",
    "cost_usd": "0",
    "saved_usd": "0",
    "input_tokens": 1,
    "output_tokens": 1,
    "seconds": 1.0,
    "task_kind": "chat",
}


@pytest.mark.parametrize("headers", [[], [(b"cookie", b"sessionid=0123456789abcdef0123456789abcdef")]])
async def test_without_a_session_the_handshake_is_refused(headers: Headers) -> None:
    assert await refused(socket(headers))


async def test_users_who_are_not_staff_are_refused() -> None:
    user = await sync_to_async(User.objects.create_user)("eve", password="x")
    assert await refused(socket(await sync_to_async(cookie_of)(user)))


async def test_staff_whose_account_was_disabled_are_refused(staff: User, cookie: Headers) -> None:
    await sync_to_async(User.objects.filter(pk=staff.pk).update)(is_active=False)
    assert await refused(socket(cookie))


@pytest.mark.parametrize("scope", ["coordinator", "admin"])
async def test_a_key_with_the_scope_is_let_in_wherever_it_is_shown(scope: str) -> None:
    key = await sync_to_async(make_key)(scope)
    for headers, offered in (
        ([(b"authorization", f"Bearer {key}".encode())], ()),
        ([(b"x-api-key", key.encode())], ()),
        ([], (SUBPROTOCOL, key)),
    ):
        open_socket = socket(headers, "runs,usage", subprotocols=offered)
        assert await open_socket.connect(SOON) == (True, SUBPROTOCOL if offered else None)
        await announce()
        assert (await open_socket.receive_json_from(SOON))["topic"] == "runs"
        await open_socket.disconnect()


async def test_a_key_without_the_scope_is_closed_with_4403() -> None:
    key = await sync_to_async(make_key)("gateway", "tools")
    assert await closed_with(await accepted(socket([(b"x-api-key", key.encode())]))) == Close.FORBIDDEN


async def test_an_unknown_key_is_refused_even_beside_a_good_session(cookie: Headers) -> None:
    assert await refused(socket([(b"authorization", b"Bearer zg_wrong")]))
    assert await refused(socket([*cookie, (b"authorization", b"Bearer zg_wrong")]))


ORIGINS = {
    "http://localhost:8000": True,
    "http://127.0.0.1": True,
    "http://[::1]:8000": True,
    "https://trusted.example": True,
    "http://trusted.example": False,
    "https://evil.example": False,
    "http://localhost.evil.example": False,
    "null": False,
    "": False,
    "http://[": False,
}


async def test_pages_of_other_sites_are_refused(cookie: Headers, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example"]
    for origin, welcome in ORIGINS.items():
        tried = socket([*cookie, (b"origin", origin.encode())])
        assert await refused(tried) is not welcome, origin
        await tried.disconnect()


async def test_where_any_host_is_allowed_a_page_must_come_from_the_host_that_it_calls(
    cookie: Headers, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    for host, welcome in (("any.example:8000", True), ("other.example", False)):
        tried = socket([*cookie, (b"origin", b"http://any.example:8000"), (b"host", host.encode())])
        assert await refused(tried) is not welcome
        await tried.disconnect()


async def test_another_address_under_ws_is_refused(cookie: Headers) -> None:
    assert await refused(WebsocketCommunicator(live_socket, "/ws/other/", headers=cookie))


# --- what --------------------------------------------------------------------------------------


async def test_an_unknown_topic_is_closed_with_4403(cookie: Headers) -> None:
    for topics in ("", "nonsense", "runs,nonsense", "run:1", "live.gap", "runs,,usage", "%00", "a=b"):
        assert await closed_with(await accepted(socket(cookie, topics))) == Close.FORBIDDEN, topics


async def test_no_topics_parameter_at_all_is_closed_with_4403(cookie: Headers) -> None:
    bare = WebsocketCommunicator(live_socket, "/ws/live/", headers=cookie)
    assert await closed_with(await accepted(bare)) == Close.FORBIDDEN


async def test_more_topics_than_the_limit_are_closed_with_4429(cookie: Headers) -> None:
    at_limit = ",".join(f"run:{UUID(int=number)}" for number in range(32))
    open_socket = await accepted(socket(cookie, at_limit))
    assert await open_socket.receive_nothing(0.1)
    await open_socket.disconnect()
    assert await closed_with(await accepted(socket(cookie, at_limit + ",runs"))) == Close.TOO_MANY


async def test_a_topic_named_twice_counts_and_arrives_once(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie, ",".join(["runs"] * 100)))
    await announce()
    assert (await open_socket.receive_json_from(SOON))["topic"] == "runs"
    assert await open_socket.receive_nothing(0.2)
    await open_socket.disconnect()


async def test_topics_may_also_be_given_one_by_one(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie, "usage&topics=runs"))
    await announce()
    assert (await open_socket.receive_json_from(SOON))["topic"] == "runs"
    await open_socket.disconnect()


# --- limits ------------------------------------------------------------------------------------


async def test_a_ping_is_answered(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie))
    await open_socket.send_to(text_data='{"type": "ping"}')
    assert await open_socket.receive_json_from(SOON) == {"type": "pong"}
    await open_socket.disconnect()


ABUSE: list[tuple[dict[str, Any], int]] = [
    ({"text_data": "hello"}, Close.BAD_MESSAGE),
    ({"text_data": '{"type": "live.event", "frame": "x"}'}, Close.BAD_MESSAGE),
    ({"text_data": '{"type": "ping", "more": 1}'}, Close.BAD_MESSAGE),
    ({"text_data": "[" * 1000}, Close.BAD_MESSAGE),
    ({"text_data": "null"}, Close.BAD_MESSAGE),
    ({"text_data": '{"type": "ping"}' + " " * 2000}, Close.TOO_LARGE),
    ({"bytes_data": b"\x00\x01"}, Close.BAD_MESSAGE),
]


async def test_anything_but_a_ping_closes_the_socket(cookie: Headers) -> None:
    for message, code in ABUSE:
        open_socket = await accepted(socket(cookie))
        await open_socket.send_to(**message)
        assert await closed_with(open_socket) == code, message


async def test_too_many_pings_close_the_socket(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie, app=strict_socket))
    for _ in range(6):
        await open_socket.send_to(text_data='{"type": "ping"}')
    for _ in range(5):
        assert await open_socket.receive_json_from(SOON) == {"type": "pong"}
    assert await closed_with(open_socket) == Close.TOO_MANY


async def test_one_caller_opens_only_so_many_sockets_and_closed_ones_do_not_count(cookie: Headers) -> None:
    first, second = [await accepted(socket(cookie, app=strict_socket)) for _ in range(2)]
    third = await accepted(socket(cookie, app=strict_socket))
    assert await closed_with(third) == Close.TOO_MANY
    await third.disconnect()
    await second.disconnect()
    fourth = await accepted(socket(cookie, app=strict_socket))
    assert await fourth.receive_nothing(0.1)
    await first.disconnect()
    await fourth.disconnect()
    assert not Strict._sockets


Ending = Callable[[User], Any]


def log_out(staff: User) -> None:
    from django.contrib.sessions.models import Session

    Session.objects.all().delete()


def lose_staff(staff: User) -> None:
    User.objects.filter(pk=staff.pk).update(is_staff=False)


def change_password(staff: User) -> None:
    staff.set_password("another")
    staff.save()


@pytest.mark.parametrize("ending", [log_out, lose_staff, change_password])
async def test_an_open_socket_ends_soon_after_its_session_does(staff: User, cookie: Headers, ending: Ending) -> None:
    open_socket = await accepted(socket(cookie, app=strict_socket))
    assert await open_socket.receive_nothing(0.5)  # several checks pass
    await sync_to_async(ending)(staff)
    assert await closed_with(open_socket) == Close.SIGNED_OUT


async def test_an_open_socket_ends_soon_after_its_key_is_withdrawn_or_narrowed() -> None:
    for change, code in (({"enabled": False}, Close.SIGNED_OUT), ({"scopes": ["gateway"]}, Close.FORBIDDEN)):
        key = await sync_to_async(make_key)("coordinator")
        open_socket = await accepted(socket([(b"x-api-key", key.encode())], app=strict_socket))
        await sync_to_async(ApiKey.objects.update)(**change)
        assert await closed_with(open_socket) == code
        await sync_to_async(ApiKey.objects.all().delete)()


async def test_after_a_gap_in_the_layer_the_page_is_told_to_read_anew(cookie: Headers) -> None:
    open_socket = await accepted(socket(cookie))
    await get_channel_layer().group_send(GAP_GROUP, {"type": GAP_TYPE})
    frame = await open_socket.receive_json_from(SOON)
    assert frame["type"] == "live.gap"
    assert set(frame) == {"topic", "type", "object", "id", "version", "at", "data"}
    await open_socket.disconnect()


async def test_nothing_of_a_socket_remains_once_it_is_closed(cookie: Headers, layer: PostgresChannelLayer) -> None:
    tasks = asyncio.all_tasks()
    for _ in range(3):
        open_socket = await accepted(socket(cookie, f"runs,run:{RUN}"))
        await open_socket.disconnect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    [hub] = layer._hubs.values()
    assert hub.groups == {}


# --- a socket that lags ------------------------------------------------------------------------


async def drained(outbox: Outbox) -> list[str]:
    return [await asyncio.wait_for(outbox.take(), SOON) for _ in range(len(outbox))]


async def test_an_outbox_with_room_keeps_every_frame_in_order() -> None:
    outbox = Outbox(limit=4)
    for number in range(4):
        outbox.add(key="same", version=number, frame=str(number))
    assert await drained(outbox) == ["0", "1", "2", "3"]


async def test_a_full_outbox_keeps_the_newest_frame_of_each_row() -> None:
    outbox = Outbox(limit=4)
    for number in range(100):
        outbox.add(key=f"row {number % 2}", version=number, frame=str(number))
    outbox.add(key="row 1", version=5, frame="late and old")
    got = await drained(outbox)
    assert "98" in got
    assert "99" in got
    assert len(got) <= 4


async def test_an_outbox_that_must_drop_rows_says_so_first() -> None:
    outbox = Outbox(limit=3)
    for number in range(10):
        outbox.add(key=str(number), version=1, frame=str(number))
    assert json.loads(await outbox.take())["type"] == "live.gap"
    assert await drained(outbox) == ["7", "8", "9"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.take(), 0.05)
