"""The gateway's endpoints in the OpenAPI document."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from routing.gateway.wire.openapi_bodies import (
    ANTHROPIC_ERROR,
    CHAT,
    COMPLETION,
    COUNTED,
    EMBED,
    EMBEDDINGS,
    EVENT,
    MESSAGE,
    MESSAGES,
    MODELS,
    ONE_MODEL,
    OPENAI_ERROR,
    TOKENS,
    Described,
)
from routing.gateway.wire.openapi_responses import COUNTED_INPUT, INPUT_TOKENS, RESPOND, RESPONSE

ALWAYS = (400, 401, 403, 429, 503)  # what any request may be told
OF_A_BODY = (408, 413)
OF_A_CALL = (402, 404, 502, 504)


@dataclass(frozen=True)
class Endpoint:
    """`body` is empty where there is none; `refusals` are those beside `ALWAYS`."""

    verb: str
    summary: str
    answer: Described
    refusals: tuple[int, ...]
    body: Described
    error: Described
    streams: bool = False


ENDPOINTS = {
    "/v1/chat/completions": Endpoint(
        "post", "OpenAI's chat completions", COMPLETION, OF_A_BODY + OF_A_CALL, CHAT, OPENAI_ERROR, streams=True
    ),
    "/v1/responses": Endpoint(
        "post", "OpenAI's responses", RESPONSE, OF_A_BODY + OF_A_CALL, RESPOND, OPENAI_ERROR, streams=True
    ),
    "/v1/responses/input_tokens": Endpoint(
        "post", "OpenAI's count of tokens", INPUT_TOKENS, (*OF_A_BODY, 404), COUNTED_INPUT, OPENAI_ERROR
    ),
    "/v1/embeddings": Endpoint("post", "OpenAI's embeddings", EMBEDDINGS, OF_A_BODY + OF_A_CALL, EMBED, OPENAI_ERROR),
    "/v1/models": Endpoint("get", "The models that the key may ask for", MODELS, (), {}, OPENAI_ERROR),
    "/v1/models/{slug}": Endpoint("get", "One of them", ONE_MODEL, (404,), {}, OPENAI_ERROR),
    "/v1/messages": Endpoint(
        "post", "Anthropic's messages", MESSAGE, OF_A_BODY + OF_A_CALL, MESSAGES, ANTHROPIC_ERROR, streams=True
    ),
    "/v1/messages/count_tokens": Endpoint(
        "post", "Anthropic's count of tokens", TOKENS, (*OF_A_BODY, 404), COUNTED, ANTHROPIC_ERROR
    ),
}


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Adds the endpoints, which no view of Django's serves, to the document."""
    for path, endpoint in ENDPOINTS.items():
        operation: dict[str, Any] = {
            "operationId": "gateway" + path.removeprefix("/v1").translate(str.maketrans("/{", "__", "}")),
            "summary": endpoint.summary,
            "tags": ["gateway"],
            "security": [{"bearerKey": []}, {"xApiKey": []}],
            "responses": _responses(endpoint),
        }
        if endpoint.body:
            operation["requestBody"] = {"required": True, "content": _json(endpoint.body)}
        if "{slug}" in path:
            operation["parameters"] = [{"name": "slug", "in": "path", "required": True, "schema": {"type": "string"}}]
        result["paths"][path] = {endpoint.verb: operation}
    return result


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    stream = {"text/event-stream": {"schema": EVENT}} if endpoint.streams else {}
    refusals = {
        str(status): {"description": HTTPStatus(status).phrase, "content": _json(endpoint.error)}
        for status in sorted({*ALWAYS, *endpoint.refusals})
    }
    return {
        "200": {"description": "As that API answers.", "content": {**_json(endpoint.answer), **stream}},
        **refusals,
        "default": {"description": "Refused, in the shape of that API.", "content": _json(endpoint.error)},
    }


def _json(schema: Described) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
