"""Streamed answers: pieces as they come, one receipt, settled whatever happens."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest

from routing import service, streaming
from routing.models import RoutedCall
from routing.types import ChatRequest, Delta, Hints, Routed, Tool, Verdict, message
from tests.installation import Installation
from tests.servers import Call, Reply
from ziggie.errors import AllProvidersFailed, DeadlineExceeded
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
KIND = Hints(task_kind="nl_query")


def asking(text: str = "Is the disk almost full?", **fields: Any) -> ChatRequest:
    fields.setdefault("hints", KIND)
    return ChatRequest(messages=(message("user", text),), max_output_tokens=500, **fields)


class Heard:
    """What a client of a stream has seen."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.times: list[float] = []
        self.routed: Routed | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


async def hear(request: ChatRequest, heard: Heard, *, leave_after: int | None = None) -> None:
    async with aclosing(service.stream(request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Routed):
                heard.routed = piece
                continue
            assert heard.routed is None, "nothing comes after the receipt"
            heard.deltas.append(piece)
            heard.times.append(time.monotonic())
            if leave_after is not None and len(heard.text) >= leave_after:
                return


def listen(request: ChatRequest, **how: Any) -> Heard:
    heard = Heard()
    asyncio.run(hear(request, heard, **how))
    return heard


def test_pieces_come_while_the_model_still_speaks(here: Installation) -> None:
    here.ollama.default = Reply(text="No, 40% is free.", per_piece=0.2, input_tokens=10, output_tokens=5)
    heard = listen(asking())
    assert heard.text == "No, 40% is free."
    assert len([delta for delta in heard.deltas if delta.text]) == 4
    assert heard.times[-1] - heard.times[0] > 0.3
    assert heard.routed is not None
    assert heard.routed.result.text == heard.text
    assert heard.deltas[-1].usage is not None
    assert {delta.stop_reason for delta in heard.deltas} >= {"stop"}
    here.assert_books_are_closed()


def test_tool_calls_stream(here: Installation) -> None:
    here.anthropic.default = Reply(text="Let me see.", calls=(Call("look", {"at": "disk"}),))
    tool = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
    heard = listen(asking(model="claude-haiku-4-5", tools=(tool,)))
    assert "".join(delta.tool_arguments for delta in heard.deltas) == '{"at": "disk"}'
    assert heard.routed is not None
    assert heard.routed.result.tool_calls[0].name == "look"


@pytest.mark.parametrize(
    "reply", [Reply(status=500, error="no"), Reply(fault="reset"), Reply(fault="stall", fault_after=0)]
)
def test_before_the_first_piece_another_model_takes_over(here: Installation, reply: Reply) -> None:
    here.change_rule("system query", options={"first_token_seconds": 0.5})
    here.ollama.default = reply
    here.anthropic.default = Reply(text="from the cloud")
    heard = listen(asking())
    assert heard.text == "from the cloud"
    assert heard.routed is not None
    assert heard.routed.model == "claude-haiku-4-5"
    here.assert_books_are_closed()


@pytest.mark.parametrize("fault", ["cut", "error_in_stream", "garbage"])
def test_after_the_first_piece_nobody_takes_over(here: Installation, fault: Any) -> None:
    here.ollama.default = Reply(text="No, 40% is free.", fault=fault, fault_after=2)
    heard = Heard()
    with pytest.raises(AllProvidersFailed):
        asyncio.run(hear(asking(), heard))
    assert heard.text
    assert heard.text in "No, 40% is free."
    assert not here.anthropic.calls
    assert here.outcomes()[0][1] in ("cut", "error")
    assert RoutedCall.objects.get().outcome == "all_providers_failed"
    here.assert_books_are_closed()


def test_a_client_that_leaves_ends_the_call_and_pays_for_what_came(here: Installation) -> None:
    here.anthropic.default = Reply(text="word " * 400, per_piece=0.02)
    heard = listen(asking(model="claude-haiku-4-5"), leave_after=40)
    assert 40 <= len(heard.text) < 400
    record = here.records()[0]
    assert record.outcome == "cancelled"
    assert 0 < record.cost_microusd < 2_000
    assert RoutedCall.objects.get().outcome == "cancelled"
    here.assert_books_are_closed()


def test_a_reader_that_is_cancelled_while_it_waits_ends_the_call(here: Installation) -> None:
    here.anthropic.default = Reply(text="late", first_token=30)

    async def scenario() -> None:
        task = asyncio.create_task(hear(asking(model="claude-haiku-4-5"), Heard()))
        while not here.anthropic.calls:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert here.records()[0].outcome == "cancelled"
    here.assert_books_are_closed()


def test_a_client_that_reads_slowly_slows_the_provider_down(here: Installation) -> None:
    here.ollama.default = Reply(text="x" * 4_000, piece=1)
    ahead = 0

    async def scenario() -> Heard:
        nonlocal ahead
        heard = Heard()
        said = 0

        def count(characters: int) -> None:
            nonlocal said
            said = characters

        async with aclosing(service.stream(asking(on_output=count))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Delta):
                    heard.deltas.append(piece)
                    if len(heard.deltas) == 5:
                        await asyncio.sleep(0.5)
                        ahead = said - len(heard.text)
        return heard

    heard = asyncio.run(scenario())
    assert heard.text == "x" * 4_000
    assert 0 < ahead <= streaming.AHEAD + 1


def test_the_callers_deadline_ends_a_stream(here: Installation) -> None:
    here.ollama.default = Reply(text="word " * 400, per_piece=0.05)
    heard = Heard()
    with pytest.raises(DeadlineExceeded):
        asyncio.run(hear(asking(model="llama3.2", deadline_seconds=6.0), heard))
    assert heard.text
    here.assert_books_are_closed()


def test_an_answer_that_is_to_be_judged_is_shown_only_when_it_has_passed(here: Installation) -> None:
    here.ollama.default = Reply(text="Oops")
    here.anthropic.default = Reply(text="Fine")
    heard = listen(asking(accept=lambda result: Verdict(ok=result.text == "Fine", problem="no")))
    assert heard.text == "Fine"


def test_the_answer_of_a_pattern_is_shown_when_it_is_made(here: Installation) -> None:
    here.ollama.default = Reply(text='{"answer": "Bern", "confidence": 95}')
    heard = listen(asking(hints=Hints(task_kind="cascade")))
    assert heard.text == "Bern"
    assert heard.routed is not None
    assert heard.routed.findings["draft"]["used"] is True


def test_a_stream_is_served_from_the_cache_and_fills_it(here: Installation) -> None:
    here.change_rule("system query", options={"cache_ttl_seconds": 60})
    here.ollama.default = Reply(text="No.", reasoning="Let me see.")
    first, second = listen(asking(temperature=0)), listen(asking(temperature=0))
    assert first.text == second.text == "No."
    assert second.routed is not None
    assert second.routed.cache == "hit"
    assert [delta.reasoning for delta in second.deltas if delta.reasoning] == ["Let me see."]
    assert len(here.ollama.calls) == 1


def test_a_stream_that_broke_off_is_not_kept(here: Installation) -> None:
    here.change_rule("system query", options={"cache_ttl_seconds": 60})
    here.ollama.queue(Reply(text="No, 40% is free.", fault="cut", fault_after=2))
    here.ollama.default = Reply(text="No.")
    with pytest.raises(AllProvidersFailed):
        listen(asking(temperature=0))
    assert listen(asking(temperature=0)).text == "No."


def test_a_stream_that_is_sent_again_is_paid_once(here: Installation) -> None:
    here.ollama.default = Reply(text="No.")
    call_id = uuid7()
    assert listen(asking(call_id=call_id)).text == listen(asking(call_id=call_id)).text == "No."
    assert len(here.ollama.calls) == 1


def test_the_offline_model_streams_last(here: Installation) -> None:
    here.ollama.default = Reply(status=500, error="no")
    here.anthropic.default = Reply(status=500, error="no")
    heard = listen(asking("The shop opens at nine.\n\nWhen does the shop open?"))
    assert "nine" in heard.text
    assert heard.routed is not None
    assert heard.routed.source == "offline"
