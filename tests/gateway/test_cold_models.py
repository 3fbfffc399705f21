"""An Ollama model that takes longer to load than a call waits for its first token."""

import threading
from collections.abc import Iterator

import pytest

from routing.configuration import snapshot
from routing.models import Provider, RoutingRule, UsageRecord
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_clients import QUESTION, openai_client
from tests.servers.http import Exchange
from tests.servers.ollama import OllamaServer
from tests.servers.script import Received, Reply


class ColdOllama(OllamaServer):
    """Loads its model once it is let, and ends the loading with the request that wanted it."""

    is_loaded = False
    loads: list[dict[str, object]]

    def __init__(self) -> None:
        super().__init__()
        self.may_load = threading.Event()
        self.loads = []

    async def answer(self, exchange: Exchange, received: Received, *, streaming: bool) -> None:
        alone = received.json.get("messages") == []
        if alone:
            self.loads.append(received.json)
        if not self.is_loaded:
            self.script.default = Reply("never", after=self.may_load) if not alone else Reply("", after=self.may_load)
            await super().answer(exchange, received, streaming=streaming)
            self.is_loaded = True
            self.script.default = Reply("At last.")
            return
        await super().answer(exchange, received, streaming=streaming)


@pytest.fixture
def cold(gateway: Gateway) -> Iterator[ColdOllama]:
    with ColdOllama() as server:
        Provider.objects.filter(slug="ollama").update(base_url=server.url, options={"keep_alive": "10m"})
        RoutingRule.objects.update(chain=["llama", "gpt"], options={"first_token_seconds": 1, "max_attempts": 3})
        snapshot.forget()
        yield server
        server.may_load.set()


def said(gateway: Gateway, **more: object) -> str:
    answer = openai_client(gateway).chat.completions.create(model="auto", messages=QUESTION, **more)  # type: ignore[call-overload]
    return str(answer.choices[0].message.content)


def test_a_model_left_while_it_loads_is_loaded_beside_and_serves_the_next_calls(
    gateway: Gateway, cold: ColdOllama
) -> None:
    gateway.openai.default = Reply("From the cloud.")
    assert said(gateway) == "From the cloud."
    wait_until(lambda: len(cold.loads) == 1)
    assert said(gateway) == "From the cloud."
    cold.may_load.set()
    wait_until(lambda: cold.is_loaded)
    RoutingRule.objects.update(options={"first_token_seconds": 60})
    snapshot.forget()
    assert said(gateway) == "At last."
    assert len(cold.loads) == 1  # one is enough, however many calls leave it
    (load,) = cold.loads
    asked = next(call.json for call in cold.calls if call.json.get("messages"))
    assert load["options"] == {"num_ctx": asked["options"]["num_ctx"]}
    assert load["keep_alive"] == "10m"
    gateway.settled(3)
    assert UsageRecord.objects.filter(model="llama", outcome="timeout").count() == 2


@pytest.mark.parametrize("change", [{"options": {"keep_alive": "0"}}, {"location": "cloud"}])
def test_what_would_not_stay_or_is_not_loaded_here_is_not_loaded(
    gateway: Gateway, cold: ColdOllama, change: dict[str, object]
) -> None:
    Provider.objects.filter(slug="ollama").update(**change)
    snapshot.forget()
    gateway.openai.default = Reply("From the cloud.")
    assert said(gateway) == "From the cloud."
    gateway.settled(1)
    assert cold.loads == []
