"""PURE: Anthropic's messages <-> routing.types.

`cache_control` marks say where a prompt may be cached and change no answer: they are read past.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from routing.gateway.reading import (
    MAX_IMAGES,
    MAX_MESSAGES,
    MAX_OUTPUT_TOKENS,
    MAX_PARTS,
    MAX_TOOLS,
    Incoming,
    Json,
    flag,
    hints,
    mapping,
    model,
    number,
    objects,
    refuse,
    schema,
    stops,
    text,
    tool_name,
    whole,
)
from routing.types import (
    ChatRequest,
    ChatResult,
    Delta,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    StopReason,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from ziggie.errors import TooLarge, Unsupported, ZiggieError

_READ = frozenset(
    {"model", "messages", "max_tokens", "system", "temperature", "stop_sequences", "stream", "tools", "tool_choice"}
    | {"metadata", "output_config", "output_format", "cache_control"}
)
_REFUSED = ("container", "mcp_servers", "context_management")
_STOP_REASONS: dict[StopReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# --- requests ------------------------------------------------------------------------------------


def decode_messages(
    body: Json, headers: Mapping[str, str], *, api_key_id: str | None = None, counting: bool = False
) -> Incoming:
    """Raises InvalidInput, TooLarge or Unsupported. `counting`: for count_tokens, which needs no max_tokens."""
    for key in _REFUSED:
        if body.get(key) is not None:
            raise Unsupported(f"{key} is not supported by this gateway")
    rows = objects(body, "messages", most=MAX_MESSAGES)
    if not rows:
        refuse("messages", "must be an array of at least one message")
    limit = whole(body, "max_tokens", least=1, most=MAX_OUTPUT_TOKENS)
    if limit is None and not counting:
        refuse("max_tokens", "is required")
    metadata = mapping(body, "metadata")
    said, paying = hints({key: value for key, value in metadata.items() if key != "user_id"}, headers)
    config = mapping(body, "output_config")
    json_schema = _output_schema(config, body)
    choice, parallel = _tool_choice(body.get("tool_choice"))
    request = ChatRequest(
        messages=_system(body) + tuple([_message(row, f"messages[{place}]") for place, row in enumerate(rows)]),
        model=model(body),
        hints=said,
        max_output_tokens=limit,
        temperature=number(body, "temperature", least=0, most=1),
        stop=stops(body.get("stop_sequences"), "stop_sequences"),
        tools=_tools(body),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        json_schema=json_schema,
        reasoning_effort=text(config, "effort", "output_config.", default=""),
        end_user=text(metadata, "user_id", "metadata.", default=""),
        extra={key: value for key, value in body.items() if key not in _READ},
        api_key_id=api_key_id,
        **paying,
    )
    _count_images(request)
    return Incoming(request, stream=bool(flag(body, "stream")), include_usage=True)


def _output_schema(config: Json, body: Json) -> Json | None:
    wanted = mapping(config, "format", "output_config.") or mapping(body, "output_format")
    if not wanted:
        return None
    if wanted.get("type") != "json_schema":
        refuse("output_config.format.type", "must be json_schema")
    return schema(wanted.get("schema"), "output_config.format.schema")


def _system(body: Json) -> tuple[Message, ...]:
    value = body.get("system")
    if not value:
        return ()
    if isinstance(value, str):
        return (Message("system", (Text(value),)),)
    rows = objects(body, "system", most=MAX_PARTS)
    if any(row.get("type") != "text" for row in rows):
        refuse("system", "must be a string or an array of text blocks")
    return (Message("system", tuple(Text(text(row, "text", "system.")) for row in rows)),)


def _message(row: Json, where: str) -> Message:
    said = row.get("role")
    role: Role
    if said == "user":
        role = "user"
    elif said == "assistant":
        role = "assistant"
    else:
        refuse(f"{where}.role", "must be user or assistant")
    content = row.get("content")
    if isinstance(content, str):
        return Message(role, (Text(content),))
    blocks = objects(row, "content", f"{where}.", most=MAX_PARTS)
    if not blocks and content != []:
        refuse(f"{where}.content", "must be a string or an array of blocks")
    return Message(role, tuple(_block(block, f"{where}.content[{n}]", role) for n, block in enumerate(blocks)))


def _block(block: Json, where: str, role: Role) -> Part:
    match block.get("type"), role:
        case "text", _:
            return Text(text(block, "text", f"{where}."))
        case "image", "user":
            return _image(mapping(block, "source", f"{where}."), where)
        case "tool_result", "user":
            return ToolResult(
                text(block, "tool_use_id", f"{where}."),
                _result_text(block, where),
                is_error=bool(flag(block, "is_error", f"{where}.")),
            )
        case "tool_use", "assistant":
            arguments = orjson.dumps(mapping(block, "input", f"{where}.")).decode()
            return ToolCall(text(block, "id", f"{where}."), tool_name(block, f"{where}."), arguments)
        case "thinking", "assistant":
            return Reasoning(text(block, "thinking", f"{where}."), text(block, "signature", f"{where}.", default=""))
        case "redacted_thinking", "assistant":
            return Reasoning(text(block, "data", f"{where}."), redacted=True)
        case ((str() as kind), _):
            raise Unsupported(f"{where}: blocks of type {kind[:40]} are not supported in {role}'s turns here")
    return refuse(f"{where}.type", "must name a kind of block")


def _result_text(block: Json, where: str) -> str:
    content = block.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    rows = objects(block, "content", f"{where}.", most=MAX_PARTS)
    if any(row.get("type") != "text" for row in rows):
        raise Unsupported(f"{where}: a tool's result must be text")
    return "".join(text(row, "text", f"{where}.content.") for row in rows)


def _image(source: Json, where: str) -> Image:
    if source.get("type") == "base64":
        return Image(
            media_type=text(source, "media_type", f"{where}.source."), data=text(source, "data", f"{where}.source.")
        )
    if source.get("type") != "url":
        raise Unsupported(f"{where}: an image must be given as base64 or url")
    url = text(source, "url", f"{where}.source.")
    if not url.startswith(("https://", "http://")):
        refuse(f"{where}.source.url", "must be an http(s) address")
    return Image(url=url)


def _tools(body: Json) -> tuple[Tool, ...]:
    tools = []
    for place, row in enumerate(objects(body, "tools", most=MAX_TOOLS)):
        where = f"tools[{place}]."
        if row.get("type") not in (None, "custom"):
            raise Unsupported(f"{where}type: the provider's own tools are not supported by this gateway")
        tools.append(
            Tool(
                name=tool_name(row, where),
                description=text(row, "description", where, default=""),
                parameters=schema(row.get("input_schema"), f"{where}input_schema"),
                strict=bool(flag(row, "strict", where)),
            )
        )
    return tuple(tools)


def _tool_choice(value: Any) -> tuple[str, bool | None]:
    """Our tool_choice, and whether several calls at once are allowed (None: not said)."""
    if value is None:
        return "", None
    if not isinstance(value, dict):
        refuse("tool_choice", "must be an object")
    parallel = False if flag(value, "disable_parallel_tool_use", "tool_choice.") else None
    match value.get("type"):
        case "auto" | "none" as kind:
            return kind, parallel
        case "any":
            return "required", parallel
        case "tool":
            return tool_name(value, "tool_choice."), parallel
    return refuse("tool_choice.type", "must be auto, any, tool or none")


def _count_images(request: ChatRequest) -> None:
    images = sum(isinstance(part, Image) for message in request.messages for part in message.parts)
    if images > MAX_IMAGES:
        raise TooLarge(f"at most {MAX_IMAGES} images are accepted, and there are {images}")


# --- answers -------------------------------------------------------------------------------------


def encode_result(result: ChatResult, *, call_id: str, model: str) -> bytes:
    blocks = [_encoded(part) for part in result.parts if not isinstance(part, Text) or part.text]
    return orjson.dumps(
        {
            **_head(call_id, model),
            "content": blocks,
            **_stop(result.stop_reason, result.stop_sequence),
            "usage": _usage(result.usage),
        }
    )


def _stop(reason: StopReason, sequence: str) -> Json:
    if sequence and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    return {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None}


def _head(call_id: str, model: str) -> Json:
    return {"id": f"msg_{call_id}", "type": "message", "role": "assistant", "model": model}


def _encoded(part: Part) -> Json:
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
    if isinstance(part, Reasoning):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.text}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return {"type": "text", "text": part.text if isinstance(part, Text) else ""}


def _input(arguments: str) -> Any:
    """A tool call's arguments as the object that this API promises, whatever the model wrote."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _usage(usage: Usage) -> Json:
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max((usage.input_tokens or 0) - cached - written, 0),
        "output_tokens": usage.output_tokens or 0,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
    }


class StreamEncoder:
    """One answer as Anthropic's events: blocks that open, grow and close one after another."""

    def __init__(self, *, call_id: str, model: str, input_tokens: int = 0) -> None:
        self._call_id, self._model, self._input_tokens = call_id, model, input_tokens
        self._begun = False
        self._open: tuple[str, int] | None = None  # kind and tool index of the open block
        self._later: dict[int, list[Delta]] = {}  # tool calls that came while another one was open
        self._index = -1
        self._stop_sequence = ""

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """These deltas as bytes of the stream; empty if a client would see nothing of them."""
        out: list[bytes] = []
        for delta in deltas:
            self._stop_sequence = delta.stop_sequence or self._stop_sequence
            if delta.is_output or delta.reasoning_signature:
                self._begin(out)
                self._delta(delta, out)
        return b"".join(out)

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes:
        out: list[bytes] = []
        self._begin(out)
        self._close(out)
        stop = _stop(stop_reason, self._stop_sequence)
        out.append(_event("message_delta", {"delta": stop, "usage": _usage(usage)}))
        out.append(_event("message_stop", {}))
        return b"".join(out)

    def failure(self, error: ZiggieError) -> bytes:
        return b"event: error\ndata: " + encode_error(error, error.http_status, self._call_id) + b"\n\n"

    def _begin(self, out: list[bytes]) -> None:
        if self._begun:
            return
        self._begun = True
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        message = {**_head(self._call_id, self._model), "content": [], "stop_reason": None, "stop_sequence": None}
        out.append(_event("message_start", {"message": {**message, "usage": usage}}))

    def _delta(self, delta: Delta, out: list[bytes]) -> None:
        if delta.reasoning_redacted:
            self._block(("redacted", self._index + 1), {"type": "redacted_thinking", "data": delta.reasoning}, out)
        elif delta.reasoning:
            self._block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""}, out)
            self._piece({"type": "thinking_delta", "thinking": delta.reasoning}, out)
        if delta.reasoning_signature:
            self._block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""}, out)
            self._piece({"type": "signature_delta", "signature": delta.reasoning_signature}, out)
            self._close(out)  # it signs one block: thinking that follows is another
        if delta.text:
            self._block(("text", 0), {"type": "text", "text": ""}, out)
            self._piece({"type": "text_delta", "text": delta.text}, out)
        if delta.tool_index is not None:
            if self._open is not None and self._open[0] == "tool" and self._open[1] != delta.tool_index:
                # Blocks cannot overlap here, and pieces of several calls may: the others wait for the first.
                self._later.setdefault(delta.tool_index, []).append(delta)
            else:
                self._tool(delta, delta.tool_index, out)

    def _tool(self, delta: Delta, index: int, out: list[bytes]) -> None:
        start = {"type": "tool_use", "id": delta.tool_id, "name": delta.tool_name, "input": {}}
        self._block(("tool", index), start, out)
        if delta.tool_arguments:
            self._piece({"type": "input_json_delta", "partial_json": delta.tool_arguments}, out)

    def _block(self, kind: tuple[str, int], start: Json, out: list[bytes]) -> None:
        """Makes `kind` the open block, closing another one and opening this one where needed."""
        if self._open == kind:
            return
        self._close(out)
        self._open = kind
        self._index += 1
        out.append(_event("content_block_start", {"index": self._index, "content_block": start}))

    def _piece(self, delta: Json, out: list[bytes]) -> None:
        out.append(_event("content_block_delta", {"index": self._index, "delta": delta}))

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            self._open = None
            out.append(_event("content_block_stop", {"index": self._index}))
        while self._later:
            index = min(self._later)
            for delta in self._later.pop(index):
                self._tool(delta, index, out)
            self._open = None
            out.append(_event("content_block_stop", {"index": self._index}))


def _event(name: str, fields: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **fields}) + b"\n\n"


def encode_count(tokens: int) -> bytes:
    return orjson.dumps({"input_tokens": tokens})


def encode_error(error: ZiggieError, status: int, request_id: str) -> bytes:
    body: Json = {"type": _ERROR_TYPES.get(status, "api_error"), "message": error.message, "code": error.code}
    details = [detail for detail in error.details if "param" not in detail]
    if details:
        body["details"] = details
    return orjson.dumps({"type": "error", "error": body, "request_id": request_id}, default=str)
