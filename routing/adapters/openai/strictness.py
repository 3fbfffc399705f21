"""PURE: OpenAI's strict mode, which takes a part of JSON Schema."""

from collections.abc import Mapping
from typing import Any

# keywords that it refuses
_UNKNOWN = {
    *("allOf", "oneOf", "not", "if", "then", "else", "contains", "default", "prefixItems", "uniqueItems"),
    *("propertyNames", "patternProperties", "dependentRequired", "dependentSchemas"),
    *("unevaluatedItems", "unevaluatedProperties"),
}


def is_strict(schema: Any) -> bool:
    """True if OpenAI's strict mode would take this schema: every object is closed and needs all its fields, and no
    keyword stands in it that the mode does not know. A field that is named like one makes it False, which does no
    harm."""
    if isinstance(schema, (list, tuple)):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    if not _UNKNOWN.isdisjoint(schema):
        return False
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False or set(properties) != set(schema.get("required") or ()):
            return False
    return all(is_strict(value) for value in schema.values() if isinstance(value, (Mapping, list, tuple)))
