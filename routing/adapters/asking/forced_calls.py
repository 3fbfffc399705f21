"""Having a tool called on servers that cannot be told to: the model is held to a JSON Schema of the call, and the
text that it writes is the call."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from routing.adapters.answers.call_ids import CallIds
from routing.adapters.answers.decoding import HoldingDecoder
from routing.adapters.asking.prompting import with_instruction
from routing.adapters.base import StreamDecoder, WireRequest
from routing.adapters.faults.errors import make_error
from routing.adapters.reading.exact import exactly
from routing.adapters.reading.wire import Json, json_text
from routing.types import (
    ChatRequest,
    ChatResult,
    Delta,
    StopReason,
    Text,
    Tool,
    ToolCall,
    UnsupportedByProvider,
    Usage,
)
from ziggie.values import replace

_LEFT_OPEN = frozenset({"", "auto", "none"})
_DEFINITIONS = ("$defs", "definitions")  # what a reference may point to, at the top of a schema


def is_forced(request: ChatRequest) -> bool:
    """True if the caller leaves the model no choice but to call a tool."""
    return request.tool_choice not in _LEFT_OPEN and bool(request.tools)


def as_answer(request: ChatRequest) -> tuple[ChatRequest, tuple[str, ...]]:
    """The request as one for a JSON document that is a call, and the names of the tools that it may call.
    Raises UnsupportedByProvider for a tool that there is not, or for tools whose schemas cannot stand in one."""
    tools = [tool for tool in request.tools if request.tool_choice in ("required", tool.name)]
    if not tools:
        raise UnsupportedByProvider(f"tool_choice names {request.tool_choice!r}, which is no tool here")
    schema = _object(tools[0].parameters) if len(tools) == 1 else _one_of(tools)
    held = with_instruction(request, _instruction(tools, schema))
    held = replace(held, tools=(), tool_choice="", parallel_tool_calls=None, json_schema=schema, json_object=False)
    return held, tuple(tool.name for tool in tools)


def _object(parameters: Mapping[str, Any]) -> Json:
    return {"type": "object", **parameters}


def _one_of(tools: list[Tool]) -> Json:
    """A call of any of the tools, as its name and its arguments."""
    shared: Json = {}
    calls = []
    for tool in tools:
        parameters = _object(tool.parameters)
        for key in _DEFINITIONS:
            definitions = parameters.pop(key, {})
            if not isinstance(definitions, Mapping):
                raise UnsupportedByProvider(f"tool_choice: {key} of the tool {tool.name!r} must be an object")
            for name, definition in definitions.items():
                if shared.setdefault(key, {}).setdefault(name, definition) != definition:
                    raise UnsupportedByProvider(f"tool_choice: several tools define {name!r} differently")
        properties = {"name": {"type": "string", "enum": [tool.name]}, "arguments": parameters}
        calls.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
    return {"anyOf": calls, **shared}


def _instruction(tools: list[Tool], schema: Json) -> str:
    said = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), default=dict)
    about = "\n".join(f"{tool.name}: {tool.description}" for tool in tools)
    form = "the arguments of the call" if len(tools) == 1 else "the name and the arguments of one call"
    return f"Call this tool:\n{about}\nAnswer with a JSON object and nothing else: {form}, valid against\n{said}"


# --- answers -----------------------------------------------------------------------------------------


def as_call(result: ChatResult, sent: WireRequest) -> ChatResult:
    """The answer as the call that it is. Raises ProviderError("unfit") where the model wrote something else."""
    if result.tool_calls:  # it called by itself
        return result
    part = _call(result.text, result.stop_reason, sent, result.usage)
    if isinstance(part, Text):
        return result
    stop: StopReason = "tool_calls" if result.stop_reason == "stop" else result.stop_reason
    others = tuple(part for part in result.parts if not isinstance(part, Text))
    return replace(result, parts=(*others, part), stop_reason=stop)


def _call(text: str, stop_reason: StopReason, sent: WireRequest, usage: Usage | None) -> Text | ToolCall:
    """The call, of which an answer that its limit cut holds a part, or only words, as a refusal does."""
    names, identity = sent.calls, CallIds(sent).of(0)
    if stop_reason == "content_filter":
        return Text(text)
    try:
        said = exactly(text.encode(), orjson.loads(text))
    except orjson.JSONDecodeError:
        said = None
    if len(names) == 1 and (isinstance(said, dict) or stop_reason == "length"):
        return ToolCall(identity, names[0], text)
    if isinstance(said, dict) and said.get("name") in names and isinstance(said.get("arguments"), dict):
        return ToolCall(identity, said["name"], json_text(said["arguments"]))
    if stop_reason == "length":
        return Text(text)
    raise make_error("unfit", "the model was held to a tool call and wrote something else", sent, usage=usage)


class CallDecoder(HoldingDecoder):
    """Another decoder's stream, whose text is held back until it is a whole call."""

    def __init__(self, inner: StreamDecoder, sent: WireRequest) -> None:
        super().__init__(inner, sent)
        self._text: list[str] = []
        self._has_called = False

    def _read(self, deltas: list[Delta]) -> list[Delta]:
        out: list[Delta] = []
        for delta in deltas:
            self._has_called = self._has_called or delta.tool_index is not None
            self._text.append(delta.text)
            told = replace(delta, text="", held=delta.text)
            if delta.stop_reason is not None and not self._has_called:
                call = _call("".join(self._text), delta.stop_reason, self._sent, self.usage)
                if isinstance(call, Text):
                    out.append(Delta(text=call.text))
                else:
                    called = Delta(tool_index=0, tool_id=call.id, tool_name=call.name, tool_arguments=call.arguments)
                    out.append(called)
                told = replace(told, stop_reason="tool_calls" if delta.stop_reason == "stop" else delta.stop_reason)
            out.append(told)
        return out
