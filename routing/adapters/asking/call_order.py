"""PURE: which call a tool's result answers, for APIs that tell results apart by name and place instead of ids."""

from collections.abc import Iterator, Mapping, Sequence

from routing.types import Message, Part, Text, ToolCall, ToolResult
from ziggie.values import replace


def with_names(turns: Sequence[Message]) -> Iterator[tuple[Message, Mapping[str, str]]]:
    """Each turn, with the names of the calls made by then, by their ids: there are clients that use ids again."""
    names: dict[str, str] = {}
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                names[part.id] = part.name
        yield turn, names


def in_call_order(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns, the results of each turn's calls in the order of these, each with the images that belong to it."""
    ordered: list[Message] = []
    places: dict[str, int] = {}
    answering: list[Message] = []
    for turn in turns:
        if turn.role == "assistant":
            ordered += _sorted(answering, places)
            calls = [part.id for part in turn.parts if isinstance(part, ToolCall)]
            places, answering = {called: place for place, called in enumerate(calls)}, []
            ordered.append(turn)
        else:
            answering.append(turn)
    return (*ordered, *_sorted(answering, places))


def _sorted(turns: list[Message], places: Mapping[str, int]) -> list[Message]:
    if len(places) < 2:
        return turns
    groups = [group for turn in turns for group in _groups(turn) if isinstance(group[0], ToolResult)]
    keys = [places.get(group[0].tool_call_id, -1) for group in groups if isinstance(group[0], ToolResult)]
    if keys == sorted(keys) or len(set(keys)) < len(keys) or -1 in keys:
        return turns
    following = iter([group for _, group in sorted(zip(keys, groups, strict=True), key=lambda pair: pair[0])])
    told: list[Message] = []
    for turn in turns:
        parts: list[Part] = []
        for group in _groups(turn):
            parts += next(following) if isinstance(group[0], ToolResult) else group
        told.append(replace(turn, parts=tuple(parts)))
    return told


def _groups(turn: Message) -> list[list[Part]]:
    """The parts of a turn, each result together with what the tool showed."""
    groups: list[list[Part]] = []
    for part in turn.parts:
        first = groups[-1][0] if groups else None
        shown_by = "" if isinstance(part, (Text, ToolResult, ToolCall)) else getattr(part, "tool_call_id", "")
        if shown_by and isinstance(first, ToolResult) and first.tool_call_id == shown_by:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
