"""What is made ready for a provider before the money is held, and what is kept of it afterwards."""

import asyncio
import threading
from collections import deque

import pytest

from routing import service
from routing.adapters.base import WireRequest
from routing.gateway.asking import Preparation
from routing.gateway.providers import upstream
from routing.gateway.providers.pool import Pool
from routing.gateway.providers.upstream import Ready, fetch
from routing.types import ChatRequest, Hints, ProviderError, message
from tests.installation import Installation
from tests.ports import free_port
from tests.servers.openai import OpenAIServer
from tests.servers.script import Reply
from ziggie.background import background_loop
from ziggie.values import replace

ASKED = ChatRequest(
    (message("user", "What is a sprite?"),), hints=Hints(task_kind="analysis", creator_tier="high"),
    max_output_tokens=50,
)  # fmt: skip
SONNET = "claude-sonnet-4-5"


async def _is_ready(request: ChatRequest, models: frozenset[str], *, whole: bool, streamed: bool) -> bool:
    """Whether the request to who is asked first was made ready, in that form, while the money was being held."""
    preparation = Preparation(request, whole=whole)
    call = await service.open_call(request, meanwhile=preparation.prepare, by_package=False, allowed_models=models)
    first = call.plan.candidates[0]
    assert first.model.slug == SONNET
    is_ready = preparation.take(first, request, streamed=streamed) is not None
    assert preparation.take(first, request, streamed=streamed) is None  # it is there once
    await service.settle(call, service.close_books(call, None, None))
    return is_ready


@pytest.mark.parametrize(
    ("whole", "hurries", "streamed"), [(True, False, False), (False, False, True), (True, True, True)]
)
def test_a_request_is_made_ready_in_the_form_in_which_its_first_model_will_be_asked(
    here: Installation, whole: bool, hurries: bool, streamed: bool
) -> None:
    models = frozenset({SONNET, "llama3.2"} if hurries else {SONNET})
    request = replace(ASKED, model="") if hurries else ASKED
    for form in (True, False):
        asking = _is_ready(request, models, whole=whole, streamed=form)
        assert background_loop().submit(asking).result(60) == (form == streamed)
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


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_connection_is_opened_before_the_request_that_will_want_it(is_there: bool) -> None:
    with OpenAIServer() as server:
        server.default = Reply("hello")
        sent = WireRequest("POST", f"{server.base_url}/chat/completions", {}, {"model": "gpt-4o-mini", "messages": []})
        ready = Ready.of(sent)
        upstream.expect(ready.address)
        while is_there and server.connections < 1:  # else it is on its way
            await asyncio.sleep(0.01)
        assert b"hello" in (await fetch(sent, idle_seconds=60, ready=ready)).body
        upstream.expect(ready.address)  # that one is kept
        assert b"hello" in (await fetch(sent, idle_seconds=60)).body
        assert server.connections == 1
    upstream.close()


async def test_a_connection_whose_waiter_leaves_as_it_comes_is_kept() -> None:
    with OpenAIServer() as server:
        server.default = Reply("hello")
        sent = WireRequest("POST", f"{server.base_url}/chat/completions", {}, {"model": "gpt-4o-mini", "messages": []})
        pool = Pool()
        address = Ready.of(sent).address
        opening = asyncio.get_running_loop().create_future()
        pool._coming[address] = deque([opening])
        waiting = asyncio.create_task(pool.open(address))
        await asyncio.sleep(0)
        opening.set_result(await Pool().open(address))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.take(address) is opening.result()
        opening.result().close()


async def test_an_address_where_nobody_is_fails_the_request_and_not_what_was_made_ready() -> None:
    sent = WireRequest("POST", f"http://127.0.0.1:{free_port()}/v1/chat/completions", {}, {"model": "m"})
    ready = Ready.of(sent)
    upstream.expect(ready.address)
    with pytest.raises(ProviderError) as refused:
        await fetch(sent, idle_seconds=60, ready=ready)
    assert refused.value.kind == "connection"
    upstream.expect(ready.address)  # and nobody asks: it is not complained about either
    upstream.close()
