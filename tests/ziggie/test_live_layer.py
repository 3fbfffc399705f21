"""Both channel layers keep what channels promises; the PostgreSQL one also survives its database."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.db import connection

from tests.servers.redis_server import running_redis
from ziggie.background import background_loop
from ziggie.pglayer import GAP_GROUP, GAP_TYPE, PostgresChannelLayer

SOON = 60.0
NEVER = 0.3


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(params=["postgres", pytest.param("redis", marks=pytest.mark.redis)])
async def layer(request: pytest.FixtureRequest, django_db_setup: None) -> AsyncIterator[Any]:
    if request.param == "redis":
        made: Any = RedisPubSubChannelLayer(hosts=[request.getfixturevalue("redis_url")])
    else:
        made = PostgresChannelLayer()
    yield made
    await made.flush()


@pytest.fixture
async def pglayer(django_db_setup: None) -> AsyncIterator[PostgresChannelLayer]:
    made = PostgresChannelLayer()
    yield made
    await made.flush()


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, SOON)


async def assert_silent(layer: Any, channel: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(channel), NEVER)


@asynccontextmanager
async def backends() -> AsyncIterator[Callable[[str], Awaitable[list[int]]]]:
    """Asks, on a connection of its own, for the server processes with an application name."""
    parameters = connection.get_connection_params()
    parameters = {name: value for name, value in parameters.items() if name not in ("cursor_factory", "context")}
    async with await psycopg.AsyncConnection.connect(**parameters, autocommit=True) as admin:

        async def ask(name: str, sql: str = "pid") -> list[int]:
            query = f"SELECT {sql} FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
            return [row[0] for row in await (await admin.execute(query, [name])).fetchall()]

        yield ask


# --- what channels promises of every layer -----------------------------------------------------


async def test_a_message_to_a_channel_arrives_as_it_was_sent(layer: BaseChannelLayer) -> None:
    channel = await layer.new_channel()
    message = {"type": "t", "text": "ø 日本 \x00 '\"", "bytes": b"\x00\xff", "n": 2**40, "f": 0.5, "none": None}
    message |= {"list": [1, [2, {"deep": True}]], "dict": {"a": {"b": []}}}
    await layer.send(channel, message)
    assert await soon(layer.receive(channel)) == message


async def test_messages_arrive_in_the_order_in_which_they_were_sent(layer: BaseChannelLayer) -> None:
    channel = await layer.new_channel()
    for number in range(50):
        await layer.send(channel, {"type": "t", "n": number})
    assert [(await soon(layer.receive(channel)))["n"] for _ in range(50)] == list(range(50))


async def test_a_message_of_almost_one_mebibyte_arrives(layer: BaseChannelLayer) -> None:
    channel = await layer.new_channel()
    text = "".join(chr(32 + index % 90) for index in range(1_000_000))
    await layer.send(channel, {"type": "t", "text": text})
    assert (await soon(layer.receive(channel)))["text"] == text


async def test_a_group_message_reaches_every_member_once_and_nobody_else(layer: BaseChannelLayer) -> None:
    members = [await layer.new_channel() for _ in range(3)]
    stranger = await layer.new_channel()
    for member in members:
        await layer.group_add("g", member)
        await layer.group_add("g", member)
    await layer.group_add("other", stranger)
    await layer.group_send("g", {"type": "t", "n": 1})
    for member in members:
        assert await soon(layer.receive(member)) == {"type": "t", "n": 1}
    for channel in (*members, stranger):
        await assert_silent(layer, channel)


async def test_a_member_that_left_gets_nothing_more_and_leaving_twice_is_no_error(layer: BaseChannelLayer) -> None:
    gone, stays = [await layer.new_channel() for _ in range(2)]
    for channel in (gone, stays):
        await layer.group_add("g", channel)
    await layer.group_discard("g", gone)
    await layer.group_discard("g", gone)
    await layer.group_discard("never-joined", gone)
    await layer.group_send("g", {"type": "t"})
    assert await soon(layer.receive(stays)) == {"type": "t"}
    await assert_silent(layer, gone)


async def test_sending_to_a_group_without_members_is_no_error(layer: BaseChannelLayer) -> None:
    await layer.group_send("nobody", {"type": "t"})


async def test_changing_a_received_message_changes_no_other_receivers_copy(layer: BaseChannelLayer) -> None:
    first, second = [await layer.new_channel() for _ in range(2)]
    for channel in (first, second):
        await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "t", "list": []})
    (await soon(layer.receive(first)))["list"].append(1)
    assert (await soon(layer.receive(second)))["list"] == []


async def test_flush_forgets_the_groups_and_the_layer_still_works(layer: BaseChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.flush()
    fresh = await layer.new_channel()
    await layer.group_add("h", fresh)
    await layer.group_send("h", {"type": "t"})
    assert await soon(layer.receive(fresh)) == {"type": "t"}


@pytest.mark.parametrize("name", ["with space", "ü", "x" * 100, "", "a!b!c", 5])
async def test_names_outside_of_channels_rules_are_refused(pglayer: PostgresChannelLayer, name: Any) -> None:
    for work in (pglayer.send(name, {}), pglayer.group_send(name, {}), pglayer.group_add(name, "channel")):
        with pytest.raises(TypeError):
            await work


async def test_a_message_above_one_mebibyte_is_refused(pglayer: PostgresChannelLayer) -> None:
    with pytest.raises(ValueError, match="limit"):
        await pglayer.group_send("g", {"type": "t", "text": "x" * (1024 * 1024)})


# --- bounds ------------------------------------------------------------------------------------


async def test_a_channel_that_runs_over_keeps_the_newest_and_is_told_of_the_gap_once(django_db_setup: None) -> None:
    layer = PostgresChannelLayer(capacity=5)
    slow, marker = [await layer.new_channel() for _ in range(2)]
    for group in ("g", GAP_GROUP):
        await layer.group_add(group, slow)
    for number in range(20):
        await layer.group_send("g", {"type": "t", "n": number})
    await layer.send(marker, {"type": "t"})
    await soon(layer.receive(marker))
    got = [await soon(layer.receive(slow)) for _ in range(6)]
    await assert_silent(layer, slow)
    await layer.flush()
    assert got == [{"type": GAP_TYPE}, *({"type": "t", "n": number} for number in range(15, 20))]


async def test_a_channel_whose_receiver_has_gone_is_forgotten(django_db_setup: None) -> None:
    layer = PostgresChannelLayer(expiry=0)
    gone = await layer.new_channel()
    await layer.group_add("g", gone)
    await assert_silent(layer, gone)
    await layer.new_channel()
    with pytest.raises(RuntimeError):
        await layer.group_add("g", gone)
    await layer.flush()


async def test_a_receiver_that_gave_up_waiting_misses_nothing_when_it_comes_back(pglayer: PostgresChannelLayer) -> None:
    channel = await pglayer.new_channel()
    await pglayer.group_add("g", channel)
    await assert_silent(pglayer, channel)
    await pglayer.group_send("g", {"type": "t", "n": 7})
    assert (await soon(pglayer.receive(channel)))["n"] == 7


# --- connections -------------------------------------------------------------------------------


async def test_a_process_holds_two_connections_whatever_the_number_of_channels_and_loops(
    pglayer: PostgresChannelLayer,
) -> None:
    async with backends() as ask:
        before = set(await ask("ziggie live"))
    channels = [await pglayer.new_channel() for _ in range(20)]
    for channel in channels:
        await pglayer.group_add("g", channel)
    send = async_to_sync(pglayer.group_send)
    for _ in range(30):  # a new event loop each time
        await asyncio.to_thread(send, "g", {"type": "t"})
    await asyncio.gather(*(asyncio.to_thread(send, "g", {"type": "t"}) for _ in range(10)))
    for channel in channels:
        for _ in range(40):
            assert await soon(pglayer.receive(channel)) == {"type": "t"}
    async with backends() as ask:
        assert len(set(await ask("ziggie live")) - before) == 2


async def test_a_sender_alone_does_not_listen(pglayer: PostgresChannelLayer) -> None:
    async with backends() as ask:
        before = set(await ask("ziggie live"))
        await pglayer.group_send("g", {"type": "t"})
        assert len(set(await ask("ziggie live")) - before) == 1


async def test_channels_of_another_event_loop_in_another_thread_are_served(pglayer: PostgresChannelLayer) -> None:
    here = await pglayer.new_channel()
    await pglayer.group_add("g", here)

    async def elsewhere() -> dict[str, Any]:
        channel = await pglayer.new_channel()
        await pglayer.group_add("g", channel)
        await pglayer.group_send("g", {"type": "t", "from": "elsewhere"})
        return await soon(pglayer.receive(channel))

    assert (await asyncio.to_thread(asyncio.run, elsewhere()))["from"] == "elsewhere"
    assert (await soon(pglayer.receive(here)))["from"] == "elsewhere"
    await pglayer.group_send("g", {"type": "t", "from": "here"})  # that loop is closed by now
    assert (await soon(pglayer.receive(here)))["from"] == "here"


async def test_both_connections_come_back_after_the_server_ended_them(pglayer: PostgresChannelLayer) -> None:
    channel = await pglayer.new_channel()
    for group in ("g", GAP_GROUP):
        await pglayer.group_add(group, channel)
    await pglayer.group_send("g", {"type": "before"})
    assert await soon(pglayer.receive(channel)) == {"type": "before"}
    async with backends() as ask:
        await ask("ziggie live", "pg_terminate_backend(pid)")
    assert await soon(pglayer.receive(channel)) == {"type": GAP_TYPE}
    await pglayer.group_send("g", {"type": "after"})
    assert await soon(pglayer.receive(channel)) == {"type": "after"}


async def test_a_notification_from_somebody_else_is_ignored(pglayer: PostgresChannelLayer) -> None:
    channel = await pglayer.new_channel()
    await pglayer.group_add("g", channel)
    parameters = connection.get_connection_params()
    parameters = {name: value for name, value in parameters.items() if name not in ("cursor_factory", "context")}
    async with await psycopg.AsyncConnection.connect(**parameters, autocommit=True) as stranger:
        for payload in ("", "hello", "a.b.c.d", "a.0.1.!!", "a.0.1.AAAA", "a.0.99999999.AAAA", "a.5.6.AAAA", "....."):
            await stranger.execute("SELECT pg_notify('ziggie_live', %s)", [payload])
    await pglayer.group_send("g", {"type": "t"})
    assert await soon(pglayer.receive(channel)) == {"type": "t"}


async def test_a_forked_child_sends_on_a_connection_of_its_own(pglayer: PostgresChannelLayer) -> None:
    channel = await pglayer.new_channel()
    await pglayer.group_add("g", channel)
    await pglayer.group_send("g", {"type": "t", "from": "parent"})
    child = os.fork()
    if child == 0:
        status = 1
        try:
            background_loop().submit(pglayer.group_send("g", {"type": "t", "from": "child"})).result(SOON)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
    await pglayer.group_send("g", {"type": "t", "from": "parent again"})
    got = [(await soon(pglayer.receive(channel)))["from"] for _ in range(3)]
    assert got == ["parent", "child", "parent again"]
