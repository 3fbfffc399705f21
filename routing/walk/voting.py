"""PURE: which of several answers most of them give.

Texts are equal if they say the same but for case, spacing, emphasis and the way a number is written. JSON
answers are equal as documents; where no document has a majority, each field is decided for itself.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from statistics import median_low
from typing import Any

from routing.types import ChatResult
from routing.walk.judging import json_of

_MARKUP = re.compile(r"[*_`\"'“”‘’]+")
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?:[,'’]\d{2,3})*[,'’]\d{3}(?:\.\d+)?")
_BETWEEN_GROUPS = re.compile(r"[,'’]")
_EMPHASIS = frozenset("*_")
_BEFORE, _BEHIND = " !?;:,", " .!?;:,"  # a point may begin a number
_SPACE = re.compile(r"\s+")
_ABSENT = "(absent)"
MAX_NUMBER_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Ballot:
    """`winner` is the place of the answer that won, with `votes` of `of`. `merged` is a document put together
    field by field, where no whole answer had a majority."""

    winner: int
    votes: int
    of: int
    merged: Mapping[str, Any] | None = None

    @property
    def unanimous(self) -> bool:
        return self.votes == self.of


def vote(results: Sequence[ChatResult], *, as_json: bool) -> Ballot:
    """At least one result. Of equally frequent answers the one that comes first wins."""
    try:
        return _elected(results, as_json=as_json)
    except RecursionError:  # documents nested almost too deeply to be read are compared as texts
        return _elected(results, as_json=False)


def _elected(results: Sequence[ChatResult], *, as_json: bool) -> Ballot:
    documents = [_document(result) if as_json else None for result in results]
    keys = [_key(result, document) for result, document in zip(results, documents, strict=True)]
    counts = Counter(keys)
    winner = max(range(len(keys)), key=lambda place: (counts[keys[place]], -place))
    votes = counts[keys[winner]]
    objects = [document for document in documents if isinstance(document, dict)]
    if 2 * votes > len(results) or len(objects) < 2 or len(objects) < len(results):
        return Ballot(winner, votes, len(results))
    merged = _field_by_field(objects)
    nearest = max(range(len(objects)), key=lambda place: (_shared(objects[place], merged), -place))
    return Ballot(nearest, votes, len(results), merged)


def _document(result: ChatResult) -> Any:
    try:
        return json_of(result.text)
    except ValueError:
        return None


def _key(result: ChatResult, document: Any) -> str:
    if result.tool_calls:
        return "calls:" + "|".join(f"{call.name} {_canonical_text(call.arguments)}" for call in result.tool_calls)
    return f"json:{_canonical(document)}" if document is not None else f"text:{normalised(result.text)}"


def _canonical_text(arguments: str) -> str:
    try:
        return _canonical(json.loads(arguments))
    except (ValueError, RecursionError):
        return arguments


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """The value with its texts normalised and its numbers in one notation."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def normalised(text: str) -> str:
    """Case folded, emphasis, outer punctuation and needless space gone; "1,000.0" is "1000"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = _SPACE.sub(" ", _MARKUP.sub(_needed, folded)).lstrip(_BEFORE).rstrip(_BEHIND)
    number = bare.removeprefix("$")
    if len(number) <= MAX_NUMBER_LENGTH:
        if _GROUPED.fullmatch(number):  # any other comma may be a decimal one
            number = _BETWEEN_GROUPS.sub("", number)
        try:
            value = Decimal(number)
        except InvalidOperation:
            return bare
        if value.is_finite() and abs(value.adjusted()) <= MAX_NUMBER_LENGTH:
            return f"{value.normalize():f}"
    return bare


def _needed(mark: re.Match[str]) -> str:
    """What stays of marks: those that tell letters or digits apart, as in 2*3, a_b and 5'10."""
    before, after = mark.string[max(mark.start() - 1, 0) : mark.start()], mark.string[mark.end() : mark.end() + 1]
    are_digits = before.isdigit() and after.isdigit()
    is_inside = before.isalnum() and after.isalnum()
    return mark[0] if are_digits or (is_inside and not _EMPHASIS.isdisjoint(mark[0])) else ""


def _field_by_field(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each field's most frequent value; of numbers that all differ, the middle one."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for document in documents for name in document):
        keys = [_canonical(document[name]) if name in document else _ABSENT for document in documents]
        counts = Counter(keys)
        place = max(range(len(keys)), key=lambda at: (counts[keys[at]], -at))
        values = [document[name] for document in documents if name in document]
        if counts[keys[place]] == 1 and all(_is_number(value) for value in values):
            merged[name] = median_low(values)
        elif keys[place] != _ABSENT:
            merged[name] = documents[place][name]
    return merged


def _shared(document: Mapping[str, Any], merged: Mapping[str, Any]) -> int:
    return sum(name in document and _canonical(document[name]) == _canonical(value) for name, value in merged.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
