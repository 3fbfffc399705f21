"""Fills any JSON schema from a conversation, so that the result validates.

The walk builds the likeliest value for each subschema, checks it, and tries the next branch where it
fails. References stay inside the document: nothing is fetched.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from routing.offline import containers, leaves, merging, roles
from routing.offline.checking import Checker
from routing.offline.conversation import NAME
from routing.offline.insights import Insights
from routing.offline.leaves import Unfillable
from routing.offline.roles import Place

_MAX_VISITS = 6_000
_LEAN_VISITS = 2_000  # from here on only what is required
_LEAN_DEPTH = 8
_MAX_DEPTH = 60  # builds within builds; branches and references count too
_CONFIDENCE_LIMIT = 70.0
_MARKED_LENGTH = 60  # a shorter string has no room for the model's name
_INFERRED = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "contains", "uniqueItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_TYPES = ("string", "object", "array", "integer", "number", "boolean", "null")


class TooComplex(Unfillable):
    """The schema has more branches than the walk will try."""


def fill(schema: Mapping[str, Any] | bool, insights: Insights, *, items: int = 10) -> Any:
    """A value of the schema with at most `items` elements in a list that may be shorter.

    Raises Unfillable where no value was found, ValueError where the schema itself is wrong.
    """
    checker = Checker(schema)
    problem = Unfillable("no value fits")
    for lean in (False, True):
        try:
            value = _Walk(checker, insights, items=items, lean=lean).build(checker.root, Place())
        except Unfillable as error:
            problem = error
            continue
        except RecursionError:
            problem = Unfillable("the schema is too deep")
            continue
        if checker.accepts(checker.root, value):
            return _signed(value, checker)
    raise problem


def _signed(value: Any, checker: Checker) -> Any:
    """Says what made the answer where no string of it could, if the schema leaves room for a note."""
    if isinstance(value, dict) and NAME not in json.dumps(value):
        signed = value | {"note": roles.BY_STATISTICS}
        if "note" not in value and checker.accepts(checker.root, signed):
            return signed
    return value


class _Walk:
    """One walk over a schema. `lean` builds only what is required."""

    def __init__(self, checker: Checker, insights: Insights, *, items: int, lean: bool) -> None:
        self.checker = checker
        self.insights = insights
        self.items = items
        self.lean = lean
        self.visits = 0
        self.nesting = 0

    def is_lean(self, place: Place) -> bool:
        return self.lean or place.depth > _LEAN_DEPTH or self.visits > _LEAN_VISITS

    def build(self, schema: Any, place: Place) -> Any:
        """A value that the schema accepts. Raises Unfillable."""
        self.visits += 1
        if self.visits > _MAX_VISITS:
            raise TooComplex("the schema has too many branches")
        if schema is False or self.nesting > _MAX_DEPTH:
            raise Unfillable("nothing may stand here")
        self.nesting += 1
        try:
            whole = self.flat(schema)
            for candidate in self._candidates(whole, place):
                if self.checker.accepts(whole, candidate):
                    return candidate
        finally:
            self.nesting -= 1
        raise Unfillable(f"no value fits {place.name or 'the schema'!r}")

    def tried(self, schema: Any, place: Place) -> Iterator[Any]:
        """The built value, or nothing where there is none."""
        try:
            yield self.build(schema, place)
        except TooComplex:
            raise
        except Unfillable:
            return

    def flat(self, schema: Any) -> Mapping[str, Any]:
        if schema is False:
            return {"not": {}}
        return merging.flatten({} if schema is True else schema, self.checker.resolve)

    # --- choices -------------------------------------------------------------------------------------

    def _candidates(self, schema: Mapping[str, Any], place: Place) -> Iterator[Any]:
        """Values worth checking, the likeliest first."""
        if "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from roles.ordered_choices(schema["enum"], place, self.insights)
        elif branches := self._branches(schema, place):
            for branch in branches:
                yield from self.tried(branch, place)
        else:
            for kind in self._kinds(schema, place):
                yield from self._of_kind(kind, schema, place)
            for branch in self._conditions(schema):
                yield from self.tried(branch, place)

    def _branches(self, schema: Mapping[str, Any], place: Place) -> list[Mapping[str, Any]]:
        """The schema with each branch of a choice folded in, the most telling one first."""
        key = next((key for key in ("oneOf", "anyOf") if key in schema), "")
        base = {name: value for name, value in schema.items() if name != key}
        branches = []
        for branch in schema.get(key, ()):
            try:
                branches.append(merging.merge(base, self.flat(branch)))
            except TooComplex:
                raise
            except Unfillable:
                continue  # contradicts what stands around the choice
        return sorted(branches, key=lambda branch: self._emptiness(branch, place))

    def _conditions(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "if" in schema:
            base = {name: value for name, value in schema.items() if name not in ("if", "then", "else")}
            met = {"allOf": [base, schema["if"], schema.get("then", True)]}
            yield from (met, {"allOf": [base, schema.get("else", True)]})

    def _emptiness(self, branch: Mapping[str, Any], place: Place) -> int:
        """Null comes last, unless we are deep in a recursion or have no number to give."""
        if branch.get("type") == "null" or branch.get("const", "") is None:
            return -1 if self.is_lean(place) else 1
        if branch.get("type") in ("number", "integer") and not branch.keys() & {"enum", "const"}:
            return 2 if roles.number_for(place, self.insights, branch) is None else 0
        return 0

    def _kinds(self, schema: Mapping[str, Any], place: Place) -> list[str]:
        stated = schema.get("type")
        if isinstance(stated, str):
            return [stated]
        if stated is None:
            likely = [kind for kind, keys in _INFERRED.items() if any(key in schema for key in keys)]
            return [*likely, *(kind for kind in _TYPES if kind not in likely)]
        return sorted(stated, key=lambda kind: self._emptiness({**schema, "type": kind}, place))

    def _of_kind(self, kind: str, schema: Mapping[str, Any], place: Place) -> Iterator[Any]:
        if kind == "boolean":
            truth = roles.truth_for(place)
            yield from (truth, not truth)
        elif kind == "null":
            yield None
        elif kind in ("number", "integer"):
            yield from self._numbers(schema, place, integer=kind == "integer")
        else:
            make = {"string": self._strings, "array": self._array, "object": self._mapping}[kind]
            try:
                yield from make(schema, place)
            except TooComplex:
                raise
            except Unfillable:
                return  # another type, or another branch, may still do

    # --- values --------------------------------------------------------------------------------------

    def _array(self, schema: Mapping[str, Any], place: Place) -> Iterator[Any]:
        yield containers.array(self, schema, place)

    def _mapping(self, schema: Mapping[str, Any], place: Place) -> Iterator[Any]:
        yield containers.mapping(self, schema, place)

    def _strings(self, schema: Mapping[str, Any], place: Place) -> Iterator[str]:
        text = roles.text_for(place, self.insights)
        roomy = not schema.keys() & {"pattern", "format"} and schema.get("maxLength", _MARKED_LENGTH) >= _MARKED_LENGTH
        if roomy and place.depth <= 1 and not place.item and NAME not in text and roles.is_prose(place):
            text = f"{NAME}: {text}"
        yield from leaves.strings(text, schema, material=self._material())

    def _material(self) -> Iterator[str]:
        """What a pattern may ask for: short things found, then words."""
        for found in (self.insights.settings, self.insights.tools, self.insights.topics):
            yield from (item.value for item in found)
        for text in self.insights.texts[:20]:
            yield from text.split()[:10]

    def _numbers(self, schema: Mapping[str, Any], place: Place, *, integer: bool) -> Iterator[int | float]:
        limit = _CONFIDENCE_LIMIT / (100 if roles.is_fraction(schema, place) else 1)
        for number in leaves.numbers(roles.number_for(place, self.insights, schema), schema, integer=integer):
            if not roles.is_confidence(place.name) or number < limit:
                yield number
