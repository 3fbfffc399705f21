"""PURE: requests of Anthropic's messages API -> routing.types.

`cache_control` marks say where a prompt may be cached; one on the request itself marks the prompt's end.
"""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.asking.shown import Row, Shown
from routing.adapters.reading.exact import dumps
from routing.gateway.exchange.heads import BETAS
from routing.gateway.wire.document_parts import document_part, refuse_some_cited
from routing.gateway.wire.documents import KINDS, texts_of
from routing.gateway.wire.image_parts import image_type
from routing.gateway.wire.reading import (
    MAX_MESSAGES,
    MAX_OUTPUT_TOKENS,
    MAX_PARTS,
    MAX_TOOLS,
    Incoming,
    Json,
    by_one_model,
    chosen_tool,
    effort,
    flag,
    hints,
    mapping,
    model,
    needed,
    number,
    objects,
    passed_through,
    refuse,
    refuse_asked,
    schema,
    shallow,
    shown_in,
    stops,
    text,
    tool_name,
    unsupported,
    whole,
)
from routing.gateway.wire.tool_changes import CHANGES, after_changes, refuse_many_found, without_empty
from routing.gateway.wire.tool_rows import result_parts
from routing.types import (
    ChatRequest,
    Cited,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from ziggie.values import replace

# What this gateway does not do, and what would come back in a shape that this API's answers have no place for.
# `thread` stands for turns that this gateway never saw: the client is told so, and sends all of them.
_REFUSED = (
    *("container", "mcp_servers", "logprobs", "top_logprobs", "functions", "function_call", "audio", "thread"),
    *("compaction", "diagnostics", "billing_policy", "fallback_credit_token", "user_profile_id"),
)
_READ = frozenset(
    {"model", "messages", "max_tokens", "system", "temperature", "stop_sequences", "stream", "tools", "tool_choice"}
    | {"metadata", "output_config", "output_format", "cache_control", "context_management", *_REFUSED}
)
_READ_OF_OUTPUT = frozenset({"format", "effort"})
_THINKING = ("enabled", "disabled", "adaptive", "between_tools")
# They change how Claude thinks and how its answer comes, not what it costs or what it may hold.
# A header of another service is made of these: nothing else may stand in them.
_PASSED_BETAS = re.compile(
    r"(?:interleaved-thinking|fine-grained-tool-streaming|token-efficient-tools|advanced-tool-use|context-management|effort"
    r"|structured-outputs)-[a-z0-9-]{1,64}"
)
_MAX_BETAS = 10
# Edits that leave things out of a prompt. One that has it summarised would be paid beyond what was held.
_EDITS = ("clear_tool_uses_20250919", "clear_thinking_20251015")
_MAX_EDITS = 10
_REFUSED_OF_TOOLS = ("input_examples",)
_DIRECT = ["direct"]  # by whom a tool may be called: by the model itself


# --- requests ------------------------------------------------------------------------------------


def decode_messages(
    body: Json, headers: Mapping[str, str], *, api_key_id: str | None = None, counting: bool = False
) -> Incoming:
    """Raises InvalidInput, TooLarge or Unsupported. `counting`: for count_tokens, which needs no max_tokens."""
    refuse_asked(body, _REFUSED)
    rows = objects(body, "messages", most=MAX_MESSAGES)
    if not rows:
        refuse("messages", "must be an array of at least one message")
    limit = whole(body, "max_tokens", least=1, most=MAX_OUTPUT_TOKENS)
    if limit is None and not counting:
        refuse("max_tokens", "is required")
    metadata = mapping(body, "metadata")
    said, paying = hints({key: value for key, value in metadata.items() if key != "user_id"}, headers)
    config = _output_config(body)
    json_schema = _output_schema(config, body)
    choice, parallel = _tool_choice(body.get("tool_choice"))
    declared = _tools(body)
    tools = after_changes(rows, declared, _tool)
    _check_thinking(body)
    turns = tuple([_message(row, f"messages[{place}]") for place, row in enumerate(rows)])
    if tools:
        refuse_many_found(turns)
    messages = _system(body) + (turns if tools is declared else without_empty(turns))
    request = ChatRequest(
        messages=_with_end_marked(messages) if _mark(body, "") else messages,
        model=model(body),
        hints=said,
        max_output_tokens=limit,
        temperature=number(body, "temperature", least=0, most=1),
        stop=stops(body.get("stop_sequences"), "stop_sequences"),
        tools=tools,
        tool_choice=chosen_tool(choice, tools),
        parallel_tool_calls=parallel,
        json_schema=json_schema,
        reasoning_effort=effort(config, "effort", "output_config."),
        end_user=text(metadata, "user_id", "metadata.", default=""),
        extra={**_unsaid(config), **passed_through(body, _READ), **_context_edits(body), **_betas(headers)},
        api_key_id=api_key_id,
        **paying,
    )
    shown = shown_in(request)
    if shown and any(isinstance(part, Cited) for part in shown):
        request = _by_one_that_cites(request, rows)
    return Incoming(request, stream=bool(flag(body, "stream")), include_usage=True)


def _by_one_that_cites(request: ChatRequest, turns: list[Json]) -> ChatRequest:
    """Only what one model wrote as it stands says truly where it stands in the documents."""
    refuse_some_cited(turns)
    if request.json_schema is not None:
        unsupported("output_config.format", "and citations do not go together")
    return replace(request, hints=by_one_model(request.hints, "citations"))


def _with_citations(said: Text, block: Json, where: str) -> Text:
    rows = objects(block, "citations", f"{where}.", most=MAX_PARTS)
    shallow(rows, f"{where}.citations")
    return replace(said, citations=tuple(rows))


def _betas(headers: Mapping[str, str]) -> Json:
    """The betas that Claude is to be told of. What others add to a request is refused or read by itself."""
    asked = [name.strip() for name in headers.get(BETAS, "").split(",")]
    passed = [name for name in asked if _PASSED_BETAS.fullmatch(name)]
    return {BETAS: ",".join(passed[:_MAX_BETAS])} if passed else {}


def _context_edits(body: Json) -> Json:
    management = mapping(body, "context_management")
    for key in management.keys() - {"edits"}:
        unsupported(f"context_management.{key[:40]}")
    edits = objects(management, "edits", "context_management.", most=_MAX_EDITS)
    for place, edit in enumerate(edits):
        if edit.get("type") not in _EDITS:
            unsupported(f"context_management.edits[{place}].type", f"must be one of {', '.join(_EDITS)}")
    return {"context_management": {"edits": edits}} if edits else {}


def _output_config(body: Json) -> Json:
    config = mapping(body, "output_config")
    for key, said in config.items():
        if key not in _READ_OF_OUTPUT and said is not None:
            unsupported(f"output_config.{key[:40]}")
    return config


def _output_schema(config: Json, body: Json) -> Json | None:
    wanted = mapping(config, "format", "output_config.") or mapping(body, "output_format")
    if not wanted:
        return None
    if wanted.get("type") != "json_schema":
        refuse("output_config.format.type", "must be json_schema")
    where = "output_config.format."
    return schema(needed(wanted, "schema", where), f"{where}schema")


def _unsaid(config: Json) -> Json:
    """This API's effort is for the whole answer and asks for no thinking: what is not said of that is left unsaid."""
    return {"thinking": None} if config.get("effort") else {}


def _check_thinking(body: Json) -> None:
    """It is passed on as it is, or said as an effort: what it says must be clear."""
    thinking = mapping(body, "thinking")
    if not thinking:
        return
    kind = text(thinking, "type", "thinking.")
    if kind not in _THINKING:
        refuse("thinking.type", f"must be one of {', '.join(_THINKING)}")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= MAX_OUTPUT_TOKENS:
            refuse("thinking.budget_tokens", f"must be a whole number from 1 to {MAX_OUTPUT_TOKENS}")


def _system(body: Json) -> tuple[Message, ...]:
    value = body.get("system")
    if isinstance(value, str):
        return (Message("system", (Text(value),)),) if value else ()
    rows = objects(body, "system", most=MAX_PARTS)
    if not rows:
        return ()
    if any(row.get("type") != "text" for row in rows):
        refuse("system", "must be a string or an array of text blocks")
    return (Message("system", tuple(Text(text(row, "text", "system."), _mark(row, "system.")) for row in rows)),)


def _mark(holder: Json, where: str) -> bool:
    """Whether the prompt up to here is to be cached, for the usual time: a longer one has a price of its own."""
    control = mapping(holder, "cache_control", where)
    if control and control.get("type") != "ephemeral":
        refuse(f"{where}cache_control.type", "must be ephemeral")
    return bool(control)


def _marks(block: Json, where: str) -> bool:
    """The same of a block that has been read, or of a text within it."""
    within = texts_of(block) if block["type"] in KINDS else ()
    return any([_mark(block, f"{where}."), *[_mark(row, f"{where}.content.") for row in within]])


def _with_end_marked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = messages[-1]
    if not last.parts or isinstance(last.parts[-1], Reasoning):
        return messages
    return (*messages[:-1], replace(last, parts=(*last.parts[:-1], replace(last.parts[-1], cache_mark=True))))


def _message(row: Json, where: str) -> Message:
    said = row.get("role")
    role: Role
    if said == "user":
        role = "user"
    elif said == "assistant":
        role = "assistant"
    elif said == "system":
        role = "system"
    else:
        refuse(f"{where}.role", "must be user, assistant or system")
    content = row.get("content")
    if isinstance(content, str):
        return Message(role, (Text(content),))
    blocks = objects(row, "content", f"{where}.", most=MAX_PARTS)
    if not blocks and (content != [] or role == "user"):
        refuse(f"{where}.content", "must be a string or an array of blocks, and a user's not an empty one")
    parts: list[Part] = []
    shown = Shown()
    for place, block in enumerate(blocks):
        said_here = _parts(block, f"{where}.content[{place}]", role, shown)
        shown.add(said_here)
        parts += said_here
    return Message(role, tuple(parts))


def _parts(block: Json, where: str, role: Role, before: Shown) -> list[Part]:
    if block.get("type") == "tool_result" and role == "user":
        return _tool_result(block, where, before)
    if block.get("type") in CHANGES and role == "system":
        return []  # read with the tools
    return [_block(block, where, role)]


def _block(block: Json, where: str, role: Role) -> Part:
    match block.get("type"), role:
        case "text", _:
            said = Text(text(block, "text", f"{where}."), _mark(block, f"{where}."))
            return _with_citations(said, block, where) if block.get("citations") and role == "assistant" else said
        case "image", "user":
            image = _image(block, where)
            return replace(image, cache_mark=True) if _mark(block, f"{where}.") else image
        case (("document" | "search_result"), "user"):
            return replace(document_part(block, where), cache_mark=_marks(block, where))
        case "tool_use", "assistant":
            called = text(block, "id", f"{where}."), tool_name(block, f"{where}."), _arguments(block, where)
            return ToolCall(*called, cache_mark=_mark(block, f"{where}."))
        case "thinking", "assistant":
            return Reasoning(text(block, "thinking", f"{where}."), text(block, "signature", f"{where}.", default=""))
        case "redacted_thinking", "assistant":
            return Reasoning(text(block, "data", f"{where}."), redacted=True)
        case ((str() as kind), _):
            unsupported(f"{where}.type", f"{kind[:40]} is not supported in {role}'s turns here")
    return refuse(f"{where}.type", "must name a kind of block")


def _arguments(block: Json, where: str) -> str:
    try:
        return dumps(mapping(block, "input", f"{where}."))
    except TypeError:
        return refuse(f"{where}.input", "is nested too deeply")


def _tool_result(block: Json, where: str, before: Shown) -> list[Part]:
    """A tool's answer, and the images and documents in it that are no text."""
    call_id, failed = text(block, "tool_use_id", f"{where}."), bool(flag(block, "is_error", f"{where}."))
    content, mark = block.get("content"), _mark(block, f"{where}.")
    if content is None or isinstance(content, str):
        return [ToolResult(call_id, content or "", is_error=failed, cache_mark=mark)]
    rows = objects(block, "content", f"{where}.", most=MAX_PARTS)
    if any(row.get("type") not in ("text", "image", "tool_reference", *KINDS) for row in rows):
        unsupported(f"{where}.content", "must be text, images, documents or found tools: it is a tool's result")
    found = tuple([text(row, "tool_name", f"{where}.content.") for row in rows if row["type"] == "tool_reference"])
    given = [_row(row, f"{where}.content", call_id) for row in rows if row["type"] != "tool_reference"]
    mark = any([mark, *[_marks(row, f"{where}.content") for row in rows]])
    return result_parts(call_id, given, before, is_error=failed, cache_mark=mark, references=found)


def _row(row: Json, where: str, call_id: str) -> Row:
    """A text, or an image or a document that a tool gave."""
    if row["type"] == "text":
        return text(row, "text", f"{where}.")
    if row["type"] == "image":
        return replace(_image(row, where), tool_call_id=call_id)
    part = document_part(row, where)
    return part.text if isinstance(part, Text) else replace(part, tool_call_id=call_id)


def _image(block: Json, where: str) -> Image:
    source = mapping(block, "source", f"{where}.")
    if mapping(block, "transformations", f"{where}.").get("oversized_image") not in (None, "downsize"):
        unsupported(f"{where}.transformations.oversized_image", "must be downsize: most APIs know nothing else")
    if source.get("type") == "base64":
        said, data = (text(source, name, f"{where}.source.") for name in ("media_type", "data"))
        kind = image_type(said, data, f"{where}.source", documents="a block of the type document")
        return Image(media_type=kind, data=data)
    if source.get("type") != "url":
        unsupported(f"{where}.source.type", "must be base64 or url")
    url = text(source, "url", f"{where}.source.")
    if not url.startswith(("https://", "http://")):
        refuse(f"{where}.source.url", "must be an http(s) address")
    return Image(url=url)


def _tools(body: Json) -> tuple[Tool, ...]:
    rows = objects(body, "tools", most=MAX_TOOLS)
    tools = [_tool(row, f"tools[{place}].") for place, row in enumerate(rows)]
    if len({tool.name for tool in tools}) < len(tools):
        refuse("tools", "must not have the same name twice")
    return tuple(tools)


def _tool(row: Json, where: str) -> Tool:
    if row.get("type") not in (None, "custom"):
        unsupported(f"{where}type", "must be custom: the provider's own tools are not supported by this gateway")
    for key in _REFUSED_OF_TOOLS:
        if row.get(key):
            unsupported(f"{where}{key}")
    if row.get("allowed_callers") not in (None, [], _DIRECT):
        unsupported(f"{where}allowed_callers", "other than direct are not supported by this gateway")
    return Tool(
        name=tool_name(row, where),
        description=text(row, "description", where, default=""),
        parameters=schema(needed(row, "input_schema", where), f"{where}input_schema"),
        strict=bool(flag(row, "strict", where)),
        cache_mark=_mark(row, where),
        deferred=bool(flag(row, "defer_loading", where)),
    )


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
