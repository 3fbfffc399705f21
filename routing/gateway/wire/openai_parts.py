"""PURE: what requests of OpenAI's two chat APIs have in common: images, tools, the form of an answer."""

from collections.abc import Collection, Mapping
from typing import Any

from routing.gateway.wire.image_parts import image_type
from routing.gateway.wire.reading import (
    Json,
    flag,
    mapping,
    needed,
    refuse,
    schema,
    text,
    tool_name,
)
from routing.types import Image, Tool
from ziggie.values import replace

_DETAILS = ("", "auto", "low", "high", "original")


def is_marked(holder: Json) -> bool:
    """Whether the prompt up to here is to be cached by who keeps what is marked, in the words that OpenAI's clients
    have for Claude."""
    control = holder.get("cache_control")
    return isinstance(control, dict) and control.get("type") == "ephemeral"


def image(said: Json, where: str, *, address: str = "url", tool_call_id: str = "") -> Image:
    """The image whose address or data stands in `said` at the key `address`, beside its `detail`."""
    url = text(said, address, where)
    detail = text(said, "detail", where, default="")
    if detail not in _DETAILS:
        refuse(f"{where}detail", f"must be one of {', '.join(_DETAILS[1:])}")
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        if not comma or not head.endswith(";base64") or not data:
            refuse(where + address, "must be a base64 data: address")
        said_type = head.removesuffix(";base64").split(";")[0]
        media_type = image_type(said_type, data, where + address, documents="a part that is a file")
        return Image(media_type=media_type, data=data, detail=detail, tool_call_id=tool_call_id)
    if not url.startswith(("https://", "http://")):
        refuse(where + address, "must be an http(s) or data: address")
    return Image(url=url, detail=detail, tool_call_id=tool_call_id)


def function_tool(said: Json, where: str, *, cache_mark: bool) -> Tool:
    """A tool from what is said of it."""
    return Tool(
        name=tool_name(said, where),
        description=text(said, "description", where, default=""),
        parameters=schema(said.get("parameters"), f"{where}parameters"),
        strict=bool(flag(said, "strict", where)),
        cache_mark=cache_mark,
    )


def allowed(
    said: Mapping[str, Any], named: Collection[str], tools: tuple[Tool, ...], where: str
) -> tuple[tuple[Tool, ...], str]:
    """The tools that `allowed_tools` names, and whether one of them must be called. Those that the model may not call
    are not named to it: few APIs could be told."""
    mode = text(said, "mode", where)
    if mode not in ("auto", "required"):
        refuse(f"{where}mode", "must be auto or required")
    if not named or not set(named) <= {tool.name for tool in tools}:
        refuse(f"{where}tools", "must name some of the tools")
    return _named(tools, named), mode


def _named(tools: tuple[Tool, ...], named: Collection[str]) -> tuple[Tool, ...]:
    """Those of these names. What was to be cached up to another one is cached up to the one before it."""
    kept: list[Tool] = []
    for tool in tools:
        if tool.name in named:
            kept.append(tool)
        elif tool.cache_mark and kept:
            kept[-1] = replace(kept[-1], cache_mark=True)
    return tuple(kept)


def answer_form(form: Json, where: str, *, within: str = "") -> Json:
    """The fields of a ChatRequest that say what form the answer has. `within` is the field that a schema stands in,
    where it does not stand beside its type, as llama.cpp and others have it for any JSON object."""
    kind = form.get("type", "" if form else "text")  # a schema without it would get lost
    if kind == "text":
        return {}
    if kind == "json_object" and not form.get("schema"):
        return {"json_object": True}
    if kind not in ("json_object", "json_schema"):
        refuse(f"{where}type", "must be text, json_object or json_schema")
    if within and kind == "json_schema":
        form, where = mapping(form, within, where), f"{where}{within}."
    return {
        "json_schema": schema(needed(form, "schema", where), f"{where}schema"),
        "json_schema_name": text(form, "name", where, default="answer"),
        "json_schema_strict": flag(form, "strict", where),
    }
