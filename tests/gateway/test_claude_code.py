"""Claude Code's requests as version 2.1.330 sends them (texts shortened), answered by every kind of provider."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from routing.configuration import snapshot
from routing.gateway.wire.tool_changes import MAX_REFERENCES
from routing.models import LanguageModel, Price
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import MODELS, set_reply
from tests.servers.script import Call, Reply

BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,"
    "effort-2025-11-24"
)
CACHED = {"cache_control": {"type": "ephemeral"}}
LATER = "claude-opus-4-8"  # a model that is told of system messages and waiting tools as such


def headers(gateway: Gateway) -> dict[str, str]:
    return {
        "authorization": f"Bearer {gateway.key}",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": BETAS,
        "anthropic-dangerous-direct-browser-access": "true",
        "user-agent": "claude-cli/2.1.330 (external, sdk-cli)",
        "x-app": "cli",
        "x-claude-code-session-id": "8f54164c-1111-4222-8333-444455556666",
        "x-stainless-timeout": "600",
    }


def tool(name: str, **more: Any) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"query": {"type": "string"}, "max_results": {"type": "number", "default": 5}},
        "required": ["query"],
        "additionalProperties": False,
    }
    return {"name": name, "description": f"{name} does its work.", "input_schema": schema, **more}


FIRST_TURNS = (
    {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nMind this.\n</system-reminder>"},
                                 {"type": "text", "text": "Read note.txt"}]},
    {"role": "system", "content": [{"type": "text", "text": "# Environment\nA folder."}]},
)  # fmt: skip
SEARCHED = (
    *FIRST_TURNS,
    {"role": "assistant", "content": [
        {"type": "tool_use", "id": "toolu_01", "name": "ToolSearch", "input": {"query": "select:WebFetch"}}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_01",
         "content": [{"type": "tool_reference", "tool_name": "WebFetch"}]},
        {"type": "text", "text": "Tool loaded."}]},
    {"role": "system", "content": [{"type": "text", "text": "<total_tokens>14988664 tokens left</total_tokens>"}]},
)  # fmt: skip


def body(model: str, turns: tuple[Any, ...] = FIRST_TURNS) -> dict[str, Any]:
    last = {**turns[-1], "content": [*turns[-1]["content"][:-1], {**turns[-1]["content"][-1], **CACHED}]}
    found = [tool("WebFetch", defer_loading=True)] if turns is SEARCHED else []
    return {
        "model": model,
        "messages": [*turns[:-1], last],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.572; cc_entrypoint=sdk-cli;"},
            {"type": "text", "text": "You are a Claude agent.", **CACHED},
            {"type": "text", "text": "\nYou are an agent working with the user.", **CACHED},
        ],
        "tools": [tool("Bash"), tool("Read"), tool("ToolSearch"), *found,
                  {**tool("DeferredToolPlaceholder"), "input_schema": {"type": "object", "properties": {}},
                   "defer_loading": True}],
        "metadata": {"user_id": json.dumps({"device_id": "76d30d", "account_uuid": "", "session_id": "8f54164c"})},
        "max_tokens": 2000,
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    }  # fmt: skip


def ask(gateway: Gateway, asked: dict[str, Any], below: str = "") -> httpx2.Response:
    url = f"{gateway.url}/v1/messages{below}?beta=true"
    return httpx2.post(url, headers=headers(gateway), json=asked, timeout=60)


def events(answer: httpx2.Response) -> Iterator[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    for line in answer.text.splitlines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def called(answer: httpx2.Response) -> list[str]:
    starts = [event["content_block"] for event in events(answer) if event["type"] == "content_block_start"]
    return [block["name"] for block in starts if block["type"] == "tool_use"]


@pytest.fixture
def later_claude(gateway: Gateway) -> str:
    like = LanguageModel.objects.get(slug="claude")
    row = LanguageModel.objects.create(
        slug=LATER, provider=like.provider, name=LATER, context_window=200_000, max_output_tokens=4096,
        capabilities=like.capabilities,
    )  # fmt: skip
    Price.objects.create(
        model=row, input_usd_per_mtok="5", output_usd_per_mtok="25", cached_input_usd_per_mtok="0.5",
        cache_write_usd_per_mtok="6.25",
    )  # fmt: skip
    snapshot.forget()
    return LATER


@pytest.mark.parametrize("turns", [FIRST_TURNS, SEARCHED])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_served_by_every_kind_of_provider(gateway: Gateway, model: str, turns: tuple[Any, ...]) -> None:
    set_reply(gateway, Reply("", calls=(Call("Bash", {"query": "ls"}), Call("Read", {"query": "note.txt"}))))
    assert called(ask(gateway, body(model, turns))) == ["Bash", "Read"]
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "ok"


@pytest.mark.parametrize("model", ["llama", "gpt"])
def test_tools_that_wait_are_told_to_others_once_they_are_found(gateway: Gateway, model: str) -> None:
    server = {"llama": gateway.ollama, "gpt": gateway.openai}[model]
    for turns, expected in ((FIRST_TURNS, []), (SEARCHED, ["WebFetch"])):
        ask(gateway, body(model, turns))
        tools = [row["function"]["name"] for row in server.calls[-1].json["tools"]]
        assert tools == ["Bash", "Read", "ToolSearch", *expected]
    assert "Tools that can be called now: WebFetch" in server.calls[-1].body.decode()


def test_claude_is_sent_what_keeps_its_cache(gateway: Gateway, later_claude: str) -> None:
    for turns in (FIRST_TURNS, SEARCHED):
        asked = body(later_claude, turns)
        assert list(events(ask(gateway, asked)))[-1]["type"] == "message_stop"
        sent = gateway.anthropic.calls[-1]
        for key in ("system", "tools", "thinking", "context_management", "output_config", "max_tokens"):
            assert sent.json[key] == asked[key], key
        assert [(t["role"], t["content"]) for t in sent.json["messages"]] == [
            (t["role"], t["content"]) for t in asked["messages"]
        ]
        assert "advanced-tool-use-2025-11-20" in sent.headers["anthropic-beta"]


def test_a_local_model_that_neither_thinks_nor_takes_a_later_system_message_serves(gateway: Gateway) -> None:
    gateway.ollama.thinks, gateway.ollama.one_system_message = False, True
    set_reply(gateway, Reply("Done."))
    assert list(events(ask(gateway, body("llama", SEARCHED))))[-1]["type"] == "message_stop"
    sent = gateway.ollama.calls[-1].json
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert "think" not in sent
    assert "# Environment" in sent["messages"][1]["content"]
    assert "Tool loaded." in sent["messages"][-1]["content"]
    assert "<system-role-message>\n<total_tokens>" in sent["messages"][-1]["content"]
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "ok"


def test_a_model_that_must_think_is_no_model_that_does_not(gateway: Gateway) -> None:
    gateway.ollama.thinks = False
    asked = {**body("llama"), "thinking": {"type": "enabled", "budget_tokens": 1024}}
    answer = ask(gateway, asked)
    assert (answer.status_code, "does not support thinking" in answer.text) == (400, True)
    gateway.settled(1)


@pytest.mark.parametrize("model", ["claude", "llama", LATER])
def test_its_tokens_are_counted(gateway: Gateway, later_claude: str, model: str) -> None:
    asked = {key: value for key, value in body(model, SEARCHED).items() if key not in ("max_tokens", "stream")}
    url = f"{gateway.url}/v1/messages/count_tokens?beta=true"
    answer = httpx2.post(url, headers=headers(gateway), json=asked, timeout=60)
    assert answer.json()["input_tokens"] > 0, answer.text


@pytest.mark.parametrize(
    "found", [{"type": "tool_reference"}, {"type": "tool_reference", "tool_name": 7}, {"type": "tool_search"}]
)
def test_what_is_no_found_tool_is_refused(gateway: Gateway, found: dict[str, Any]) -> None:
    asked = body("gpt", SEARCHED)
    asked["messages"][3]["content"][0]["content"] = [found]
    assert ask(gateway, asked).status_code == 400
    assert not gateway.openai.calls


def change(kind: str, **said: Any) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": kind, "tool": said}]}


ASKED_AGAIN = (*FIRST_TURNS, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go on."})
REFERENCE = {"type": "tool_reference", "name": "Late"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([change("tool_addition", **REFERENCE)], ["Bash", "Read", "Late"]),
        ([change("tool_addition", type="tool_definition", definition=tool("New"))], ["Bash", "Read", "New"]),
        ([change("tool_removal", type="tool_reference", name="Bash")], ["Read"]),
        ([change("tool_addition", **REFERENCE), change("tool_removal", **REFERENCE)], ["Bash", "Read"]),
    ],
)
@pytest.mark.parametrize("model", ["gpt", "llama", LATER])
def test_tools_come_and_go(
    gateway: Gateway, later_claude: str, model: str, changes: list[Any], expected: list[str]
) -> None:
    asked = {**body(model), "tools": [tool("Bash"), tool("Read"), tool("Late", defer_loading=True)]}
    asked["messages"] = [*ASKED_AGAIN, *changes]
    assert list(events(ask(gateway, asked)))[-1]["type"] == "message_stop"
    sent = {"gpt": gateway.openai, "llama": gateway.ollama}.get(model, gateway.anthropic).calls[-1].json
    tools = [row.get("function", row) for row in sent["tools"]]
    assert [row["name"] for row in tools if not row.get("defer_loading")] == expected
    assert [turn["role"] for turn in sent["messages"]][-1] == "user"


@pytest.mark.parametrize(
    "said",
    [{}, {"type": "mcp_toolset_reference"}, {"type": "tool_reference", "name": "Nobody"}, {"type": "tool_definition"}],
)
def test_a_change_that_cannot_be_understood_is_refused(gateway: Gateway, said: dict[str, Any]) -> None:
    answer = ask(gateway, {**body("gpt"), "messages": [*ASKED_AGAIN, change("tool_addition", **said)]})
    assert (answer.status_code, "messages[4].content[0].tool" in answer.text) == (400, True)
    assert not gateway.openai.calls


def test_an_effort_alone_asks_for_no_thinking(gateway: Gateway, later_claude: str) -> None:
    asked = {
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "Hello"}],
        "output_config": {"effort": "low"},
        "temperature": 0.2,
    }
    assert ask(gateway, {"model": later_claude, **asked}).status_code == 200
    sent = gateway.anthropic.calls[-1].json
    assert {key: sent.get(key) for key in ("output_config", "temperature", "thinking")} == {
        "output_config": {"effort": "low"},
        "temperature": 0.2,
        "thinking": None,
    }
    assert ask(gateway, {"model": "llama", **asked}).status_code == 200
    assert gateway.ollama.calls[-1].json["think"] is True  # other houses know no other kind of effort


@pytest.mark.parametrize("more", [{}, {"cache_control": {"type": "ephemeral"}}, {"system": "Be brief."}])
@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_changes_of_tools_alone_are_no_conversation(gateway: Gateway, model: str, more: dict[str, Any]) -> None:
    only = change("tool_addition", type="tool_definition", definition=tool("New"))
    asked = {"model": model, "max_tokens": 5, "messages": [only], **more}
    answer = ask(gateway, asked)
    assert (answer.status_code, "messages: must hold a message" in answer.text) == (400, True)
    assert not gateway.openai.calls + gateway.anthropic.calls


def test_too_many_found_tools_are_refused_by_name(gateway: Gateway) -> None:
    row = {"type": "tool_reference", "tool_name": "WebFetch"}
    result = {"type": "tool_result", "tool_use_id": "toolu_01", "content": [row] * (MAX_REFERENCES // 2)}
    asked = {**body("gpt", SEARCHED), "stream": False}
    asked["messages"] = [*SEARCHED[:3], {"role": "user", "content": [result, result]}]
    assert ask(gateway, asked, "/count_tokens").status_code == 200
    asked["messages"][3]["content"].append({**result, "content": [row]})
    answer = ask(gateway, asked, "/count_tokens")
    assert (answer.status_code, "tool_reference" in answer.text) == (413, True)
