"""What a provider's error repeats of the request is the caller's, and is not kept beside the call."""

import json
import re
from collections.abc import Mapping
from typing import Any

_SHORTEST = 24  # characters; shorter runs are words that errors and prompts share by chance
_PIECE = 16
_STEP = _SHORTEST - _PIECE + 1  # any run of the shortest length has a piece that begins at a step
_MOST_CHARACTERS = 100_000  # some milliseconds of the loop
_MOST_VALUES = 2_000
_MOST_LOOKS = 200
_NAMES = frozenset({"model", "name", "type", "role"})
_MARK = "[…]"
# an image or a document: of its many characters the first are repeated, if any
_DATA = re.compile(r"(?:data:[^,]{0,100},)?[\w+/-]{200}", re.ASCII)
_MOST_OF_DATA = 1_000


def without_echo(line: str, body: Mapping[str, Any] | None) -> str:
    """`line` (an error in one line) without the runs of 24 characters and more that stand in a text of `body`, as they
    are or escaped as in JSON. Models' and tools' names stay. Of a large body the last 100,000 characters are read."""
    texts = _texts(body)
    forms = (str, _escaped, _in_ascii) if "\\u" in line else (str, _escaped)
    return min((_cut(line, "\n".join(" ".join(form(text).split()) for text in texts)) for form in forms), key=len)


def _cut(line: str, said: str) -> str:
    pieces = _pieces(line)
    looks = 0
    for there in range(0, len(said) - _PIECE + 1, _STEP):
        while said[there : there + _PIECE] in pieces and (looks := looks + 1) <= _MOST_LOOKS:
            run = _run(line, said, there)
            if not run:
                break
            line = line.replace(run, _MARK)
            pieces = _pieces(line)
    return line


def _pieces(line: str) -> set[str]:
    return {line[at : at + _PIECE] for at in range(len(line) - _PIECE + 1)}


def _run(line: str, said: str, there: int) -> str:
    """What `line` repeats of what was said around the piece at `there`; empty if it is too short to count."""
    at = -1
    while (at := line.find(said[there : there + _PIECE], at + 1)) >= 0:
        begin, end, on = at, at + _PIECE, there + _PIECE
        while begin > 0 and begin - at + there > 0 and line[begin - 1] == said[begin - at + there - 1]:
            begin -= 1
        while end < len(line) and on < len(said) and line[end] == said[on]:
            end, on = end + 1, on + 1
        if end - begin >= _SHORTEST:
            return line[begin:end]
    return ""


def _texts(body: Mapping[str, Any] | None) -> list[str]:
    """The texts of a request, the last ones first, those of its tools after all others."""
    rest = dict(body or {})
    waiting: list[Any] = [rest.pop("tools", None), rest]
    texts: list[str] = []
    characters = values = 0
    while waiting and characters < _MOST_CHARACTERS and values < _MOST_VALUES:
        value = waiting.pop()
        values += 1
        if isinstance(value, dict):
            waiting += [item for name, item in value.items() if not (isinstance(item, str) and name in _NAMES)]
        elif isinstance(value, list | tuple):
            waiting += value[-_MOST_VALUES:]
        elif isinstance(value, str) and len(value) >= _SHORTEST:
            texts.append(value[:_MOST_OF_DATA] if _DATA.match(value) else value[-_MOST_CHARACTERS:])
            characters += len(texts[-1])
    return texts


def _escaped(text: str) -> str:
    """As errors show values of JSON and of Python."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _in_ascii(text: str) -> str:
    """As in JSON that has nothing but ASCII: M\\u00fcller."""
    return json.dumps(text)[1:-1]
