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


# --- Anthropic's context_management ----------------------------------------------------------------

FORGET_TOOLS = {"edits": [{"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 3}}]}
FORGET_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
BETA = "context-management-2025-06-27"


def test_what_claude_is_to_forget_reaches_it_with_its_beta(gateway: Gateway) -> None:
    for asked in (FORGET_TOOLS, FORGET_THINKING):
        anthropic_client(gateway).beta.messages.create(
            model="claude", max_tokens=9, messages=TURNS, context_management=asked, betas=[BETA]
        )
        received = gateway.anthropic.calls[-1]
        assert received.json["context_management"] == asked
        assert received.headers["anthropic-beta"] == BETA


def test_other_houses_take_no_notice_of_thinking_to_forget_and_cannot_forget_tools(gateway: Gateway) -> None:
    messages = anthropic_client(gateway).beta.messages
    for model in MODELS:
        if model == "claude":
            continue
        messages.create(model=model, max_tokens=9, messages=TURNS, context_management=FORGET_THINKING, betas=[BETA])
        with pytest.raises(anthropic.BadRequestError, match="context_management"):
            messages.create(model=model, max_tokens=9, messages=TURNS, context_management=FORGET_TOOLS, betas=[BETA])
    assert all("context_management" not in call.body.decode() for server in servers(gateway) for call in server.calls)


@pytest.mark.parametrize("asked", [{"edits": [{"type": "compact_20260112"}]}, {"edits": [{}]}, {"other": 1}])
def test_what_would_have_a_prompt_summarised_at_a_price_that_nobody_holds_is_refused(
    gateway: Gateway, asked: Any
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="context_management"):
        anthropic_client(gateway).messages.create(
            model="claude", max_tokens=9, messages=TURNS, extra_body={"context_management": asked}
        )
    with pytest.raises(openai.BadRequestError, match="context_management"):
        openai_client(gateway).chat.completions.create(
            model="claude", messages=TURNS, extra_body={"context_management": asked}
        )
    assert not gateway.anthropic.calls


def test_what_a_provider_may_read_of_other_parameters_is_held_for(gateway: Gateway) -> None:
    """Anthropic's `system` in a body of OpenAI's API reaches Claude as it is."""
    for extra in ({}, {"system": "Be brief. " * 1_000}):
        openai_client(gateway).chat.completions.create(model="claude", max_tokens=9, messages=TURNS, extra_body=extra)
    assert "Be brief." in gateway.anthropic.calls[-1].json["system"]
    plain, longer = [call.reserved_microusd for call in gateway.settled(2)]
    assert longer >= plain + 10_000 * 3  # microdollars: a token has at least one letter
