"""PURE: YAML or JSON text -> plain data, with the line and column of everything in it.

The text may be hostile: its size, depth and number of values are bounded, anchors, aliases and tags are
refused, nothing is ever constructed but mappings, lists and scalars.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from routing.configuration.shape import MAX_PROBLEMS, Path, Problem
from ziggie.errors import InvalidInput, TooLarge

MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 20
MAX_VALUES = 100_000
TOO_MANY = f"holds more than {MAX_VALUES:,} values"
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
PLAIN_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
YAML_TAG = "tag:yaml.org,2002:"

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Parsed:
    """Data, the mistakes of writing found on the way, and where each path stands (line, column; from 1)."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    unplaced: str = ""  # JSON of which nobody has asked yet where anything stands

    def place(self, path: Path) -> str:
        """`12:7 policies[0].rules[3].chain`: the nearest place that stands in the text, and the whole path."""
        line, column = self.position(path)
        name = Problem(path, "").place
        return f"{line}:{column} {name}" if line else name

    def position(self, path: Path) -> tuple[int, int]:
        """Line and column of the path, or of the nearest thing around it; (0, 0) for what stands elsewhere."""
        self._locate()
        if path and path[:1] not in self.places:
            return 0, 0
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (0, 0))

    def _locate(self) -> None:
        """JSON is YAML, but for corners in which places are known up to there."""
        text, self.unplaced = self.unplaced, ""
        if text:
            located = Parsed()
            with suppress(_Fatal):
                _Reader(located).read(text)
            self.places = located.places


class _Fatal(Exception):
    """Reading cannot go on from here."""


def decode(raw: bytes, name: str) -> str:
    """Raises TooLarge or InvalidInput."""
    if len(raw) > MAX_BYTES:
        raise TooLarge(f"{name} is larger than {MAX_BYTES // 1024 // 1024} MB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{name}:{line}: is not UTF-8 text") from error


def parse(text: str) -> Parsed:
    """Never raises: what cannot be read is a problem of the result."""
    parsed = Parsed()
    if not text.strip():
        parsed.problems.append(Problem((), "is empty"))
        return parsed
    if text.lstrip().startswith("{") and _parse_json(text, parsed):
        return parsed
    try:
        _Reader(parsed).read(text)
    except _Fatal as error:
        parsed.data = None
        parsed.problems.append(Problem((), str(error)))
    return parsed


def _parse_json(text: str, parsed: Parsed) -> bool:
    """True if the text is JSON; a YAML flow mapping starts with a brace, too."""
    twice: list[Problem] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen and len(twice) < MAX_PROBLEMS:
                twice.append(Problem((), f"the key {key[:60]!r} stands twice in one mapping"))
            seen.add(key)
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=mapping)
        json.dumps(data, ensure_ascii=False).encode()  # half a character (\ud800) could be told nowhere
    except (ValueError, RecursionError):  # also an integer of more digits than Python reads
        return False
    parsed.data = data
    parsed.unplaced = text
    parsed.problems += twice
    if problem := _too_much(parsed.data):
        parsed.data = None
        parsed.problems.append(Problem((), problem))
    return True


def _too_much(data: Any) -> str:
    """Why parsed JSON goes beyond the limits, or "". Looks at it level by level, so that depth costs no stack."""
    level, values = [data], 0
    for _ in range(MAX_DEPTH + 1):
        values += len(level)
        if values > MAX_VALUES:
            return TOO_MANY
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return TOO_DEEP if level else ""


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read. In a mapping, `key` is the one whose value comes next."""

    value: Any
    path: Path
    key: str | None = None
    skip: bool = False  # the key stood here before: its value is read and forgotten

    def next_path(self) -> Path:
        return (*self.path, len(self.value) if isinstance(self.value, list) else str(self.key))


class _Reader:
    def __init__(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.frames: list[_Frame] = []
        self.values = 0
        self.documents = 0

    def read(self, text: str) -> None:
        """Raises _Fatal."""
        loader = None
        try:
            loader = Loader(text)
            while loader.check_event():
                self._take(loader.get_event(), loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            if mark is not None:
                self.parsed.places[()] = (mark.line + 1, mark.column + 1)
            what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
            raise _Fatal(f"is neither YAML nor JSON: {what}") from error
        finally:
            if loader is not None:
                loader.dispose()

    def _take(self, event: Event, loader: Any) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._fatal(event, TOO_MANY)
        match event:
            case DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise self._fatal(event, "a second document starts here; only one is allowed")
            case AliasEvent():
                self._refuse(event, "aliases are not allowed")
                self._add(None, event)
            case ScalarEvent():
                self._check(event)
                self._add_scalar(event, loader)
            case MappingStartEvent() | SequenceStartEvent():
                self._check(event)
                self._open({} if isinstance(event, MappingStartEvent) else [], event)
            case MappingEndEvent() | SequenceEndEvent():
                self.frames.pop()

    def _check(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent) -> None:
        if event.anchor is not None:
            self._refuse(event, "anchors are not allowed")
        if event.tag is not None:
            self._refuse(event, "tags are not allowed")

    def _add_scalar(self, event: ScalarEvent, loader: Any) -> None:
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            frame.key, frame.skip = event.value, event.value in frame.value
            if frame.skip:
                self._refuse(event, "this key stands twice in one mapping", frame.next_path())
            return
        self._add(_scalar(event, loader), event)

    def _open(self, value: Any, event: Event) -> None:
        if len(self.frames) >= MAX_DEPTH:
            raise self._fatal(event, TOO_DEEP)
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            raise self._fatal(event, "a key must be a plain word")
        path = frame.next_path() if frame else ()
        self._add(value, event)
        self.frames.append(_Frame(value, path))

    def _add(self, value: Any, event: Event) -> None:
        if not self.frames:
            self._mark((), event)
            self.parsed.data = value
            return
        frame = self.frames[-1]
        if isinstance(frame.value, list):
            self._mark(frame.next_path(), event)
            frame.value.append(value)
        elif frame.key is None:
            raise self._fatal(event, "a key must be a plain word")
        else:
            if not frame.skip:
                self._mark(frame.next_path(), event)
                frame.value[frame.key] = value
            frame.key = None

    def _mark(self, path: Path, event: Event) -> None:
        assert event.start_mark is not None
        self.parsed.places[path] = (event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, event: Event, message: str, path: Path | None = None) -> None:
        if path is None:
            path = self.frames[-1].next_path() if self.frames else ()
        assert event.start_mark is not None
        if len(self.parsed.problems) < MAX_PROBLEMS:
            line = event.start_mark.line + 1
            self.parsed.problems.append(Problem(path, f"{message} (line {line})"))

    def _fatal(self, event: Event, message: str) -> _Fatal:
        self._mark((), event)
        return _Fatal(message)


def _scalar(event: ScalarEvent, loader: Any) -> Any:
    """YAML's plain scalars, without its octal, sexagesimal and date surprises: those stay text."""
    text: str = event.value
    tag = loader.resolve(yaml.ScalarNode, text, event.implicit).removeprefix(YAML_TAG)
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in {"yes", "true", "on"}
    if tag == "int" and PLAIN_INT.fullmatch(text):
        return int(text)
    if tag == "float" and PLAIN_FLOAT.fullmatch(text):
        lowered = text.lower()
        return float(lowered.replace(".", "") if lowered[-1].isalpha() else lowered)  # ".inf", ".nan"
    return text
