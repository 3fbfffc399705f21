"""The gateway's endpoints in the OpenAPI document. Bodies are those of OpenAI's and Anthropic's own documents: only
what must be there is named."""

from typing import Any

OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "code"]}},
}
ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"type": "string", "enum": ["error"]},
        "error": {"type": "object", "required": ["type", "message"]},
    },
}
MODEL = {"type": "string", "description": "`auto`, a model's slug or its wire name."}
TURNS = {"type": "array", "minItems": 1, "items": {"type": "object"}}
# path -> verb, summary, required fields of the body, error
ENDPOINTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "/v1/chat/completions": ("post", "OpenAI's chat completions", {"model": MODEL, "messages": TURNS}, OPENAI_ERROR),
    "/v1/embeddings": ("post", "OpenAI's embeddings", {"model": MODEL, "input": {}}, OPENAI_ERROR),
    "/v1/models": ("get", "The models that the key may ask for", {}, OPENAI_ERROR),
    "/v1/models/{slug}": ("get", "One of them", {}, OPENAI_ERROR),
    "/v1/messages": (
        "post",
        "Anthropic's messages",
        {"model": MODEL, "max_tokens": {"type": "integer", "minimum": 1}, "messages": TURNS},
        ANTHROPIC_ERROR,
    ),
    "/v1/messages/count_tokens": (
        "post",
        "Anthropic's count of tokens",
        {"model": MODEL, "messages": TURNS},
        ANTHROPIC_ERROR,
    ),
}


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Adds the endpoints, which no view of Django's serves, to the document."""
    for path, (verb, summary, fields, error) in ENDPOINTS.items():
        operation: dict[str, Any] = {
            "operationId": "gateway" + path.removeprefix("/v1").translate(str.maketrans("/{", "__", "}")),
            "summary": summary,
            "tags": ["gateway"],
            "security": [{"bearerKey": []}, {"xApiKey": []}],
            "responses": {
                "200": {"description": "As that API answers.", "content": _json({"type": "object"})},
                "default": {"description": "Refused, in the shape of that API.", "content": _json(error)},
            },
        }
        if fields:
            body = {"type": "object", "required": list(fields), "properties": fields}
            operation["requestBody"] = {"required": True, "content": _json(body)}
        if "{slug}" in path:
            operation["parameters"] = [{"name": "slug", "in": "path", "required": True, "schema": {"type": "string"}}]
        result["paths"][path] = {verb: operation}
    return result


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
