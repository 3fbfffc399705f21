"""A provider without a free slot: its candidates are skipped, waited for, and never counted as failed."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest

from routing import service
from routing.configuration import snapshot
from routing.models import RoutedCall
from routing.types import ChatRequest, Hints, Routed, message
from routing.world import health
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.errors import DeadlineExceeded, NoRoute
from ziggie.values import replace

pytestmark = pytest.mark.django_db(transaction=True)
RULE = "system query"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.change_provider("ollama", max_concurrency=1)
        installation.ollama.default = Reply(text="local")
        installation.anthropic.default = Reply(text="cloud")
        yield installation


async def ask(**fields: Any) -> Routed:
    request = ChatRequest((message("user", "Hello"),), hints=Hints(task_kind="nl_query"), max_output_tokens=50)
    return await service.complete(replace(request, **fields))


def while_ollama_is_full(work: Callable[[AsyncExitStack], Coroutine[Any, Any, Any]]) -> Any:
    """What `work` gives while somebody else holds Ollama's only slot; it may give that slot back itself."""

    async def scenario() -> Any:
        ollama = (await snapshot.acurrent()).models["llama3.2"].provider
        async with AsyncExitStack() as other:
            await other.enter_async_context(health.slot(ollama))
            return await work(other)

    return asyncio.run(scenario())


def skipped() -> list[dict[str, Any]]:
    [call] = RoutedCall.objects.all()
    return [row for row in call.candidates if row["state"] == "skipped"]


def test_a_full_provider_is_left_for_another_and_that_is_no_attempt(here: Installation) -> None:
    here.change_rule(RULE, options={"first_token_seconds": 0.3, "max_attempts": 1})
    routed = while_ollama_is_full(lambda _: ask())
    assert routed.result.text == "cloud"
    assert here.outcomes() == [("claude-haiku-4-5", "ok")]
    assert len(routed.attempts) == 1
    [row] = skipped()
    assert (row["model"], row["kind"], row["role"]) == ("llama3.2", "busy", "answer")
    assert "all 1 slots of ollama stayed taken" in row["reason"]
    assert row["seconds"] >= 0.3
    assert not here.ollama.calls
    here.assert_books_are_closed()


def test_a_second_model_of_a_full_provider_is_not_waited_for_again(here: Installation) -> None:
    chain = ["llama3.2", "llama3.2:3b", "mistral", "claude-haiku-4-5", "offline"]
    here.change_rule(RULE, chain=chain, options={"first_token_seconds": 3})
    routed = while_ollama_is_full(lambda _: ask())
    assert routed.result.text == "cloud"
    waited = [row["seconds"] for row in skipped()]
    assert len(waited) == 3
    assert waited[0] >= 3
    assert sum(waited[1:]) < 3


def test_the_first_tokens_time_counts_from_the_slot(here: Installation) -> None:
    here.change_rule(RULE, chain=["llama3.2", "llama3.2:3b", "offline"], options={"first_token_seconds": 4})
    here.ollama.default = Reply(text="local", first_token=0.3)

    async def waits(other: AsyncExitStack) -> Routed:
        call = asyncio.create_task(ask())
        await asyncio.sleep(4.5)  # longer than a first token may take
        assert not call.done()
        await other.aclose()
        return await call

    routed = while_ollama_is_full(waits)
    assert [(attempt.model, attempt.outcome) for attempt in routed.attempts] == [("llama3.2", "ok")]
    assert routed.attempts[0].seconds < 4
    assert not skipped()
    here.assert_books_are_closed()


def test_a_busy_model_is_waited_for_when_all_others_have_failed(here: Installation) -> None:
    here.change_rule(RULE, options={"first_token_seconds": 0.2})
    here.anthropic.default = Reply(status=400, error="no")

    async def waits(other: AsyncExitStack) -> Routed:
        call = asyncio.create_task(ask())
        while not here.anthropic.calls:  # the cloud was asked, in vain
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        await other.aclose()
        return await call

    routed = while_ollama_is_full(waits)
    assert routed.result.text == "local"
    assert here.outcomes() == [("claude-haiku-4-5", "error"), ("llama3.2", "ok")]
    assert [row["model"] for row in skipped()] == ["llama3.2"]


def test_a_call_for_which_all_stay_busy_has_no_route_and_no_attempt(here: Installation) -> None:
    here.change_provider("ollama", timeout_seconds=1)
    with pytest.raises(NoRoute, match="all 1 slots of ollama stayed taken"):
        while_ollama_is_full(lambda _: ask(model="llama3.2"))
    assert not here.records()
    assert skipped()
    here.assert_books_are_closed()


def test_a_deadline_ends_the_wait_for_a_slot(here: Installation) -> None:
    with pytest.raises(DeadlineExceeded):
        while_ollama_is_full(lambda _: ask(model="llama3.2", deadline_seconds=0.4))
    assert not here.records()
    here.assert_books_are_closed()


def test_members_of_an_ensemble_that_find_no_slot_leave_the_others_their_answers(here: Installation) -> None:
    roles = {"members": ["llama3.2", "claude-haiku-4-5"], "vote": True}
    here.change_rule(RULE, pattern="ensemble", roles=roles, options={"first_token_seconds": 3})
    routed = while_ollama_is_full(lambda _: ask())
    assert routed.result.text == "cloud"
    assert routed.findings["answered"] == 1
    assert [(row["model"], row["role"]) for row in skipped()] == [("llama3.2", "member")]
