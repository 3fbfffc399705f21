"""A gateway that has no file left for a connection to a provider: its own trouble, which nobody else is blamed for."""

import asyncio
from contextlib import AsyncExitStack

import httpx2
import pytest

from routing import database
from routing.gateway.providers import upstream
from routing.models import Circuit, UsageRecord
from tests.gateway.conftest import Gateway, Serving
from tests.gateway.test_calls import ASKED, CHAT
from tests.gateway.test_dialing import no_files_left

NO_FILE = "too many files and connections are open here"


def without_providers(serving: Serving) -> None:
    """The gateway keeps no connection to a provider, and as many to the database as it may want."""

    async def close() -> None:
        upstream.close()
        async with AsyncExitStack() as connections:
            for _ in range(4):
                await connections.enter_async_context(database.connection())

    asyncio.run_coroutine_threadsafe(close(), serving.loop).result(60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_it_is_an_error_of_ours_which_costs_nothing_and_opens_no_circuit(
    gateway: Gateway, serving: Serving, n: int, stream: bool
) -> None:
    body = {**ASKED, "n": n, "stream": stream}
    with httpx2.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as client:
        assert client.post(CHAT, json=body).status_code == 200
        gateway.settled(1)
        for _ in range(3):
            without_providers(serving)
            with no_files_left():
                answer = client.post(CHAT, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
            assert answer.json()["error"]["code"] == "no_route"
            assert NO_FILE in answer.text
        assert client.post(CHAT, json=body).status_code == 200
    receipts = gateway.settled(5)
    assert sorted(receipt.outcome for receipt in receipts) == ["no_route"] * 3 + ["ok"] * 2
    assert {receipt.cost_microusd for receipt in receipts if receipt.outcome != "ok"} == {0}
    assert not Circuit.objects.exists()


def test_texts_are_not_embedded_for_now_at_no_cost(gateway: Gateway, serving: Serving) -> None:
    body = {"model": "embedder", "input": "text"}
    with httpx2.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as client:
        assert client.post("/v1/embeddings", json=body).status_code == 200
        gateway.settled(1)
        without_providers(serving)
        with no_files_left():
            answer = client.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert NO_FILE in answer.text
    gateway.settled(2)
    (failed,) = UsageRecord.objects.exclude(outcome="ok")
    assert (failed.cost_microusd, failed.input_tokens) == (0, None)
    assert not Circuit.objects.exists()
