"""Tools that must be called, of servers that cannot be told to: what one client asks for or one answer lacks is
nobody else's trouble."""

from typing import Any

import httpx2
import pytest

from routing.configuration import snapshot
from routing.models import Circuit, LanguageModel, RoutingRule
from tests.gateway.conftest import Gateway
from tests.servers import Call, Reply

pytestmark = pytest.mark.django_db(transaction=True)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
OFTEN = 4  # three broken answers in a row open a model's circuit


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def post(gateway: Gateway, **asked: Any) -> httpx2.Response:
    body = {"model": "llama", "messages": [{"role": "user", "content": "Will it rain?"}], "tool_choice": "required"}
    url = f"{gateway.url}/v1/chat/completions"
    return httpx2.post(url, json={**body, **asked}, headers=gateway.headers, timeout=60)


def assert_it_serves(gateway: Gateway, model: str = "llama") -> None:
    """Nothing is held against the model, and a good call is answered."""
    assert not Circuit.objects.filter(failures__gt=0).exists()
    for server in (gateway.ollama, gateway.gemini):
        server.default = Reply('{"city": "Oslo"}')
    answer = post(gateway, model=model, tools=[tool("weather", CITY)], parallel_tool_calls=False)
    assert answer.status_code == 200, answer.text
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}


@pytest.mark.parametrize("wrong", [[], None])
def test_definitions_that_are_none_are_the_callers_to_mend(gateway: Gateway, wrong: Any) -> None:
    tools = [tool("weather", CITY), tool("clock", {"type": "object", "$defs": wrong})]
    for _ in range(OFTEN):
        answer = post(gateway, tools=tools)
        assert answer.status_code == 400, answer.text
        assert "$defs of the tool 'clock'" in answer.text
    assert not gateway.ollama.calls
    assert_it_serves(gateway)


def test_a_schema_that_ollama_cannot_use_is_the_callers_to_mend(gateway: Gateway) -> None:
    gateway.ollama.default = Reply(status=500, error="invalid JSON schema in format")
    for _ in range(OFTEN):
        assert post(gateway, tools=[tool("weather", {**CITY, "type": "thing"})]).status_code == 400
    assert_it_serves(gateway)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["llama", "flash"])
def test_answers_that_are_no_calls_close_a_model_for_nobody(gateway: Gateway, model: str, stream: bool) -> None:
    for server in (gateway.ollama, gateway.gemini):
        server.default = Reply("It rains.")
    for _ in range(OFTEN):
        tools = [tool("weather", CITY)]
        answer = post(gateway, model=model, tools=tools, parallel_tool_calls=False, stop=["{"], stream=stream)
        assert answer.status_code == 502, answer.text
        assert "held to a tool call" in answer.text
    assert_it_serves(gateway, model)


def test_another_model_makes_the_call_that_one_does_not(gateway: Gateway) -> None:
    RoutingRule.objects.update(chain=["llama", "gpt"])
    gateway.ollama.default = Reply("It rains.")
    gateway.openai.default = Reply("", calls=(Call("weather", {"city": "Oslo"}),))
    answer = post(gateway, model="auto", tools=[tool("weather", CITY)])
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ziggie-model"] == "gpt"
    (receipt,) = gateway.settled(1)
    assert receipt.model == "gpt"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_comes_as_a_refusal(gateway: Gateway, stream: bool) -> None:
    gateway.gemini.default = Reply("I must", stop="content_filter")
    tools = [tool("weather", CITY)]
    answer = post(gateway, model="flash", tools=tools, parallel_tool_calls=False, stream=stream)
    assert answer.status_code == 200, answer.text
    assert '"finish_reason":"content_filter"' in answer.text
    assert "I must" in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "off"),
    [
        ("Thinking mode does not support this tool_choice", {"thinking": {"type": "disabled"}}),
        ("tool_choice 'required' is incompatible with thinking enabled", {"thinking": {"type": "disabled"}}),
        (
            "The tool_choice parameter does not support being set to required or object in thinking mode",
            {"enable_thinking": False},
        ),
    ],
)
def test_a_model_that_thinks_unasked_is_asked_not_to_where_it_must_call(
    gateway: Gateway, refusal: str, off: dict[str, Any], stream: bool
) -> None:
    """In the words of DeepSeek, Moonshot and Alibaba."""
    LanguageModel.objects.filter(slug="gpt").update(name="kimi-k2-instruct")
    snapshot.forget()
    gateway.openai.queue(Reply(status=400, error=refusal), Reply(calls=(Call("weather", {"city": "Oslo"}),)))
    answer = post(gateway, model="gpt", tools=[tool("weather", CITY)], reasoning_effort="high", stream=stream)
    assert answer.status_code == 200, answer.text
    assert "weather" in answer.text
    first, second = (call.json for call in gateway.openai.calls)
    assert "thinking" not in first
    assert second == {**{key: said for key, said in first.items() if key != "reasoning_effort"}, **off}
    gateway.openai.default = Reply(status=400, error=refusal)
    assert post(gateway, model="gpt", tools=[tool("weather", CITY)]).status_code == 400
    assert post(gateway, model="gpt", tools=[tool("weather", CITY)], tool_choice="auto").status_code == 400
    assert len(gateway.openai.calls) == 5
    assert not Circuit.objects.filter(failures__gt=0).exists()
