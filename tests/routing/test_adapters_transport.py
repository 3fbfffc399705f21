"""Adapters against real local servers: complete answers, streams, and everything that can go wrong."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import anthropic  # noqa: F401 - loaded here, so that loading it is no part of a call's time
import httpx2
import pytest

from routing.adapters import transport
from routing.adapters.answers.assembly import Assembler
from routing.adapters.sending.deadlines import Timeouts
from routing.types import ChatResult, ModelSpec, ProviderError, ProviderSpec, ToolCall, UnsupportedByProvider
from tests.routing.adapters_support import KEY, ask, model, provider, whole
from tests.servers import AnthropicServer, Call, CohereServer, GeminiServer, OllamaServer, OpenAIServer, Reply
from tests.servers.base import ProviderServer

SERVERS: dict[str, tuple[type[ProviderServer], str]] = {
    "ollama": (OllamaServer, "llama3.2"),
    "openai": (OpenAIServer, "gpt-4o-mini"),
    "anthropic": (AnthropicServer, "claude-haiku-4-5"),
    "gemini": (GeminiServer, "gemini-2.5-flash"),
    "cohere": (CohereServer, "command-a-03-2025"),
}
Both = tuple[ProviderServer, ModelSpec]


@pytest.fixture(params=sorted(SERVERS))
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    """A running server and a model of it."""
    server_class, name = SERVERS[request.param]
    with server_class(api_key=KEY) as server:
        yield server, model(provider(request.param, server.url, timeout_seconds=60.0), name)


@pytest.fixture(autouse=True)
async def closed_connections() -> AsyncIterator[None]:
    yield
    await transport.close()


TIMEOUTS = {field.name for field in fields(Timeouts)}


def split(given: dict[str, Any]) -> Timeouts:
    """Takes the deadlines out of a test's keyword arguments."""
    return Timeouts(**{name: given.pop(name) for name in tuple(given) if name in TIMEOUTS})


async def chat(row: ModelSpec, text: str = "Hello?", **given: Any) -> ChatResult:
    return await whole(row, timeouts=split(given), request=ask(text, **given))


async def stream(row: ModelSpec, pieces: list[str], **given: Any) -> ChatResult:
    timeouts = split(given)
    deltas = transport.stream(row.provider, row, ask(**given), max_output_tokens=100, timeouts=timeouts)
    together = Assembler()
    async with contextlib.aclosing(deltas):
        async for delta in deltas:
            pieces.append(delta.text)
            together.add(delta)
    return together.result()


async def fail(row: ModelSpec, *, streamed: bool = False, **given: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await (stream(row, [], **given) if streamed else chat(row, **given))
    return caught.value


# --- answers -----------------------------------------------------------------------------------------


async def test_an_answer_comes_whole_and_in_pieces_alike(both: Both) -> None:
    server, row = both
    server.default = Reply(text="Grüße aus Zürich", calls=(Call("f", {"a": 1}),), input_tokens=11, output_tokens=7)
    answer = await chat(row)
    pieces: list[str] = []
    together = await stream(row, pieces)
    assert answer.text == "".join(pieces) == "Grüße aus Zürich"
    assert len(list(filter(None, pieces))) > 2
    assert (answer.usage, answer.stop_reason) == (together.usage, together.stop_reason)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert isinstance(answer.parts[-1], ToolCall)
    assert json.loads(answer.parts[-1].arguments) == {"a": 1}


async def test_the_request_says_what_was_asked(both: Both) -> None:
    server, row = both
    await chat(row, "What now?", temperature=0.25, stop=("END",))
    received = server.calls[-1]
    text = json.dumps(received.json)
    assert "What now?" in text
    assert "0.25" in text
    assert '["END"]' in text
    assert received.headers["content-type"] == "application/json"
    assert "traceparent" not in received.headers


async def test_claude_goes_through_the_anthropic_package() -> None:
    with AnthropicServer(api_key=KEY) as server:
        row = model(provider("anthropic", server.url), "claude-haiku-4-5")
        await chat(row, temperature=0.5, extra={"top_k": 5})
    received = server.calls[-1]
    assert received.headers["user-agent"].startswith("AsyncAnthropic/")
    assert (received.json["temperature"], received.json["top_k"]) == (0.5, 5)


COLD = """
import asyncio, sys
import django
django.setup()
from routing.calling import Breakers
from routing.types import Candidate
from tests.routing.adapters_support import model, provider

async def main():
    candidate = Candidate(model(provider("anthropic", "http://127.0.0.1:9", timeout_seconds=5.0), "claude"), "", 10, 1)
    print("anthropic" in sys.modules)
    async with Breakers().slot(candidate, wait_seconds=1.0):
        print("anthropic" in sys.modules)
    print(Breakers().slot(candidate, wait_seconds=1.0))

asyncio.run(main())
"""


def test_loading_the_anthropic_package_is_no_time_of_the_model() -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["False", "True", "None"], done.stderr


async def test_a_connection_is_used_again_after_an_answer_and_after_a_stream(both: Both) -> None:
    server, row = both
    for _ in range(3):
        await chat(row)
        await stream(row, [])
    assert server.connections == 1


async def test_many_calls_run_at_once(both: Both) -> None:
    server, row = both
    all_are_here = threading.Event()
    server.default = Reply(after=all_are_here)
    calls = [asyncio.create_task(chat(row)) for _ in range(40)]
    while server.most_at_once < 40 and not any(call.done() for call in calls):
        await asyncio.sleep(0.02)
    all_are_here.set()
    await asyncio.gather(*calls)
    assert server.most_at_once == 40


async def test_a_status_lists_models_and_fails_where_nobody_serves(both: Both) -> None:
    server, row = both
    status = await transport.status(row.provider)
    assert status.models is not None
    assert len(status.models) == len(server.models)
    wrong = provider(row.provider.kind, server.url, api_key="another")
    with pytest.raises(ProviderError) as caught:
        await transport.status(wrong)
    assert caught.value.kind == "auth"


async def test_ollama_tells_what_is_loaded_and_its_version(ollama_server: OllamaServer) -> None:
    ollama_server.loaded = ("phi3",)
    status = await transport.status(provider("ollama", ollama_server.url))
    assert (status.loaded, status.version) == (("phi3:latest",), ollama_server.version)


async def test_an_unknown_kind_of_provider_is_refused() -> None:
    with pytest.raises(UnsupportedByProvider, match="telepathy"):
        await chat(model(provider("telepathy")))


# --- what a server's dialect does to us --------------------------------------------------------------


async def test_moonshots_dialect_is_understood(moonshot_server: OpenAIServer) -> None:
    moonshot_server.default = Reply(text="hi", reasoning="hm", input_tokens=50, output_tokens=5, cached_tokens=40)
    row = model(provider("openai", moonshot_server.base_url), "kimi-k2-instruct")
    for usage in ((await chat(row)).usage, (await stream(row, [])).usage):
        assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (50, 5, 40)


async def test_llama_cpp_serves_any_name_and_refuses_schemas() -> None:
    with OpenAIServer(dialect="llama_cpp") as server:
        row = model(provider("openai", server.base_url), "whatever")
        assert (await chat(row)).model == "whatever"
        assert (await stream(row, [])).usage.input_tokens is None
        with pytest.raises(ProviderError) as caught:
            await chat(row, json_schema={"type": "object"})
        assert (caught.value.kind, caught.value.status) == ("bad_request", 500)  # no outage
        server.default = Reply("{}")
        assert (await stream(row, [], json_schema={"type": "object"})).text == "{}"
        assert [call.json["response_format"]["type"] for call in server.calls[-2:]] == ["json_schema", "json_object"]
        assert "JSON Schema" in server.calls[-1].json["messages"][0]["content"]
        told = model(provider("openai", server.base_url, options={"structured_output": "prompt"}))
        assert (await chat(told, json_schema={"type": "object"})).text


async def test_a_model_that_is_not_there_is_not_found(both: Both) -> None:
    _, row = both
    if row.provider.kind == "gemini":
        pytest.skip("the test server has no list of chat models")
    error = await fail(model(row.provider, "nope:1b"))
    assert (error.kind, error.retryable, error.status) == ("not_found", False, 404)


@pytest.mark.parametrize(("cuts_in_silence", "words"), [(True, "cut the prompt"), (False, r"exceeds the available")])
async def test_a_prompt_longer_than_ollamas_context_is_told_whatever_its_version(
    ollama_server: OllamaServer, cuts_in_silence: bool, words: str
) -> None:
    ollama_server.train_context, ollama_server.cuts_in_silence = 2048, cuts_in_silence
    row = model(provider("ollama", ollama_server.url), "llama3.2", context_window=131072)
    for streamed in (False, True):
        error = await fail(row, streamed=streamed, text="word " * 6000)
        assert error.kind == "context_overflow"
        assert re.search(words, error.message)
        assert "{" not in error.message
    assert (await chat(row, "word " * 1000)).text


# --- failures ----------------------------------------------------------------------------------------

FAULTS = {
    # fault: (kind of a complete answer, kind of a stream)
    "reset": ("connection", "connection"),
    "not_http": ("protocol", "protocol"),
    "empty": ("protocol", "protocol"),
    "garbage": ("protocol", "protocol"),
    "truncated": ("protocol", "cut"),
    "html": ("protocol", "protocol"),
    "wrong_schema": ("protocol", "protocol"),
    "cut": ("cut", "cut"),
    "end_early": ("protocol", "cut"),
    "huge": ("protocol", "protocol"),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_a_broken_answer_has_a_kind(both: Both, fault: Any, streamed: bool) -> None:
    server, row = both
    # a stream without a word is asked for as a whole where people run the server themselves
    asks_twice = (fault, streamed, row.provider.kind) == ("empty", True, "openai")
    server.queue(*[Reply(fault=fault, fault_after=3)] * (2 if asks_twice else 1))
    error = await fail(row, streamed=streamed)
    assert error.kind == FAULTS[fault][streamed]
    assert error.unbilled is (fault in ("not_http", "empty", "html"))  # no model has said that
    assert KEY not in str(error)
    assert (await chat(row)).text == Reply().text  # and the next call is none the worse for it


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [(400, "bad_request", False), (401, "auth", False), (429, "rate_limited", True), (500, "server", True),
     (503, "overloaded", True), (529, "overloaded", True)],
)  # fmt: skip
async def test_a_refusal_has_a_kind_and_a_time(
    both: Both, status: int, kind: str, retryable: bool, streamed: bool
) -> None:
    server, row = both
    server.queue(Reply(status=status, headers={"retry-after": "7"}, error=f"no, {KEY} will not do"))
    error = await fail(row, streamed=streamed)
    assert (error.kind, error.retryable, error.status) == (kind, retryable, status)
    assert error.message == "no, [key] will not do"
    assert error.retry_after_seconds == 7
    assert len(server.calls) == 1  # nothing is retried here


async def test_an_error_inside_a_stream_comes_after_the_pieces_before_it(both: Both) -> None:
    server, row = both
    server.queue(Reply(fault="error_in_stream", fault_after=5, error="it broke"))
    pieces: list[str] = []
    with pytest.raises(ProviderError, match="it broke") as caught:
        await stream(row, pieces)
    assert caught.value.retryable
    assert "".join(pieces)
    assert Reply().text.startswith("".join(pieces))


async def test_a_broken_stream_bears_the_usage_known_so_far() -> None:
    with AnthropicServer() as server:
        server.queue(Reply(fault="cut", fault_after=5, input_tokens=1234))
        error = await fail(model(provider("anthropic", server.url), "claude-haiku-4-5"), streamed=True)
    assert error.usage is not None
    assert error.usage.input_tokens == 1234


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_server_that_never_answers_meets_the_deadline(both: Both, streamed: bool) -> None:
    server, row = both
    server.queue(Reply(fault="hang"))
    started = time.monotonic()
    error = await fail(row, streamed=streamed, total_seconds=0.3)
    assert (error.kind, error.retryable) == ("timeout", True)
    assert 0.25 < time.monotonic() - started < 30  # the server would take an hour


async def test_the_first_token_has_a_deadline_of_its_own(both: Both) -> None:
    server, row = both
    server.default = Reply(first_token=30)
    error = await fail(row, streamed=True, first_token_seconds=0.2)
    assert (error.kind, "first token" in error.message) == ("timeout", True)
    server.default = Reply(per_piece=0.35)  # slow, but it has begun
    assert (await stream(row, [], first_token_seconds=2)).text == Reply().text


def hasty(server: ProviderServer, row: ModelSpec) -> ModelSpec:
    """The same model, of a provider that is given up when it is silent for a moment."""
    return model(provider(row.provider.kind, server.url, timeout_seconds=0.3), row.name)


async def test_a_stream_that_stalls_is_given_up(both: Both) -> None:
    server, row = both
    server.queue(Reply(fault="stall", fault_after=5))
    started = time.monotonic()
    error = await fail(hasty(server, row), streamed=True, total_seconds=60)
    assert (error.kind, "stalled" in error.message) == ("timeout", True)
    assert time.monotonic() - started < 30


async def test_a_stream_that_never_begins_counts_as_silent(both: Both) -> None:
    server, row = both
    server.queue(Reply(fault="hang"), Reply(fault="stall", fault_after=0))
    for _ in range(2):
        error = await fail(hasty(server, row), streamed=True, total_seconds=60)
        assert (error.kind, "stalled" in error.message) == ("timeout", True)


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_leaving_early_closes_the_connection(both: Both, how: str) -> None:
    server, row = both
    server.default = Reply(text="word " * 400, fault="stall", fault_after=20)
    if how == "cancelled":
        pieces: list[str] = []
        task = asyncio.create_task(stream(row, pieces))
        while not pieces:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        deltas = transport.stream(row.provider, row, ask(), max_output_tokens=100, timeouts=Timeouts())
        async for delta in deltas:
            if delta.text:
                break
        await deltas.aclose()
    for _ in range(3000):
        if server.disconnects:
            break
        await asyncio.sleep(0.02)
    assert server.disconnects == 1


async def test_nobody_at_the_address_is_a_matter_of_connection(both: Both) -> None:
    _, row = both
    kind, name = row.provider.kind, row.name
    with socket.socket() as silent:  # it has a port and does not listen
        silent.bind(("127.0.0.1", 0))
        error = await fail(model(provider(kind, f"http://127.0.0.1:{silent.getsockname()[1]}"), name))
    assert (error.kind, error.retryable) == ("connection", True)
    error = await fail(model(provider(kind, "no address at all"), name))
    assert (error.kind, error.retryable) == ("connection", False)


async def test_a_host_that_swallows_packets_costs_the_connect_timeout_only() -> None:
    # a listener whose backlog is full answers no more handshakes
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        row = model(provider("openai", f"http://127.0.0.1:{address[1]}"))
        started = time.monotonic()
        error = await fail(row, connect_seconds=0.3)
        for client in waiting:
            client.close()
    assert error.kind == "connection"
    assert time.monotonic() - started < 30  # the kernel alone would try for two minutes


@pytest.mark.parametrize("key", ["line\nbreak", "snow\u2603man"])
async def test_a_key_that_cannot_be_a_header_is_an_error_of_authentication(both: Both, key: str) -> None:
    server, row = both
    error = await fail(model(provider(row.provider.kind, server.url, api_key=key), row.name))
    assert error.kind == "auth"
    assert key not in str(error)


async def test_no_key_at_all_is_sent_as_no_key(both: Both) -> None:
    server, row = both
    server.api_key = ""
    assert (await chat(model(provider(row.provider.kind, server.url, api_key=""), row.name))).text
    assert not {"authorization", "x-api-key", "x-goog-api-key"} & set(server.calls[-1].headers)


async def test_a_redirect_is_not_followed_with_the_key(both: Both) -> None:
    server, row = both
    with OpenAIServer() as elsewhere:
        for streamed in (False, True):
            server.queue(Reply(status=307, headers={"location": f"{elsewhere.url}/v1/chat/completions"}))
            error = await fail(row, streamed=streamed)
            assert (error.kind, error.retryable) == ("protocol", False)
        assert elsewhere.requests == []


async def test_the_environments_proxy_is_not_used(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    _, row = both
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await transport.close()
    assert (await chat(row)).text


def test_each_event_loop_has_connections_of_its_own(openai_server: OpenAIServer) -> None:
    row: ProviderSpec = provider("openai", openai_server.base_url)

    async def once() -> str:
        answer = await chat(model(row, "gpt-4o-mini"))
        await transport.close()
        return answer.text

    assert [asyncio.run(once()) for _ in range(2)] == [Reply().text] * 2


# --- the test servers themselves ---------------------------------------------------------------------


def test_a_server_runs_as_a_process_of_its_own_from_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    rules = [{"model": "phi3", "contains": "mood", "times": 1, "reply": {"text": "glad"}}]
    script.write_text(json.dumps({"default": {"text": "plain"}, "rules": rules, "queue": [{"status": 503}]}))
    command = [sys.executable, "-m", "tests.servers.ollama", "--script", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = {"model": "phi3", "messages": [{"role": "user", "content": "mood?"}], "stream": False}
            answers = [httpx2.post(f"{url}/api/chat", json=body, trust_env=False) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [503, 200, 200]
            assert [answer.json()["message"]["content"] for answer in answers[1:]] == ["glad", "plain"]
            assert len(httpx2.get(f"{url}/__requests__", trust_env=False).json()) == 3
            httpx2.put(f"{url}/__script__", json={"default": {"text": "new"}}, trust_env=False)
            answer = httpx2.post(f"{url}/api/chat", json=body, trust_env=False)
            assert answer.json()["message"]["content"] == "new"
        finally:
            process.terminate()
