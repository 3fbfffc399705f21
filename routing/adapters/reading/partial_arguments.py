"""The arguments of a call that Gemini streams value by value, each with a JSON path, put together as one object."""

import re
from itertools import pairwise
from typing import Any

import orjson

from routing.adapters.reading.wire import Json, get_dict, get_dicts, get_str, json_text, protocol_error
from routing.types import ProviderError

_STEP = re.compile(r"""\.([^.\[\]'"]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_QUOTE = re.compile(r"""\\(.)|(")""")  # the escapes of a name between quotes, which are JSON's but for the other quote
_MOST_STEPS = 64
_WIDEST_GAP = 100  # in a list: its empty objects are not told
_VALUES = ("stringValue", "numberValue", "boolValue")


class _Pieces:
    """A string that may still grow."""

    def __init__(self, first: str) -> None:
        self.all = [first]


class PartialArguments:
    """Grows with every piece of the call. A string comes in as many pieces as the server likes."""

    def __init__(self) -> None:
        self._top: Json = {}

    def add(self, call: Json) -> str:
        """Takes one piece; returns what the model has just written, as far as it is text.
        Raises ProviderError("protocol") for a path that leads nowhere."""
        self._top |= get_dict(call, "args")
        written = []
        for piece in get_dicts(call, "partialArgs"):
            value = next((piece[key] for key in _VALUES if piece.get(key) is not None), None)
            if value is not None or "nullValue" in piece:
                self._put(_steps(get_str(piece, "jsonPath")), value)
                written.append(str(value))
        return "".join(written)

    def text(self) -> str:
        """All of it as JSON. Raises ProviderError("protocol")."""
        return json_text(self._top, _joined)

    def _put(self, steps: list[str | int], value: Any) -> None:
        holder: Any = self._top
        for step, following in pairwise(steps):
            inner = _at(holder, step)
            if inner is None:
                inner = [] if isinstance(following, int) else {}
                _set(holder, step, inner)
            holder = inner
        before = _at(holder, steps[-1])
        if isinstance(before, _Pieces) and isinstance(value, str):
            before.all.append(value)
        elif isinstance(value, str):
            _set(holder, steps[-1], _Pieces(value))
        else:  # counts come as 3.0, too
            whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
            _set(holder, steps[-1], int(value) if whole else value)


def _steps(path: str) -> list[str | int]:
    """`$.rooms[0]['the name']` as ["rooms", 0, "the name"]."""
    steps: list[str | int] = []
    place = 1 if path.startswith("$") else 0
    while place < len(path) and len(steps) < _MOST_STEPS:
        found = _STEP.match(path, place)
        if found is None:
            break
        steps.append(int(found[2]) if found[2] else found[1] or _unquoted(found[3] or found[4] or ""))
        place = found.end()
    if place < len(path) or not steps or isinstance(steps[0], int):
        raise _unreadable()
    return steps


def _unquoted(name: str) -> str:
    """A name that stood between quotes of either kind."""
    if "\\" not in name:
        return name
    try:
        return str(orjson.loads('"' + _QUOTE.sub(_in_json, name) + '"'))
    except orjson.JSONDecodeError:
        raise _unreadable() from None


def _in_json(found: re.Match[str]) -> str:
    return "'" if found[1] == "'" else '\\"' if found[2] else found[0]


def _unreadable() -> ProviderError:
    return protocol_error("a piece of a tool call has a path that cannot be read")


def _at(holder: Any, step: str | int) -> Any:
    if isinstance(holder, dict) and isinstance(step, str):
        return holder.get(step)
    if isinstance(holder, list) and isinstance(step, int):
        return holder[step] if step < len(holder) else None
    raise protocol_error("a piece of a tool call has a path into something else than before")


def _set(holder: Any, step: str | int, value: Any) -> None:
    """`_at` has looked at both."""
    if isinstance(step, int):
        if step > len(holder) + _WIDEST_GAP:
            raise protocol_error("a piece of a tool call has a path far behind the end of its list")
        holder.extend([None] * (step + 1 - len(holder)))
    holder[step] = value


def _joined(value: Any) -> str:
    if isinstance(value, _Pieces):
        return "".join(value.all)
    raise TypeError
