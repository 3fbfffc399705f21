"""PURE: YouTube's json3, youtube-transcript-api's JSON, and plain lists of timed texts."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from knowledge.transcripts.cues import (
    Cue,
    Parsed,
    Source,
    clean,
    clean_rows,
    language_tag,
    line_at,
    refuse_too_many,
)
from knowledge.transcripts.types import MAX_CUES, MAX_SPEAKER_CHARACTERS

# Each word of a cue is an object in json3. Twenty megabytes of "[]," would be half a gigabyte of lists.
_MAX_CONTAINERS = 20 * MAX_CUES
_LIST_KEYS = ("snippets", "segments", "transcript", "captions")
_START_KEYS = ("start", "start_seconds")
_END_KEYS = ("end", "end_seconds")
_DURATION_KEYS = ("duration", "dur")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_SPACE = re.compile(r"[ \t\r\n]*")
_SHAPES = 'give {"events": […]} (json3), [{"text", "start", "duration"}, …] or {"snippets": […]}'
Path = tuple[str | int, ...]


class _ShapeError(Exception):
    """Valid JSON that is no transcript. `path` leads to what is wrong."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def parse_json(text: str, source: Source) -> Parsed:
    """Whichever of the shapes the document has."""
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise source.too_large(1, f"more than {_MAX_CONTAINERS:,} JSON objects and lists: split the file into several")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = f"column {error.colno}: invalid JSON ({error.msg}): export the captions again"
        raise source.error(error.lineno, problem) from error
    try:
        return _parse(document, text, source)
    except _ShapeError as error:
        where = f"{_written(error.path)}: " if error.path else ""
        raise source.error(_line_of(text, error.path), where + error.problem) from error


def _parse(document: Any, text: str, source: Source) -> Parsed:
    language = ""
    path: Path = ()
    items = document
    if isinstance(document, dict):
        language = language_tag(document.get("language_code")) or language_tag(document.get("language"))
        key = next((key for key in ("events", *_LIST_KEYS) if key in document), None)
        if key is None:
            raise _ShapeError((), f"no transcript in this JSON object: {_SHAPES}")
        items, path = document[key], (key,)
    if not isinstance(items, list):
        raise _ShapeError(path, f"a list is expected here, not {_kind(items)}: {_SHAPES}")
    refuse_too_many(len(items), 1, source)
    read = _event if path == ("events",) else _snippet
    paths = {_written((*path, index)): (*path, index) for index in range(len(items))}
    cues = [read(item, (*path, index)) for index, item in enumerate(items)]
    return Parsed(
        [cue for cue in cues if cue],
        "json3" if read is _event else "json",
        language,
        line_of=lambda cue: _line_of(text, paths[cue.path]),
    )


def _event(item: Any, path: Path) -> Cue | None:
    """One json3 event; None for windows, and for the line ends that scroll automatic captions."""
    event = _mapping(item, path)
    pieces = event.get("segs")
    if pieces is None:
        return None
    if not isinstance(pieces, list):
        raise _ShapeError((*path, "segs"), f"a list is expected here, not {_kind(pieces)}: export the captions again")
    texts = [_text(_mapping(piece, (*path, "segs", n)), "utf8", (*path, "segs", n)) for n, piece in enumerate(pieces)]
    rows = clean_rows("".join(texts))
    if not rows:
        return None
    start = _number(event, "tStartMs", path, default=0.0)  # a zero is left out by some writers
    duration = _number(event, "dDurationMs", path, default=None)
    assert start is not None
    end = None if duration is None else (start + duration) / 1000
    return Cue(0, start / 1000, end, rows, path=_written(path))


def _snippet(item: Any, path: Path) -> Cue:
    snippet = _mapping(item, path)
    start_key = _present(snippet, _START_KEYS)
    if start_key is None:
        raise _ShapeError(path, '"start" is missing: give every item its start in seconds')
    start = _number(snippet, start_key, path, default=None)
    if start is None:
        raise _ShapeError((*path, start_key), "a start in seconds is expected here, not null")
    end_key, duration_key = _present(snippet, _END_KEYS), _present(snippet, _DURATION_KEYS)
    end = _number(snippet, end_key, path, default=None) if end_key else None
    if end is None and duration_key:
        duration = _number(snippet, duration_key, path, default=None)
        end = None if duration is None else start + duration
    speaker = snippet.get("speaker")
    speaker = clean(speaker)[:MAX_SPEAKER_CHARACTERS] if isinstance(speaker, str) else ""
    return Cue(0, start, end, clean_rows(_text(snippet, "text", path)), speaker, path=_written(path))


def _present(item: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in item), None)


def _mapping(item: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise _ShapeError(path, f"an object is expected here, not {_kind(item)}: {_SHAPES}")
    return item


def _text(item: Mapping[str, Any], key: str, path: Path) -> str:
    value = item.get(key, "" if key == "utf8" else None)
    if not isinstance(value, str):
        raise _ShapeError((*path, key) if key in item else path, f'"{key}" must be a text, not {_kind(value)}')
    return value


def _number(item: Mapping[str, Any], key: str, path: Path, *, default: float | None) -> float | None:
    """A time, not negative. Some of YouTube's own answers write numbers as strings."""
    value = item.get(key)
    if value is None:
        return default
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise _ShapeError((*path, key), f"a time of zero or more is expected here, not {str(value)[:40]}")
    return float(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _written(path: Path) -> str:
    """events[3].segs[0].utf8"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _line_of(text: str, path: Path) -> int:
    """The line of a value in a document that is known to be valid."""
    try:
        return line_at(text, _offset(text, path))
    except (ValueError, RecursionError):  # deeper or longer than the scanner of the json module reads
        return 1


def _offset(text: str, path: Path) -> int:
    scanner = json.JSONDecoder()
    place = _skip_space(text, 0)
    for wanted in path:
        found, number, at = None, 0, _skip_space(text, place + 1)
        while text[at] not in "]}":
            key: str | int = number
            if isinstance(wanted, str):
                key, at = scanner.raw_decode(text, at)
                at = _skip_space(text, _skip_space(text, at) + 1)  # the colon
            if key == wanted:
                found = at  # no break: of two equal keys the last one counts
            if key == wanted and isinstance(wanted, int):
                break
            at = _skip_space(text, scanner.raw_decode(text, at)[1])
            at = _skip_space(text, at + 1) if text[at] == "," else at
            number += 1
        if found is None:
            break
        place = found
    return place


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
