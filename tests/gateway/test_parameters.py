"""Parameters of the two APIs that would get lost, cost more than was held, or change a server for all others."""

from typing import Any

import anthropic
import httpx2
import openai
import pytest

from routing.configuration import snapshot
from routing.gateway.wire.openai_wire import decode_chat
from routing.models import Price
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import (
    MODELS,
    OPENAI_TOOL,
    QUESTION,
    anthropic_client,
    openai_client,
    servers,
    set_reply,
)
from tests.servers.script import Reply

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


def test_stop_sequences_of_anthropics_api_are_a_list(gateway: Gateway) -> None:
    for said in ("END", {"END": 1}, [1]):
        with pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
            anthropic_client(gateway).messages.create(
                model="llama", max_tokens=9, messages=TURNS, extra_body={"stop_sequences": said}
            )
    assert not gateway.ollama.calls


def test_what_says_nothing_is_no_reason_to_refuse_anthropics_clients_either(gateway: Gateway) -> None:
    asked: Any = {"mcp_servers": [], "container": None, "output_config": {"task_budget": None}, "stop_sequences": [""]}
    asked |= dict.fromkeys(("thread", "compaction", "diagnostics"), None)
    asked |= {"billing_policy": "", "user_profile_id": "", "functions": [], "logprobs": False, "top_logprobs": 0}
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


@pytest.mark.parametrize("param", ["thread", "compaction", "diagnostics", "container"])
@pytest.mark.parametrize("path", ["messages", "responses", "chat/completions"])
def test_an_empty_object_asks_for_what_there_is_not(gateway: Gateway, path: str, param: str) -> None:
    asked = {"model": "claude", "max_tokens": 9, "messages": TURNS, param: {}}
    if path == "responses":
        asked = {"model": "claude", "input": "Hi.", param: {}}
    answer = httpx2.post(f"{gateway.url}/v1/{path}", headers=gateway.headers, json=asked, timeout=60)
    assert (answer.status_code, param in answer.text) == (400, True)
    assert not gateway.anthropic.calls


def test_no_providers_thread_is_known_to_those_who_ask_for_responses(gateway: Gateway) -> None:
    asked = {"model": "gpt", "input": "Hi.", "thread": {}}
    answer = httpx2.post(f"{gateway.url}/v1/responses", headers=gateway.headers, json=asked, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "thread")
    assert not gateway.openai.calls


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
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    for asked in (FORGET_TOOLS, FORGET_THINKING):
        anthropic_client(gateway).beta.messages.create(
            model="claude", max_tokens=2000, messages=TURNS, context_management=asked, thinking=thinking, betas=[BETA]
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


# --- what few APIs have a word for -------------------------------------------------------------------

OTHER_TOOL: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tools_that_may_not_be_called_are_not_named_to_any_model(gateway: Gateway, mode: str) -> None:
    set_reply(gateway, Reply("{}" if mode == "required" else "Hello."))
    for model in MODELS:
        openai_client(gateway).chat.completions.create(
            model=model, messages=TURNS, tools=[OPENAI_TOOL, OTHER_TOOL], tool_choice=allowed(mode, "weather")
        )
    for server in servers(gateway):
        body = server.calls[-1].body.decode()
        assert "weather" in body
        assert '"now"' not in body
    assert gateway.openai.calls[-1].json["tool_choice"] == mode
    assert gateway.anthropic.calls[-1].json["tool_choice"] == {"type": "any" if mode == "required" else mode}


@pytest.mark.parametrize(
    ("names", "marked"), [(["a"], ["a"]), (["a", "c"], ["a"]), (["c"], []), (["b", "c"], ["b"]), (["a", "b"], ["b"])]
)
def test_what_is_to_be_cached_up_to_a_tool_that_may_not_be_called_is_cached_up_to_the_one_before(
    names: list[str], marked: list[str]
) -> None:
    tools: Any = [{"type": "function", "function": {"name": name}} for name in "abc"]
    tools[1]["cache_control"] = {"type": "ephemeral"}
    body = {"model": "m", "messages": TURNS, "tools": tools, "tool_choice": allowed("auto", *names)}
    read = decode_chat(body, {}).request.tools
    assert [tool.name for tool in read] == names
    assert [tool.name for tool in read if tool.cache_mark] == marked


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowed("none", "weather"), "tool_choice.allowed_tools.mode"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (allowed("auto", "nothing"), "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools.mode"),
    ],
)
def test_allowed_tools_that_say_nothing_clear_are_refused(gateway: Gateway, choice: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(gateway).chat.completions.create(
            model="gpt", messages=TURNS, tools=[OPENAI_TOOL], tool_choice=choice
        )
    assert refused.value.param == param


def test_the_models_own_effort_is_no_reason_to_refuse(gateway: Gateway) -> None:
    """`default` is Groq's word for it, and goes to nobody else."""
    for model in MODELS:
        openai_client(gateway).chat.completions.create(
            model=model, messages=TURNS, extra_body={"reasoning_effort": "default"}
        )
    for server in servers(gateway):
        body = server.calls[-1].body.decode()
        assert "think" not in body
        assert "effort" not in body


def test_thinking_without_a_budget_is_a_medium_effort(gateway: Gateway) -> None:
    asked = {"thinking": {"type": "enabled"}}
    for model in ("llama", "flash"):
        openai_client(gateway).chat.completions.create(model=model, messages=TURNS, extra_body=asked)
    assert gateway.ollama.calls[-1].json["think"] is True
    assert gateway.gemini.calls[-1].json["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 8192}


def test_the_usual_speed_goes_to_everybody_and_other_models_to_nobody(gateway: Gateway) -> None:
    messages = anthropic_client(gateway).messages
    for model in MODELS:
        messages.create(model=model, max_tokens=9, messages=TURNS, extra_body={"speed": "standard"})
        with pytest.raises(anthropic.BadRequestError, match="fallbacks"):
            messages.create(model=model, max_tokens=9, messages=TURNS, extra_body={"fallbacks": [{"model": "x"}]})
    assert all(b"speed" not in call.body for server in servers(gateway) for call in server.calls)


# --- words that OpenAI's clients have for other houses -----------------------------------------------


def test_openais_clients_mark_what_claude_is_to_cache(gateway: Gateway) -> None:
    Price.objects.filter(model__slug="claude").update(cache_write_usd_per_mtok="3.75")
    snapshot.forget()
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **mark}]
    look = [{"type": "text", "text": "Look.", **mark}]
    turns: Any = [{"role": "system", "content": system}, {"role": "user", "content": look}]
    for model in MODELS:
        openai_client(gateway).chat.completions.create(model=model, messages=turns, tools=[{**OPENAI_TOOL, **mark}])
    body = gateway.anthropic.calls[-1].json
    marked = [body["system"][1], body["tools"][0], body["messages"][0]["content"][0]]
    assert all(block["cache_control"] == mark["cache_control"] for block in marked)
    for server in servers(gateway):
        assert server is gateway.anthropic or b"cache_control" not in server.calls[-1].body


def test_thinking_is_understood_under_its_other_name(gateway: Gateway) -> None:
    turns: Any = [*TURNS, {"role": "assistant", "content": "Hello.", "reasoning": "Greet them."}, *TURNS]
    openai_client(gateway).chat.completions.create(model="llama", messages=turns)
    assert gateway.ollama.calls[-1].json["messages"][1]["thinking"] == "Greet them."


def test_a_tool_without_parameters_is_told_as_each_house_wants_it(gateway: Gateway) -> None:
    bare: Any = {"type": "function", "function": {"name": "now"}}
    loose: Any = {"type": "function", "function": {"name": "at", "parameters": {"properties": {"zone": {}}}}}
    for model in ("claude", "flash"):
        openai_client(gateway).chat.completions.create(model=model, messages=TURNS, tools=[bare, loose])
    schemas = [tool["input_schema"] for tool in gateway.anthropic.calls[-1].json["tools"]]
    assert schemas == [{"type": "object", "properties": {}}, {"type": "object", "properties": {"zone": {}}}]
    first, second = gateway.gemini.calls[-1].json["tools"][0]["functionDeclarations"]
    assert ("parametersJsonSchema" in first, "parametersJsonSchema" in second) == (False, True)
