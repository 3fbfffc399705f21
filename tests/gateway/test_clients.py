"""The clients that people use, pointed at the gateway: every client with every kind of provider behind it."""

import json
from typing import Any

import anthropic
import openai
import pytest

from routing.models import BudgetPeriod, UsageRecord
from tests.gateway.conftest import Gateway
from tests.servers.script import Call, Reply

MODELS = ("gpt", "claude", "llama", "flash", "command")
QUESTION = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
OPENAI_TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER},
}
ANTHROPIC_TOOL: Any = {"name": "weather", "description": "Tells it.", "input_schema": WEATHER}


EVERY_MODEL = {"auto", "gpt", "thinker", "claude", "llama", "flash", "command", "embedder", "local-embedder"}


def openai_client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


def anthropic_client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)


def servers(gateway: Gateway) -> list[Any]:
    return [gateway.openai, gateway.anthropic, gateway.ollama, gateway.gemini, gateway.cohere]


def set_reply(gateway: Gateway, reply: Reply) -> None:
    for server in servers(gateway):
        server.default = reply


@pytest.mark.parametrize("model", MODELS)
def test_openais_client_gets_a_whole_answer_from_every_provider(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("Hello, Ada.", input_tokens=11, output_tokens=5))
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=50
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello, Ada."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 5)
    assert raw.headers["x-ziggie-model"] == answer.model == model
    assert raw.headers["x-ziggie-source"] == ("local" if model == "llama" else "cloud")
    assert (raw.headers["x-ziggie-attempts"], raw.headers["x-ziggie-cache"]) == ("1", "off")
    (receipt,) = gateway.settled(1)
    assert str(receipt.id) == raw.headers["x-ziggie-request-id"]
    input_price, output_price = {
        "gpt": (1, 5),
        "claude": (3, 15),
        "llama": (0, 0),
        "flash": (2, 10),
        "command": (4, 20),
    }[model]
    cost = 11 * input_price + 5 * output_price
    assert receipt.cost_microusd == cost
    assert raw.headers["x-ziggie-cost-usd"] == f"0.{cost:06d}"


@pytest.mark.parametrize("model", MODELS)
def test_openais_client_streams_from_every_provider(gateway: Gateway, model: str) -> None:
    text = "A longer answer that comes in many pieces, with ünïcode and 🦉."
    set_reply(gateway, Reply(text, input_tokens=11, output_tokens=5))
    stream = openai_client(gateway).chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 16
    record = UsageRecord.objects.get() if gateway.settled(1) else None
    assert record is not None
    assert (record.input_tokens, record.output_tokens, record.estimated) == (11, 5, [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_openais_client_calls_tools_through_every_provider(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("", calls=(Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Bergen"}))))
    client = openai_client(gateway)
    asked: Any = {"model": model, "messages": QUESTION, "tools": [OPENAI_TOOL]}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            completion = events.get_final_completion()
    else:
        completion = client.chat.completions.create(**asked)
    message = completion.choices[0].message
    assert message.tool_calls is not None
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == ["Oslo", "Bergen"]
    assert completion.choices[0].finish_reason == "tool_calls"
    set_reply(gateway, Reply("It rains."))
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    history: Any = [*QUESTION, message.model_dump(exclude_none=True, exclude={"parsed"}), *results]
    for call in history[1]["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    again = client.chat.completions.create(model=model, messages=history, tools=[OPENAI_TOOL])
    assert again.choices[0].message.content == "It rains."


@pytest.mark.parametrize("model", MODELS)
def test_anthropics_client_gets_a_whole_answer_from_every_provider(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("Hello, Ada.", input_tokens=11, output_tokens=5))
    answer = anthropic_client(gateway).messages.create(
        model=model,
        max_tokens=50,
        system="Be short.",
        messages=QUESTION,  # type: ignore[arg-type]
    )
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == "Hello, Ada."  # type: ignore[union-attr]
    assert (answer.stop_reason, answer.model) == ("end_turn", model)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 5)


@pytest.mark.parametrize("model", MODELS)
def test_anthropics_client_streams_from_every_provider(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("A longer answer in pieces.", input_tokens=11, output_tokens=5))
    with anthropic_client(gateway).messages.stream(model=model, max_tokens=50, messages=QUESTION) as stream:  # type: ignore[arg-type]
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "A longer answer in pieces."
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (11, 5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_anthropics_client_calls_tools_through_every_provider(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(
        gateway, Reply("Let me see.", calls=(Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"})))
    )
    client = anthropic_client(gateway)
    asked: Any = {"model": model, "max_tokens": 50, "messages": QUESTION, "tools": [ANTHROPIC_TOOL]}
    if stream:
        with client.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = client.messages.create(**asked)
    uses = [block for block in answer.content if block.type == "tool_use"]
    assert [use.input for use in uses] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert answer.stop_reason == "tool_use"
    set_reply(gateway, Reply("It rains."))
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"} for use in uses]
    said = [block.model_dump(exclude_none=True) for block in answer.content]
    turns: Any = [*QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    again = client.messages.create(model=model, max_tokens=50, messages=turns, tools=[ANTHROPIC_TOOL])
    assert again.content[0].text == "It rains."  # type: ignore[union-attr]


def test_images_and_json_schemas_reach_the_provider(gateway: Gateway) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}}
    openai_client(gateway).chat.completions.create(
        model="claude",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Where?"}, image]}],  # type: ignore[list-item, misc]
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER}},
    )
    sent = gateway.anthropic.requests[-1].json
    assert sent["messages"][0]["content"][1]["source"]["data"] == pixel
    assert "city" in json.dumps(sent)


def test_auto_follows_the_rules_and_hints_travel_in_metadata_and_headers(gateway: Gateway) -> None:
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="auto",
        messages=QUESTION,  # type: ignore[arg-type]
        metadata={"task_kind": "chat", "run_id": "run-7", "creator": "instasd"},
        extra_headers={"x-ziggie-agent-level": "L2"},
    )
    assert raw.headers["x-ziggie-rule"] == "everything"
    assert raw.headers["x-ziggie-model"] == "gpt"
    (receipt,) = gateway.settled(1)
    assert (receipt.task_kind, receipt.agent_level, receipt.run_id, receipt.creator) == (
        "chat",
        "L2",
        "run-7",
        "instasd",
    )
    assert receipt.api_key_id == gateway.key_id


def test_a_failing_model_is_replaced_and_both_attempts_are_on_record(gateway: Gateway) -> None:
    gateway.openai.default = Reply(status=500, error="broken")
    raw = openai_client(gateway).chat.completions.with_raw_response.create(model="auto", messages=QUESTION)  # type: ignore[arg-type]
    assert (raw.headers["x-ziggie-model"], raw.headers["x-ziggie-attempts"]) == ("llama", "2")
    gateway.settled(1)
    outcomes = list(UsageRecord.objects.order_by("attempt").values_list("model", "outcome"))
    assert outcomes == [("gpt", "error"), ("llama", "ok")]


@pytest.mark.parametrize("as_base64", [False, True])
def test_embeddings_are_made_and_paid(gateway: Gateway, as_base64: bool) -> None:
    client = openai_client(gateway)
    encoding: Any = {} if as_base64 else {"encoding_format": "float"}  # the client asks for base64 by itself
    answer = client.embeddings.create(model="embedder", input=["one text", "another"], **encoding)
    assert len(answer.data) == 2
    assert all(isinstance(number, float) for number in answer.data[1].embedding)
    (receipt,) = gateway.settled(1)
    assert receipt.cost_microusd == answer.usage.prompt_tokens > 0


def test_both_clients_list_the_models(gateway: Gateway) -> None:
    assert {m.id for m in openai_client(gateway).models.list()} == EVERY_MODEL
    assert {m.id for m in anthropic_client(gateway).models.list()} == EVERY_MODEL


@pytest.mark.parametrize(("model", "how"), [("claude", "reported"), ("llama", "estimated")])
def test_tokens_are_counted_by_the_provider_or_estimated(gateway: Gateway, model: str, how: str) -> None:
    raw = anthropic_client(gateway).messages.with_raw_response.count_tokens(model=model, messages=QUESTION)  # type: ignore[arg-type]
    assert raw.parse().input_tokens > 0
    assert raw.headers["x-ziggie-count"] == how
    assert not BudgetPeriod.objects.exists()


def test_clients_see_their_own_kinds_of_errors(gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError, match="no model named 'nobody'"):
        openai_client(gateway).chat.completions.create(model="nobody", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(anthropic.NotFoundError, match="no model named 'nobody'"):
        anthropic_client(gateway).messages.create(model="nobody", max_tokens=5, messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="zg_wrong", max_retries=0).models.list()
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=gateway.url, api_key="zg_wrong", max_retries=0).messages.create(
            model="gpt",
            max_tokens=5,
            messages=QUESTION,  # type: ignore[arg-type]
        )
