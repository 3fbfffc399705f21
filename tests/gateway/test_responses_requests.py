"""Requests of OpenAI's responses API: how each item, tool and parameter is read, and what is refused by its name."""

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.gateway.wire.reading import MAX_IMAGES, MAX_MESSAGES, MAX_TOOLS, Incoming
from routing.gateway.wire.responses_thinking import sealed
from routing.gateway.wire.responses_wire import decode_response
from routing.types import Image, Message, Part, Pdf, Reasoning, Text, ToolCall, ToolResult, message
from tests.bounded import BOUNDED
from tests.gateway.conftest import Gateway
from tests.gateway.responses_support import TOOL
from tests.gateway.test_matrix import PIXEL
from ziggie.errors import InvalidInput, TooLarge, Unsupported

DATA = f"data:image/png;base64,{PIXEL}"
PICTURE = {"type": "input_image", "image_url": DATA}
PDF = "data:application/pdf;base64," + b64encode(b"%PDF-1.4\n1 0 obj<</Type/Page>>endobj\n%%EOF").decode()
CALL = {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "a", "output": "rain"}
SIGNED = Reasoning("Hm.", "signed")
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed(SIGNED)}
OF_OURS = "rs_01a2000a-e3c3-707c-bd5a-a132834a110b_0"


def decoded(**asked: Any) -> Incoming:
    return decode_response({"model": "m", "input": "Hi.", **asked}, {})


def said(*items: Any) -> tuple[Message, ...]:
    return decoded(input=list(items)).request.messages


def turn(role: Any, *parts: Part) -> Message:
    return Message(role, parts)


USER = {"role": "user", "content": "Hi."}
CONVERSATIONS: dict[str, tuple[list[Any], list[Message]]] = {
    "every role": (
        [{"role": role, "content": role} for role in ("system", "developer", "user", "assistant")],
        [message("system", "system"), message("system", "developer"), message("user", "user"),
         message("assistant", "assistant")],
    ),
    "parts": (
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What?"}, PICTURE]}],
        [turn("user", Text("What?"), Image("image/png", PIXEL))],
    ),
    "an image by address, closely": (
        [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png", "detail": "high"}]}],
        [turn("user", Image(url="https://x/y.png", detail="high"))],
    ),
    "an answer of ours, as a client sends it back": (
        [USER, THOUGHT, {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": None,
                         "content": [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}]}],
        [message("user", "Hi."), turn("assistant", SIGNED, Text("Yes."))],
    ),
    "phases and statuses, which change nothing": (
        [USER, {"role": "assistant", "phase": "commentary", "content": "I look."}, {**CALL, "status": "completed"},
         {**RESULT, "status": "incomplete"}, {"role": "assistant", "phase": "final_answer", "content": []}],
        [message("user", "Hi."), turn("assistant", Text("I look."), ToolCall("a", "weather", "{}")),
         turn("tool", ToolResult("a", "rain"))],
    ),
    "calls and their results": (
        [USER, {"role": "assistant", "content": "I look."}, CALL, {**CALL, "call_id": "b"}, RESULT,
         {**RESULT, "call_id": "b", "output": [{"type": "input_text", "text": "sun"}, PICTURE]}],
        [message("user", "Hi."),
         turn("assistant", Text("I look."), ToolCall("a", "weather", "{}"), ToolCall("b", "weather", "{}")),
         turn("tool", ToolResult("a", "rain"), ToolResult("b", "sun"),
              Image("image/png", PIXEL, tool_call_id="b"))],
    ),
    "what is said before the outputs of calls are there": (
        [CALL, {"role": "developer", "content": "Hurry."}, {**CALL, "call_id": "b"}, RESULT, USER,
         {**RESULT, "call_id": "b"}, {"role": "assistant", "content": "Rain."}],
        [turn("assistant", ToolCall("a", "weather", "{}"), ToolCall("b", "weather", "{}")),
         turn("tool", ToolResult("a", "rain"), ToolResult("b", "rain")), message("system", "Hurry."),
         message("user", "Hi."), message("assistant", "Rain.")],
    ),
    "calls by the same id, and one that nothing answers": (
        [CALL, RESULT, USER, {**CALL, "call_id": "b"}, USER, CALL, USER, RESULT],
        [turn("assistant", ToolCall("a", "weather", "{}")), turn("tool", ToolResult("a", "rain")),
         message("user", "Hi."), turn("assistant", ToolCall("b", "weather", "{}")), message("user", "Hi."),
         turn("assistant", ToolCall("a", "weather", "{}")), turn("tool", ToolResult("a", "rain")),
         message("user", "Hi.")],
    ),
    "documents, also of a tool": (
        [{"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": PDF, "detail": "low"}]},
         CALL, {**RESULT, "output": [{"type": "input_file", "file_url": "https://x/b.pdf"}]}],
        [turn("user", Pdf(data=PDF.split(",")[1], title="a.pdf", pages=1)),
         turn("assistant", ToolCall("a", "weather", "{}")),
         turn("tool", ToolResult("a", ""), Pdf(url="https://x/b.pdf", tool_call_id="a"))],
    ),
    "a call of a function in a namespace": (
        [{**CALL, "namespace": "sky"}], [turn("assistant", ToolCall("a", "sky__weather", "{}"))]),
    "a refusal": (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, USER],
        [message("assistant", "No."), message("user", "Hi.")],
    ),
    "thinking of another house": (
        [{"type": "reasoning", "id": "rs_x", "encrypted_content": "gAAAAB", "summary": [{"type": "summary_text",
          "text": "Hm."}]}, {"role": "assistant", "content": "Yes."}],
        [turn("assistant", Reasoning("Hm."), Text("Yes."))],
    ),
    "thinking as open models tell it": (
        [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}, CALL],
        [turn("assistant", Reasoning("Hm."), ToolCall("a", "weather", "{}"))],
    ),
    "thinking that nothing followed": ([THOUGHT, USER], [message("user", "Hi.")]),
    "thinking that came to harm": (
        [{**THOUGHT, "encrypted_content": "ziggie:WyJ"}, USER], [message("user", "Hi.")]),
    "a reference to thinking of ours": (
        [{"type": "item_reference", "id": OF_OURS}, {"id": OF_OURS}, CALL],
        [turn("assistant", ToolCall("a", "weather", "{}"))],
    ),
    "references to what was thought and said ahead of a call": (
        [USER, {"type": "item_reference", "id": OF_OURS},
         {"type": "item_reference", "id": OF_OURS.replace("rs", "msg")}, CALL, RESULT],
        [message("user", "Hi."), turn("assistant", ToolCall("a", "weather", "{}")),
         turn("tool", ToolResult("a", "rain"))],
    ),
    "marks for a cache": (
        [{"role": "user", "content": [
            {"type": "input_text", "text": "Hi.", "prompt_cache_breakpoint": {"mode": "explicit"}}]}],
        [turn("user", Text("Hi.", cache_mark=True))],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("items", "turns"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_items_are_turns(items: list[Any], turns: list[Message]) -> None:
    assert list(said(*items)) == turns


def test_instructions_come_first() -> None:
    assert decoded(instructions="Be brief.").request.messages == (
        message("system", "Be brief."),
        message("user", "Hi."),
    )


@given(st.text(), st.text(), st.booleans())
@BOUNDED
def test_sealed_thinking_is_read_as_it_was(text: str, signature: str, redacted: bool) -> None:
    thinking = Reasoning(text, signature, redacted)
    item = {"type": "reasoning", "encrypted_content": json.loads(json.dumps(sealed(thinking)))}
    assert said(item, CALL)[0].parts[0] == thinking


# --- tools ---------------------------------------------------------------------------------------


def test_functions_are_read_and_repeated() -> None:
    asked = decoded(tools=[{**TOOL, "strict": True}, {"type": "function", "name": "clock"}])
    weather, clock = asked.request.tools
    assert (weather.name, weather.description, weather.strict) == ("weather", "Tells it.", True)
    assert (clock.name, clock.parameters, clock.strict) == ("clock", {}, False)
    assert asked.echo is not None
    assert asked.echo["tools"] == [
        {**TOOL, "strict": True},
        {"type": "function", "name": "clock", "description": None, "parameters": {}, "strict": False},
    ]


def test_the_search_that_codex_adds_is_left_out_beside_functions_alone() -> None:
    search = {"type": "web_search", "external_web_access": True}
    asked = decoded(tools=[TOOL, search])
    assert [tool.name for tool in asked.request.tools] == ["weather"]
    assert asked.echo is not None
    assert [tool["name"] for tool in asked.echo["tools"]] == ["weather"]
    for tools in ([search], [TOOL, {"type": "web_search"}], [TOOL, {**search, "type": "web_search_preview"}]):
        with pytest.raises(Unsupported, match="web_search"):
            decoded(tools=tools)


OTHERS = {**TOOL, "name": "clock"}
CHOICES: list[tuple[Any, str, list[str]]] = [
    (None, "", ["weather", "clock"]),
    ("auto", "auto", ["weather", "clock"]),
    ("required", "required", ["weather", "clock"]),
    ({"type": "function", "name": "clock"}, "clock", ["weather", "clock"]),
    ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]},
     "required", ["clock"]),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "meant", "known"), CHOICES)
def test_a_choice_is_read_and_repeated(choice: Any, meant: str, known: list[str]) -> None:
    asked = decoded(tools=[TOOL, OTHERS], tool_choice=choice)
    assert (asked.request.tool_choice, [tool.name for tool in asked.request.tools]) == (meant, known)
    assert asked.echo is not None
    assert asked.echo["tool_choice"] == (choice or "auto")


@pytest.mark.parametrize("several", [False, True])
def test_a_choice_of_a_function_in_a_namespace_is_repeated_as_it_was_named(several: bool) -> None:
    one = {"type": "function", "namespace": "sky", "name": "weather"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [one]} if several else one
    asked = decoded(tools=[{"type": "namespace", "name": "sky", "tools": [TOOL]}], tool_choice=choice)
    assert asked.request.tool_choice == ("auto" if several else "sky__weather")
    assert asked.echo is not None
    assert asked.echo["tool_choice"] == choice


# --- what is refused -----------------------------------------------------------------------------

NOT_DONE: dict[str, Any] = {
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "prompt": {"id": "pmpt_1"},
    "background": True,
    "background_options": {"completion_window": "8h"},
    "truncation": "auto",
    "context_management": [{"type": "compaction"}],
    "moderation": {"model": "omni-moderation-latest"},
    "include": ["web_search_call.action.sources"],
    "reasoning.mode": {"reasoning": {"mode": "pro"}},
    "reasoning.context": {"reasoning": {"context": "all_turns"}},
    "prompt_cache_options.ttl": {"prompt_cache_options": {"ttl": "12h"}},
    "prompt_cache_options.prewarm": {"prompt_cache_options": {"prewarm": True}},
    **dict.fromkeys(("messages", "max_tokens", "n", "response_format", "stop", "functions", "logprobs"), 1),
    "tool_choice.type": {"tools": [TOOL], "tool_choice": {"type": "web_search_preview"}},
    "tools[0].defer_loading": {"tools": [{**TOOL, "defer_loading": True}]},
    "tools[0].allowed_callers": {"tools": [{**TOOL, "allowed_callers": ["programmatic"]}]},
    "input[0]": {"input": [{"type": "item_reference", "id": "msg_1"}]},
    "input[1]": {"input": [USER, {"type": "item_reference", "id": OF_OURS.replace("rs", "msg")}, USER]},
    "input[1] ": {"input": [USER, {"type": "item_reference", "id": "msg_1"}, CALL]},
    "input[0].content[0].type": {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    "input[0].content[0].file_id": {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
    "input[0].content[0].file_id ": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
    "input[0].output[0].type": {"input": [{**RESULT, "output": [{"type": "input_audio"}]}]},
    "input[0].output[0].type ": {"input": [{**RESULT, "output": [{"type": []}]}]},
    "input[0].output[0].type  ": {"input": [{**RESULT, "output": [{"type": {}}]}]},
    "input[0].type": {"input": [{"type": "computer_call_output"}]},
}
BUILT_IN = ("web_search", "web_search_preview", "file_search", "computer_use_preview", "code_interpreter", "mcp",
            "image_generation", "custom", "local_shell", "shell", "apply_patch", "tool_search")  # fmt: skip


@pytest.mark.parametrize("param", NOT_DONE)
def test_what_is_not_done_here_is_refused_by_its_name(param: str) -> None:
    asked = NOT_DONE[param] if isinstance(NOT_DONE[param], dict) and param != "prompt" else {param: NOT_DONE[param]}
    asked = {param: asked} if param in ("moderation", "background_options") else asked
    with pytest.raises(Unsupported) as refused:
        decoded(**asked)
    assert refused.value.details == [{"param": param.strip()}]
    assert refused.value.message.startswith(param.strip())


@pytest.mark.parametrize("kind", BUILT_IN)
def test_openais_own_tools_are_refused_by_their_names(kind: str) -> None:
    with pytest.raises(Unsupported, match=rf"tools\[1\]\.type '{kind}' is not supported"):
        decoded(tools=[TOOL, {"type": kind}])


WRONG: dict[str, Any] = {
    "input": {"input": None},
    "input ": {"input": []},
    "input  ": {"input": 5},
    "input[0]": {"input": ["Hi."]},
    "input[0].role": {"input": [{"role": "pirate", "content": "x"}]},
    "input[0].content": {"input": [{"role": "user"}]},
    "input[0].content ": {"input": [{"role": "user", "content": 5}]},
    "input[1].content": {"input": [USER, {"role": "user", "content": []}]},
    "input[0].content[0].type": {"input": [{"role": "user", "content": [{}]}]},
    "input[0].content[0].text": {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
    "input[0].content[0].image_url": {"input": [{"role": "user", "content": [{**PICTURE, "image_url": "cat.png"}]}]},
    "input[0].content[0].detail": {"input": [{"role": "user", "content": [{**PICTURE, "detail": "x"}]}]},
    "input[0].content[0].file_url": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_url": "b.pdf"}]}]
    },
    "input[0].content[0].file_data": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]
    },
    "input[0].call_id": {"input": [{**CALL, "call_id": None}]},
    "input[0].name": {"input": [{**CALL, "name": ""}]},
    "input[0].arguments": {"input": [{**CALL, "arguments": {}}]},
    "input[0].output": {"input": [{**RESULT, "output": 5}]},
    "input[0].summary": {"input": [{"type": "reasoning", "summary": "x"}]},
    "input[0].type": {"input": [{"type": 5}]},
    "input[0].id": {"input": [{}]},
    "instructions": {"instructions": ["x"]},
    "model": {"model": ""},
    "max_output_tokens": {"max_output_tokens": 0},
    "temperature": {"temperature": 3},
    "top_p": {"top_p": 2},
    "top_logprobs": {"top_logprobs": 3},
    "include": {"include": "x"},
    "stream": {"stream": "yes"},
    "store": {"store": "yes"},
    "text": {"text": "x"},
    "text.format": {"text": {"format": "json"}},
    "text.format.type": {"text": {"format": {"type": "grammar"}}},
    "text.format.type ": {"text": {"format": {"name": "x", "schema": {}}}},
    "text.format.schema": {"text": {"format": {"type": "json_schema", "name": "x"}}},
    "text.verbosity": {"text": {"verbosity": "loud"}},
    "reasoning.effort": {"reasoning": {"effort": "huge"}},
    "reasoning.summary": {"reasoning": {"summary": "long"}},
    "tools": {"tools": {}},
    "tools[0].name": {"tools": [{"type": "function", "function": {"name": "t"}}]},
    "tools[0].type": {"tools": [{"name": "t"}]},
    "tools[0].parameters": {"tools": [{**TOOL, "parameters": "x"}]},
    "tool_choice": {"tool_choice": "required"},
    "tool_choice ": {"tools": [TOOL], "tool_choice": {"type": "function", "name": "nobody"}},
    "tool_choice.tools": {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    "input[0].content[0].image_url ": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PDF}]}]
    },
    "input[0].output[0].image_url": {"input": [{**RESULT, "output": [{"type": "input_image", "image_url": PDF}]}]},
    "metadata": {"metadata": "x"},
    "metadata.complexity": {"metadata": {"complexity": "NaN"}},
    "max_tool_calls": {"max_tool_calls": -1},
    "stream_options.include_obfuscation": {"stream_options": {"include_obfuscation": 1}},
}


@pytest.mark.parametrize("param", WRONG)
def test_what_is_wrong_is_refused_with_its_place(param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decoded(**WRONG[param])
    assert refused.value.details == [{"param": param.strip()}]


@pytest.mark.parametrize(
    "asked",
    [
        {"input": [USER] * (MAX_MESSAGES + 1)},
        {"input": [{"role": "user", "content": [PICTURE] * (MAX_IMAGES + 1)}]},
        {"tools": [TOOL] * (MAX_TOOLS + 1)},
        {"tools": [{"type": "namespace", "name": f"n{n}", "tools": [TOOL] * 9} for n in range(MAX_TOOLS // 8)]},
    ],
    ids=["items", "images", "tools", "tools in namespaces"],
)
def test_too_many_are_refused(asked: Any) -> None:
    with pytest.raises(TooLarge):
        decoded(**asked)


def test_the_same_name_twice_is_refused_where_it_could_not_be_told_apart() -> None:
    space = {"type": "namespace", "name": "sky", "tools": [TOOL]}
    with pytest.raises(InvalidInput, match="same name"):
        decoded(tools=[{**TOOL, "name": "sky__weather"}, space])


def test_what_says_the_default_or_changes_nothing_is_no_reason_to_refuse(gateway: Gateway) -> None:
    asked = {
        **dict.fromkeys(("previous_response_id", "conversation", "prompt", "metadata", "n", "temperature", "top_p")),
        "background": False,
        "truncation": "disabled",
        "store": True,
        "service_tier": "auto",
        "max_tool_calls": 3,
        "include": [],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "top_logprobs": 0,
        "user": "ben",
        "safety_identifier": "ada",
        "prompt_cache_key": "chat-7",
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": None, "summary": "auto", "mode": "standard", "context": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "stream_options": {"include_obfuscation": False},
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        "client_metadata": {"turn": "1"},
    }
    for model in ("gpt", "claude", "llama", "flash", "command"):
        body = {"model": model, "input": "Hi.", **asked}
        answer = httpx2.post(f"{gateway.url}/v1/responses", json=body, headers=gateway.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["store"], told["service_tier"], told["prompt_cache_key"]) == (False, "default", "chat-7")
    sent = gateway.openai.calls[-1].json
    assert {"client_metadata", "max_tool_calls", "store", "include"}.isdisjoint(sent)
    assert (sent["prompt_cache_key"], sent["safety_identifier"], sent["user"]) == ("chat-7", "ada", "ben")


def test_a_dearer_tier_is_refused_by_its_name(gateway: Gateway) -> None:
    for tier in ("priority", "fast", "ultrafast", "scale"):
        body = {"model": "gpt", "input": "Hi.", "service_tier": tier}
        answer = httpx2.post(f"{gateway.url}/v1/responses", json=body, headers=gateway.headers, timeout=30)
        assert answer.status_code == 400
        assert "service_tier" in answer.json()["error"]["message"]
    assert not gateway.openai.calls


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["type", "role", "content", "text", "image_url", "call_id", "name", "arguments", "output", "summary", "id", "tools",
     "namespace", "encrypted_content", "mode", "format", "schema", "effort"]
)  # fmt: skip
KINDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "item_reference", "input_text", "input_image",
     "output_text", "user", "assistant", "function", "namespace", "web_search", "allowed_tools", "json_schema"]
)  # fmt: skip
SHAPED = st.recursive(
    JUNK | KINDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner | KINDS, max_size=5),
    max_leaves=25,
)


SHAPED_FIELDS = (
    *("input", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "store", "instructions", "user"),
    *("prompt_cache_options", "stream_options", "service_tier"),
)
BODIES = st.fixed_dictionaries({"model": st.just("m")}, optional=dict.fromkeys(SHAPED_FIELDS, SHAPED))


@given(BODIES)
@settings(BOUNDED, max_examples=300)
def test_whatever_comes_is_read_or_refused(body: dict[str, Any]) -> None:
    with suppress(InvalidInput, Unsupported):
        assert json.dumps(decode_response(body, {}).echo)
