"""How long, and of whom, a refusal is remembered."""

import pytest

from routing.adapters.sending import wording
from routing.adapters.sending.wording import Wording, worded
from routing.types import ChatRequest, ProviderError, Tool, message
from tests.routing.adapters_support import model, provider

SERVER = provider("openai", "http://127.0.0.1:9/v1")
REFUSED = ProviderError("bad_request", "Thinking mode does not support this tool_choice", retryable=False)
REQUEST = ChatRequest((message("user", "hi"),), tools=(Tool("now", "", {"type": "object"}),), tool_choice="required")


def teach(name: str) -> None:
    taught = Wording(REQUEST, model(SERVER, name=name), streamed=True)
    assert taught.finds_another(REFUSED)
    taught.was_taken()


def test_it_is_the_models_and_no_other_ones() -> None:
    teach("thinker")
    assert worded(REQUEST, model(SERVER, name="thinker")).extra == {"thinking": {"type": "disabled"}}
    assert worded(REQUEST, model(SERVER, name="talker")) is REQUEST


def test_it_counts_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "REMEMBERED_SECONDS", -1.0)
    teach("thinker")
    assert worded(REQUEST, model(SERVER, name="thinker")) is REQUEST


def test_a_bounded_number_of_models_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "MOST_MODELS", 2)
    for name in ("one", "two", "three"):
        teach(name)
    assert worded(REQUEST, model(SERVER, name="one")) is REQUEST
    assert worded(REQUEST, model(SERVER, name="three")) is not REQUEST


def test_what_was_never_taken_teaches_nothing() -> None:
    taught = Wording(REQUEST, model(SERVER, name="thinker"), streamed=True)
    assert taught.finds_another(REFUSED)
    assert not taught.finds_another(REFUSED)
    assert worded(REQUEST, model(SERVER, name="thinker")) is REQUEST
