"""Every fault of a provider, in every way of asking it, for every adapter: the next one answers, or nobody can."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a first token's time
import pytest

from routing import calling
from routing.adapters import transport
from routing.batches.answers import Nobody
from routing.gateway.asking import ask_whole, asker
from routing.gateway.providers import pool, upstream
from routing.planning import rules
from routing.types import (
    Candidate,
    ChatRequest,
    Delta,
    ModelSpec,
    Outcome,
    PolicySpec,
    RuleOptions,
    RuleSpec,
    SettingsSpec,
    Snapshot,
    Tool,
    Usage,
    When,
    World,
)
from routing.walk.attempts import UNSENT, Answer, Walk
from routing.walk.reaching import Caller
from tests.routing.adapters_support import KEY, ask, model, provider
from tests.servers import AnthropicServer, CohereServer, GeminiServer, OllamaServer, OpenAIServer, Reply
from tests.servers.base import ProviderServer
from tests.servers.crowded import crowded, others_at_the_door
from ziggie.values import replace

SERVERS: dict[str, tuple[type[ProviderServer], str]] = {
    "ollama": (OllamaServer, "llama3.2"),
    "openai": (OpenAIServer, "gpt-4o-mini"),
    "anthropic": (AnthropicServer, "claude-haiku-4-5"),
    "gemini": (GeminiServer, "gemini-2.5-flash"),
    "cohere": (CohereServer, "command-a-03-2025"),
}
SILENCE_SECONDS, PATIENT_SECONDS = 0.4, 60.0
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})
HELLO = ask()
FORCED = ask(tools=(WEATHER,), tool_choice="required", parallel_tool_calls=False)
CALL = '{"city": "Llanfairpwllgwyngyllgogerychwyrn"}'


@dataclass(frozen=True)
class Fault:
    reply: Reply
    outcome: Outcome
    late: bool = False  # pieces of an answer come before it


FAULTS = {
    "hangs": Fault(Reply(fault="hang"), "timeout"),
    "cuts before the first piece": Fault(Reply(fault="cut", fault_after=0), "cut"),
    "cuts in mid-answer": Fault(Reply(fault="cut", fault_after=3), "cut", late=True),
    "stalls after the first token": Fault(Reply(fault="stall", fault_after=3), "timeout", late=True),
    "resets": Fault(Reply(fault="reset"), "error"),
    "says 429": Fault(Reply(status=429, error="slow down", headers={"retry-after": "30"}), "error"),
    "says 500": Fault(Reply(status=500, error="it broke"), "error"),
    "says 529": Fault(Reply(status=529, error="overloaded"), "error"),
    "says garbage": Fault(Reply(fault="garbage", fault_after=0), "error"),
    "has another schema": Fault(Reply(fault="wrong_schema"), "error"),
    "ends early": Fault(Reply(fault="end_early", fault_after=3), "cut", late=True),
    "fails within a 200": Fault(Reply(fault="error_in_stream", fault_after=3, error="it broke"), "error", late=True),
}
# Inside; the gateway's whole answers; its whole answers for which somebody else could serve; its streams.
WAYS = ("inside", "whole", "hurried", "streamed")


@pytest.fixture(params=sorted(SERVERS))
def chain(request: pytest.FixtureRequest) -> Iterator[tuple[ProviderServer, list[ModelSpec]]]:
    """The server that is to fail, and its model followed by one of a server that is sound."""
    server_class, name = SERVERS[request.param]
    with server_class(api_key=KEY) as first, OllamaServer(api_key=KEY) as second:
        second.default = Reply(text="sound")
        failing = provider(request.param, first.url, slug="first", timeout_seconds=PATIENT_SECONDS)
        sound = provider("ollama", second.url, slug="second", id=2)
        yield first, [model(failing, name), replace(model(sound, "llama3.2"), id=2, slug="sound")]


def walk_of(
    models: list[ModelSpec], way: str, *, seconds: float, request: ChatRequest = HELLO
) -> tuple[Walk, list[str]]:
    """A walk through these models, of which the first may be silent for so long, and what of its answer has reached
    a client so far."""
    first, *others = models
    models = [replace(first, provider=replace(first.provider, timeout_seconds=seconds)), *others]
    hurry = seconds if way in ("inside", "hurried") else None
    options = RuleOptions(first_token_seconds=hurry)
    rule = RuleSpec(1, "all", When(), tuple(each.slug for each in models), options=options)
    free = [replace(each, capabilities=frozenset({"chat", "tools"})) for each in models]
    configuration = Snapshot(1, {m.slug: m for m in free}, PolicySpec(1, "p", 1, (rule,)), (), SettingsSpec(), {})
    plan = rules.plan(request, configuration, World(datetime.now(UTC)))
    seen: list[str] = []

    async def sink(candidate: Candidate, deltas: list[Delta]) -> None:
        texts = [delta.text for delta in deltas if delta.is_output]
        walk.committed = walk.committed or bool(texts)
        seen.extend(texts if candidate.model.slug == models[0].slug else ())

    callers: dict[str, Caller] = {"inside": calling.ask, "streamed": asker(sink)}
    walk = Walk(plan, request, callers.get(way, asker()), Nobody(), whole=ask_whole if way == "whole" else None)
    return walk, seen


async def run(walk: Walk) -> Answer | None:
    (answer,) = await run_all([walk])
    return answer


async def run_all(walks: list[Walk]) -> list[Answer | None]:
    """Beside each other. Their connections are closed when the last one is over: they share them."""
    try:
        async with asyncio.timeout(90):
            return await asyncio.gather(*(walk.run() for walk in walks))
    finally:
        await transport.close()
        upstream.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_next_candidate_answers_unless_a_client_has_seen_a_piece(
    chain: tuple[ProviderServer, list[ModelSpec]], name: str, way: str
) -> None:
    server, models = chain
    fault = FAULTS[name]
    server.default = replace(fault.reply, text=fault.reply.text * 3)
    seconds = SILENCE_SECONDS if fault.outcome == "timeout" else PATIENT_SECONDS
    walk, seen = walk_of(models, way, seconds=seconds)
    answer = asyncio.run(run(walk))
    first = walk.attempts[0]
    assert first.model == models[0].slug
    if seen:
        assert fault.late
        assert answer is None
        assert len(walk.attempts) == 1
    else:
        assert answer is not None
        assert answer.result.text == "sound"
        assert len(walk.attempts) == 2
    # A body that is not whole, of a length that was told, is a cut to one and no JSON to the other.
    expected = {fault.outcome} | ({"error", "cut"} if fault.outcome == "cut" else set())
    assert first.outcome in expected, first
    assert first.error
    assert KEY not in first.error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_what_was_never_sent_has_used_nothing_when_its_caller_leaves(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pool, transport):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 60.0)
    with crowded() as port:
        asked = model(provider(kind, f"http://127.0.0.1:{port}", timeout_seconds=60), SERVERS[kind][1])
        walk, _ = walk_of([asked], way, seconds=PATIENT_SECONDS)
        walking = asyncio.create_task(run(walk))
        async with asyncio.timeout(90):
            while not others_at_the_door(port):
                await asyncio.sleep(0.01)
        walking.cancel()
        await asyncio.wait([walking])
    (attempt,) = walk.attempts
    assert (attempt.outcome, attempt.error, attempt.usage, attempt.cost_microusd) == ("cancelled", UNSENT, Usage(), 0)


@pytest.mark.parametrize("way", WAYS)
async def test_the_time_to_connect_is_a_part_of_the_time_to_answer(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pool, transport):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 60.0)
    with crowded() as port:
        asked = model(provider("openai", f"http://127.0.0.1:{port}", timeout_seconds=60), "gpt-4o-mini")
        walk, _ = walk_of([asked], way, seconds=PATIENT_SECONDS)
        walk.deadline = time.monotonic() + SILENCE_SECONDS
        assert await run(walk) is None
    (attempt,) = walk.attempts
    assert (attempt.outcome, attempt.usage, attempt.cost_microusd) == ("timeout", Usage(), 0)


async def test_a_whole_answer_that_never_falls_silent_and_never_ends_is_left_at_the_deadline() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        walk, _ = walk_of([model(provider("openai", url), "gpt-4o-mini")], "whole", seconds=PATIENT_SECONDS)
        walk.deadline = time.monotonic() + SILENCE_SECONDS
        assert await run(walk) is None
    assert [(attempt.outcome, attempt.error) for attempt in walk.attempts] == [
        ("timeout", "the answer was not whole in time")
    ]


@pytest.mark.parametrize("chain", ["ollama", "gemini"], indirect=True)
async def test_a_call_that_is_written_slowly_is_waited_for(chain: tuple[ProviderServer, list[ModelSpec]]) -> None:
    """Its pieces are held back until it is whole, and are heard all the same."""
    server, models = chain
    server.default = Reply(CALL, per_piece=0.7)
    walks = [walk_of(models, way, seconds=6.0, request=FORCED)[0] for way in ("inside", "hurried")]
    answers = await run_all(walks)
    for walk, answer in zip(walks, answers, strict=True):
        assert answer is not None, walk.attempts
        assert [call.arguments for call in answer.result.tool_calls] == [CALL]
        assert [attempt.model for attempt in walk.attempts] == [models[0].slug]


@pytest.mark.parametrize("chain", ["ollama", "gemini"], indirect=True)
@pytest.mark.parametrize("way", ["inside", "hurried", "streamed"])
async def test_a_call_that_breaks_off_has_used_what_was_written_of_it(
    chain: tuple[ProviderServer, list[ModelSpec]], way: str
) -> None:
    server, models = chain
    server.default = Reply(CALL, fault="cut", fault_after=8, usage=False)
    walk, seen = walk_of(models[:1], way, seconds=PATIENT_SECONDS, request=FORCED)
    assert await run(walk) is None
    assert seen == []
    first = walk.attempts[0]
    assert first.outcome == "cut"
    assert (first.usage.output_tokens or 0) >= 4
    assert "output_tokens" in first.usage.estimated
