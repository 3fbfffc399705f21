"""OpenAI's responses API: the official client, served by each kind of provider."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from routing.models import UsageRecord
from tests.gateway.conftest import Gateway
from tests.gateway.responses_support import TOOL, WEATHER, ask, calls, items, responses
from tests.gateway.test_clients import MODELS, set_reply
from tests.gateway.test_matrix import ADDRESS, GEMINI_CHOICES, HEARD, PIXEL, SCHEMAS, heard, in_every_way
from tests.servers.script import Call, Reply

PRICES = {"gpt": (1, 5), "claude": (3, 15), "llama": (0, 0), "flash": (2, 10), "command": (4, 20)}
CITIES = Reply("", calls=(Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"})))
CALLED = [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_answer_comes_from_every_provider(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply("Hello, Ada.", input_tokens=11, output_tokens=5))
    raw = responses(gateway).with_raw_response.create(model=model, input="Say hello.", max_output_tokens=50)
    answer = raw.parse()
    assert (answer.output_text, answer.status, answer.model) == ("Hello, Ada.", "completed", model)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (11, 5, 16)
    (receipt,) = gateway.settled(1)
    assert answer.id == f"resp_{receipt.id}"
    assert raw.headers["x-request-id"] == raw.headers["x-ziggie-request-id"] == str(receipt.id)
    input_price, output_price = PRICES[model]
    assert receipt.cost_microusd == 11 * input_price + 5 * output_price
    assert raw.headers["x-ziggie-cost-usd"] == f"0.{receipt.cost_microusd:06d}"


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_comes_from_every_provider(gateway: Gateway, model: str) -> None:
    text = "A longer answer that comes in many pieces, with ünïcode and 🦉."
    set_reply(gateway, Reply(text, input_tokens=11, output_tokens=5))
    asked: Any = {"model": model, "input": [{"role": "user", "content": "Say hello."}]}
    with responses(gateway).stream(**asked) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert answer.output_text == text
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16
    gateway.settled(1)
    record = UsageRecord.objects.get()
    assert (record.input_tokens, record.output_tokens, record.estimated) == (11, 5, [])


@in_every_way
def test_prompts_and_parameters_arrive_and_the_answer_comes_back(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("Hello, Ada. ünï 🦉", input_tokens=21, cached_tokens=8, output_tokens=7))
    answer = ask(gateway, model, stream=stream, instructions="Be brief.", temperature=0.5, max_output_tokens=77)
    body = heard(gateway, model)
    for key in ("stop", "stop_sequences", "stopSequences"):  # of which this API has none
        for holder in (body, body.get("options", {}), body.get("generationConfig", {})):
            holder.setdefault(key, None)
    assert HEARD[model](body) == ["Be brief.", "Say hello.", 77, 0.5, None]
    assert answer.output_text == "Hello, Ada. ünï 🦉"
    assert answer.usage is not None
    told = answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens, answer.usage.output_tokens
    assert told == (21, 8, 7)
    echoed = answer.instructions, answer.temperature, answer.max_output_tokens, answer.tools, answer.tool_choice
    assert echoed == ("Be brief.", 0.5, 77, [], "auto")


@in_every_way
def test_an_answer_that_ran_out_of_tokens_says_so(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("Hello and", stop="length"))
    answer = ask(gateway, model, stream=stream)
    assert (answer.status, answer.output_text) == ("incomplete", "Hello and")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"  # type: ignore[union-attr]  # a message has one


# --- tools ---------------------------------------------------------------------------------------


@in_every_way
def test_parallel_calls_their_results_and_the_answer_make_a_round(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, CITIES)
    answer = ask(gateway, model, stream=stream, tools=[TOOL])
    assert (calls(answer), answer.status) == (CALLED, "completed")
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": told}
        for item, told in zip(answer.output, ("rain", [{"type": "input_text", "text": "sun"}]), strict=True)
        if item.type == "function_call"
    ]
    set_reply(gateway, Reply("It rains in Oslo."))
    turns = [{"role": "user", "content": "How is it?"}, *items(answer), *results]
    assert ask(gateway, model, stream=stream, tools=[TOOL], input=turns).output_text == "It rains in Oslo."
    body = heard(gateway, model)
    told = json.dumps(body)
    assert told.index("Oslo") < told.index("Rome") < told.index("rain") < told.index("sun")
    roles = [turn["role"] for turn in body.get("messages", body.get("contents"))]
    assert roles == {
        "claude": ["user", "assistant", "user"],
        "flash": ["user", "model", "user"],
    }.get(model, ["user", "assistant", "tool", "tool"])


@in_every_way
@pytest.mark.parametrize("choice", ["auto", "none", "required", "weather"])
def test_a_tool_choice_arrives(gateway: Gateway, model: str, choice: str) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    said: Any = {"type": "function", "name": "weather"} if choice == "weather" else choice
    answer = ask(gateway, model, tools=[TOOL], tool_choice=said)
    assert (answer.tool_choice if isinstance(said, str) else answer.to_dict()["tool_choice"]) == said
    body = heard(gateway, model)
    if model == "llama":
        assert ("tools" in body, "format" in body) == (choice == "auto", choice in ("required", "weather"))
    elif model == "flash":
        assert body["toolConfig"]["functionCallingConfig"] == GEMINI_CHOICES[choice]
    elif model == "command":
        assert body.get("tool_choice") == {"auto": None, "none": "NONE"}.get(choice, "REQUIRED")
    elif model == "gpt":
        as_chat = {"type": "function", "function": {"name": "weather"}}
        assert body["tool_choice"] == (as_chat if choice == "weather" else choice)
    else:
        assert body["tool_choice"]["type"] == {"required": "any", "weather": "tool"}.get(choice, choice)


@in_every_way
def test_a_tool_in_a_namespace_is_called_as_its_client_named_it(gateway: Gateway, model: str, stream: bool) -> None:
    space = {"type": "namespace", "name": "sky", "description": "Of the sky.", "tools": [TOOL]}
    set_reply(gateway, Reply("", calls=(Call("sky__weather", {"city": "Oslo"}),)))
    answer = ask(gateway, model, stream=stream, tools=[{**TOOL, "name": "clock"}, space])
    (called,) = items(answer)
    assert (called["namespace"], called["name"]) == ("sky", "weather")
    assert "Of the sky.\\n\\nTells it." in json.dumps(heard(gateway, model))
    set_reply(gateway, Reply("Rain."))
    result = {"type": "function_call_output", "call_id": called["call_id"], "output": "rain"}
    turns = [{"role": "user", "content": "How is it?"}, *items(answer), result]
    again = ask(gateway, model, stream=stream, tools=[space], input=turns)
    assert again.output_text == "Rain."
    assert "sky__weather" in json.dumps(heard(gateway, model).get("messages", heard(gateway, model).get("contents")))
    (echoed,) = again.to_dict()["tools"]  # type: ignore[misc]  # a list
    assert (echoed["name"], echoed["tools"][0]["description"]) == ("sky", "Tells it.")


@pytest.mark.parametrize("model", MODELS)
def test_images_of_the_user_and_of_a_tool_are_seen(gateway: Gateway, model: str) -> None:
    picture = {"type": "input_image", "detail": "low", "image_url": f"data:image/png;base64,{PIXEL}"}
    called = {"type": "function_call", "call_id": "a", "name": "shot", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "so"}, picture]}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, picture]}
    more = [{**called, "call_id": "b"}, result, {**result, "call_id": "b"}]
    ask(gateway, model, input=[asked, called, *more], tools=[{**TOOL, "name": "shot"}])
    assert json.dumps(heard(gateway, model)).count(PIXEL) == 3
    if model == "gpt":
        turns = heard(gateway, model)["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
        assert turns[0]["content"][1]["image_url"]["detail"] == "low"


def test_an_image_by_address_arrives(gateway: Gateway) -> None:
    ask(gateway, "gpt", input=[{"role": "user", "content": [{"type": "input_image", "image_url": ADDRESS}]}])
    assert ADDRESS in json.dumps(heard(gateway, "gpt"))


# As Codex CLI 0.169 asks of a provider of its user's, but for the length of what it says.
CODEX: dict[str, Any] = {
    "tools": [
        {**TOOL, "name": "exec_command", "strict": False},
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "Sub-agents.",
            "tools": [{**TOOL, "strict": False}],
        },
        {"type": "web_search", "external_web_access": True},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a1fff9-cd13-7341-98b8-08684f65c3b2",
}
SAID = [
    {"type": "message", "id": f"msg_{place}", "role": role, "content": [{"type": "input_text", "text": "Be brief."}]}
    for place, role in enumerate(("developer", "developer", "user", "user"))
]


@in_every_way
def test_a_coding_agent_is_served_as_it_comes(gateway: Gateway, model: str) -> None:
    metadata = {"client_metadata": {"turn_id": "1", "x-codex-window-id": "1:0"}}
    set_reply(gateway, Reply("I look.", reasoning="Hm.", calls=(Call("exec_command", {"city": "ls"}),)))
    answer = ask(gateway, model, stream=True, input=SAID, extra_body=metadata, **CODEX)
    thought, said, called = items(answer)
    assert (said["content"][0]["text"], called["name"]) == ("I look.", "exec_command")
    assert [tool["type"] for tool in answer.to_dict()["tools"]] == ["function", "namespace"]  # type: ignore[attr-defined]
    set_reply(gateway, Reply("Done."))
    result = {"type": "function_call_output", "call_id": called["call_id"], "output": "a.txt"}
    again = ask(gateway, model, stream=True, input=[*SAID, thought, said, called, result], extra_body=metadata, **CODEX)
    assert again.output_text == "Done."
    body = heard(gateway, model)
    assert "web_search" not in json.dumps(body)
    assert (
        len([turn for turn in body.get("messages", body.get("contents")) if turn["role"] in ("assistant", "model")])
        == 1
    )


# --- forms, thinking, refusals -------------------------------------------------------------------


class Place(BaseModel):
    city: str


@in_every_way
def test_an_answer_of_a_schema_is_parsed(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    if stream:
        with responses(gateway).stream(model=model, input="Where?", text_format=Place) as events:
            answer = events.get_final_response()
    else:
        answer = responses(gateway).parse(model=model, input="Where?", text_format=Place)
    assert answer.output_parsed == Place(city="Oslo")
    assert SCHEMAS[model](heard(gateway, model))["properties"]["city"]["type"] == "string"
    assert answer.text is not None
    assert answer.to_dict()["text"]["format"]["name"] == "Place"  # type: ignore[index]


def test_a_schemas_name_strictness_and_description_arrive(gateway: Gateway) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    form = {"type": "json_schema", "name": "place", "strict": True, "schema": WEATHER, "description": "Where it is."}
    answer = ask(gateway, "gpt", text={"format": form, "verbosity": "low"})
    told = heard(gateway, "gpt")
    assert told["response_format"]["json_schema"] == {
        "name": "place", "strict": True, "schema": {"description": "Where it is.", **WEATHER}
    }  # fmt: skip
    assert (told["verbosity"], answer.text and answer.text.verbosity) == ("low", "low")
    ask(gateway, "gpt", text={"format": {"type": "json_object"}}, input="JSON, please.")
    assert heard(gateway, "gpt")["response_format"] == {"type": "json_object"}


@in_every_way
def test_thinking_is_told_and_goes_back_to_the_house_that_signed_it(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("Four.", reasoning="Two and two …", reasoning_tokens=3, output_tokens=7))
    answer = ask(gateway, model, stream=stream, include=["reasoning.encrypted_content"], reasoning={"summary": "auto"})
    thinking, said = items(answer)
    assert (thinking["type"], thinking["summary"]) == ("reasoning", [{"type": "summary_text", "text": "Two and two …"}])
    assert said["content"][0]["text"] == "Four."
    del thinking["summary"][0]["text"]  # a client that shows it may lose it
    turns = [{"role": "user", "content": "2 + 2?"}, {**thinking, "summary": []}, said, {"role": "user", "content": "?"}]
    ask(gateway, model, stream=stream, input=turns)
    sent = json.dumps(heard(gateway, model), ensure_ascii=False)
    if model == "claude":
        block = {"type": "thinking", "thinking": "Two and two …", "signature": "c2lnbmVk"}
        assert heard(gateway, model)["messages"][1]["content"][0] == block
    assert ("Two and two …" in sent) == (model in ("claude", "llama"))


def test_an_effort_arrives(gateway: Gateway) -> None:
    answer = ask(gateway, "thinker", reasoning={"effort": "low", "summary": "detailed"})
    assert gateway.openai.calls[-1].json["reasoning_effort"] == "low"
    assert answer.reasoning is not None
    assert (answer.reasoning.effort, answer.reasoning.summary) == ("low", "detailed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_told_as_one(gateway: Gateway, stream: bool) -> None:
    if stream:
        deltas = [{"role": "assistant", "refusal": "I "}, {"refusal": "can't."}]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body: Any = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        gateway.openai.default = Reply(body=body, headers={"content-type": "text/event-stream"})
    else:
        message = {"role": "assistant", "content": None, "refusal": "I can't."}
        gateway.openai.default = Reply(body={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    answer = ask(gateway, "gpt", stream=stream)
    assert answer.status == "completed"
    assert items(answer)[0]["content"] == [{"type": "refusal", "refusal": "I can't."}]
    assert answer.output_text == ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt", "flash"])
def test_log_probabilities_come_where_they_are_included(gateway: Gateway, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("Hello, Ada."))
    more: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = ask(gateway, model, stream=stream, **more)
    told = items(answer)[0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in told) == "Hello, Ada."
    assert all(len(entry["top_logprobs"]) == 2 and entry["bytes"] for entry in told)
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        ask(gateway, "claude", stream=stream, **more)
