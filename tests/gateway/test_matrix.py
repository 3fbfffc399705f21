"""Either official client, served by each kind of provider: what the provider is asked for and what the client reads."""

import inspect
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import (
    ANTHROPIC_TOOL,
    MODELS,
    OPENAI_TOOL,
    WEATHER,
    anthropic_client,
    openai_client,
    servers,
    set_reply,
)
from tests.servers.script import Call, Reply

WAYS: dict[str, tuple[Any, ...]] = {"api": ("openai", "anthropic"), "model": MODELS, "stream": (False, True)}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ADDRESS = "https://example.org/cat.png"


def in_every_way(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test once for each `api`, `model`, and `stream` if it takes that: a database for each would cost a
    second."""
    parameters = inspect.signature(test).parameters
    ways = {name: values for name, values in WAYS.items() if name in parameters}

    def run(**given: Any) -> None:
        for way in itertools.product(*ways.values()):
            try:
                test(**dict(zip(ways, way, strict=True)), **given)
            except BaseException as error:
                error.add_note(f"{way}")
                raise

    kept = [parameter for name, parameter in parameters.items() if name not in ways]
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]  # what pytest reads
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    return run


@dataclass(frozen=True)
class Said:
    """What a client read of an answer, in words common to both APIs."""

    text: str
    calls: list[tuple[str, Any]]
    stop: str
    usage: tuple[int, int, int]  # input, of it cached, output


def ask(gateway: Gateway, api: str, model: str, *, stream: bool = False, **asked: Any) -> Said:
    """Asks through the official client; `asked` is in the API's own words."""
    if api == "anthropic":
        return _ask_anthropic(gateway, {"model": model, "max_tokens": 60, "messages": QUESTION, **asked}, stream)
    return _ask_openai(gateway, {"model": model, "messages": QUESTION, **asked}, stream)


QUESTION: list[Any] = [{"role": "user", "content": "Say hello."}]


def _ask_openai(gateway: Gateway, asked: dict[str, Any], stream: bool) -> Said:
    completions = openai_client(gateway).chat.completions
    if stream:
        with completions.stream(**asked, stream_options={"include_usage": True}) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = completions.create(**asked)
    (choice,) = answer.choices
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]
    details = answer.usage.prompt_tokens_details
    usage = (answer.usage.prompt_tokens, details.cached_tokens if details else 0, answer.usage.completion_tokens)
    return Said(choice.message.content or "", calls, choice.finish_reason, usage)


def _ask_anthropic(gateway: Gateway, asked: dict[str, Any], stream: bool) -> Said:
    messages = anthropic_client(gateway).messages
    if stream:
        with messages.stream(**asked) as events:
            answer: Any = events.get_final_message()
    else:
        answer = messages.create(**asked)
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    cached = answer.usage.cache_read_input_tokens or 0
    stop = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
    usage = (answer.usage.input_tokens + cached, cached, answer.usage.output_tokens)
    return Said(text, calls, stop[answer.stop_reason], usage)


def provider_calls(gateway: Gateway) -> int:
    return sum(len(server.calls) for server in servers(gateway))


def refused(gateway: Gateway, api: str, model: str, **asked: Any) -> None:
    """The client gets a 400 in its own words, and no provider was asked for anything."""
    before = provider_calls(gateway)
    error: Any = anthropic.BadRequestError if api == "anthropic" else openai.BadRequestError
    with pytest.raises(error):
        ask(gateway, api, model, **asked)
    assert provider_calls(gateway) == before


def heard(gateway: Gateway, model: str) -> Any:
    """The body of the last chat that the model's provider received."""
    return dict(zip(MODELS, servers(gateway), strict=True))[model].calls[-1].json


# --- plain parameters ----------------------------------------------------------------------------

# where each provider finds: system prompt, user's text, most output, temperature, stop sequences
HEARD: dict[str, Callable[[Any], list[Any]]] = {
    "gpt": lambda b: [
        *(turn["content"] for turn in b["messages"][:2]), b["max_tokens"], b["temperature"], b["stop"]
    ],
    "claude": lambda b: [
        b["system"], b["messages"][0]["content"][0]["text"], b["max_tokens"], b["temperature"], b["stop_sequences"]
    ],
    "llama": lambda b: [
        *(turn["content"] for turn in b["messages"]),
        *(b["options"][name] for name in ("num_predict", "temperature", "stop")),
    ],
    "flash": lambda b: [
        b["systemInstruction"]["parts"][0]["text"], b["contents"][0]["parts"][0]["text"],
        *(b["generationConfig"][name] for name in ("maxOutputTokens", "temperature", "stopSequences")),
    ],
    "command": lambda b: [
        *(turn["content"] for turn in b["messages"]), b["max_tokens"], b["temperature"], b["stop_sequences"]
    ],
}  # fmt: skip


@in_every_way
def test_prompts_and_parameters_arrive_and_the_answer_comes_back(
    gateway: Gateway, api: str, model: str, stream: bool
) -> None:
    set_reply(gateway, Reply("Hello, Ada. ünï 🦉", input_tokens=21, cached_tokens=8, output_tokens=7))
    asked: dict[str, Any] = {"temperature": 0.5, "max_tokens": 77}
    if api == "openai":
        turns = [{"role": "developer", "content": "Be brief."}, *QUESTION]
        asked = {"temperature": 0.5, "max_completion_tokens": 77, "messages": turns, "stop": ["END"]}
    else:
        asked = {"max_tokens": 77, "system": "Be brief.", "stop_sequences": ["END"], "extra_body": {"temperature": 0.5}}
    said = ask(gateway, api, model, stream=stream, **asked)
    assert HEARD[model](heard(gateway, model)) == ["Be brief.", "Say hello.", 77, 0.5, ["END"]]
    assert said == Said("Hello, Ada. ünï 🦉", [], "stop", (21, 8, 7))


@in_every_way
def test_an_answer_that_ran_out_of_tokens_says_so(gateway: Gateway, api: str, model: str, stream: bool) -> None:
    set_reply(gateway, Reply("Hello and", stop="length"))
    if stream and api == "openai":  # whose package makes an exception of it
        with pytest.raises(openai.LengthFinishReasonError):
            ask(gateway, api, model, stream=True)
    else:
        assert ask(gateway, api, model, stream=stream).stop == "length"


@pytest.mark.parametrize(
    ("model", "place"), [("gpt", None), ("llama", "options"), ("flash", "generationConfig"), ("command", None)]
)
def test_a_seed_arrives_where_it_is_known(gateway: Gateway, model: str, place: str | None) -> None:
    ask(gateway, "openai", model, seed=7)
    body = heard(gateway, model)
    assert (body[place] if place else body)["seed"] == 7


def test_a_seed_is_refused_where_it_is_not_known(gateway: Gateway) -> None:
    refused(gateway, "openai", "claude", seed=7)


# --- tools ---------------------------------------------------------------------------------------

CITIES = Reply("", calls=(Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"})))


def _results(body: Any, model: str) -> list[Any]:
    """The results of tools in what a provider was sent, in their order, and those marked as failed."""
    match model:
        case "gpt" | "command":
            return [turn["content"] for turn in body["messages"] if turn["role"] == "tool"]
        case "llama":
            return [(turn["tool_name"], turn["content"]) for turn in body["messages"] if turn["role"] == "tool"]
        case "claude":
            return [block["content"] for block in body["messages"][-1]["content"] if block["type"] == "tool_result"]
    return [part["functionResponse"]["response"] for part in body["contents"][-1]["parts"]]


@in_every_way
def test_parallel_calls_their_results_and_the_answer_make_a_round(
    gateway: Gateway, api: str, model: str, stream: bool
) -> None:
    set_reply(gateway, CITIES)
    tools = [OPENAI_TOOL if api == "openai" else ANTHROPIC_TOOL]
    said = ask(gateway, api, model, stream=stream, tools=tools)
    assert said.calls == [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
    assert said.stop == "tool_calls"
    set_reply(gateway, Reply("It rains in Oslo."))
    turns = _openai_results() if api == "openai" else _anthropic_results()
    assert ask(gateway, api, model, stream=stream, tools=tools, messages=turns).text == "It rains in Oslo."
    found = _results(heard(gateway, model), model)
    failed = "Error: no such city" if api == "anthropic" and model in ("gpt", "llama", "command") else "no such city"
    expected: dict[str, list[Any]] = {
        "gpt": ["rain", failed],
        "command": ["rain", failed],
        "llama": [("weather", "rain"), ("weather", failed)],
        "claude": ["rain", "no such city"],
        "flash": [{"result": "rain"}, {"error" if api == "anthropic" else "result": "no such city"}],
    }
    assert found == expected[model]


def _openai_results() -> list[Any]:
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
        for name, city in (("functions.weather:0", "Oslo"), ("call_b", "Rome"))
    ]
    return [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "functions.weather:0", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_b", "content": "no such city"},
    ]


def _anthropic_results() -> list[Any]:
    uses = [
        {"type": "tool_use", "id": f"toolu_{city}", "name": "weather", "input": {"city": city}}
        for city in ("Oslo", "Rome")
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_Oslo", "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": "toolu_Rome", "content": "no such city", "is_error": True},
    ]
    return [*QUESTION, {"role": "assistant", "content": uses}, {"role": "user", "content": results}]


# our word -> (OpenAI's, Anthropic's); then what each provider hears, None for a refusal
CHOICES: dict[str, tuple[Any, Any]] = {
    "auto": ("auto", {"type": "auto"}),
    "none": ("none", {"type": "none"}),
    "required": ("required", {"type": "any"}),
    "weather": ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
}
GEMINI_CHOICES = {
    "auto": {"mode": "AUTO"},
    "none": {"mode": "NONE"},
    "required": {"mode": "ANY"},
    "weather": {"mode": "ANY", "allowedFunctionNames": ["weather"]},
}


@in_every_way
@pytest.mark.parametrize("choice", CHOICES)
def test_a_tool_choice_arrives(gateway: Gateway, api: str, model: str, choice: str) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    as_openai, as_anthropic = CHOICES[choice]
    asked = {"tools": [OPENAI_TOOL], "tool_choice": as_openai}
    if api == "anthropic":
        asked = {"tools": [ANTHROPIC_TOOL], "tool_choice": as_anthropic}
    ask(gateway, api, model, **asked)
    body = heard(gateway, model)
    if model == "llama":
        assert ("tools" in body) == (choice == "auto")
        assert ("format" in body) == (choice in ("required", "weather"))  # it knows no other way to have one called
    elif model == "flash":
        assert body["toolConfig"]["functionCallingConfig"] == GEMINI_CHOICES[choice]
    elif model == "command":  # whose way to have one tool called is to be told of no other
        assert body.get("tool_choice") == {"auto": None, "none": "NONE"}.get(choice, "REQUIRED")
    else:
        assert body["tool_choice"] == (as_openai if model == "gpt" else as_anthropic)


@in_every_way
def test_one_call_of_one_tool_can_be_had_from_every_provider(
    gateway: Gateway, api: str, model: str, stream: bool
) -> None:
    """So do LangChain, LiteLLM and others ask for an answer in a schema."""
    spoken = Reply('{"city": "Oslo"}', reasoning="Where?")
    set_reply(gateway, Reply("", calls=(Call("weather", {"city": "Oslo"}),)) if model in ("gpt", "claude") else spoken)
    asked: dict[str, Any] = {"tools": [OPENAI_TOOL], "tool_choice": CHOICES["weather"][0], "parallel_tool_calls": False}
    if api == "anthropic":
        choice = {**CHOICES["weather"][1], "disable_parallel_tool_use": True}
        asked = {"tools": [ANTHROPIC_TOOL], "tool_choice": choice}
    answer = ask(gateway, api, model, stream=stream, **asked)
    assert (answer.text, answer.calls, answer.stop) == ("", [("weather", {"city": "Oslo"})], "tool_calls")
    if model in ("llama", "flash", "command"):
        assert "Tells it." in json.dumps(heard(gateway, model))


@in_every_way
def test_one_call_at_a_time_is_asked_for_or_refused(gateway: Gateway, api: str, model: str) -> None:
    asked: dict[str, Any] = {"tools": [OPENAI_TOOL], "parallel_tool_calls": False}
    if api == "anthropic":
        asked = {"tools": [ANTHROPIC_TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    if model in ("llama", "flash", "command"):
        refused(gateway, api, model, **asked)
        return
    ask(gateway, api, model, **asked)
    body = heard(gateway, model)
    one = body["parallel_tool_calls"] is False if model == "gpt" else body["tool_choice"]["disable_parallel_tool_use"]
    assert one is True


# --- images and schemas --------------------------------------------------------------------------


def _picture(api: str, *, by_address: bool) -> list[Any]:
    if api == "openai":
        url = ADDRESS if by_address else f"data:image/png;base64,{PIXEL}"
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    return [
        {
            "role": "user",
            "content": [{"type": "image", "source": {"type": "url", "url": ADDRESS} if by_address else source}],
        }
    ]


@in_every_way
def test_an_image_by_value_arrives(gateway: Gateway, api: str, model: str) -> None:
    ask(gateway, api, model, messages=_picture(api, by_address=False))
    assert PIXEL in json.dumps(heard(gateway, model))


@in_every_way
def test_an_image_by_address_arrives_or_is_refused(gateway: Gateway, api: str, model: str) -> None:
    turns = _picture(api, by_address=True)
    if model in ("llama", "flash"):
        refused(gateway, api, model, messages=turns)
    else:
        ask(gateway, api, model, messages=turns)
        assert ADDRESS in json.dumps(heard(gateway, model))


SCHEMAS: dict[str, Callable[[Any], Any]] = {
    "gpt": lambda body: body["response_format"]["json_schema"]["schema"],
    "claude": lambda body: body["output_config"]["format"]["schema"],
    "llama": lambda body: body["format"],
    "flash": lambda body: body["generationConfig"]["responseJsonSchema"],
    "command": lambda body: body["response_format"]["json_schema"],
}


@in_every_way
def test_a_schema_for_the_answer_arrives(gateway: Gateway, api: str, model: str, stream: bool) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    asked: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}}
    if api == "openai":
        form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": WEATHER}}
        asked = {"response_format": form}
    assert json.loads(ask(gateway, api, model, stream=stream, **asked).text) == {"city": "Oslo"}
    body = heard(gateway, model)
    assert SCHEMAS[model](body) == WEATHER
    if (api, model) == ("openai", "gpt"):
        assert body["response_format"]["json_schema"]["strict"] is True  # as the client said, though we would not


@pytest.mark.parametrize("model", SCHEMAS)
def test_a_schema_for_any_object_arrives_from_where_llama_cpp_has_it(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    form = {"type": "json_object", "schema": WEATHER}
    assert json.loads(ask(gateway, "openai", model, response_format=form).text) == {"city": "Oslo"}
    assert SCHEMAS[model](heard(gateway, model)) == WEATHER
