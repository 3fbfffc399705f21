"""PURE: the tools of OpenAI's responses API: which there are, which must be called.

Functions alone. Those in a namespace are told to models under one name made of both, and to the client as it named
them. OpenAI's own tools are refused, but the search that Codex adds to its functions by itself: it is left out.
"""

from collections.abc import Mapping
from typing import Any

from routing.gateway.wire.openai_parts import allowed, function_tool, is_marked
from routing.gateway.wire.reading import (
    MAX_NAME,
    MAX_TOOLS,
    Json,
    chosen_tool,
    flag,
    objects,
    refuse,
    text,
    tool_name,
    unsupported,
)
from routing.types import Tool
from ziggie.errors import TooLarge
from ziggie.values import Value, replace

_CHOICES = ("auto", "none", "required")
_DIRECT = ["direct"]  # by whom a function may be called: by the model itself


class Tools(Value):
    """`echo`: the tools as an answer repeats them. `namespaces`: those that stand in one, by the name that models
    know."""

    tools: tuple[Tool, ...]
    choice: str
    echo: list[Json]
    chosen: Any
    namespaces: Mapping[str, tuple[str, str]]


def name_in(row: Json, where: str) -> str:
    """The name under which models know the function that a tool, a call or a choice names."""
    name = tool_name(row, where)
    namespace = text(row, "namespace", where, default="")
    return _joined(namespace, name, where) if namespace else name


def _joined(namespace: str, name: str, where: str) -> str:
    if len(namespace) + len(name) > MAX_NAME:
        refuse(f"{where}name", f"must have at most {MAX_NAME} characters, with its namespace")
    return f"{namespace}__{name}"


def decode_tools(body: Json) -> Tools:
    """Raises InvalidInput, TooLarge or Unsupported."""
    found: list[Tool] = []
    echo: list[Json] = []
    namespaces: dict[str, tuple[str, str]] = {}
    for place, row in enumerate(objects(body, "tools", most=MAX_TOOLS)):
        where = f"tools[{place}]."
        if row.get("type") == "namespace":
            name, about = tool_name(row, where), text(row, "description", where, default="")
            members = _members(row, where)
            known = [replace(tool, name=_joined(name, tool.name, where)) for tool in members]
            namespaces |= {tool.name: (name, member.name) for tool, member in zip(known, members, strict=True)}
            found += _introduced(known, about)
            told = {"type": "namespace", "name": name, "description": about}
            echo.append({**told, "tools": [_echo(member) for member in members]})
        elif not _is_extra(row) or not _has_functions(body):
            tool = _function(row, where)
            found.append(tool)
            echo.append(_echo(tool))
        if len(found) > MAX_TOOLS:
            raise TooLarge(f"tools: at most {MAX_TOOLS} are accepted, and there are more")
    if namespaces and len({tool.name for tool in found}) < len(found):
        refuse("tools", "must not have the same name twice")
    tools, choice = _chosen(body.get("tool_choice"), tuple(found))
    return Tools(tools, chosen_tool(choice, tools), echo, _told_choice(body.get("tool_choice")), namespaces)


def _is_extra(row: Json) -> bool:
    """True for the search of Codex, which always says how far it may go. A model that is not told of it does without,
    and the answer's `tools` show that it was not."""
    return row.get("type") == "web_search" and isinstance(row.get("external_web_access"), bool)


def _has_functions(body: Json) -> bool:
    return any(row.get("type") in ("function", "namespace") for row in body["tools"])


def _members(row: Json, where: str) -> list[Tool]:
    rows = objects(row, "tools", where, most=MAX_TOOLS)
    return [_function(member, f"{where}tools[{place}].") for place, member in enumerate(rows)]


def _introduced(tools: list[Tool], about: str) -> list[Tool]:
    """The functions of a namespace, what is said of them all said with the first."""
    if not tools or not about:
        return tools
    return [replace(tools[0], description=f"{about}\n\n{tools[0].description}".strip()), *tools[1:]]


def _function(row: Json, where: str) -> Tool:
    kind = text(row, "type", where)
    if kind != "function":
        unsupported(f"{where}type", f"{kind[:40]!r} is not supported by this gateway: tools must be functions")
    for key in ("defer_loading", "async"):
        if flag(row, key, where):
            unsupported(where + key)
    if row.get("allowed_callers") not in (None, [], _DIRECT):
        unsupported(f"{where}allowed_callers", "other than direct are not supported by this gateway")
    return function_tool(row, where, cache_mark=is_marked(row))


def _echo(tool: Tool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _chosen(value: Any, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model may call, and the choice among them."""
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return tools, _tool_choice(value, "tool_choice.")
    where = "tool_choice."
    rows = enumerate(objects(value, "tools", where, most=MAX_TOOLS))
    return allowed(value, [_tool_choice(row, f"{where}tools[{place}].") for place, row in rows], tools, where)


def _tool_choice(value: Any, where: str) -> str:
    if value is None:
        return ""
    if value in _CHOICES:
        return str(value)
    if not isinstance(value, dict):
        refuse("tool_choice", f"must be {', '.join(_CHOICES)}, one function or allowed_tools")
    kind = text(value, "type", where)
    if kind != "function":
        unsupported(f"{where}type", f"{kind[:40]!r} is not supported by this gateway: tools must be functions")
    return name_in(value, where)


def _told_choice(value: Any) -> Any:
    """The choice as an answer repeats it, once it is read."""
    if not isinstance(value, dict):
        return value or "auto"
    if value["type"] == "function":
        return _told_function(value)
    rows = [_told_function(row) for row in value["tools"]]
    return {"type": "allowed_tools", "mode": value["mode"], "tools": rows}


def _told_function(value: Json) -> Json:
    told = {"type": "function", "name": value["name"]}
    return {**told, "namespace": value["namespace"]} if value.get("namespace") else told
