"""The gateway before servers that people run themselves, which refuse and leave out what hosted ones do not."""

import gzip
import json
from typing import Any

import httpx2
import openai
import pytest

from routing.configuration import snapshot
from routing.gateway.providers.connections import Broken
from routing.gateway.providers.unpacking import Unpacker
from routing.models import Circuit, LanguageModel, Provider, RoutedCall, UsageRecord
from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import ANTHROPIC_TOOL, OPENAI_TOOL, QUESTION, WEATHER, anthropic_client, openai_client
from tests.servers.script import Call, Reply

OSLO = '{"city": "Oslo"}'
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER, "strict": True}}
CALLED = [
    *QUESTION,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": OSLO}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


@pytest.fixture
def own(gateway: Gateway) -> Gateway:
    """The gateway with llama-cpp-python behind the model gpt."""
    gateway.openai.dialect = "llama_cpp"
    Provider.objects.filter(slug="openai").update(location="local")
    snapshot.forget()
    return gateway


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_the_server_refuses_is_said_in_the_prompt(own: Gateway, stream: bool) -> None:
    own.openai.default = Reply(OSLO)
    client = openai_client(own)
    asked = {"model": "gpt", "messages": QUESTION, "response_format": FORMAT}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content or ""
    assert json.loads(text) == {"city": "Oslo"}
    asked_again = own.openai.calls[-1].json
    assert "JSON Schema" in asked_again["messages"][0]["content"]
    assert asked_again["response_format"] == {"type": "json_object"}
    (receipt,) = own.settled(1)
    assert (receipt.outcome, len(receipt.attempts)) == ("ok", 1)
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_a_server_that_knows_no_json_at_all_is_asked_for_it_in_the_prompt_alone(own: Gateway) -> None:
    refusal = Reply(status=400, error="response_format is not supported by this server")
    own.openai.dialect = "openai"
    own.openai.queue(refusal, refusal, Reply(OSLO))
    answer = openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, response_format=FORMAT)
    assert answer.choices[0].message.content == OSLO
    kinds = [call.json.get("response_format", {}).get("type") for call in own.openai.calls]
    assert kinds == ["json_schema", "json_object", None]


def test_a_schema_that_is_wrong_itself_is_refused_and_not_reworded(own: Gateway) -> None:
    own.openai.default = Reply(status=400, error="Invalid schema for response_format 'place': 'city' is required")
    with pytest.raises(openai.BadRequestError, match="Invalid schema"):
        openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, response_format=FORMAT)
    assert len(own.openai.calls) == 1


def test_what_a_caller_calls_his_tool_keeps_nobody_from_the_provider(gateway: Gateway) -> None:
    words = "Invalid schema for function 'get_billing': 'additionalProperties' is required to be false."
    gateway.openai.queue(Reply(status=400, error=words, error_type="invalid_request_error"), Reply("It rains."))
    client = openai_client(gateway)
    with pytest.raises(openai.BadRequestError, match="Invalid schema"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
    answer = client.chat.completions.create(model="gpt", messages=QUESTION)
    assert answer.choices[0].message.content == "It rains."
    assert not Circuit.objects.exclude(state="closed").exists()


def test_a_tools_answer_reaches_a_server_that_wants_text_in_every_turn(own: Gateway) -> None:
    own.openai.default = Reply("It rains.")
    answer = openai_client(own).chat.completions.create(model="gpt", messages=CALLED, tools=[OPENAI_TOOL])
    assert answer.choices[0].message.content == "It rains."


def test_a_streamed_call_that_is_said_in_both_ways_is_one_call(own: Gateway) -> None:
    own.openai.default = Reply("", calls=(Call("weather", {"city": "Oslo"}),))
    with anthropic_client(own).messages.stream(
        model="gpt", messages=QUESTION, max_tokens=50, tools=[ANTHROPIC_TOOL]
    ) as stream:
        message = stream.get_final_message()
    (block,) = [block for block in message.content if block.type == "tool_use"]
    assert block.input == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "request (4002 tokens) exceeds the available context size (256 tokens), try increasing it"),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
def test_what_the_only_model_refuses_is_the_callers_to_mend(own: Gateway, status: int, words: str) -> None:
    own.openai.default = Reply(status=status, error=words)
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client(own).chat.completions.create(model="gpt", messages=QUESTION)
    assert words in str(caught.value)
    (attempt,) = caught.value.body["details"]  # type: ignore[index,call-overload]  # our own shape
    assert attempt["model"] == "gpt"
    own.settled(1)
    assert RoutedCall.objects.get().outcome == "unsupported"
    assert not Circuit.objects.filter(failures__gt=0).exists()


def test_json_that_the_callers_own_limit_cut_comes_as_it_is(own: Gateway) -> None:
    own.openai.default = Reply('{"city": "Os', stop="length")
    answer = openai_client(own).chat.completions.create(
        model="gpt", messages=QUESTION, max_tokens=3, response_format={"type": "json_object"}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == '{"city": "Os'
    assert len(own.openai.calls) == 1


def test_a_stream_that_ends_without_a_word_is_asked_what_was_wrong(own: Gateway) -> None:
    """llama-cpp-python finds a prompt too long only once it has begun to stream, and says nothing."""
    own.openai.queue(
        Reply(fault="empty"), Reply(status=400, error="This model's maximum context length is 2048 tokens.")
    )
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, stream=True)
    assert [call.json["stream"] for call in own.openai.calls] == [True, False]


def test_a_stream_that_its_server_leaves_for_another_request_is_no_whole_answer(own: Gateway) -> None:
    own.openai.default = Reply("Once upon a time there was", fault="left", fault_after=3)
    chunks = openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match="broke before the answer ended"):
        list(chunks)
    (receipt,) = own.settled(1)
    assert receipt.attempts[0]["outcome"] == "cut"


def test_a_stream_that_stays_empty_where_the_whole_comes_is_answered_in_one_piece(own: Gateway) -> None:
    own.openai.queue(Reply(fault="empty"), Reply("Hello."))
    chunks = list(openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello."


def test_a_provider_that_charges_is_not_asked_twice_for_an_empty_stream(gateway: Gateway) -> None:
    gateway.openai.default = Reply(fault="empty")
    with pytest.raises(openai.InternalServerError):
        openai_client(gateway).chat.completions.create(model="gpt", messages=QUESTION, stream=True)
    assert len(gateway.openai.calls) == 1


def test_an_answer_that_comes_packed_without_being_asked_for_is_unpacked(own: Gateway) -> None:
    text = "Many words, which pack well. " * 500
    own.openai.default = Reply(text, packed=True)
    completions = openai_client(own).chat.completions
    assert completions.create(model="gpt", messages=QUESTION).choices[0].message.content == text
    chunks = list(completions.create(model="gpt", messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert len(chunks) > 1_000
    assert {receipt.outcome for receipt in own.settled(2)} == {"ok"}


@pytest.mark.parametrize("packing", ["gzip", "br"])
def test_what_is_not_packed_as_it_says_is_no_answer(own: Gateway, packing: str) -> None:
    own.openai.default = Reply("Hello.", headers={"content-encoding": packing})
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match=r"packed|compressed"):
            openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_unpacks_to_too_much_is_given_up(own: Gateway, stream: bool) -> None:
    own.openai.default = Reply("x" * (33 << 20), packed=True, piece=1 << 20)
    with pytest.raises(openai.APIError, match="too long"):
        list(openai_client(own).chat.completions.create(model="gpt", messages=QUESTION, stream=stream))


def test_a_packed_answer_may_come_in_members_and_must_come_to_its_end() -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"two") + bytes(8)
    unpacker = Unpacker()
    assert b"".join(unpacker.feed(members[place : place + 1]) for place in range(len(members))) == b"one two"
    assert unpacker.whole(b"") == b""
    assert Unpacker().whole(members) == b"one two"
    with pytest.raises(Broken, match="before its end"):
        Unpacker().whole(members[:30])


def test_a_text_too_long_to_embed_is_the_callers_to_shorten(own: Gateway) -> None:
    words = "input (3002 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
    own.openai.when(Reply(status=500, error=words), path="/v1/embeddings")
    with pytest.raises(openai.BadRequestError, match="too large to process"):
        openai_client(own).embeddings.create(model="embedder", input="zq " * 400)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_a_server_that_is_too_slow_is_left_with_a_word_on_what_to_do(gateway: Gateway, path: str) -> None:
    Provider.objects.filter(slug="openai").update(location="local", timeout_seconds=1)
    snapshot.forget()
    gateway.openai.when(Reply(latency=600.0), path="/v1/")
    asked = {"model": "gpt", "messages": QUESTION} if "chat" in path else {"model": "embedder", "input": "a text"}
    answer = httpx2.post(gateway.url + path, json=asked, headers=gateway.headers, timeout=60)
    assert answer.status_code == 502
    words = "the provider was silent for 1 s; a provider that needs longer gets it by its timeout_seconds"
    assert words in answer.json()["error"]["message"]
    gateway.settled(1)
    record = UsageRecord.objects.get()
    assert (record.outcome, record.error) == ("timeout", words)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_has_to_be_called_is_the_only_one_where_none_can_be_chosen(own: Gateway, stream: bool) -> None:
    """LM Studio knows no more than that some tool is to be called."""
    own.openai.dialect = "openai"
    refusal = Reply(status=400, body={"error": "Invalid tool_choice type: 'object'. Supported: none, auto, required"})
    own.openai.queue(refusal, Reply("", calls=(Call("weather", {"city": "Oslo"}),)))
    other = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    chosen = {"type": "function", "function": {"name": "weather"}}
    answer = openai_client(own).chat.completions.create(
        model="gpt", messages=QUESTION, tools=[other, OPENAI_TOOL], tool_choice=chosen, stream=stream
    )
    said = [c.choices[0].delta for c in answer] if stream else [answer.choices[0].message]
    names = [call.function.name for piece in said for call in piece.tool_calls or () if call.id]
    assert names == ["weather"]
    asked = own.openai.calls[-1].json
    assert ([tool["function"]["name"] for tool in asked["tools"]], asked["tool_choice"]) == (["weather"], "required")
    own.settled(1)
    assert UsageRecord.objects.count() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_words_after_a_tools_result_reach_a_server_that_wants_the_model_to_speak_first(
    gateway: Gateway, stream: bool
) -> None:
    """Mistral's; Claude Code says something beside many results."""
    refusal = {"object": "error", "message": "Unexpected role 'user' after role 'tool'", "code": "3230"}
    gateway.openai.queue(Reply(status=400, body=refusal), Reply("Take a coat."))
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, {"type": "text", "text": "What to wear?"}]},
    ]
    asked = {"model": "gpt", "max_tokens": 50, "messages": turns, "tools": [ANTHROPIC_TOOL]}
    if stream:
        with anthropic_client(gateway).messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = anthropic_client(gateway).messages.create(**asked)
    assert answer.content[0].text == "Take a coat."
    said = gateway.openai.calls[-1].json["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant", "tool", "assistant", "user"]
    assert (said[2]["content"], said[-1]["content"]) == ("rain", "What to wear?")
    gateway.openai.default = Reply(status=400, body=refusal)
    with pytest.raises(openai.BadRequestError, match="Unexpected role"):
        openai_client(gateway).chat.completions.create(model="gpt", messages=[*CALLED, *QUESTION], tools=[OPENAI_TOOL])
    assert len(gateway.openai.calls) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_openais_models_that_know_no_tools_while_they_think_call_them_without(gateway: Gateway, stream: bool) -> None:
    """Where nobody asked for the thinking, which they do by themselves."""
    refusal = "Function tools with reasoning_effort are not supported for gpt-5-mini in /v1/chat/completions. To use"
    refusal += " function tools, use /v1/responses or set reasoning_effort to 'none'."
    called = Reply(calls=(Call("weather", {"city": "Oslo"}),))
    gateway.openai.queue(Reply(status=400, error=refusal), called)
    asked = {"model": "thinker", "messages": QUESTION, "tools": [OPENAI_TOOL]}
    client = openai_client(gateway)
    if stream:
        with client.chat.completions.stream(**asked) as events:
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert [call.json.get("reasoning_effort") for call in gateway.openai.calls] == [None, "none"]
    client.chat.completions.create(model="thinker", messages=QUESTION)
    assert "reasoning_effort" not in gateway.openai.calls[-1].json  # without tools it thinks as ever
    gateway.openai.queue(Reply(status=400, error=refusal), called)
    adaptive = {"model": "thinker", "messages": QUESTION, "tools": [ANTHROPIC_TOOL], "thinking": {"type": "adaptive"}}
    assert anthropic_client(gateway).messages.create(max_tokens=50, **adaptive).stop_reason == "tool_use"
    gateway.openai.default = Reply(status=400, error=refusal)
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        client.chat.completions.create(**asked, reasoning_effort="high")
    assert len(gateway.openai.calls) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_has_refused_and_taken_in_other_words_is_put_so_at_once(gateway: Gateway, stream: bool) -> None:
    LanguageModel.objects.filter(slug="gpt").update(name="kimi-k2-instruct")
    snapshot.forget()
    refusal = Reply(status=400, error="Thinking mode does not support this tool_choice")
    called = Reply(calls=(Call("weather", {"city": "Oslo"}),))
    asked: Any = {"model": "gpt", "messages": QUESTION, "tools": [OPENAI_TOOL], "tool_choice": "required"}

    def call() -> list[Any]:
        before = len(gateway.openai.calls)
        answer = openai_client(gateway).chat.completions.create(**asked, stream=stream)
        if stream:
            assert any(piece.choices and piece.choices[0].delta.tool_calls for piece in answer)
        else:
            assert answer.choices[0].message.tool_calls
        return [one.json.get("thinking") for one in gateway.openai.calls[before:]]

    off = {"type": "disabled"}
    gateway.openai.queue(refusal, called, called)
    assert call() == [None, off]
    assert call() == [off]
    asked["tool_choice"] = "auto"
    gateway.openai.queue(called)
    assert call() == [None]  # what was refused was another request
    asked["tool_choice"] = "required"
    gateway.openai.queue(Reply(status=400, error="unknown field: thinking"), called, called)
    assert call() == [off, None]  # its server has changed
    assert call() == [None]
    gateway.settled(5)
    assert UsageRecord.objects.count() == 5


def test_what_is_refused_in_any_words_teaches_nothing(gateway: Gateway) -> None:
    LanguageModel.objects.filter(slug="gpt").update(name="kimi-k2-instruct")
    snapshot.forget()
    gateway.openai.default = Reply(status=400, error="Thinking mode does not support this tool_choice")
    asked: Any = {"model": "gpt", "messages": QUESTION, "tools": [OPENAI_TOOL], "tool_choice": "required"}
    for calls in (2, 4):
        with pytest.raises(openai.BadRequestError):
            openai_client(gateway).chat.completions.create(**asked)
        assert [call.json.get("thinking") for call in gateway.openai.calls][::2] == [None] * (calls // 2)
        assert len(gateway.openai.calls) == calls
