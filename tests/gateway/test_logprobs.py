"""Log probabilities for OpenAI's clients: from every provider that has them, and never left out in silence."""

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import OPENAI_TOOL, QUESTION, anthropic_client, openai_client, set_reply
from tests.servers.script import Call, Reply

TURNS: Any = QUESTION
KNOWN = ("gpt", "llama", "flash")  # OpenAI's API, Ollama's, Gemini's
PIECES = ["Hell", "o, A", "da."]


@pytest.fixture(autouse=True)
def knowing(gateway: Gateway) -> Iterator[None]:
    """As Ollama tells them since 0.12.11."""
    gateway.ollama.knows_logprobs = True
    yield
    gateway.ollama.knows_logprobs = False


def asked(gateway: Gateway, model: str, *, beside: int = 0, stream: bool = False) -> tuple[list[Any], str, list[Any]]:
    """(entries, text, chunks) of an answer with log probabilities."""
    create = openai_client(gateway).chat.completions.create
    more: Any = {"logprobs": True} | ({"top_logprobs": beside} if beside else {})
    if not stream:
        choice = create(model=model, messages=TURNS, **more).choices[0]
        assert choice.logprobs is not None
        return choice.logprobs.content or [], choice.message.content or "", []
    chunks = [c.choices[0] for c in create(model=model, messages=TURNS, stream=True, **more) if c.choices]
    told = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content or []]
    return told, "".join(chunk.delta.content or "" for chunk in chunks), chunks


@pytest.mark.parametrize("model", KNOWN)
def test_each_tokens_log_probability_comes_with_the_answer(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("".join(PIECES)))
    for stream in (False, True):
        told, text, chunks = asked(gateway, model, beside=2, stream=stream)
        assert "".join(entry.token for entry in told) == text == "Hello, Ada."
        assert {entry.logprob for entry in told} == {-0.25}
        assert all(len(entry.top_logprobs) == 2 for entry in told)
        assert all("".join(e.token for e in c.logprobs.content) == c.delta.content for c in chunks if c.logprobs)
    told, _, _ = asked(gateway, model)
    assert all(entry.top_logprobs == [] for entry in told)


@pytest.mark.parametrize("model", ["claude", "command"])
def test_who_tells_none_refuses_by_its_name_and_is_not_asked(gateway: Gateway, model: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="logprobs"):
            asked(gateway, model, stream=stream)
    assert not gateway.anthropic.calls
    assert not gateway.cohere.calls


def test_a_server_that_takes_no_notice_is_no_answer(gateway: Gateway) -> None:
    gateway.openai.knows_logprobs = False
    try:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="logprobs"):
                asked(gateway, "gpt", stream=stream)
        assert len(gateway.openai.calls) == 2
        receipts = gateway.settled(2)
        assert all(receipt.cost_microusd > 0 for receipt in receipts)  # it wrote, and has to be paid
    finally:
        gateway.openai.knows_logprobs = True


def test_a_call_without_words_needs_none(gateway: Gateway) -> None:
    set_reply(gateway, Reply("", calls=(Call("weather", {"city": "Oslo"}),)))
    for model in KNOWN:
        answer = openai_client(gateway).chat.completions.create(
            model=model, messages=TURNS, tools=[OPENAI_TOOL], logprobs=True
        )
        assert answer.choices[0].finish_reason == "tool_calls"


def test_a_refusal_has_its_own(gateway: Gateway) -> None:
    set_reply(gateway, Reply("I will not.", stop="content_filter"))
    answer = openai_client(gateway).chat.completions.create(model="gpt", messages=TURNS, logprobs=True)
    told = answer.choices[0].logprobs
    assert told is not None
    assert (told.content, "".join(entry.token for entry in told.refusal or [])) == (None, "I will not.")


def test_who_does_not_ask_is_told_nothing(gateway: Gateway) -> None:
    for model in KNOWN:
        assert openai_client(gateway).chat.completions.create(model=model, messages=TURNS).choices[0].logprobs is None
    assert "logprobs" not in gateway.openai.calls[-1].json


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"logprobs": True, "metadata": {"pattern": "ensemble"}}, "logprobs"),
    ],
)
def test_what_cannot_be_had_with_them_is_refused(gateway: Gateway, more: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(gateway).chat.completions.create(model="gpt", messages=TURNS, **more)
    assert refused.value.param == param
    assert not gateway.openai.calls


@pytest.mark.parametrize("param", ["logprobs", "top_logprobs", "functions", "function_call", "audio"])
def test_anthropics_api_has_no_place_for_them(gateway: Gateway, param: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=param):
        anthropic_client(gateway).messages.create(model="gpt", max_tokens=9, messages=TURNS, extra_body={param: 1})
    assert not gateway.openai.calls
