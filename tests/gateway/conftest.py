"""A gateway that listens on a real socket, five providers that are real local servers, and the rows between."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
import uvicorn
from django.db import connection, transaction

from routing.configuration import snapshot
from routing.gateway import chat
from routing.models import (
    Budget,
    BudgetPeriod,
    LanguageModel,
    Price,
    Provider,
    Reservation,
    RoutedCall,
    RoutingPolicy,
    RoutingRule,
    RoutingSettings,
    UsageRecord,
)
from routing.reporting import proof
from tests.servers.anthropic import AnthropicServer
from tests.servers.cohere import CohereServer
from tests.servers.gemini import GeminiServer
from tests.servers.ollama import OllamaServer
from tests.servers.openai import OpenAIServer
from tests.ziggie.live_process import database_url, web_server
from ziggie.models import create_api_key


@dataclass
class Gateway:
    """The running gateway and what stands behind it."""

    url: str
    openai: OpenAIServer
    anthropic: AnthropicServer
    ollama: OllamaServer
    gemini: GeminiServer
    cohere: CohereServer
    key: str = ""
    key_id: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def settled(self, calls: int, *, seconds: float = 60.0) -> list[RoutedCall]:
        """The receipts, once there are `calls` of them and nothing is held any more."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            receipts = list(RoutedCall.objects.order_by("id"))
            if len(receipts) >= calls and not Reservation.objects.exists():
                return receipts
            time.sleep(0.02)
        raise AssertionError(f"{RoutedCall.objects.count()} receipts, {Reservation.objects.count()} holds")


def wait_until(happens: Callable[[], bool], *, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@dataclass
class Serving:
    """Where the gateway listens, and the loop that it runs on."""

    url: str
    loop: asyncio.AbstractEventLoop

    def has_settled(self) -> None:
        """Returns once the books of every call that has been answered are written."""
        asyncio.run_coroutine_threadsafe(chat.settled(), self.loop).result(60)


@pytest.fixture(scope="session")
def serving(django_db_setup: None) -> Iterator[Serving]:
    """The gateway on a thread of its own, as `manage.py gateway` serves it."""
    from routing.gateway.serving import server

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        "routing.gateway.serving.server:application",
        http=server.GatewayConnection,
        lifespan="off",
        log_level="warning",
        ws="none",
        proxy_headers=False,
    )
    running = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []

    def serve() -> None:
        with asyncio.Runner() as runner:
            loops.append(runner.get_loop())
            runner.run(running.serve(sockets=[listener]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield Serving(f"http://127.0.0.1:{listener.getsockname()[1]}", loops[0])
    running.should_exit = True
    thread.join(60)


@pytest.fixture
def gateway(transactional_db: None, serving: Serving) -> Iterator[Gateway]:
    """Five providers with one model each, a rule for all, a hard budget of one dollar, a key."""
    with (
        OpenAIServer(api_key="sk-upstream") as openai,
        AnthropicServer() as anthropic,
        OllamaServer() as ollama,
        GeminiServer() as gemini,
        CohereServer(api_key="co-upstream") as cohere,
    ):
        made = Gateway(serving.url, openai, anthropic, ollama, gemini, cohere)
        with transaction.atomic():
            _configure(made)
        snapshot.forget()  # or the gateway may see the last test's rows for half a second
        yield made
        serving.has_settled()
        _books_balance()


@pytest.fixture
def mounted(gateway: Gateway) -> Iterator[Gateway]:
    """The same gateway beside Django, in an impatient daphne."""
    environment = {"DATABASE_URL": database_url(connection.settings_dict), "ZIGGIE_HOME": os.environ["ZIGGIE_HOME"]}
    with web_server(environment=environment, application="tests.gateway.impatient:application") as port:
        yield replace(gateway, url=f"http://127.0.0.1:{port}")


def _configure(made: Gateway) -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"baseline_model": "claude"})
    rows = [
        ("openai", "openai", "cloud", made.openai.base_url, "sk-upstream"),
        ("anthropic", "anthropic", "cloud", made.anthropic.url, "sk-ant"),
        ("ollama", "ollama", "local", made.ollama.url, ""),
        ("gemini", "gemini", "cloud", made.gemini.url, "google-key"),
        ("cohere", "cohere", "cloud", made.cohere.url, "co-upstream"),
    ]
    providers = {
        slug: Provider.objects.create(
            slug=slug, kind=kind, location=place, base_url=url, api_key=key, timeout_seconds=10
        )
        for slug, kind, place, url, key in rows
    }
    models = [
        ("gpt", "openai", "gpt-4o-mini", ["chat", "json", "tools", "vision", "pdf"], "1", "5"),
        ("claude", "anthropic", made.anthropic.models[0], ["chat", "json", "tools", "vision", "pdf"], "3", "15"),
        ("thinker", "openai", "gpt-5-mini", ["chat", "json", "tools", "vision", "pdf"], "1", "5"),
        ("llama", "ollama", made.ollama.models[0], ["chat", "json", "tools", "vision"], "0", "0"),
        ("flash", "gemini", made.gemini.models[0], ["chat", "json", "tools", "vision", "pdf"], "2", "10"),
        ("command", "cohere", made.cohere.models[0], ["chat", "json", "tools", "vision"], "4", "20"),
        ("local-embedder", "ollama", "nomic-embed-text", ["embedding"], "0", "0"),
        ("embedder", "openai", "text-embedding-3-small", ["embeddings"], "1", "0"),
    ]
    for slug, provider, name, capabilities, price_in, price_out in models:
        model = LanguageModel.objects.create(
            slug=slug, provider=providers[provider], name=name, context_window=128_000, max_output_tokens=4096,
            capabilities=capabilities, dimensions=8 if capabilities[0].startswith("embedding") else None,
        )  # fmt: skip
        Price.objects.create(model=model, input_usd_per_mtok=Decimal(price_in), output_usd_per_mtok=Decimal(price_out))
    policy = RoutingPolicy.objects.create(slug="test", state="live")
    RoutingRule.objects.create(policy=policy, position=1, name="everything", chain=["gpt", "llama"],
                               options={"first_token_seconds": 60})  # fmt: skip
    Budget.objects.create(
        slug="cloud", scope={"locations": ["cloud"]}, period="month", limit_microusd=1_000_000, on_exhausted="deny"
    )
    key, made.key = create_api_key("tests")
    made.key_id = str(key.pk)


def _books_balance() -> None:
    """Whatever a test did: nothing is held, and all sums agree to the micro-dollar."""
    until = time.monotonic() + 60  # a call that its client left may still be on its way to the books
    while (Reservation.objects.exists() or proof.differences()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not Reservation.objects.exists()
    assert proof.differences() == []
    for period in BudgetPeriod.objects.filter(budget__slug="cloud"):
        assert period.held_microusd == 0
        cloud = UsageRecord.objects.filter(source="cloud").values_list("cost_microusd", flat=True)
        assert period.settled_microusd == sum(cloud)
