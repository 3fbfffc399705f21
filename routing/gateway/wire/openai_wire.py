"""PURE: requests of OpenAI's chat completions -> routing.types."""

from collections.abc import Mapping
from typing import Any

from routing.adapters.answers.call_pieces import google_signature
from routing.adapters.asking.shown import Shown
from routing.gateway.wire.openai_parts import (
    allowed,
    answer_form,
    function_tool,
    image,
    is_marked,
)
from routing.gateway.wire.pdf_parts import file_pdf
from routing.gateway.wire.reading import (
    MAX_MESSAGES,
    MAX_NAME,
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
    number,
    objects,
    passed_through,
    refuse,
    shown_in,
    stops,
    text,
    tool_name,
    unsupported,
    whole,
)
from routing.gateway.wire.tool_rows import result_parts
from routing.planning.demand import MOST_ANSWERS
from routing.types import (
    ChatRequest,
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

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_SPEAKING = frozenset[Role]({"system", "user"})
# What is read here; everything else passes through to providers that know it.
_READ = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stop", "seed", "stream"}
    | {"stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"}
    | {"metadata", "store", "logprobs", "top_logprobs", "modalities", "user", "n"}
)
# All that most requests say.
_USUAL = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stream"})
# What would come back in a shape that an answer has no place for.
_REFUSED = ("functions", "function_call", "audio", "web_search_options", "context_management", "moderation")


# --- requests ------------------------------------------------------------------------------------


def decode_chat(body: Json, headers: Mapping[str, str], *, api_key_id: str | None = None) -> Incoming:
    """Raises InvalidInput, TooLarge or Unsupported. `headers` are hints by name, without `x-ziggie-`."""
    rows = objects(body, "messages", most=MAX_MESSAGES)
    if not rows:
        refuse("messages", "must be an array of at least one message")
    if rows[-1].get("role") == "assistant":
        _refuse_to_go_on(rows[-1], len(rows) - 1)
    if not headers and _USUAL.issuperset(body):  # the rest of this function would find nothing
        request = ChatRequest(
            messages=tuple([_message(row, place) for place, row in enumerate(rows)]),
            model=model(body),
            max_output_tokens=_output_limit(body),
            temperature=number(body, "temperature", least=0, most=2),
            api_key_id=api_key_id,
        )
        shown_in(request)
        return Incoming(request, stream=bool(flag(body, "stream")))
    _refuse_what_cannot_be_answered(body)
    said, paying = hints(mapping(body, "metadata"), headers)
    logprobs, choices = _logprobs(body), whole(body, "n", least=1, most=MOST_ANSWERS) or 1
    if logprobs is not None or choices != 1:
        said = by_one_model(said, "logprobs" if choices == 1 else "n")
    output = answer_form(mapping(body, "response_format"), "response_format.", within="json_schema")
    tools, choice = _allowed(body, _tools(body))
    request = ChatRequest(
        messages=tuple([_message(row, place) for place, row in enumerate(rows)]),
        model=model(body),
        hints=said,
        max_output_tokens=_output_limit(body),
        temperature=number(body, "temperature", least=0, most=2),
        stop=stops(body.get("stop"), "stop", or_one=True),
        seed=whole(body, "seed", least=-(2**63), most=2**63 - 1),
        tools=tools,
        tool_choice=chosen_tool(choice, tools),
        parallel_tool_calls=flag(body, "parallel_tool_calls"),
        reasoning_effort=effort(body, "reasoning_effort"),
        logprobs=logprobs,
        choices=choices,
        end_user=text(body, "user", default=""),
        extra=passed_through(body, _READ),
        api_key_id=api_key_id,
        **output,
        **paying,
    )
    shown_in(request)
    return Incoming(
        request,
        stream=bool(flag(body, "stream")),
        include_usage=bool(flag(mapping(body, "stream_options"), "include_usage", "stream_options.")),
    )


def _output_limit(body: Json) -> int | None:
    limit = whole(body, "max_completion_tokens", least=1, most=MAX_OUTPUT_TOKENS)
    older = whole(body, "max_tokens", least=1, most=MAX_OUTPUT_TOKENS)
    if limit is not None and older not in (None, limit):
        refuse("max_tokens", "is the older name of max_completion_tokens: give one of them")
    return older if limit is None else limit


def _refuse_what_cannot_be_answered(body: Json) -> None:
    for key in _REFUSED:
        if body.get(key) is not None:
            unsupported(key)
    if flag(body, "store"):
        unsupported("store", "is not supported: this gateway keeps no answers for later reading")
    if body.get("modalities") not in (None, ["text"]):
        unsupported("modalities", "other than text are not supported by this gateway")


def _logprobs(body: Json) -> int | None:
    """How many likely tokens to name beside each of the answer; None: nothing of that kind."""
    beside = whole(body, "top_logprobs", least=0, most=20)
    if flag(body, "logprobs"):
        return beside or 0
    if beside:
        refuse("top_logprobs", "needs logprobs: true")
    return None


def _message(row: Json, place: int) -> Message:
    said = row.get("role")
    role = _ROLES.get(said) if isinstance(said, str) else None
    content = row.get("content")
    if role in _SPEAKING and isinstance(content, str) and "name" not in row:  # nearly all of them
        return Message(role, (Text(content),))
    where = f"messages[{place}]"
    if role is None:
        refuse(f"{where}.role", "must be system, developer, user, assistant or tool")
    if role == "tool":
        return Message("tool", tuple(_result(text(row, "tool_call_id", f"{where}."), content, f"{where}.content")))
    if isinstance(content, str):
        parts: list[Part] = [Text(content)]
    elif content is None and role == "assistant":
        parts = []
    else:
        parts = _parts(row, where, role)
    if role == "assistant":
        thinking = text(row, "reasoning_content", f"{where}.", default="") or _thought(row)
        parts[:0] = [Reasoning(thinking)] if thinking else []
        parts += _calls(row, where)
        if isinstance(row.get("refusal"), str) and not any(isinstance(part, Text) and part.text for part in parts):
            parts.append(Text(row["refusal"]))
        if row.get("function_call") is not None:
            unsupported(f"{where}.function_call", "is not supported by this gateway: use tool_calls")
        if row.get("audio") is not None:
            unsupported(f"{where}.audio")
    return Message(role, tuple(parts), _name(row, where))


def _refuse_to_go_on(row: Json, place: int) -> None:
    """Mistral, DeepSeek and Kimi go on with a last turn that is marked so; others would answer anew."""
    for mark in ("prefix", "partial"):
        if row.get(mark):
            unsupported(f"messages[{place}].{mark}")


def _thought(row: Json) -> str:
    """Thinking under its other name."""
    thought = row.get("reasoning")
    return thought if isinstance(thought, str) else ""


def _name(row: Json, where: str) -> str:
    name = text(row, "name", f"{where}.", default="")
    if len(name) > MAX_NAME:
        refuse(f"{where}.name", f"must have at most {MAX_NAME} characters")
    return name


def _calls(row: Json, where: str) -> list[Part]:
    """The calls of a turn, each after what Google signed it with."""
    parts: list[Part] = []
    for place, call in enumerate(objects(row, "tool_calls", f"{where}.", most=MAX_PARTS)):
        signature = google_signature(call)
        parts += [Reasoning("", signature)] if signature else []
        parts.append(_call(call, f"{where}.tool_calls[{place}]"))
    return parts


def _call(call: Json, where: str) -> ToolCall:
    if call.get("type", "function") != "function":
        unsupported(f"{where}.type", "must be function: other calls are not supported by this gateway")
    function = mapping(call, "function", f"{where}.")
    name = tool_name(function, f"{where}.function.")
    return ToolCall(text(call, "id", f"{where}."), name, text(function, "arguments", f"{where}.function.", default=""))


def _parts(row: Json, where: str, role: Role) -> list[Part]:
    rows = objects(row, "content", f"{where}.", most=MAX_PARTS)
    if not rows and (row.get("content") != [] or role == "user"):
        refuse(f"{where}.content", "must be a string or an array of parts, and a user's not an empty one")
    return [_part(part, f"{where}.content[{place}]", role) for place, part in enumerate(rows)]


def _part(part: Json, where: str, role: Role) -> Part:
    kind = part.get("type")
    if kind == "text":
        return Text(text(part, "text", f"{where}."), is_marked(part))
    if kind == "refusal" and role == "assistant":
        return Text(text(part, "refusal", f"{where}."))
    if kind == "image_url" and role == "user":
        return _image(part, where)
    if kind == "file" and role == "user":
        return replace(file_pdf(part, where), cache_mark=is_marked(part))
    if kind in ("input_audio", "file", "image_url"):
        unsupported(f"{where}.type", f"{kind} is not supported here")
    return refuse(f"{where}.type", "must be text, image_url or file")


def _image(part: Json, where: str) -> Image:
    value = part.get("image_url")
    said = {"url": value} if isinstance(value, str) else mapping(part, "image_url", f"{where}.")
    return image(said, f"{where}.image_url.")


def _result(call_id: str, content: Any, where: str) -> list[Part]:
    if content is None or isinstance(content, str):
        return [ToolResult(call_id, content or "")]
    rows = objects({"content": content}, "content", where, most=MAX_PARTS)
    if any(row.get("type") != "text" for row in rows):
        unsupported(where, "must be text: it is a tool's answer")
    texts = [text(row, "text", f"{where}.") for row in rows]
    return result_parts(call_id, texts, Shown(), cache_mark=any(map(is_marked, rows)))


def _tools(body: Json) -> tuple[Tool, ...]:
    tools = []
    for place, row in enumerate(objects(body, "tools", most=MAX_TOOLS)):
        where = f"tools[{place}]"
        if row.get("type", "function") != "function":
            unsupported(f"{where}.type", "must be function: other tools are not supported by this gateway")
        said = mapping(row, "function", f"{where}.")
        tools.append(function_tool(said, f"{where}.function.", cache_mark=is_marked(row)))
    return tuple(tools)


def _allowed(body: Json, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model may call, and the choice among them."""
    value = body.get("tool_choice")
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return tools, _tool_choice(value)
    where = "tool_choice.allowed_tools."
    said = mapping(value, "allowed_tools", "tool_choice.")
    named = [_tool_choice(row) for row in objects(said, "tools", where, most=MAX_TOOLS)]
    return allowed(said, named, tools, where)


def _tool_choice(value: Any) -> str:
    if value is None:
        return ""
    if value in ("auto", "none", "required"):
        return str(value)
    if value == "any":  # Mistral's word for it
        return "required"
    if isinstance(value, dict) and value.get("type") == "function":
        return tool_name(mapping(value, "function", "tool_choice."), "tool_choice.function.")
    return refuse("tool_choice", "must be auto, none, required, one function or allowed_tools")
