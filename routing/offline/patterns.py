"""Regular expressions out of other people's schemas: matched within a time limit, and examples for them."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_MATCH_SECONDS = 0.05
_MAX_LENGTH = 5_000
_FILLERS = "aA0xz 123456789bcdefBCDEF_-"
_CATEGORY = {"DIGIT": "0", "NOT_DIGIT": "a", "SPACE": " ", "NOT_SPACE": "a", "WORD": "a", "NOT_WORD": "-"}
_TRIES = "aA0-_ .:/@x1z"


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text; False if that cannot be told in 50 ms.

    Raises ValueError for what is no regular expression.
    """
    # `re` cannot be interrupted: a pattern such as (a+)+$ would hold the whole process.
    import regex  # type: ignore[import-untyped]  # it ships no annotations

    try:
        return regex.search(pattern, text, timeout=_MATCH_SECONDS) is not None
    except TimeoutError:
        return False
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"bad pattern {pattern[:80]!r}: {error}") from error


def examples(pattern: str, *, min_length: int = 0) -> Iterator[str]:
    """Strings that the pattern should match (the caller checks), the shortest first, then some whose open
    repetitions are stretched towards `min_length`. Ends early for what the walk cannot follow."""
    for filler in _FILLERS:
        for share in (0, 1, 2, 3, 4):
            stretch = min(min_length, _MAX_LENGTH) // share if share else 0
            try:
                # The standard library's own parser: it has no public name, and the packages that
                # build on it pick at random.
                parsed = importlib.import_module("re._parser").parse(pattern)
                yield _Walk(stretch, filler).sequence(parsed)
            except (re.error, KeyError, ValueError, RecursionError, OverflowError):
                return


@dataclass
class _Walk:
    """Writes one string along a parsed pattern."""

    stretch: int
    filler: str
    groups: dict[int, str] = field(default_factory=dict)

    def sequence(self, nodes: Any) -> str:
        text = ""
        for operation, argument in nodes:
            text += self._node(operation.name, argument)
            if len(text) > 4 * _MAX_LENGTH:
                raise ValueError("too long")
        return text

    def _node(self, operation: str, argument: Any) -> str:
        match operation:
            case "LITERAL":
                return chr(argument)
            case "NOT_LITERAL":
                return next(char for char in _TRIES if ord(char) != argument)
            case "ANY":
                return self.filler
            case "IN":
                return self._member(argument)
            case "AT" | "ASSERT_NOT" | "ASSERT":
                return ""
        return self._group(operation, argument)

    def _group(self, operation: str, argument: Any) -> str:
        match operation:
            case "BRANCH":
                return min(map(self.sequence, argument[1]), key=len)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeat(*argument)
            case "SUBPATTERN":
                self.groups[argument[0] or 0] = text = self.sequence(argument[-1])
                return text
            case "ATOMIC_GROUP":
                return self.sequence(argument)
            case "GROUPREF":
                return self.groups[argument]
        raise ValueError(operation)

    def _repeat(self, low: int, high: int, nodes: Any) -> str:
        if low > _MAX_LENGTH:
            raise ValueError("too long")
        one = self.sequence(nodes)
        wanted = low + self.stretch // max(1, len(one)) + bool(self.stretch)
        return one * min(wanted, int(high))

    def _member(self, items: Any) -> str:
        accepted = [item for item in items if item[0].name != "NEGATE"]
        negated = len(accepted) < len(items)
        for char in self.filler + _TRIES:
            if any(_in(char, item) for item in accepted) != negated:
                return char
        name, argument = accepted[0][0].name, accepted[0][1]
        if negated:
            raise ValueError("nothing left")
        if name == "CATEGORY":
            return _CATEGORY[argument.name.removeprefix("CATEGORY_")]
        return chr(argument[0]) if name == "RANGE" else chr(argument)


def _in(char: str, item: Any) -> bool:
    name, argument = item[0].name, item[1]
    if name == "RANGE":
        return bool(argument[0] <= ord(char) <= argument[1])
    if name == "LITERAL":
        return bool(ord(char) == argument)
    kinds = {"DIGIT": char.isdigit(), "SPACE": char.isspace(), "WORD": char.isalnum() or char == "_"}
    kind = argument.name.removeprefix("CATEGORY_")
    return not kinds[kind.removeprefix("NOT_")] if kind.startswith("NOT_") else kinds[kind]
