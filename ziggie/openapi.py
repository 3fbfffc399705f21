"""What the OpenAPI document says beside the views: how callers prove who they are, and what errors look like."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
            },
        }
    },
}


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the package has no types
    """A key in either of the headers that providers' own clients use."""

    target_class = "ziggie.auth.ApiKeyAuthentication"
    name = ["bearerKey", "xApiKey"]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        return [{"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "X-Api-Key"}]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        return [{"bearerKey": []}, {"xApiKey": []}]


def describe_errors(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Every endpoint refuses in one shape; only `code` and the status differ."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    refused = {
        "description": "Refused; `error.code` says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path in result["paths"].values():
        for operation in path.values():
            operation["responses"].setdefault("default", refused)
    return result
