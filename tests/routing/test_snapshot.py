import asyncio
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from routing import database
from routing.configuration import snapshot
from routing.configuration.seeding import seed
from routing.models import Budget, LanguageModel, Price, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from routing.types import Range, Source
from ziggie.errors import ConfigurationError, Unavailable

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def seeded() -> None:
    seed()


def eventually(holds: Callable[[], bool], *, seconds: float = 60) -> float:
    """After how many seconds the last look began that did not see it yet; fails if none ever does."""
    started = time.monotonic()
    last = 0.0
    while (now := time.monotonic() - started) < seconds:
        if holds():
            return last
        last = now
        time.sleep(0.02)
    pytest.fail(f"did not happen within {seconds} s")


@pytest.mark.usefixtures("seeded")
def test_the_seeded_catalogue_becomes_one_snapshot() -> None:
    loaded = snapshot.load()
    sonnet = loaded.models["claude-sonnet-4-5"]
    assert sonnet.price is not None
    assert (sonnet.price.input_usd_per_mtok, sonnet.price.output_usd_per_mtok) == (Decimal(3), Decimal(15))
    assert (sonnet.source, sonnet.provider.slug) == (Source.CLOUD, "anthropic")
    assert loaded.policy.slug == RoutingPolicy.objects.get(state="live").slug
    live_rules = RoutingRule.objects.filter(policy__state="live").order_by("position")
    assert [rule.name for rule in loaded.policy.rules] == [row.name for row in live_rules]
    assert {budget.slug for budget in loaded.budgets} == set(Budget.objects.values_list("slug", flat=True))
    assert loaded.settings.electricity_usd_per_kwh == Decimal("0.12")
    assert all(model in loaded.by_name[model.name] for model in loaded.models.values())


@pytest.mark.usefixtures("seeded")
def test_every_column_of_a_rule_arrives() -> None:
    RoutingRule.objects.filter(policy__state="live", position=1).update(
        task_kinds=["analysis"],
        complexity_above=Decimal("0.25"),
        complexity_at_most=Decimal("0.9"),
        local_queue_above=5,
        roles={"verifier": "offline"},
        options={"max_attempts": 2, "min_confidence": 70, "an_option_of_tomorrow": 1},
    )
    row = RoutingRule.objects.get(policy__state="live", position=1)
    rule = next(rule for rule in snapshot.load().policy.rules if rule.name == row.name)
    assert rule.when.task_kinds == {"analysis"}
    assert rule.when.complexity == Range(0.25, 0.9)
    assert rule.when.local_queue == Range(5, None)
    assert (rule.chain, rule.roles) == (tuple(row.chain), {"verifier": "offline"})
    assert (rule.options.max_attempts, rule.options.min_confidence) == (2, 70)


def test_without_a_live_policy_it_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"manage\.py seed"):
        snapshot.current()


@pytest.mark.usefixtures("seeded")
def test_a_stored_key_goes_before_the_variable(settings: Any) -> None:
    settings.PROVIDER_API_KEYS = {"ANTHROPIC_API_KEY": "from the environment"}

    def provider() -> Any:
        return snapshot.load().models["claude-sonnet-4-5"].provider

    assert (provider().api_key, provider().needs_api_key) == ("from the environment", True)
    Provider.objects.filter(slug="anthropic").update(api_key="typed into the admin")
    assert provider().api_key == "typed into the admin"
    assert "typed into" not in repr(provider())
    Provider.objects.filter(slug="anthropic").update(api_key="")
    settings.PROVIDER_API_KEYS = {}
    assert (provider().api_key, provider().api_key_problem) == ("", "ANTHROPIC_API_KEY is not set")


@pytest.mark.usefixtures("seeded")
def test_keys_in_a_providers_headers_come_from_the_environment(settings: Any) -> None:
    headers = {"X-Team": "games", "Authorization": "Bearer ${PROXY_API_KEY}", "Host": "of an older row"}
    Provider.objects.filter(slug="ollama").update(options={"headers": headers, "keep_alive": "1m"})
    settings.PROVIDER_API_KEYS = {"PROXY_API_KEY": "let-me-in"}

    def provider() -> Any:
        return snapshot.load().models["llama3.2"].provider

    sent = {"x-team": "games", "authorization": "Bearer let-me-in"}
    assert (provider().options, provider().needs_api_key) == ({"headers": sent, "keep_alive": "1m"}, False)
    assert "let-me-in" not in repr(provider())
    settings.PROVIDER_API_KEYS = {}
    assert (provider().api_key, provider().needs_api_key) == ("", True)
    assert provider().api_key_problem == "PROXY_API_KEY is not set, which its headers name"


@pytest.mark.usefixtures("seeded")
def test_a_key_that_cannot_be_read_takes_away_one_provider_only() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE routing_provider SET api_key = 'gAAAA-not-ours' WHERE slug = 'openai'")
    loaded = snapshot.load()
    broken = next(m.provider for m in loaded.models.values() if m.provider.slug == "openai")
    assert broken.api_key == ""
    assert "cannot be read" in broken.api_key_problem
    assert loaded.models["offline"].enabled


@pytest.mark.usefixtures("seeded")
def test_nothing_is_asked_again_within_half_a_second(django_assert_num_queries: Any) -> None:
    for _ in range(50):  # a machine that stood still meanwhile tells nothing
        snapshot.forget()
        began = time.monotonic()
        with CaptureQueriesContext(connection) as asked:
            first, again = snapshot.current(), snapshot.current()
        if time.monotonic() - began < snapshot.CHECK_SECONDS:
            break
    assert len(asked) == 2
    assert again is first
    snapshot.expire()
    with django_assert_num_queries(1):
        assert snapshot.current() is first


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (
            lambda: RoutingRule.objects.filter(policy__state="live", position=1).update(name="renamed"),
            lambda s: "renamed" in [rule.name for rule in s.policy.rules],
        ),
        (
            lambda: Price.objects.create(
                model=LanguageModel.objects.get(slug="offline"), input_usd_per_mtok=7, output_usd_per_mtok=7
            ),
            lambda s: s.models["offline"].price.input_usd_per_mtok == 7,
        ),
        (
            lambda: Provider.objects.filter(slug="ollama").update(enabled=False),
            lambda s: not s.models["llama3.2"].provider.enabled,
        ),
        (lambda: Budget.objects.update(limit_microusd=77), lambda s: s.budgets[0].limit_microusd == 77),
        (lambda: Budget.objects.update(enabled=False), lambda s: not s.budgets),
        (lambda: RoutingSettings.objects.update(kimi_enabled=True), lambda s: s.settings.kimi_enabled),
    ],
)
def test_a_change_is_seen_by_both_doors_within_two_seconds(
    change: Callable[[], Any], seen: Callable[..., bool]
) -> None:
    async def acurrent() -> Any:
        return await snapshot.acurrent()

    with asyncio.Runner() as runner:
        assert not seen(snapshot.current())
        assert not seen(runner.run(acurrent()))
        change()
        assert eventually(lambda: seen(runner.run(acurrent()))) < 2
        assert eventually(lambda: seen(snapshot.current())) < 2


@pytest.mark.usefixtures("seeded")
def test_a_price_comes_into_force_at_its_time_though_no_row_changes_then() -> None:
    model = LanguageModel.objects.get(slug="claude-sonnet-4-5")
    from_then_on = timezone.now() + timedelta(seconds=1)
    Price.objects.create(model=model, input_usd_per_mtok=9, output_usd_per_mtok=9, effective_from=from_then_on)

    def dollars() -> Decimal:
        price = snapshot.current().models["claude-sonnet-4-5"].price
        assert price is not None
        return price.input_usd_per_mtok

    seen = dollars()
    assert seen == 3 or timezone.now() >= from_then_on
    assert eventually(lambda: dollars() == 9) < 3


@pytest.mark.usefixtures("seeded")
def test_no_snapshot_holds_half_of_a_change() -> None:
    done = threading.Event()

    def change_together() -> None:
        value = 0
        while not done.is_set():
            value += 1
            with transaction.atomic():
                Provider.objects.update(power_watts=value)
                RoutingPolicy.objects.filter(state="live").update(version=value)
                Budget.objects.update(limit_microusd=value)
        connections.close_all()

    writer = threading.Thread(target=change_together)
    writer.start()
    try:
        values = set()
        until = time.monotonic() + 60
        while len(values) <= 5 and time.monotonic() < until:
            loaded = snapshot.load()
            seen = {loaded.policy.version, *(b.limit_microusd for b in loaded.budgets)}
            seen |= {m.provider.power_watts for m in loaded.models.values()}
            values.add(loaded.policy.version)
            if loaded.policy.version > 1:
                assert len(seen) == 1
    finally:
        done.set()
        writer.join()
    assert len(values) > 5


@pytest.mark.usefixtures("seeded")
def test_many_tasks_that_ask_at_once_cause_one_look() -> None:
    async def ask_all() -> set[int]:
        found = await asyncio.gather(*(snapshot.acurrent() for _ in range(200)))
        await database.close()
        return {id(one) for one in found}

    assert len(asyncio.run(ask_all())) == 1


@pytest.mark.usefixtures("seeded")
def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent() -> None:
    snapshot.current()
    with snapshot._cache.lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if snapshot._cache.lock.acquire(timeout=2) and snapshot._cache.state is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_database_that_is_away_is_said_in_one_line(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "/nowhere")

    async def ask() -> None:
        await snapshot.acurrent()

    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(ask())
    connections.close_all()
    with pytest.raises(Unavailable, match="does not answer"):
        snapshot.current()


def test_the_epoch_moves_with_every_table_that_the_snapshot_reads() -> None:
    with psycopg.connect(**database.connection_parameters()) as plain:
        tables = plain.execute(
            "SELECT event_object_table FROM information_schema.triggers WHERE trigger_name = 'ziggie_epoch_write'"
        ).fetchall()
    watched = {name for (name,) in tables}
    read = (Provider, LanguageModel, Price, RoutingSettings, RoutingPolicy, RoutingRule, Budget)
    assert {model._meta.db_table for model in read} <= watched
