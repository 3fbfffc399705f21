import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from routing import database
from routing.configuration import snapshot
from routing.models import Budget, BudgetPeriod, Circuit, LanguageModel, Provider, ProviderDay, RoutingPolicy
from routing.types import BudgetState, ErrorKind, ModelSpec, ProviderError, Snapshot, World
from routing.world import circuits, health, worlds
from tests.servers.http import Exchange, HTTPServer
from tests.servers.ollama import OllamaServer
from ziggie.pglayer import PostgresChannelLayer
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)


def configure(base_url: str = "http://127.0.0.1:9") -> Snapshot:
    """Two local models and a hosted one, read back as a snapshot."""
    ollama = Provider.objects.create(
        slug="ollama", kind="ollama", location="local", base_url=base_url, max_concurrency=2
    )
    hosted = Provider.objects.create(slug="hosted", kind="openai", location="cloud", base_url=base_url)
    for slug, provider in (("llama3.2", ollama), ("qwen2.5:14b", ollama), ("gpt", hosted)):
        LanguageModel.objects.create(slug=slug, name=slug, provider=provider, context_window=8192)
    RoutingPolicy.objects.create(slug="default", state="live")
    return snapshot.load()


@pytest.fixture
def llama(request: pytest.FixtureRequest) -> ModelSpec:
    return configure().models["llama3.2"]


@pytest.fixture(autouse=True)
async def clean_loop() -> AsyncIterator[None]:
    circuits.remember(circuits.Known())
    yield
    await database.close()


def failure(kind: ErrorKind, **more: Any) -> ProviderError:
    return ProviderError(kind, "it failed", retryable=True, **more)


async def fail(model: ModelSpec, kind: ErrorKind, times: int = 1, **more: Any) -> None:
    for _ in range(times):
        await health.record_failure(model.provider, model, failure(kind, **more))


async def circuit(model: ModelSpec, slug: str | None = None) -> Circuit:
    return await Circuit.objects.aget(provider_id=model.provider.id, model_slug=model.slug if slug is None else slug)


async def cool_down_is_over() -> None:
    await Circuit.objects.filter(state="open").aupdate(open_until=timezone.now() - timedelta(seconds=1))
    await health.world(await snapshot.acurrent())


async def open_circuits() -> dict[tuple[str, str], str]:
    return dict((await health.world(await snapshot.acurrent())).open_circuits)


async def call(model: ModelSpec, *, until: asyncio.Event | None = None) -> bool:
    try:
        async with health.slot(model.provider, model, wait_seconds=60):
            await (until.wait() if until else asyncio.sleep(0.02))
    except ProviderError as error:
        assert error.kind == "busy"  # noqa: PT017 - nothing else may come
        return False
    return True


# --- circuits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timeout", "server", "protocol", "cut"])
async def test_a_model_that_fails_in_a_row_is_left_alone_and_its_provider_is_not(
    llama: ModelSpec, kind: ErrorKind
) -> None:
    await fail(llama, kind, 2)
    assert await open_circuits() == {}
    await fail(llama, kind)
    assert await open_circuits() == {("ollama", "llama3.2"): f"{kind}: it failed"}


async def test_a_success_in_between_starts_the_count_again(llama: ModelSpec) -> None:
    await fail(llama, "server", 2)
    await health.record_success(llama.provider, llama)
    await fail(llama, "server", 2)
    assert await open_circuits() == {}


@pytest.mark.parametrize(("kind", "times"), [("connection", 2), ("overloaded", 3), ("auth", 1), ("quota", 1)])
async def test_what_concerns_the_whole_provider_opens_the_whole_provider(
    llama: ModelSpec, kind: ErrorKind, times: int
) -> None:
    await fail(llama, kind, times - 1)
    assert await open_circuits() == {}
    await fail(llama, kind)
    assert list(await open_circuits()) == [("ollama", "")]


@pytest.mark.parametrize("kind", ["bad_request", "content_filter", "context_overflow", "busy"])
async def test_a_refused_request_says_nothing_against_the_model(llama: ModelSpec, kind: ErrorKind) -> None:
    await fail(llama, kind, 10)
    assert not await Circuit.objects.aexists()


async def test_an_unknown_model_is_left_alone_at_once(llama: ModelSpec) -> None:
    await fail(llama, "not_found")
    assert list(await open_circuits()) == [("ollama", "llama3.2")]


async def test_retry_after_is_kept_to_and_capped(llama: ModelSpec) -> None:
    await fail(llama, "rate_limited", retry_after_seconds=40)
    row = await circuit(llama)
    assert row.state == "open"
    assert row.open_until is not None
    assert 40 <= (row.open_until - row.changed_at).total_seconds() <= 52
    await cool_down_is_over()
    await fail(llama, "rate_limited", retry_after_seconds=86_400)
    row = await circuit(llama)
    assert row.open_until is not None
    assert (row.open_until - row.changed_at).total_seconds() < 400


async def test_failures_that_come_late_change_nothing(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    opened = await circuit(llama, "")
    await asyncio.gather(*(fail(llama, "connection") for _ in range(20)))
    after = await circuit(llama, "")
    assert (after.open_until, after.trips) == (opened.open_until, 1)


async def test_each_trip_lasts_longer_up_to_a_limit(llama: ModelSpec) -> None:
    lasted = []
    for _ in range(9):
        await fail(llama, "connection", 2)
        row = await circuit(llama, "")
        assert row.open_until is not None
        lasted.append((row.open_until - row.changed_at).total_seconds())
        await cool_down_is_over()
    assert 5 <= lasted[0] <= 6.25
    assert 10 <= lasted[1] <= 12.5
    assert lasted[2] > lasted[1]
    assert max(lasted) <= 375


async def test_after_a_quiet_while_the_cool_down_starts_small_again(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    await Circuit.objects.aupdate(state="closed", failures=0, trips=7, changed_at=timezone.now() - timedelta(hours=1))
    await fail(llama, "connection", 2)
    assert (await circuit(llama, "")).trips == 1


async def test_one_call_alone_tries_what_had_failed(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    await cool_down_is_over()
    wide = replace(llama, provider=replace(llama.provider, max_concurrency=None))
    over = asyncio.Event()
    calls = [asyncio.create_task(call(wide, until=over)) for _ in range(30)]
    while sum(task.done() for task in calls) < 29:
        await asyncio.sleep(0.01)
    assert not any(task.result() for task in calls if task.done())
    assert list(await open_circuits()) == [("ollama", "")]
    await health.record_success(llama.provider, llama)
    over.set()
    assert sum(await asyncio.gather(*calls)) == 1
    assert await open_circuits() == {}
    assert all(await asyncio.gather(*(call(wide) for _ in range(30))))


async def test_a_probe_that_fails_opens_again_and_one_that_dies_is_replaced(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    await cool_down_is_over()
    async with health.slot(llama.provider, llama):
        await fail(llama, "connection")
    assert (await circuit(llama, "")).state == "open"
    await cool_down_is_over()
    async with AsyncExitStack() as dead:
        await dead.enter_async_context(health.slot(llama.provider, llama))  # and nobody hears of it again
        assert not await call(llama)
        await Circuit.objects.aupdate(probe_until=timezone.now() - timedelta(seconds=1))
        await health.world(await snapshot.acurrent())
        async with health.slot(llama.provider, llama):
            await dead.aclose()  # should it live on, it takes nothing from the one that replaced it
            assert (await circuit(llama, "")).state == "half_open"
            assert not await call(llama)


async def test_a_probe_without_a_verdict_lets_the_next_call_try_at_once(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    await cool_down_is_over()
    assert await call(llama)
    assert await call(llama)
    assert (await circuit(llama, "")).state == "open"


async def test_pages_hear_of_models_as_well_as_of_providers(llama: ModelSpec, own_layer: PostgresChannelLayer) -> None:
    layer = own_layer
    channel = await layer.new_channel()
    await layer.group_add("live.providers", channel)
    await fail(llama, "server", 3)
    await circuits.set_missing(llama.provider, {"mistral"}, set())
    await circuits.set_missing(llama.provider, {"mistral"}, set())  # no news
    await circuits.set_missing(llama.provider, set(), {"mistral"})
    await fail(llama, "connection", 2)
    told = [json.loads((await layer.receive(channel))["frame"]) for _ in range(4)]
    assert [(event["type"], event["object"], event["data"]["state"]) for event in told] == [
        ("model.changed", "model:llama3.2", "open"),
        ("model.changed", "model:mistral", "open"),
        ("model.changed", "model:mistral", "closed"),
        ("provider.changed", "provider:ollama", "open"),
    ]
    assert told[0]["data"]["provider"] == "ollama"
    assert "server" in told[0]["data"]["reason"]
    await layer.flush()


async def test_a_refused_request_ends_a_probe_well(llama: ModelSpec) -> None:
    await fail(llama, "connection", 2)
    await cool_down_is_over()
    async with health.slot(llama.provider, llama):
        await fail(llama, "context_overflow")
    assert (await circuit(llama, "")).state == "closed"


async def test_a_success_where_nothing_was_wrong_asks_no_database(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    await health.world(await snapshot.acurrent())
    monkeypatch.setattr(database, "connection", None)
    await health.record_success(llama.provider, llama)


async def test_a_provider_that_was_deleted_meanwhile_is_no_error(llama: ModelSpec) -> None:
    await health.record_failure(replace(llama.provider, id=10**6), llama, failure("connection"))
    assert not await Circuit.objects.aexists()


# --- the world -----------------------------------------------------------------------------------


async def test_an_untouched_world_is_healthy_empty_and_unspent(llama: ModelSpec) -> None:
    seen = await health.world(await snapshot.acurrent())
    assert seen == World(seen.at)


async def test_budgets_are_seen_with_what_is_left_of_their_present_period(llama: ModelSpec) -> None:
    now = timezone.now()
    used = await Budget.objects.acreate(slug="used", limit_microusd=1_000)
    fresh = await Budget.objects.acreate(slug="fresh", limit_microusd=500)
    for ended, settled in ((True, 900), (False, 300)):
        await BudgetPeriod.objects.acreate(
            budget=used,
            period="month",
            starts_at=now - timedelta(days=40 if ended else 1),
            ends_at=now - timedelta(days=1) if ended else now + timedelta(days=20),
            limit_microusd=1_000,
            hard=True,
            settled_microusd=settled,
            held_microusd=0 if ended else 100,
        )
    seen = await health.world(await snapshot.acurrent())
    assert seen.budgets == {used.pk: BudgetState(600, 1_000, held_microusd=100), fresh.pk: BudgetState(500, 500)}


async def test_running_and_waiting_calls_are_seen_by_all(llama: ModelSpec) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(health.slot(llama.provider, llama))
        waiting = asyncio.create_task(call(llama))
        until = asyncio.get_running_loop().time() + 60
        while (seen := await health.world(await snapshot.acurrent())).local_queue == 0:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.02)
        assert seen.busy == {"ollama": 3}
        assert seen.local_queue == 1
    assert await waiting


async def test_a_look_for_an_earlier_configuration_does_not_serve_a_later_one(llama: ModelSpec) -> None:
    await fail(llama, "auth")
    before = await snapshot.acurrent()
    await Provider.objects.filter(slug="ollama").aupdate(slug="renamed")
    snapshot.forget()
    after = await snapshot.acurrent()
    seen = await asyncio.gather(worlds.recent(before), worlds.recent(after))
    assert [list(world.open_circuits) for world in seen] == [[("ollama", "")], [("renamed", "")]]


async def test_requests_a_day_end_exactly_at_the_limit(llama: ModelSpec) -> None:
    await Provider.objects.filter(slug="ollama").aupdate(max_requests_per_day=10, max_concurrency=None)
    snapshot.forget()
    limited = (await snapshot.acurrent()).models["llama3.2"]
    assert sum(await asyncio.gather(*(call(limited) for _ in range(40)))) == 10
    seen = await health.world(await snapshot.acurrent())
    assert seen.requests_today == {"ollama": 10}
    await ProviderDay.objects.aupdate(day=timezone.now().date() - timedelta(days=1))
    assert await call(limited)
    assert not await call(replace(limited, provider=replace(limited.provider, max_requests_per_day=0)))


async def test_a_provider_that_was_deleted_while_its_calls_waited_is_asked_no_more(llama: ModelSpec) -> None:
    limited = replace(llama, provider=replace(llama.provider, id=llama.provider.id + 99, max_requests_per_day=10))
    assert not await call(limited)


async def test_an_answer_does_not_depend_on_its_being_counted(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(llama, "server")
    await database.close()
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "/nowhere")
    await health.record_success(llama.provider, llama)
    await fail(llama, "server", times=5)
    monkeypatch.undo()
    assert (await circuit(llama)).failures == 1, "nothing could be written down"
    await health.record_success(llama.provider, llama)
    assert (await circuit(llama)).failures == 0


# --- the background check ------------------------------------------------------------------------


def start_server(**attributes: Any) -> OllamaServer:
    server = OllamaServer()
    for name, value in attributes.items():
        setattr(server, name, value)
    return server


async def check(base_url: str) -> None:
    await Provider.objects.filter(slug="hosted").aupdate(enabled=False)
    await Provider.objects.filter(slug="ollama").aupdate(base_url=base_url)
    snapshot.forget()
    await health.check_providers(await snapshot.acurrent())


async def test_a_check_learns_which_models_are_pulled_and_loaded(llama: ModelSpec) -> None:
    with start_server(models=("llama3.2:latest",), loaded=("llama3.2:latest",)) as server:
        await check(server.url)
        assert await open_circuits() == {("ollama", "qwen2.5:14b"): "not pulled on ollama"}
        seen = await health.world(await snapshot.acurrent())
        assert seen.loaded == {"ollama": ("llama3.2:latest",)}
        server.models = ("llama3.2:latest", "qwen2.5:14b")
        await check(server.url)
        assert await open_circuits() == {}


@pytest.mark.parametrize(
    ("name", "pulled"),
    [
        ("Qwen2.5:14B", "qwen2.5:14b"),
        ("registry.ollama.ai/library/qwen2.5", "qwen2.5:latest"),
        ("hf.co/unsloth/qwen2.5-gguf", "hf.co/unsloth/Qwen2.5-GGUF:latest"),
        ("box:5000/mine/qwen2.5", "box:5000/mine/qwen2.5:latest"),
    ],
)
async def test_a_model_is_found_under_each_name_that_ollama_serves_it_by(
    llama: ModelSpec, name: str, pulled: str
) -> None:
    await LanguageModel.objects.filter(slug="qwen2.5:14b").aupdate(name=name)
    with start_server(models=("llama3.2:latest", pulled)) as server:
        await check(server.url)
        assert await open_circuits() == {}


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "kimi-k2.5:cloud"])
async def test_a_model_that_ollama_passes_on_to_its_cloud_need_not_be_pulled(llama: ModelSpec, name: str) -> None:
    await LanguageModel.objects.filter(slug="qwen2.5:14b").aupdate(name=name)
    with start_server(models=("llama3.2:latest",)) as server:
        await check(server.url)
        assert await open_circuits() == {}
        await LanguageModel.objects.filter(slug="qwen2.5:14b").aupdate(name=name.replace("cloud", "local"))
        await check(server.url)
        assert await open_circuits() == {("ollama", "qwen2.5:14b"): "not pulled on ollama"}


async def test_a_server_that_is_down_is_found_out_and_found_back(llama: ModelSpec) -> None:
    with start_server() as server:
        url = server.url
    await check(url)
    assert "connection" in (await open_circuits())["ollama", ""]
    with start_server(models=("llama3.2", "qwen2.5:14b")) as server:
        await check(server.url)
        assert await open_circuits() == {}
    assert (await circuit(llama, "")).checked_at is not None


async def test_a_check_does_not_heal_what_it_cannot_see(llama: ModelSpec) -> None:
    await fail(llama, "quota")
    with start_server(models=("llama3.2", "qwen2.5:14b")) as server:
        await check(server.url)
    assert list(await open_circuits()) == [("ollama", "")]


@pytest.mark.parametrize(
    ("status", "message", "is_shut"),
    [
        (403, "You have insufficient permissions for this operation. Missing scopes: api.model.read.", False),
        (401, "You have insufficient permissions for this operation. Missing scopes: api.model.read.", False),
        (401, "Incorrect API key provided: sk-x.", True),
        (404, "There is no such list.", False),
        (429, "Too many requests.", False),
    ],
)
async def test_a_list_of_models_that_is_not_to_be_had_says_nothing_of_calls(
    llama: ModelSpec, status: int, message: str, is_shut: bool
) -> None:
    hosted = (await snapshot.acurrent()).models["gpt"]
    await Provider.objects.filter(slug="ollama").aupdate(enabled=False)

    async def refuse(exchange: Exchange) -> None:
        await exchange.send_json(status, {"error": {"message": message, "type": "invalid_request_error"}})

    with HTTPServer(refuse) as server:
        await Provider.objects.filter(slug="hosted").aupdate(base_url=server.url)
        snapshot.forget()
        await health.check_providers(await snapshot.acurrent())
        assert list(await open_circuits()) == ([("hosted", "")] if is_shut else [])
        await fail(hosted, "auth")  # a call was refused: that is not over since the list is refused, too
        await health.check_providers(await snapshot.acurrent())
        assert list(await open_circuits()) == [("hosted", "")]


async def test_providers_that_are_not_called_are_not_checked(llama: ModelSpec) -> None:
    with start_server() as server:
        await Provider.objects.aupdate(enabled=False, base_url=server.url)
        await Provider.objects.filter(slug="hosted").aupdate(enabled=True, switch="kimi")
        snapshot.forget()
        await health.check_providers(await snapshot.acurrent())
        assert server.requests == []
