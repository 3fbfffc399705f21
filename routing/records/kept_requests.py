"""PURE: a request as JSON and back, for work that is done later or elsewhere.

Kept is what a model is to see and how it is to answer. Who asked, and what they do with the answer, is not.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict, fields

from routing.types import (
    ChatRequest,
    Cited,
    Hints,
    Image,
    Message,
    Part,
    Pdf,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

PARTS: Mapping[str, type[Part]] = {
    "text": Text,
    "image": Image,
    "pdf": Pdf,
    "cited": Cited,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "reasoning": Reasoning,
}
PLAIN = (
    *("model", "max_output_tokens", "temperature", "seed", "tool_choice", "parallel_tool_calls", "json_schema"),
    *(
        "json_schema_name",
        "json_schema_strict",
        "json_object",
        "reasoning_effort",
        "end_user",
        "extra",
        "creator",
        "deadline_seconds",
        "budget_fit",
    ),
)


def to_json(request: ChatRequest) -> dict[str, Any]:
    kinds = {kind: name for name, kind in PARTS.items()}
    return {
        **{name: getattr(request, name) for name in PLAIN},
        "messages": [
            {"role": m.role, "parts": [{"kind": kinds[type(part)], **_said(part)} for part in m.parts]}
            | ({"name": m.name} if m.name else {})
            for m in request.messages
        ],
        "hints": {**asdict(request.hints), "capabilities": sorted(request.hints.capabilities)},
        "stop": list(request.stop),
        "tools": [_said(tool) for tool in request.tools],
    }


def _said(part: Part | Tool) -> dict[str, Any]:
    """What differs from the default."""
    return {field.name: told for field in fields(part) if (told := getattr(part, field.name)) != field.default}


def from_json(kept: Mapping[str, Any]) -> ChatRequest:
    """Raises KeyError or TypeError for what to_json() did not write."""
    hints = dict(kept["hints"])
    return ChatRequest(
        **{name: kept[name] for name in PLAIN},
        messages=tuple(
            Message(m["role"], tuple(_part(part) for part in m["parts"]), m.get("name", "")) for m in kept["messages"]
        ),
        hints=Hints(**{**hints, "capabilities": frozenset(hints["capabilities"])}),
        stop=tuple(kept["stop"]),
        tools=tuple(Tool(**tool) for tool in kept["tools"]),
    )


def _part(kept: Mapping[str, Any]) -> Part:
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in kept.items() if name != "kind"
    }
    return PARTS[kept["kind"]](**told)
