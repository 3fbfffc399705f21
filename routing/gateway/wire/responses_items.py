"""PURE: the items of OpenAI's responses API -> turns of a conversation.

An answer's items (thinking, text, calls) are one turn again, and so are the results of its calls, which follow it at
once.
"""

import re
from collections.abc import Sequence
from typing import Any

from routing.adapters.asking.shown import Row, Shown
from routing.gateway.wire.openai_parts import image, is_marked
from routing.gateway.wire.pdf_parts import input_pdf
from routing.gateway.wire.reading import MAX_MESSAGES, MAX_PARTS, Json, mapping, objects, refuse, text, unsupported
from routing.gateway.wire.responses_thinking import thinking_of
from routing.gateway.wire.responses_tools import name_in
from routing.gateway.wire.tool_rows import result_parts
from routing.types import Image, Message, Part, Reasoning, Role, Text, ToolCall, ToolResult
from ziggie.values import replace

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MERGED = frozenset[Role]({"assistant", "tool"})
_TEXTS = frozenset({"input_text", "output_text", "text"})
_THOUGHT, _SAID = (re.compile(kind + r"_[0-9a-f-]{36}_\d{1,4}") for kind in ("rs", "msg"))  # names of items of ours
_STORED = (
    "names what an earlier answer said, and none is stored here: send the item itself, as clients do with store: false"
)


def conversation(body: Json) -> tuple[Message, ...]:
    """What was said so far: the instructions, then the input. Raises InvalidInput, TooLarge or Unsupported."""
    instructions = text(body, "instructions", default="")
    begun = (Message("system", (Text(instructions),)),) if instructions else ()
    given = body.get("input")
    if isinstance(given, str):
        return (*begun, Message("user", (Text(given),)))
    if given is not None and not isinstance(given, list):
        refuse("input", "must be a string or an array of items")
    rows = objects(body, "input", most=MAX_MESSAGES)
    turns = _turns(rows)
    if not turns:
        refuse("input", "is required: a string, or an array of at least one item")
    return begun + turns


def _turns(rows: list[Json]) -> tuple[Message, ...]:
    turns: list[tuple[Role, list[Part]]] = []
    passed_over = _passed_over(rows)
    shown = Shown()  # by the results that the next one follows
    for place in _in_order(rows):
        if place in passed_over:
            continue
        role, parts = _item(rows[place], f"input[{place}]", shown)
        if role == "tool":
            shown.add(parts)
        else:
            shown = Shown()
        if turns and role in _MERGED and turns[-1][0] == role:
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts))
    return tuple([Message(role, tuple(parts)) for role, parts in turns if role != "assistant" or _says(parts)])


def _in_order(rows: list[Json]) -> Sequence[int]:
    """The places of the items as other APIs have them: between calls and their outputs nobody speaks. What is said
    there follows the outputs."""
    outputs = _outputs(rows)
    if not outputs:
        return range(len(rows))
    order: list[int] = []
    waiting: list[int] = []
    until = -1  # the last output of those calls that are open
    for place, row in enumerate(rows):
        until = max(until, outputs.get(place, -1))
        if place < until and _kind(row) == "message" and row.get("role") != "assistant":
            waiting.append(place)
            continue
        order.append(place)
        if place == until:
            order += waiting
            waiting = []
    return order


def _outputs(rows: list[Json]) -> dict[int, int]:
    """The place of each call -> that of its output, where it has one. There are clients that use ids again."""
    found: dict[int, int] = {}
    following: dict[str, int] = {}
    for place in range(len(rows) - 1, -1, -1):
        kind, call_id = _kind(rows[place]), rows[place].get("call_id")
        if kind == "function_call_output" and isinstance(call_id, str):
            following[call_id] = place
        elif kind == "function_call" and isinstance(call_id, str) and call_id in following:
            found[place] = following.pop(call_id)
    return found


def _passed_over(rows: list[Json]) -> set[int]:
    """The places of references to what the conversation goes on without: thinking of ours, and what we said ahead of a
    call that stands there itself. So do clients refer that take for granted that answers are stored."""
    found = set()
    is_followed_by_call = False
    for place in range(len(rows) - 1, -1, -1):
        row = rows[place]
        if _kind(row) != "item_reference":
            is_followed_by_call = _kind(row) == "function_call"
            continue
        name = row.get("id")
        if isinstance(name, str) and (_THOUGHT.fullmatch(name) or (is_followed_by_call and _SAID.fullmatch(name))):
            found.add(place)
    return found


def _kind(row: Json) -> Any:
    kind = row.get("type")
    if kind is None:
        return "message" if "role" in row else "item_reference"
    return kind


def _says(parts: list[Part]) -> bool:
    """False for a turn in which a model only thought: there is nothing in it to be answered."""
    return any(not isinstance(part, Reasoning) for part in parts)


def _item(row: Json, where: str, before: Shown) -> tuple[Role, list[Part]]:
    """`before`: what the results that it follows have shown, if it is one."""
    match _kind(row):
        case "message":
            return _message(row, f"{where}.")
        case "function_call":
            called = text(row, "call_id", f"{where}."), name_in(row, f"{where}.")
            return "assistant", [ToolCall(*called, text(row, "arguments", f"{where}.", default=""))]
        case "function_call_output":
            return "tool", _result(row, f"{where}.", before)
        case "reasoning":
            return "assistant", [*thinking_of(row, f"{where}.")]
        case "item_reference":
            text(row, "id", f"{where}.")
            unsupported(where, _STORED)
        case str() as kind:
            unsupported(f"{where}.type", f"{kind[:40]!r} is not supported by this gateway")
    return refuse(f"{where}.type", "must name a kind of item")


def _message(row: Json, where: str) -> tuple[Role, list[Part]]:
    said = row.get("role")
    role = _ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        refuse(f"{where}role", "must be user, assistant, system or developer")
    content = row.get("content")
    if isinstance(content, str):
        return role, [Text(content)]
    rows = objects(row, "content", where, most=MAX_PARTS)
    if not rows and (content != [] or role == "user"):
        refuse(f"{where}content", "must be a string or an array of parts, and a user's not an empty one")
    return role, [_part(part, f"{where}content[{place}]", role) for place, part in enumerate(rows)]


def _part(part: Json, where: str, role: Role) -> Part:
    match part.get("type"):
        case str() as kind if kind in _TEXTS:
            return Text(text(part, "text", f"{where}."), _mark(part, where))
        case "refusal" if role == "assistant":
            return Text(text(part, "refusal", f"{where}."))
        case "input_image" if role == "user":
            return _image(part, where)
        case "input_file" if role == "user":
            return replace(input_pdf(part, where), cache_mark=_mark(part, where))
        case str() as kind:
            unsupported(f"{where}.type", f"{kind[:40]!r} is not supported in {role}'s turns here")
    return refuse(f"{where}.type", "must be input_text, input_image, input_file, output_text or refusal")


def _mark(part: Json, where: str) -> bool:
    """Whether the prompt up to here is to be cached by who keeps what is marked."""
    return bool(mapping(part, "prompt_cache_breakpoint", f"{where}.")) or is_marked(part)


def _image(part: Json, where: str, *, tool_call_id: str = "") -> Image:
    if part.get("file_id"):
        unsupported(f"{where}.file_id", "is not supported: this gateway keeps no files")
    return image(part, f"{where}.", address="image_url", tool_call_id=tool_call_id)


def _result(row: Json, where: str, before: Shown) -> list[Part]:
    """What a tool gave: its text, then the images and documents in it."""
    call_id, output = text(row, "call_id", where), row.get("output")
    if output is None or isinstance(output, str):
        return [ToolResult(call_id, output or "")]
    mark = False
    given: list[Row] = []
    for place, part in enumerate(objects(row, "output", where, most=MAX_PARTS)):
        within = f"{where}output[{place}]"
        match part.get("type"):
            case str() as kind if kind in _TEXTS:
                given.append(text(part, "text", f"{within}."))
                mark = mark or _mark(part, within)
            case "input_image":
                given.append(_image(part, within, tool_call_id=call_id))
            case "input_file":
                given.append(replace(input_pdf(part, within), tool_call_id=call_id))
            case kind:
                _refuse_output(kind, within)
    return result_parts(call_id, given, before, cache_mark=mark)


def _refuse_output(kind: Any, where: str) -> None:
    unsupported(
        f"{where}.type", f"{str(kind)[:40]!r} is not supported here: a tool's output must be text, images or files"
    )
