"""What only one of the two APIs has: it works, is put in the provider's words, or is refused with 400."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from django.db import transaction

from routing.configuration import seeding, snapshot
from routing.models import Circuit, LanguageModel, Price, Provider, ProviderDay
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_clients import (
    MODELS,
    OPENAI_TOOL,
    QUESTION,
    anthropic_client,
    openai_client,
    servers,
    set_reply,
)
from tests.gateway.test_matrix import PIXEL
from tests.servers.script import Call, Reply
from ziggie.models import create_api_key

TURNS: Any = QUESTION
THOUGHT = Reply("Four.", reasoning="Two and two …", reasoning_tokens=5)


# --- Anthropic's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_signed_thinking_comes_and_goes_back_as_it_was(gateway: Gateway, stream: bool) -> None:
    gateway.anthropic.default = THOUGHT
    messages = anthropic_client(gateway).messages
    asked: Any = {"model": "claude", "max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    if stream:
        with messages.stream(messages=TURNS, **asked) as events:
            answer: Any = events.get_final_message()
    else:
        answer = messages.create(messages=TURNS, **asked)
    assert gateway.anthropic.calls[-1].json["thinking"] == asked["thinking"]
    assert [block.type for block in answer.content] == ["thinking", "text"]
    said = [block.model_dump(exclude_none=True) for block in answer.content]
    turns: Any = [*TURNS, {"role": "assistant", "content": said}, {"role": "user", "content": "Why?"}]
    messages.create(messages=turns, **asked)
    thinking = gateway.anthropic.calls[-1].json["messages"][1]["content"][0]
    assert thinking == {"type": "thinking", "thinking": "Two and two …", "signature": "c2lnbmVk"}


@pytest.mark.parametrize("stream", [False, True])
def test_why_claude_refuses_and_all_that_it_counts_is_told(gateway: Gateway, stream: bool) -> None:
    why = {"type": "refusal", "category": "cyber", "explanation": "It could do harm."}
    counts = {"input_tokens": 9, "output_tokens": 7, "cache_creation_input_tokens": 20}
    usage = {**counts, "output_tokens_details": {"thinking_tokens": 4}}
    ending = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": why}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    text = {"type": "text", "text": "I can"}
    body: Any = {**head, "content": [text], **ending, "usage": usage}
    if stream:
        events: list[Any] = [
            {"type": "message_start", "message": {**head, "content": [], "stop_reason": None, "usage": counts}},
            {"type": "content_block_start", "index": 0, "content_block": text},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ending, "usage": usage},
            {"type": "message_stop"},
        ]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    gateway.anthropic.default = Reply(body=body, headers={"content-type": "text/event-stream"} if stream else {})
    asked: Any = {"model": "claude", "max_tokens": 50, "messages": TURNS}
    if stream:
        with anthropic_client(gateway).messages.stream(**asked) as told:
            message: Any = told.get_final_message()
    else:
        message = anthropic_client(gateway).messages.create(**asked)
    assert (message.content[0].text, message.stop_reason) == ("I can", "refusal")
    assert message.stop_details.to_dict() == why
    assert message.usage.to_dict() == usage | {"cache_read_input_tokens": 0}
    completions = openai_client(gateway).chat.completions
    if stream:
        chunks = list(completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        spent: Any = chunks[-1].usage
    else:
        spent = completions.create(**asked).usage
    assert spent.prompt_tokens_details.to_dict() == {"cache_write_tokens": 20}
    assert spent.completion_tokens_details.to_dict() == {"reasoning_tokens": 4}


def test_thinking_between_tools_alone_is_for_claude(gateway: Gateway) -> None:
    messages, asked = anthropic_client(gateway).messages, {"type": "between_tools"}
    messages.create(model="claude", max_tokens=50, messages=TURNS, thinking=asked)  # type: ignore[arg-type]
    assert gateway.anthropic.calls[-1].json["thinking"] == asked
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        messages.create(model="llama", max_tokens=50, messages=TURNS, thinking=asked)  # type: ignore[arg-type]


def test_what_a_clients_house_would_do_beside_the_answer_is_refused(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="moderation"):
        openai_client(gateway).chat.completions.create(
            model="gpt", messages=TURNS, extra_body={"moderation": {"model": "omni-moderation-latest"}}
        )
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    for oversized, fits in (("downsize", True), ("error", False)):
        image = {"type": "image", "source": source, "transformations": {"oversized_image": oversized}}
        asked: Any = {"max_tokens": 50, "messages": [{"role": "user", "content": [image]}]}
        if fits:
            anthropic_client(gateway).messages.create(model="claude", **asked)
        else:
            with pytest.raises(anthropic.BadRequestError, match="oversized_image"):
                anthropic_client(gateway).messages.create(model="claude", **asked)


@pytest.mark.parametrize(
    ("model", "thinking", "heard"),
    [
        ("thinker", {"type": "enabled", "budget_tokens": 1024}, ("openai", "reasoning_effort", "low")),
        ("thinker", {"type": "enabled", "budget_tokens": 30_000}, ("openai", "reasoning_effort", "high")),
        ("llama", {"type": "enabled", "budget_tokens": 1024}, ("ollama", "think", True)),
        ("llama", {"type": "disabled"}, ("ollama", "think", False)),
        ("flash", {"type": "disabled"}, ("gemini", "generationConfig", {"thinkingConfig": {"thinkingBudget": 0}})),
        (
            "command",
            {"type": "enabled", "budget_tokens": 1024},
            ("cohere", "thinking", {"type": "enabled", "token_budget": 1024}),
        ),
        ("command", {"type": "disabled"}, ("cohere", "thinking", {"type": "disabled"})),
        ("gpt", {"type": "disabled"}, ("openai", "reasoning_effort", None)),
        ("gpt", {"type": "enabled", "budget_tokens": 1024}, None),
    ],
)
def test_thinking_is_asked_for_in_each_providers_words_or_refused(
    gateway: Gateway, model: str, thinking: Any, heard: tuple[str, str, Any] | None
) -> None:
    messages = anthropic_client(gateway).messages
    if heard is None:
        with pytest.raises(anthropic.BadRequestError, match="thinking"):
            messages.create(model=model, max_tokens=50, messages=TURNS, thinking=thinking)
        return
    messages.create(model=model, max_tokens=50, messages=TURNS, thinking=thinking)
    server, field, expected = heard
    body = getattr(gateway, server).calls[-1].json
    assert field == "thinking" or "thinking" not in body
    found = body.get(field)
    assert found == expected or (isinstance(expected, dict) and expected.items() <= found.items())


def test_thinking_without_a_signature_is_not_sent_to_anthropic(gateway: Gateway) -> None:
    """As of a model of another house, or signed by Google for itself alone."""
    for signature in ("", "gemini:c2ln"):
        thinking = {"type": "thinking", "thinking": "Hm.", "signature": signature}
        said = [thinking, {"type": "text", "text": "Four."}]
        turns: Any = [*TURNS, {"role": "assistant", "content": said}, {"role": "user", "content": "Why?"}]
        anthropic_client(gateway).messages.create(model="claude", max_tokens=50, messages=turns)
        assert [block["type"] for block in gateway.anthropic.calls[-1].json["messages"][1]["content"]] == ["text"]


def test_cache_marks_change_no_answer_and_a_user_is_told_to_whom_it_concerns(gateway: Gateway) -> None:
    marked: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for model, server in (("claude", gateway.anthropic), ("llama", gateway.ollama)):
        anthropic_client(gateway).messages.create(
            model=model, max_tokens=50, messages=TURNS, system=marked, metadata={"user_id": "u" * 300}
        )
        told = server.calls[-1].json.get("metadata", {}).get("user_id", "")
        assert (0 < len(told) <= 256) == (model == "claude")


def test_betas_that_change_how_claude_thinks_and_streams_reach_it_alone(gateway: Gateway) -> None:
    betas: Any = ["interleaved-thinking-2025-05-14", "files-api-2025-04-14", "fine-grained-tool-streaming-2025-05-14"]
    for model in MODELS:
        anthropic_client(gateway).beta.messages.create(model=model, max_tokens=9, messages=TURNS, betas=betas)
    assert gateway.anthropic.calls[-1].headers["anthropic-beta"] == f"{betas[0]},{betas[2]}"
    for server in (gateway.openai, gateway.ollama, gateway.gemini, gateway.cohere):
        assert "anthropic-beta" not in server.calls[-1].headers
        assert b"interleaved" not in server.calls[-1].body
    anthropic_client(gateway).messages.create(model="claude", max_tokens=9, messages=TURNS)
    assert "anthropic-beta" not in gateway.anthropic.calls[-1].headers


@pytest.mark.parametrize("header", ["anthropic-beta", "x-ziggie-anthropic-beta"])
@pytest.mark.parametrize("name", ["interleaved-thinking-\u20ac", "interleaved-thinking-" + "x" * 30_000])
def test_no_header_of_a_client_makes_a_request_that_its_provider_cannot_be_sent(
    gateway: Gateway, header: str, name: str
) -> None:
    headers = {key: said.encode() for key, said in gateway.headers.items()} | {header: name.encode()}
    asked = {"model": "claude", "max_tokens": 9, "messages": TURNS}
    for _ in range(3):
        answer = httpx2.post(f"{gateway.url}/v1/messages", json=asked, headers=headers, timeout=30)
        assert answer.status_code == 200
        assert "anthropic-beta" not in gateway.anthropic.calls[-1].headers


def test_a_strategy_of_the_clients_own_is_no_hint(gateway: Gateway) -> None:
    client = openai_client(gateway)
    asked: Any = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
    client.chat.completions.create(**asked, metadata={"strategy": "rag", "team": "a"})
    with pytest.raises(openai.BadRequestError, match="strategy"):
        client.chat.completions.create(**asked, extra_headers={"x-ziggie-strategy": "rag"})


def test_a_stream_tells_about_how_long_its_prompt_is_before_it_is_counted(gateway: Gateway) -> None:
    gateway.ollama.default = Reply("Hello.", input_tokens=70, output_tokens=2)
    turns: Any = [{"role": "user", "content": "word " * 50}]
    first, *_, last = anthropic_client(gateway).messages.create(
        model="llama", max_tokens=9, messages=turns, stream=True
    )
    assert first.type == "message_start"
    assert 40 <= first.message.usage.input_tokens <= 100
    assert last.type == "message_stop"
    with anthropic_client(gateway).messages.stream(model="llama", max_tokens=9, messages=turns) as told:
        assert told.get_final_message().usage.input_tokens == 70


def test_cache_marks_reach_claude_where_what_is_written_to_its_cache_has_a_price(gateway: Gateway) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
    sent = {"cache_control": {"type": "ephemeral"}}
    tool = {"name": "shot", "input_schema": {"type": "object"}}
    asked: Any = {
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **mark}],
        "tools": [{**tool, **mark}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look.", **mark}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "shot", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", **mark}]},
        ],
    }
    for priced in (False, True):
        if priced:
            Price.objects.filter(model__slug="claude").update(cache_write_usd_per_mtok="3.75")
            snapshot.forget()
        for model in MODELS:
            anthropic_client(gateway).messages.create(model=model, max_tokens=9, **asked)
        body = gateway.anthropic.calls[-1].json
        marked = [
            body["system"][1],
            body["tools"][0],
            body["messages"][0]["content"][0],
            body["messages"][2]["content"][0],
        ]
        assert [block.get("cache_control") for block in marked] == [sent["cache_control"] if priced else None] * 4
        assert json.dumps(body).count("cache_control") == (4 if priced else 0)
        for server in (gateway.openai, gateway.ollama, gateway.gemini, gateway.cohere):
            assert b"cache" not in server.calls[-1].body
    anthropic_client(gateway).messages.create(
        model="claude", max_tokens=9, messages=TURNS, cache_control={"type": "ephemeral"}
    )
    assert gateway.anthropic.calls[-1].json["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    with pytest.raises(anthropic.BadRequestError, match="cache_control"):
        anthropic_client(gateway).messages.create(
            model="claude", max_tokens=9, messages=TURNS, extra_body={"cache_control": {"type": "eternal"}}
        )


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_ended_an_answer_is_named(gateway: Gateway, stream: bool) -> None:
    usage = {"input_tokens": 3, "output_tokens": 1}
    head: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "usage": usage}
    ended = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    if stream:
        events = [
            {"type": "message_start", "message": {**head, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ended, "usage": usage},
            {"type": "message_stop"},
        ]
        body: Any = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    else:
        body = {**head, **ended, "content": [{"type": "text", "text": "Hi"}]}
    gateway.anthropic.default = Reply(body=body, headers={"content-type": "text/event-stream"} if stream else {})
    with anthropic_client(gateway).messages.stream(
        model="claude", max_tokens=9, messages=TURNS, stop_sequences=["END"]
    ) as events_read:
        answer = events_read.get_final_message()
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")


@pytest.mark.parametrize("field", ["container", "mcp_servers", "context_management"])
def test_what_only_anthropic_itself_could_do_is_refused(gateway: Gateway, field: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=field):
        anthropic_client(gateway).messages.create(
            model="claude", max_tokens=9, messages=TURNS, extra_body={field: {"x": 1}}
        )


def test_images_that_a_tool_gave_stand_in_its_result_or_after_it(gateway: Gateway) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    result = [{"type": "text", "text": "as asked"}, {"type": "image", "source": source}]
    turns: Any = [
        *QUESTION,
        {"role": "assistant", "content": [{"type": "tool_use", "id": f"toolu_{n}", "name": "shot", "input": {}}
                                          for n in range(2)]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_0", "content": result},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": result[1:]},
            {"type": "text", "text": "What do they show?"},
        ]},
    ]  # fmt: skip
    tools: Any = [{"name": "shot", "input_schema": {"type": "object"}}]
    for model in MODELS:
        anthropic_client(gateway).messages.create(model=model, max_tokens=9, tools=tools, messages=turns)
    (first, second, text) = gateway.anthropic.calls[-1].json["messages"][-1]["content"]
    assert first["content"] == result
    assert second["content"] == result[1:]
    assert text["type"] == "text"
    told = gateway.openai.calls[-1].json["messages"]
    assert [turn["role"] for turn in told[-3:]] == ["tool", "tool", "user"]
    assert [part["type"] for part in told[-1]["content"]] == ["image_url", "image_url", "text"]
    assert gateway.ollama.calls[-1].json["messages"][-1]["images"] == [PIXEL, PIXEL]
    for server in (gateway.gemini, gateway.cohere):
        assert server.calls[-1].body.decode().count(PIXEL) == 2
    assert anthropic_client(gateway).messages.count_tokens(model="llama", tools=tools, messages=turns).input_tokens


def test_a_system_turn_among_the_others_is_heard(gateway: Gateway) -> None:
    turns: Any = [*QUESTION, {"role": "assistant", "content": "Hello."}, {"role": "system", "content": "Be terse."}]
    for model in MODELS:
        anthropic_client(gateway).messages.create(model=model, max_tokens=9, messages=[*turns, *QUESTION])
    for server in servers(gateway):
        assert "Be terse." in server.calls[-1].body.decode()


# --- OpenAI's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [{"store": True}, {"modalities": ["audio"]}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_no_answer_has_a_place_for_is_refused(gateway: Gateway, asked: Any) -> None:
    (param,) = asked
    with pytest.raises(openai.BadRequestError, match=param) as refused:
        openai_client(gateway).chat.completions.create(model="gpt", messages=TURNS, **asked)
    assert refused.value.param == param
    assert not gateway.openai.calls


@pytest.mark.parametrize(
    "asked",
    [
        {"logit_bias": {"5": 1}},
        {"frequency_penalty": 0.5},
        {"prediction": {"type": "content", "content": "x"}},
        {"verbosity": "low"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_parameter_goes_to_a_provider_that_knows_it_and_is_refused_elsewhere(gateway: Gateway, asked: Any) -> None:
    completions = openai_client(gateway).chat.completions
    completions.create(model="gpt", messages=TURNS, **asked)
    assert asked.items() <= gateway.openai.calls[-1].json.items()
    with pytest.raises(openai.BadRequestError, match=next(iter(asked))):
        completions.create(model="claude", messages=TURNS, **asked)


def test_what_states_the_default_is_no_reason_to_refuse(gateway: Gateway) -> None:
    asked: Any = {"n": 1, "logprobs": False, "store": False, "presence_penalty": 0, "frequency_penalty": 0}
    asked |= {"service_tier": "default", "verbosity": "medium", "top_logprobs": 0, "stop": ""}
    for model in MODELS:
        openai_client(gateway).chat.completions.create(
            model=model, messages=TURNS, user="ada", parallel_tool_calls=True, tools=[OPENAI_TOOL], **asked
        )
    assert gateway.openai.calls[-1].json["user"] == "ada"
    assert gateway.anthropic.calls[-1].json["metadata"] == {"user_id": "ada"}


def test_what_changes_no_answer_goes_to_who_knows_it_and_stops_nobody(gateway: Gateway) -> None:
    asked: Any = {"prompt_cache_key": "chat-7", "safety_identifier": "ada"}
    turns: Any = [
        {"role": "system", "content": "Two people speak.", "name": "host"},
        {"role": "user", "content": "Hello.", "name": "ada"},
        {"role": "assistant", "content": "Hello, Ada.", "name": "helper"},
        {"role": "user", "content": [{"type": "text", "text": "Hello to both."}], "name": "ben"},
    ]
    for model in MODELS:
        openai_client(gateway).chat.completions.create(model=model, messages=turns, **asked)
    body = gateway.openai.calls[-1].json
    assert asked.items() <= body.items()
    assert [turn["name"] for turn in body["messages"]] == ["host", "ada", "helper", "ben"]
    for server in (gateway.anthropic, gateway.ollama, gateway.gemini, gateway.cohere):
        assert "ada" not in server.calls[-1].body.decode().replace("Ada", "")


@pytest.mark.parametrize("model", MODELS)
def test_any_json_object_may_be_asked_for(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply('{"a": 1}'))
    answer = openai_client(gateway).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say JSON."}],
        response_format={"type": "json_object"},
        max_completion_tokens=50,
    )
    assert answer.choices[0].message.content == '{"a": 1}'


def test_how_closely_to_look_at_an_image_is_told_to_who_asks_for_it(gateway: Gateway) -> None:
    picture = {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}
    turns: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": picture}]}]
    for model in MODELS:
        openai_client(gateway).chat.completions.create(model=model, messages=turns)
    for server in (gateway.openai, gateway.cohere):
        assert server.calls[-1].json["messages"][0]["content"] == turns[0]["content"]
    picture["detail"] = "with a glass"
    with pytest.raises(openai.BadRequestError, match="detail"):
        openai_client(gateway).chat.completions.create(model="gpt", messages=turns)


def test_thinking_is_shown_where_openais_imitators_show_it(gateway: Gateway) -> None:
    gateway.anthropic.default = THOUGHT
    answer = openai_client(gateway).chat.completions.create(model="claude", messages=TURNS)
    assert answer.choices[0].message.reasoning_content == "Two and two …"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_under_a_schema_is_told_as_one_and_asked_for_once(gateway: Gateway, stream: bool) -> None:
    gateway.openai.default = Reply("I can't.", stop="content_filter")
    if stream:
        deltas = [{"role": "assistant", "refusal": "I "}, {"refusal": "can't."}]
        chunks: list[Any] = [{"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        gateway.openai.default = Reply(body=body, headers={"content-type": "text/event-stream"})
    place: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    asked: Any = {"model": "gpt", "messages": TURNS}
    answer_format: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": place}}
    message: Any
    if stream:
        with openai_client(gateway).chat.completions.stream(**asked, response_format=answer_format) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = openai_client(gateway).chat.completions.create(**asked, response_format=answer_format).choices[0]
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == (None, "I can't.", "stop")
    asked |= {"max_tokens": 50, "output_config": {"format": {"type": "json_schema", "schema": place}}}
    if stream:
        with anthropic_client(gateway).messages.stream(**asked) as told:
            message = told.get_final_message()
    else:
        message = anthropic_client(gateway).messages.create(**asked)
    assert (message.content[0].text, message.stop_reason) == ("I can't.", "refusal")
    assert len(gateway.openai.calls) == 2


def test_thinking_goes_back_to_servers_that_want_it(gateway: Gateway) -> None:
    """The official client sends an answer back with all that it read of it."""
    Provider.objects.filter(slug="openai").update(options={"send_reasoning": True})
    snapshot.forget()
    set_reply(gateway, THOUGHT)
    completions = openai_client(gateway).chat.completions
    for model in MODELS:
        said = completions.create(model=model, messages=TURNS).choices[0].message
        completions.create(model=model, messages=[*TURNS, said, *TURNS])
    assert gateway.openai.calls[-1].json["messages"][1]["reasoning_content"] == THOUGHT.reasoning
    assert gateway.ollama.calls[-1].json["messages"][1]["thinking"] == THOUGHT.reasoning
    assert THOUGHT.reasoning not in json.dumps(gateway.anthropic.calls[-1].json, ensure_ascii=False)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_goes_back_to_a_server_that_refuses_to_go_on_without_it(gateway: Gateway, stream: bool) -> None:
    """What was called with a model of another house, too, which tells no thinking."""
    gateway.openai.wants_thinking = True
    gateway.openai.default = Reply(reasoning="A tool knows.", calls=(Call("weather", {"city": "Oslo"}),))
    client = openai_client(gateway)
    said = client.chat.completions.create(model="gpt", messages=TURNS, tools=[OPENAI_TOOL]).choices[0].message
    result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"}  # type: ignore[index]
    plain = said.to_dict() | {"reasoning_content": None}
    gateway.openai.default = Reply("It rains.")
    for called, thought in ((said, "A tool knows."), (plain, " ")):
        turns: Any = [*TURNS, {"role": "assistant", "content": "Hm."}, *TURNS, called, result]
        if stream:
            chunks = list(client.chat.completions.create(model="gpt", messages=turns, stream=True))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            text = client.chat.completions.create(model="gpt", messages=turns).choices[0].message.content or ""
        assert text == "It rains."
        thoughts = [turn.get("reasoning_content") for turn in gateway.openai.calls[-1].json["messages"]]
        assert thoughts == [None, " ", None, thought, None]
    assert [receipt.outcome for receipt in gateway.settled(3)] == ["ok"] * 3
    assert len(gateway.openai.calls) == 4  # the last one was put so at once
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_usage_comes_in_a_stream_only_if_it_is_asked_for(gateway: Gateway) -> None:
    completions = openai_client(gateway).chat.completions
    assert all(chunk.usage is None for chunk in completions.create(model="llama", messages=TURNS, stream=True))
    options: Any = {"include_usage": True}
    last = list(completions.create(model="llama", messages=TURNS, stream=True, stream_options=options))[-1]
    assert last.usage
    assert last.choices == []


# --- embeddings and models -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["embedder", "local-embedder"])
def test_more_texts_than_a_provider_takes_at_once_go_in_several_requests(gateway: Gateway, model: str) -> None:
    texts = [f"text {number}" for number in range(700)]
    answer = openai_client(gateway).embeddings.create(model=model, input=texts)
    assert [row.index for row in answer.data] == list(range(700))
    server = gateway.openai if model == "embedder" else gateway.ollama
    assert [len(call.json["input"]) for call in server.calls] == [512, 188]
    assert gateway.settled(1)[0].outcome == "ok"


def test_the_embedding_models_of_the_catalogue_make_embeddings(gateway: Gateway) -> None:
    with transaction.atomic():
        seeding.seed()
        Provider.objects.filter(slug="ollama").update(base_url=gateway.ollama.url)
    snapshot.forget()
    for name in ("nomic-embed-text", "auto"):
        answer = openai_client(gateway).embeddings.with_raw_response.create(model=name, input="some words")
        assert answer.headers["x-ziggie-provider"] == "ollama"
    with pytest.raises(openai.BadRequestError, match="makes embeddings"):
        openai_client(gateway).chat.completions.create(model="nomic-embed-text", messages=TURNS)


def test_shorter_vectors_are_made_or_refused(gateway: Gateway) -> None:
    embeddings = openai_client(gateway).embeddings
    assert len(embeddings.create(model="embedder", input="x", dimensions=64).data[0].embedding) == 64
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        embeddings.create(model="local-embedder", input="x", dimensions=64)  # the server ignores it


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_long_vectors_of_many_texts_come_in_answers_that_can_be_read(gateway: Gateway, encoding_format: str) -> None:
    body = {"model": "embedder", "input": [f"text {n}" for n in range(500)], "encoding_format": encoding_format}
    answer = httpx2.post(
        f"{gateway.url}/v1/embeddings", json={**body, "dimensions": 4_096}, headers=gateway.headers, timeout=60
    )
    told = answer.json()
    assert (answer.status_code, [row["index"] for row in told["data"]]) == (200, list(range(500)))
    assert max(len(call.json["input"]) for call in gateway.openai.calls) <= 61
    alone = {"model": "embedder", "input": "text 499", "encoding_format": encoding_format, "dimensions": 4_096}
    last = httpx2.post(f"{gateway.url}/v1/embeddings", json=alone, headers=gateway.headers, timeout=60).json()
    assert last["data"][0]["embedding"] == told["data"][499]["embedding"]


def test_each_request_that_many_texts_take_counts_of_its_providers_day(gateway: Gateway) -> None:
    with transaction.atomic():
        Provider.objects.filter(slug="openai").update(max_requests_per_day=10)
    snapshot.forget()
    body = {"model": "embedder", "input": [f"text {n}" for n in range(400)], "dimensions": 4_096}  # 61 at a time
    answers = [
        httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers, timeout=60) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 503]
    assert "has not 7 left of its 10 requests of today" in answers[1].json()["error"]["message"]
    assert (len(gateway.openai.calls), ProviderDay.objects.get().requests) == (7, 7)


def test_of_a_providers_day_only_requests_that_texts_took_count(gateway: Gateway) -> None:
    with transaction.atomic():
        Provider.objects.filter(slug="openai").update(max_requests_per_day=10)
    snapshot.forget()
    gateway.openai.when(Reply(status=400, error="bad input"), model="text-embedding-3-small")
    body = {"model": "embedder", "input": [f"text {n}" for n in range(400)], "dimensions": 4_096}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers, timeout=60)
    assert (answer.status_code, len(gateway.openai.calls)) == (400, 1)
    wait_until(lambda: ProviderDay.objects.get().requests == 1)


def test_embeddings_keep_the_limits_of_their_provider_and_tell_its_circuit(gateway: Gateway) -> None:
    body = {"model": "embedder", "input": "x"}
    with transaction.atomic():
        Provider.objects.filter(slug="openai").update(max_requests_per_day=1, max_concurrency=1)
    snapshot.forget()
    answers = [httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 503]
    assert "requests of today" in answers[1].json()["error"]["message"]
    with transaction.atomic():
        Provider.objects.filter(slug="ollama").update(base_url="http://127.0.0.1:1")
    snapshot.forget()
    body["model"] = "local-embedder"
    for _ in range(3):
        httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers)
    assert Circuit.objects.filter(provider__slug="ollama").exclude(failures=0).exists()


@pytest.mark.parametrize("given", [[9906, 1917], [[9906], [1917, 0]]])
def test_tokens_go_to_who_reads_them_and_are_paid_by_their_number(gateway: Gateway, given: Any) -> None:
    answer = openai_client(gateway).embeddings.create(model="embedder", input=given)
    assert len(answer.data) == (2 if isinstance(given[0], list) else 1)
    assert gateway.openai.calls[-1].json["input"] == (given if isinstance(given[0], list) else [given])
    (receipt,) = gateway.settled(1)
    assert receipt.reserved_microusd == sum(map(len, gateway.openai.calls[-1].json["input"]))


def test_a_server_that_says_so_is_sent_tokens_of_its_own_vocabulary(gateway: Gateway) -> None:
    body = {"model": "embedder", "input": [5, 6]}
    LanguageModel.objects.filter(slug="embedder").update(name="local")
    for options, sent in (({}, ["&'"]), ({"embed_tokens": True}, [[5, 6]])):
        Provider.objects.filter(slug="openai").update(options=options)
        snapshot.forget()
        answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers)
        assert answer.status_code == 200
        assert gateway.openai.calls[-1].json["input"] == sent


def test_as_many_tokens_as_openai_takes_at_once_are_taken(gateway: Gateway) -> None:
    body: dict[str, Any] = {"model": "embedder", "input": [[100] * 8_000] * 37}
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers).status_code == 200
    body["input"] = [[100] * 8_000] * 38
    assert httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers).status_code == 413


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[100_300]], "100300 is no token of cl100k_base"),
        ([1, "x"], "strings alone"),
        ([[1], "x"], "strings alone"),
        ([[]], "empty"),
        ([], "must be a string"),
        ([-1], "strings alone"),
        ([1.5], "strings alone"),
        ([True], "strings alone"),
        ([2**31], "strings alone"),
        (7, "must be a string"),
        ({"a": 1}, "must be a string"),
    ],
)
def test_what_are_no_tokens_is_refused_with_what_to_do(gateway: Gateway, given: Any, said: str) -> None:
    body = {"model": "local-embedder", "input": given}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("asked", [{"input": {}}, {"input": "x", "task": "y"}])
def test_an_embedding_that_cannot_be_made_is_refused(gateway: Gateway, asked: Any) -> None:
    body = {"model": "embedder", **asked}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers=gateway.headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_one_model_is_shown_by_its_slug_to_those_who_may_ask_for_it(gateway: Gateway) -> None:
    assert openai_client(gateway).models.retrieve("claude").owned_by == "anthropic"
    assert anthropic_client(gateway).models.retrieve("claude").display_name == "claude"
    _, key = create_api_key("local only", allowed_models=["llama"])
    for client, name in ((openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key), "gpt"),
                         (openai_client(gateway), "nobody/at:all")):  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


# --- ids -----------------------------------------------------------------------------------------


def test_every_answer_and_error_names_its_request_where_the_client_looks_for_it(gateway: Gateway) -> None:
    completion = openai_client(gateway).chat.completions.create(model="gpt", messages=TURNS)
    message = anthropic_client(gateway).messages.create(model="gpt", max_tokens=9, messages=TURNS)
    receipts = {str(receipt.id) for receipt in gateway.settled(2)}
    assert {completion._request_id, message._request_id} == receipts
    listed = openai_client(gateway).models.with_raw_response.list()
    assert listed.headers["x-ziggie-request-id"] == listed.headers["x-request-id"]
    counted = anthropic_client(gateway).messages.with_raw_response.count_tokens(model="claude", messages=TURNS)
    names = ("request-id", "model", "provider", "source", "rule", "attempts", "cache")
    told = [counted.headers[f"x-ziggie-{name}"] for name in names]
    assert told == [counted.headers["request-id"], "claude", "anthropic", "cloud", "count_tokens", "1", "off"]
    with pytest.raises(openai.NotFoundError) as of_openai:
        openai_client(gateway).chat.completions.create(model="nobody", messages=TURNS)
    with pytest.raises(anthropic.NotFoundError) as of_anthropic:
        anthropic_client(gateway).messages.create(model="nobody", max_tokens=9, messages=TURNS)
    assert of_openai.value.request_id
    body: Any = of_anthropic.value.body
    assert of_anthropic.value.request_id == body["request_id"]
