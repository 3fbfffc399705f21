"""What goes out: every part of a request in each API's own words, and a refusal for what it has no words for."""

import base64
import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.openai.strictness import is_strict
from routing.adapters.reading.wire import dumps
from routing.types import (
    ChatRequest,
    Image,
    Message,
    ModelSpec,
    ProviderError,
    Reasoning,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    UnsupportedByProvider,
    message,
)
from tests.routing.adapters_support import KEY, ask, model, provider

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}},
    "required": ["mood"],
    "additionalProperties": False,
}
TOOL = Tool("look_up", "Looks up a city", {"type": "object", "properties": {"city": {"type": "string"}}})
KINDS = sorted(CODECS)
CONVERSATION = (
    Message("system", (Text("Be brief."), Text("Be kind."))),
    message("user", "Weather in Zürich and Paris?"),
    Message(
        "assistant",
        (
            Reasoning("two calls", "c2ln"),
            Text("I look."),
            ToolCall("a", "look_up", '{"city": "Zürich"}'),
            ToolCall("b", "look_up", '{"city": "Paris"}'),
        ),
    ),
    Message("tool", (ToolResult("a", "rain"),)),
    Message("tool", (ToolResult("b", "no such city", is_error=True),)),
)


def encode(kind: str | ModelSpec, request: ChatRequest, **fields: Any) -> dict[str, Any]:
    row = kind if isinstance(kind, ModelSpec) else model(kind)
    fields = {"max_output_tokens": 100, "stream": False, **fields}
    return read_body(CODECS[row.provider.kind]().encode_chat(request, row, **fields))


def read_body(sent: WireRequest) -> dict[str, Any]:
    assert sent.body is not None
    value = json.loads(dumps(sent.body))
    assert isinstance(value, dict)
    return value


# --- addresses and keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base", "url", "header"),
    [
        ("openai", "https://api.moonshot.ai/v1", "https://api.moonshot.ai/v1/chat/completions", "authorization"),
        ("openai", "http://localhost:8080", "http://localhost:8080/v1/chat/completions", "authorization"),
        ("openai", "http://localhost:8080/", "http://localhost:8080/v1/chat/completions", "authorization"),
        ("openai", "http://host/proxy/v1/", "http://host/proxy/v1/chat/completions", "authorization"),
        ("ollama", "http://localhost:11434", "http://localhost:11434/api/chat", "authorization"),
        ("ollama", "http://localhost:11434/v1/", "http://localhost:11434/api/chat", "authorization"),
        ("anthropic", "https://api.anthropic.com", "https://api.anthropic.com/v1/messages", "x-api-key"),
        ("anthropic", "https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages", "x-api-key"),
        ("gemini", "https://generativelanguage.googleapis.com",
         "https://generativelanguage.googleapis.com/v1beta/models/some-model:generateContent", "x-goog-api-key"),
        ("cohere", "https://api.cohere.com", "https://api.cohere.com/v2/chat", "authorization"),
    ],
)  # fmt: skip
def test_address_and_key_are_where_the_api_wants_them(kind: str, base: str, url: str, header: str) -> None:
    codec = CODECS[kind]()
    sent = codec.encode_chat(ask(), model(provider(kind, base)), max_output_tokens=5, stream=False)
    assert sent.url == url
    assert KEY in sent.headers[header]
    assert KEY not in sent.url
    keyless = codec.encode_chat(ask(), model(provider(kind, base, api_key="")), max_output_tokens=5, stream=False)
    assert header not in keyless.headers


@pytest.mark.parametrize("kind", KINDS)
def test_headers_of_the_provider_row_go_along(kind: str) -> None:
    row = provider(kind, options={"headers": {"X-Title": "ziggie"}})
    sent = CODECS[kind]().encode_chat(ask(), model(row), max_output_tokens=5, stream=True)
    assert sent.headers["x-title"] == "ziggie"


# --- conversations -----------------------------------------------------------------------------------


def test_openai_gets_tool_results_as_turns_of_their_own() -> None:
    messages = encode("openai", ChatRequest(CONVERSATION, tools=(TOOL,)))["messages"]
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant", "tool", "tool"]
    assert messages[0]["content"] == "Be brief.\n\nBe kind."
    assert messages[2]["tool_calls"][1]["function"] == {"name": "look_up", "arguments": '{"city": "Paris"}'}
    assert "reasoning_content" not in messages[2]
    assert messages[3] == {"role": "tool", "tool_call_id": "a", "content": "rain"}
    assert messages[4]["content"] == "Error: no such city"


def test_a_server_that_wants_thinking_back_gets_it() -> None:
    row = model(provider("openai", options={"send_reasoning": True}))
    assert encode(row, ChatRequest(CONVERSATION))["messages"][2]["reasoning_content"] == "two calls"


def test_anthropic_gets_tool_results_together_in_the_users_turn() -> None:
    body = encode("anthropic", ChatRequest((*CONVERSATION, message("user", "And now?")), tools=(TOOL,)))
    assert body["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assistant, user = body["messages"][1]["content"], body["messages"][2]["content"]
    assert assistant[0] == {"type": "thinking", "thinking": "two calls", "signature": "c2ln"}
    assert assistant[2] == {"type": "tool_use", "id": "a", "name": "look_up", "input": {"city": "Zürich"}}
    assert [block["type"] for block in user] == ["tool_result", "tool_result", "text"]
    assert user[1]["is_error"] is True


def test_anthropic_gets_no_thinking_that_it_did_not_sign() -> None:
    turns = (message("user", "x"), Message("assistant", (Reasoning("mine"), Text("y"))), message("user", "z"))
    assert encode("anthropic", ChatRequest(turns))["messages"][1]["content"] == [{"type": "text", "text": "y"}]


def test_ollama_gets_arguments_as_objects_and_results_by_name() -> None:
    messages = encode("ollama", ChatRequest(CONVERSATION, tools=(TOOL,)))["messages"]
    call = messages[2]["tool_calls"][0]
    assert call["function"] == {"name": "look_up", "arguments": {"city": "Zürich"}}
    assert messages[2]["thinking"] == "two calls"
    assert messages[3] == {"role": "tool", "tool_name": "look_up", "tool_call_id": call["id"], "content": "rain"}


def test_gemini_gets_calls_results_and_signatures_as_parts() -> None:
    signed = Message(
        "assistant", (Reasoning("", "gemini:abc"), ToolCall("a", "look_up", "{}"), ToolCall("b", "look_up", "{}"))
    )
    turns = (
        message("user", "x"),
        signed,
        Message("tool", (ToolResult("a", "rain"), ToolResult("b", "no", is_error=True))),
    )
    contents = encode(model("gemini", "gemini-3-pro"), ChatRequest(turns, tools=(TOOL,)))["contents"]
    assert [turn["role"] for turn in contents] == ["user", "model", "user"]
    assert contents[1]["parts"][0] == {"functionCall": {"name": "look_up", "args": {}}, "thoughtSignature": "abc"}
    assert "thoughtSignature" not in contents[1]["parts"][1]
    responses = [part["functionResponse"]["response"] for part in contents[2]["parts"]]
    assert responses == [{"result": "rain"}, {"error": "no"}]


def test_gemini_is_not_sent_the_signatures_of_others() -> None:
    parts = encode(model("gemini", "gemini-3-pro"), ChatRequest(CONVERSATION))["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "skip_thought_signature_validator", None]
    parts = encode(model("gemini", "gemini-2.5-pro"), ChatRequest(CONVERSATION))["contents"][1]["parts"]
    assert not any("thoughtSignature" in part for part in parts)


# --- images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [Image("image/png", PNG), Image(data=PNG), Image(url=f"data:image/png;base64,{PNG}")],
    ids=["full", "bare", "url"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_by_value_reaches_every_api(kind: str, image: Image) -> None:
    text = json.dumps(encode(kind, ChatRequest((Message("user", (Text("what?"), image)),))))
    assert PNG in text
    assert kind == "ollama" or "image/png" in text


PDF = base64.b64encode(b"%PDF-1.7 and so on").decode()


@pytest.mark.parametrize(
    "document",
    [
        Image("application/pdf", PDF),
        Image("Application/PDF", PNG),
        Image("image/png", PDF),
        Image("image/png", PDF.rstrip("=")),
        Image("image/png", "\n" + PDF),
        Image(data=PDF),
        Image(url=f"data:application/pdf;base64,{PDF}"),
        Image(url=f"data:image/png;base64,{PDF}"),
        Image("video/mp4", PNG),
        Image("image/png, application/pdf", PNG),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_goes_nowhere_as_one(kind: str, document: Image) -> None:
    """Nothing would be held for its pages."""
    with pytest.raises(UnsupportedByProvider, match="said to be an image"):
        encode(kind, ChatRequest((Message("user", (Text("what?"), document)),)))


@pytest.mark.parametrize(
    ("kind", "takes"), [("openai", True), ("anthropic", True), ("cohere", True), ("ollama", False), ("gemini", False)]
)
def test_an_image_by_address_is_passed_on_or_refused(kind: str, takes: bool) -> None:
    request = ChatRequest((Message("user", (Text("what?"), Image(url="https://x.test/a.png"))),))
    if takes:
        assert "https://x.test/a.png" in json.dumps(encode(kind, request))
        return
    with pytest.raises(UnsupportedByProvider, match="image"):
        encode(kind, request)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_the_assistants_turn_is_never_dropped(kind: str) -> None:
    request = ChatRequest((message("user", "x"), Message("assistant", (Image("image/png", PNG),))))
    try:
        assert PNG in json.dumps(encode(kind, request))
    except UnsupportedByProvider as refused:
        assert "image" in str(refused)  # noqa: PT017  # either is right, silence is not


@pytest.mark.parametrize("data", ["!!!", "AAAA"])
def test_an_image_of_unknown_kind_is_refused(data: str) -> None:
    with pytest.raises(UnsupportedByProvider, match="image"):
        encode("anthropic", ChatRequest((Message("user", (Image(data=data),)),)))


# --- tools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "choice", "expected"),
    [
        ("openai", "required", {"tool_choice": "required"}),
        ("openai", "look_up", {"tool_choice": {"type": "function", "function": {"name": "look_up"}}}),
        ("anthropic", "required", {"tool_choice": {"type": "any"}}),
        ("anthropic", "none", {"tool_choice": {"type": "none"}}),
        ("anthropic", "look_up", {"tool_choice": {"type": "tool", "name": "look_up"}}),
        ("gemini", "required", {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
        ("gemini", "look_up",
         {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look_up"]}}}),
        ("cohere", "required", {"tool_choice": "REQUIRED"}),
        ("cohere", "look_up", {"tool_choice": "REQUIRED"}),
        ("cohere", "none", {"tool_choice": "NONE"}),
    ],
)  # fmt: skip
def test_the_choice_of_tools_is_said(kind: str, choice: str, expected: dict[str, Any]) -> None:
    body = encode(kind, ask(tools=(TOOL,), tool_choice=choice))
    assert body.items() >= expected.items()
    assert "Looks up a city" in json.dumps(body["tools"])


def test_ollama_answers_without_tools_when_none_may_be_called() -> None:
    assert "tools" not in encode("ollama", ask(tools=(TOOL,), tool_choice="none"))
    assert "tools" in encode("ollama", ask(tools=(TOOL,), tool_choice="auto"))


def test_one_call_at_a_time_is_asked_for_where_the_api_knows_it() -> None:
    request = ask(tools=(TOOL,), parallel_tool_calls=False)
    assert encode("openai", request)["parallel_tool_calls"] is False
    assert encode("anthropic", request)["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("kind", "request_", "word"),
    [
        ("ollama", ask(tools=(TOOL,), tool_choice="unheard_of"), "tool_choice"),
        ("ollama", ask(tools=(TOOL,), parallel_tool_calls=False), "parallel_tool_calls"),
        ("ollama", ask(extra={"logit_bias": {"1": 2}}), "logit_bias"),
        ("gemini", ask(tools=(TOOL,), parallel_tool_calls=False), "parallel_tool_calls"),
        ("gemini", ask(extra={"logit_bias": {"1": 2}}), "logit_bias"),
        ("cohere", ask(extra={"logit_bias": {"1": 2}}), "logit_bias"),
        ("cohere", ask(tools=(TOOL,), tool_choice="unheard_of"), "tool_choice"),
        ("anthropic", ask(seed=7), "seed"),
        ("anthropic", ask(temperature=1.5), "temperature"),
        ("anthropic", ask(extra={"presence_penalty": 1}), "presence_penalty"),
        ("anthropic", ask(extra={"n": 2}), "n "),
        ("openai", ask(extra={"n": 2}), "n:"),
        ("openai", ask(extra={"messages": []}), "messages"),
        ("gemini", ChatRequest((Message("tool", (ToolResult("a", "x"),)),)), "without the call"),
    ],
)
def test_what_an_api_cannot_say_is_refused_by_name(kind: str, request_: ChatRequest, word: str) -> None:
    with pytest.raises(UnsupportedByProvider, match=word):
        encode(kind, request_)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_state_the_default_do_no_harm(kind: str) -> None:
    body = encode(kind, ask(extra={"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": None}))
    assert not {"n", "presence_penalty", "logit_bias"} & set(body)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("openai", ()), ("anthropic", ()), ("ollama", ("options",)), ("gemini", ("generationConfig",)), ("cohere", ())],
)
def test_sampling_has_each_apis_own_names(kind: str, where: tuple[str, ...]) -> None:
    seed = None if kind == "anthropic" else 7
    body = encode(kind, ask(temperature=0.3, stop=("END",), seed=seed, extra={"top_p": 0.9}))
    for key in where:
        body = body[key]
    assert body["temperature"] == 0.3
    text = json.dumps(body)
    assert '["END"]' in text
    assert "0.9" in text
    assert ": 100" in text
    assert kind == "anthropic" or ": 7" in text


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("gpt-4o", {}, "max_tokens"),
        ("o3-mini", {}, "max_completion_tokens"),
        ("gpt-5-mini", {}, "max_completion_tokens"),
        ("openai/gpt-5.2", {}, "max_completion_tokens"),
        ("gpt-oss:20b", {}, "max_tokens"),
        ("kimi-k2", {}, "max_tokens"),
        ("my-model", {"max_tokens_field": "max_completion_tokens"}, "max_completion_tokens"),
        ("gpt-5", {"max_tokens_field": "max_tokens"}, "max_tokens"),
    ],
)
def test_the_limit_of_output_has_the_name_the_model_knows(name: str, options: dict[str, str], field: str) -> None:
    body = encode(model(provider("openai", options=options), name), ask())
    assert [key for key in body if key.startswith("max_")] == [field]


def test_usage_is_asked_for_in_streams_unless_the_server_refuses_the_question() -> None:
    assert encode("openai", ask(), stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in encode("openai", ask())
    row = model(provider("openai", options={"stream_usage": False}))
    assert "stream_options" not in encode(row, ask(), stream=True)


# --- structured output -------------------------------------------------------------------------------


def test_a_schema_goes_into_each_apis_own_field() -> None:
    request = ask(json_schema=SCHEMA, json_schema_name="the mood!")
    found = encode("openai", request)["response_format"]["json_schema"]
    assert (found["name"], found["strict"], found["schema"]) == ("the_mood_", True, SCHEMA)
    assert encode("ollama", request)["format"] == SCHEMA
    assert encode(model("anthropic", "claude-haiku-4-5"), request)["output_config"]["format"]["schema"] == SCHEMA
    assert encode("gemini", request)["generationConfig"]["responseJsonSchema"] == SCHEMA
    assert encode("cohere", request)["response_format"]["json_schema"] == SCHEMA


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_structured_output_is_told_the_schema(kind: str) -> None:
    row = model(provider(kind, options={"structured_output": "prompt"}))
    body = encode(row, ask(json_schema=SCHEMA))
    assert "JSON Schema" in json.dumps(body)
    assert not {"response_format", "format", "output_config"} & set(body)
    if kind != "anthropic":  # which knows by its models' names
        row = model(kind, capabilities=frozenset({"chat"}))
        assert "JSON Schema" in json.dumps(encode(row, ask(json_schema=SCHEMA)))


def test_an_older_claude_answers_through_a_tool_of_ours() -> None:
    row = model("anthropic", "claude-3-5-sonnet-20241022")
    codec = CODECS["anthropic"]()
    sent = codec.encode_chat(ask(json_schema=SCHEMA), row, max_output_tokens=100, stream=False)
    body = read_body(sent)
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": body["tools"][0]["name"]}
    block = {"type": "tool_use", "id": "t", "name": body["tools"][0]["name"], "input": {"mood": "good"}}
    answer = {"type": "message", "content": [block], "stop_reason": "tool_use", "usage": {"input_tokens": 1}}
    result = codec.decode_chat(WireResponse(200, {}, json.dumps(answer).encode()), sent)
    assert (json.loads(result.text), result.stop_reason, result.tool_calls) == ({"mood": "good"}, "stop", ())


@pytest.mark.parametrize(
    ("name", "by_tool"),
    [
        ("claude-3-5-haiku-20241022", True),
        ("claude-3-opus-20240229", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-0", True),
        ("claude-opus-4-1", False),
        ("claude-sonnet-4-5", False),
        ("claude-sonnet-4-5-20250929", False),
        ("claude-haiku-4-5", False),
        ("claude-opus-5", False),
    ],
)
def test_structured_output_is_used_where_claude_knows_it(name: str, by_tool: bool) -> None:
    body = encode(model("anthropic", name), ask(json_schema=SCHEMA))
    assert ("tool_choice" in body, "output_config" in body) == (by_tool, not by_tool)


def test_the_callers_own_tools_are_not_pushed_aside_by_a_schema() -> None:
    body = encode(model("anthropic", "claude-3-5-sonnet-20241022"), ask(json_schema=SCHEMA, tools=(TOOL,)))
    assert [tool["name"] for tool in body["tools"]] == ["look_up"]
    assert "JSON Schema" in body["system"]
    assert "format" not in encode("ollama", ask(json_schema=SCHEMA, tools=(TOOL,)))


def test_json_mode_speaks_of_json_in_the_prompt() -> None:
    assert "JSON" in encode("openai", ask("Which mood?", json_object=True))["messages"][0]["content"]
    assert len(encode("openai", ask("Which mood? In JSON.", json_object=True))["messages"]) == 1
    assert encode("ollama", ask(json_object=True))["format"] == "json"
    assert "JSON" in encode("anthropic", ask(json_object=True))["system"]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"anyOf": [SCHEMA, {"type": "null"}]}, True),
        ({"$defs": {"x": {"type": "object", "properties": {"a": {}}}}, **SCHEMA}, False),
    ],
)
def test_strict_mode_is_asked_for_only_where_it_is_possible(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


# --- thinking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "effort", "expected"),
    [
        ("openai", "o3-mini", "high", {"reasoning_effort": "high"}),
        ("anthropic", "claude-opus-5", "high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("anthropic", "claude-haiku-4-5", "low", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("anthropic", "claude-opus-4-5", "low", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("anthropic", "claude-sonnet-4-5", "none", {"thinking": {"type": "disabled"}}),
        ("ollama", "gpt-oss:20b", "high", {"think": "high"}),
        ("ollama", "qwen3:8b", "high", {"think": True}),
        ("ollama", "qwen3:8b", "none", {"think": False}),
        ("cohere", "command-a-reasoning", "high", {"thinking": {"type": "enabled"}}),
    ],
)
def test_effort_is_said_in_the_models_own_terms(kind: str, name: str, effort: str, expected: dict[str, Any]) -> None:
    body = encode(model(kind, name), ask(reasoning_effort=effort), max_output_tokens=8000)
    assert body.items() >= expected.items()


@pytest.mark.parametrize(
    ("name", "thinking"),
    [
        ("claude-opus-4-6", {"type": "adaptive"}),
        ("claude-opus-4-6", {"type": "disabled"}),
        ("claude-opus-4-5", {"type": "enabled", "budget_tokens": 2000}),
    ],
)
def test_claude_hears_of_thinking_and_of_effort_as_its_own_clients_say_them(
    name: str, thinking: dict[str, Any]
) -> None:
    asked = ask(reasoning_effort="medium", extra={"thinking": thinking})
    body = encode(model("anthropic", name), asked, max_output_tokens=8000)
    assert (body["thinking"], body["output_config"]) == (thinking, {"effort": "medium"})


def test_effort_beside_a_budget_of_thinking_is_refused_where_the_model_knows_no_effort() -> None:
    asked = ask(reasoning_effort="low", extra={"thinking": {"type": "enabled", "budget_tokens": 2000}})
    with pytest.raises(UnsupportedByProvider, match="effort"):
        encode(model("anthropic", "claude-sonnet-4-5"), asked, max_output_tokens=8000)


def test_who_wants_no_thinking_gets_none_from_other_houses_whatever_the_effort() -> None:
    asked = ask(reasoning_effort="high", extra={"thinking": {"type": "disabled"}})
    assert encode(model("openai", "gpt-5-mini"), asked)["reasoning_effort"] == "none"
    assert encode(model("ollama", "qwen3:8b"), asked)["think"] is False


def test_gemini_thinks_by_level_or_by_budget() -> None:
    config = encode(model("gemini", "gemini-3-pro"), ask(reasoning_effort="high"))["generationConfig"]
    assert config["thinkingConfig"] == {"thinkingLevel": "high"}
    config = encode(model("gemini", "gemini-2.5-flash"), ask(reasoning_effort="none"))["generationConfig"]
    assert config["thinkingConfig"] == {"thinkingBudget": 0}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("claude-3-haiku-20240307", {}),
        ("claude-haiku-4-5", {"temperature": 0.2}),
        ("claude-haiku-4-5", {"effort": "odd"}),
    ],
)
def test_thinking_that_claude_would_refuse_is_refused_here(name: str, fields: dict[str, Any]) -> None:
    effort = fields.pop("effort", "low")
    with pytest.raises(UnsupportedByProvider, match="reasoning"):
        encode(model("anthropic", name), ask(reasoning_effort=effort, **fields), max_output_tokens=8000)


# --- servers that people run themselves ---------------------------------------------------------------


def test_a_turn_that_only_calls_has_empty_text_where_null_may_be_refused() -> None:
    turns = (message("user", "x"), Message("assistant", (ToolCall("a", "look_up", "{}"),)), CONVERSATION[-1])
    own = encode(model(provider("openai"), "gemma"), ChatRequest(turns))
    hosted = encode(model(provider("openai", location=Source.CLOUD), "gpt-4o"), ChatRequest(turns))
    assert (own["messages"][1]["content"], hosted["messages"][1]["content"]) == ("", None)


# --- Ollama's context --------------------------------------------------------------------------------


def test_ollama_is_always_told_how_much_context_the_call_needs() -> None:
    sizes = [
        encode(model("ollama", context_window=131072), ask("word " * n))["options"]["num_ctx"] for n in (1, 5000, 20000)
    ]
    assert sizes == [4096, 16384, 65536]  # few sizes: each new one makes Ollama load the model again
    assert encode(model("ollama", context_window=2048), ask())["options"]["num_ctx"] == 2048


def test_the_answer_has_to_end_before_ollama_forgets_the_beginning() -> None:
    body = encode(model("ollama", context_window=8192), ask("word " * 6000), max_output_tokens=4096)
    assert body["options"]["num_ctx"] == 8192
    assert body["options"]["num_predict"] == 8192 - 7500


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProviderError) as caught:
        encode(model("ollama", context_window=8192), ask("word " * 8000))
    assert caught.value.kind == "context_overflow"
    assert not caught.value.retryable


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("text", "window", "evaluated", "cut"),
    [
        ("word " * 6500, 8192, 8192, True),  # the whole context is full of prompt
        ("word " * 6500, 8192, 8191, True),
        ("word " * 7000, 32768, 2048, True),  # the server's own limit is smaller than its row says
        ("word " * 7000, 32768, 4095, True),
        ("word " * 7000, 32768, 7003, False),
        ("word " * 7000, 32768, None, False),  # the prompt was cached: nobody knows
        ("word " * 7000, 32768, 26, False),  # only what was not cached is counted
        ("hello", 32768, 5, False),
        ("a" * 30000, 32768, 3751, False),  # long runs make few tokens
        ("=" * 30000, 32768, 1023, False),  # and rules of one sign hardly any
    ],
)
def test_a_prompt_that_ollama_cut_in_silence_is_noticed(
    text: str, window: int, evaluated: int | None, cut: bool, streamed: bool
) -> None:
    codec = CODECS["ollama"]()
    sent = codec.encode_chat(ask(text), model("ollama", context_window=window), max_output_tokens=100, stream=streamed)
    answer: dict[str, Any] = {"model": "m", "message": {"role": "assistant", "content": "ok"}, "done": True}
    if evaluated is not None:
        answer["prompt_eval_count"] = evaluated
    body = json.dumps(answer).encode()

    def read() -> None:
        if streamed:
            decoder = codec.chat_stream(sent)
            decoder.feed(body + b"\n")
            decoder.finish()
        else:
            codec.decode_chat(WireResponse(200, {}, body), sent)

    if not cut:
        read()
        return
    with pytest.raises(ProviderError) as caught:
        read()
    assert caught.value.kind == "context_overflow"
    assert caught.value.usage is not None


def test_turns_that_ollama_dropped_are_noticed() -> None:
    codec = CODECS["ollama"]()
    turns = tuple(message("user" if n % 2 == 0 else "assistant", "word " * 1000) for n in range(9))
    sent = codec.encode_chat(ChatRequest(turns), model("ollama"), max_output_tokens=100, stream=False)
    answer = {"model": "m", "message": {"content": "ok"}, "done": True, "prompt_eval_count": 5005}
    with pytest.raises(ProviderError, match="cut the prompt"):
        codec.decode_chat(WireResponse(200, {}, json.dumps(answer).encode()), sent)
    answer["prompt_eval_count"] = 1300  # as versions count that leave out what they had in their cache
    assert codec.decode_chat(WireResponse(200, {}, json.dumps(answer).encode()), sent).text == "ok"


# --- JSON --------------------------------------------------------------------------------------------


def test_lone_surrogates_are_escaped_and_nan_is_refused() -> None:
    assert json.loads(dumps({"a": "\ud83d"})) == {"a": "\ud83d"}
    assert dumps({"a": (1, frozenset({2}))}) == b'{"a":[1,[2]]}'
    with pytest.raises(UnsupportedByProvider):
        dumps({"a": object()})
    with pytest.raises(UnsupportedByProvider):
        dumps({"a": float("nan"), "b": "\ud83d"})


BLANK = (
    message("system", " \n"),
    message("user", "weather?"),
    Message("assistant", (Text("\n\n"), ToolCall("a", "weather", "{}"))),
    Message("tool", (ToolResult("a", "sun"),)),
)


def test_claude_is_told_no_blank_texts() -> None:
    """Its API refuses them, and other models write them ahead of their calls."""
    row = model("anthropic")
    sent = CODECS["anthropic"]().encode_chat(ChatRequest(BLANK), row, max_output_tokens=9, stream=False).body or {}
    assert "system" not in sent
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["tool_use"]


@pytest.mark.parametrize("kind", ["openai", "ollama", "cohere"])
def test_a_tool_without_parameters_takes_an_empty_object(kind: str) -> None:
    request = ask(tools=(Tool("now", "", {}),))
    sent = CODECS[kind]().encode_chat(request, model(kind), max_output_tokens=9, stream=False).body or {}
    assert sent["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("keyword", [{"oneOf": [{"type": "string"}]}, {"type": "string", "default": "x"}])
def test_a_schema_with_what_strict_mode_refuses_is_not_strict(keyword: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": keyword}, "required": ["a"], "additionalProperties": False}
    assert not is_strict(schema)


@pytest.mark.parametrize(("limit", "budget"), [(4096, 3072), (9000, 8000)])
def test_a_budget_of_thinking_fits_into_a_limit_that_was_lowered(limit: int, budget: int) -> None:
    request = ask(extra={"thinking": {"type": "enabled", "budget_tokens": 8000}}, max_output_tokens=10_000)
    row = model("anthropic", name="claude-sonnet-4-5")
    sent = CODECS["anthropic"]().encode_chat(request, row, max_output_tokens=limit, stream=False).body or {}
    assert sent["thinking"]["budget_tokens"] == budget
    with pytest.raises(UnsupportedByProvider):
        CODECS["anthropic"]().encode_chat(request, row, max_output_tokens=1500, stream=False)
