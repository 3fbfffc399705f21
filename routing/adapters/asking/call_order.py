"""PURE: which call a tool's result answers, for APIs that tell results apart by name and place instead of ids."""

from collections.abc import Iterator, Mapping, Sequence

from routing.adapters.asking.shown import Shown, told
from routing.types import Cited, Image, Message, Part, Pdf, Text, ToolCall, ToolResult
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
    ordered: list[Message] = []
    for turn in turns:
        parts: list[Part] = []
        before = Shown()
        for group in _groups(turn):
            moved = _told_anew(next(following), before) if isinstance(group[0], ToolResult) else group
            before.add(moved)
            parts += moved
        ordered.append(replace(turn, parts=tuple(parts)))
    return ordered


def _told_anew(group: list[Part], before: Shown) -> list[Part]:
    """A result whose marks count from where it stands now."""
    result, *shown = group
    if not isinstance(result, ToolResult) or None not in result.rows:
        return group
    following = iter(shown)
    rows = [next(following, "") if row is None else row for row in result.rows]
    mixed = [row for row in rows if isinstance(row, (str, Image, Pdf, Cited))]
    return [replace(result, content=told(mixed, before)), *shown]


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
