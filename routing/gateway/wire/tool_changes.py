"""PURE: tools that come and go in the midst of a conversation (Anthropic's `tool_addition` and `tool_removal`).

A model is told of those that are there at its end: few APIs could be told of more.
"""

from collections.abc import Callable, Iterator

from routing.gateway.wire.reading import MAX_TOOLS, Json, mapping, needed, refuse, text, tool_name, unsupported
from routing.types import Message, Tool, ToolResult
from ziggie.errors import TooLarge
from ziggie.values import replace

CHANGES = ("tool_addition", "tool_removal")
MAX_REFERENCES = 2_000  # of one request


def after_changes(rows: list[Json], tools: tuple[Tool, ...], read: Callable[[Json, str], Tool]) -> tuple[Tool, ...]:
    """The tools after all that system messages add and remove. `read` makes one of a definition and its place. Raises
    InvalidInput or Unsupported."""
    changes = list(_changes(rows))
    if not changes:
        return tools
    known = {tool.name: tool for tool in tools}
    there = dict(known)
    for block, where in changes:
        said = mapping(block, "tool", f"{where}.")
        tool = _meant(said, f"{where}.tool.", known, read)
        if block["type"] == "tool_addition":
            known[tool.name] = there[tool.name] = replace(tool, deferred=False)
        else:
            there.pop(tool.name, None)
        if len(known) > MAX_TOOLS:
            raise TooLarge(f"tools: at most {MAX_TOOLS} are accepted, and more are added")
    return tuple(there.values())


def _changes(rows: list[Json]) -> Iterator[tuple[Json, str]]:
    for place, row in enumerate(rows):
        if row.get("role") == "system" and isinstance(row.get("content"), list):
            for number, block in enumerate(row["content"]):
                if isinstance(block, dict) and block.get("type") in CHANGES:
                    yield block, f"messages[{place}].content[{number}]"


def _meant(said: Json, where: str, known: dict[str, Tool], read: Callable[[Json, str], Tool]) -> Tool:
    kind = text(said, "type", where)
    if kind == "tool_definition":
        needed(said, "definition", where)
        return read(mapping(said, "definition", where), f"{where}definition.")
    if kind != "tool_reference":
        unsupported(f"{where}type", "must be tool_reference or tool_definition")
    name = tool_name(said, where)
    if name not in known:
        refuse(f"{where}name", "is none of the tools")
    return known[name]


def without_empty(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the system messages that said no more than what changed. Raises InvalidInput if no other is left."""
    left = tuple([turn for turn in messages if turn.parts or turn.role != "system"])
    return left or refuse("messages", "must hold a message beside those that change the tools")


def refuse_many_found(messages: tuple[Message, ...]) -> None:
    """Each time that a tool is found its definition is paid again. Raises TooLarge."""
    results = [part for turn in messages for part in turn.parts if isinstance(part, ToolResult)]
    found = sum([len(result.references) for result in results])
    if found > MAX_REFERENCES:
        raise TooLarge(f"messages: at most {MAX_REFERENCES} tool_reference blocks are accepted, and there are {found}")
