"""OpenAI's responses API as its official client calls it. What comes is held to that client's own types."""

import json
from collections.abc import Iterable
from typing import Any

from openai.resources.responses import Responses
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.gateway.conftest import Gateway
from tests.gateway.test_clients import openai_client

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": WEATHER}


def responses(gateway: Gateway) -> Responses:
    return openai_client(gateway).responses


def ask(gateway: Gateway, model: str, *, stream: bool = False, **asked: Any) -> Response:
    """The answer as the official client puts it together, `asked` in the API's own words."""
    asked = {"model": model, "input": "Say hello.", **asked}
    if not stream:
        raw = responses(gateway).with_raw_response.create(**asked)
        is_described(json.loads(raw.content))
        return raw.parse()
    told = list(responses(gateway).create(**asked, stream=True))
    are_described([event.to_dict() for event in told])
    assert told[-1].type in ("response.completed", "response.incomplete")
    return told[-1].response  # type: ignore[no-any-return]


def is_described(answer: dict[str, Any]) -> None:
    """Raises where the official client's types have another kind of field, or need one more."""
    Response.model_validate(answer)
    assert answer["store"] is False
    ids = [item["id"] for item in answer["output"]]
    assert len(set(ids)) == len(ids)
    assert all(answer["id"].removeprefix("resp_") in name for name in ids)


def are_described(events: Iterable[dict[str, Any]]) -> None:
    for number, event in enumerate(events):
        EVENT.validate_python(event)
        assert event["sequence_number"] == number


def calls(answer: Response) -> list[tuple[str, Any]]:
    return [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]


def items(answer: Response) -> list[Any]:
    """The output as a client sends it back."""
    return [item.to_dict() for item in answer.output]
