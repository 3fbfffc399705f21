"""Parameters of the two APIs that would get lost, cost more than was held, or change a server for all others."""

from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import MODELS, QUESTION, anthropic_client, openai_client, servers

TURNS: Any = QUESTION


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"output_config": {"task_budget": {"type": "tokens", "total": 50_000}}}, "output_config.task_budget"),
        ({"output_config": {"effort": "utmost"}}, "output_config.effort"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["code_execution"]}]}, "allowed_callers"),
    ],
)  # fmt: skip
def test_what_would_get_lost_on_the_way_to_a_model_is_refused(gateway: Gateway, asked: Any, param: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=param):
        anthropic_client(gateway).messages.create(model="claude", max_tokens=9, messages=TURNS, extra_body=asked)
    assert not gateway.anthropic.calls


def test_what_says_nothing_is_no_reason_to_refuse_anthropics_clients_either(gateway: Gateway) -> None:
    asked: Any = {"mcp_servers": [], "container": None, "output_config": {"task_budget": None}, "stop_sequences": [""]}
    asked |= {
        "service_tier": "standard_only",
        "tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["direct"]}],
    }
    for model in MODELS:
        anthropic_client(gateway).messages.create(model=model, max_tokens=9, messages=TURNS, extra_body=asked)
    assert gateway.anthropic.calls[-1].json["service_tier"] == "standard_only"  # or it may buy a dearer one
    for server in servers(gateway):
        assert server is gateway.anthropic or "service_tier" not in server.calls[-1].json
        assert "stop" not in "".join(server.calls[-1].json)
        assert "stop" not in server.calls[-1].json.get("options", {})


@pytest.mark.parametrize("param", ["keep_alive", "num_gpu", "num_thread"])
def test_no_caller_has_a_local_server_load_its_model_anew_or_let_it_go(gateway: Gateway, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match=param):
        openai_client(gateway).chat.completions.create(model="llama", messages=TURNS, extra_body={param: 0})
    assert not gateway.ollama.calls


@pytest.mark.parametrize("param", ["n_predict", "max_new_tokens", "provider", "preset"])
def test_no_other_word_makes_an_answer_longer_or_dearer_than_was_held_for(gateway: Gateway, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match=param):
        openai_client(gateway).chat.completions.create(model="gpt", messages=TURNS, extra_body={param: 9_000})
    assert not gateway.openai.calls


def test_an_effort_that_there_is_not_is_refused_by_its_name(gateway: Gateway) -> None:
    for model in ("gpt", "llama", "command"):
        with pytest.raises(openai.BadRequestError) as refused:
            openai_client(gateway).chat.completions.create(
                model=model, messages=TURNS, extra_body={"reasoning_effort": "utmost"}
            )
        assert refused.value.param == "reasoning_effort"
