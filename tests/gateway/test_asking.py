"""What is made ready for a provider before the money is held, and what is kept of it afterwards."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from routing import service
from routing.adapters.base import WireRequest
from routing.gateway import upstream
from routing.gateway.upstream import Ready, fetch
from routing.types import ChatRequest, Hints, message
from tests.installation import Installation, installed
from tests.servers.openai import OpenAIServer
from tests.servers.script import Reply
from ziggie.background import background_loop

ASKED = ChatRequest(
    (message("user", "What is a sprite?"),), hints=Hints(task_kind="analysis", creator_tier="high"),
    max_output_tokens=50,
)  # fmt: skip
SONNET = "claude-sonnet-4-5"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        yield installation


async def _told(request: ChatRequest, models: frozenset[str]) -> list[str]:
    """Who was to be asked first, as far as that was said while the money was being held."""
    told: list[str] = []
    call = await service.open_call(
        request,
        meanwhile=lambda candidate, _: told.append(candidate.model.slug),
        by_package=False,
        allowed_models=models,
    )
    assert call.plan.candidates[0].model.slug == SONNET
    await service.settle(call, service.close_books(call, None, None))
    return told


def test_a_request_is_made_ready_only_for_who_is_asked_for_the_whole_answer(here: Installation) -> None:
    def told(models: frozenset[str], request: ChatRequest = ASKED) -> list[str]:
        return background_loop().submit(_told(request, models)).result(60)

    assert told(frozenset({SONNET})) == [SONNET]
    assert told(frozenset({SONNET, "llama3.2"}), replace(ASKED, model="")) == []  # who hurries is asked for a stream
    here.assert_books_are_closed()


async def test_a_requests_bytes_are_let_go_while_its_answer_is_awaited_and_made_anew_where_they_got_lost() -> None:
    with OpenAIServer() as server:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
        sent = WireRequest("POST", f"{server.base_url}/chat/completions", {}, body)
        server.queue(Reply("first"), Reply(fault="reset"), Reply("second"))
        assert b"first" in (await fetch(sent, idle_seconds=60)).body
        answering = threading.Event()
        server.default = Reply("third", after=answering)
        ready = Ready.of(sent)
        # over the kept connection, which breaks before a byte has come: it is asked over another one
        assert b"second" in (await fetch(sent, idle_seconds=60, ready=ready)).body
        ready = Ready.of(sent)
        fetching = asyncio.create_task(fetch(sent, idle_seconds=60, ready=ready))
        while len(server.calls) < 4:
            await asyncio.sleep(0.01)
        assert ready.payload == b""
        answering.set()
        assert b"third" in (await fetching).body
    upstream.close()
