"""Folds JSON schemas that all must hold (`allOf`, `$ref` beside other words) into one, without looking at values."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product
from typing import Any

from routing.offline.leaves import Unfillable

_MAX_REFERENCES = 50
_MAX_BRANCHES = 64

Resolve = Callable[[str], Any]


def flatten(schema: Mapping[str, Any], resolve: Resolve, *, chain: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema with its references and `allOf` parts folded in, one level deep.

    Raises Unfillable where they contradict each other or a reference leads back to itself.
    """
    flat = {
        key: value
        for key, value in schema.items()
        if key not in ("$ref", "$dynamicRef", "allOf", "$defs", "definitions")
    }
    parts: list[tuple[Any, tuple[str, ...]]] = [(part, chain) for part in schema.get("allOf", ())]
    for reference in filter(None, (schema.get("$ref"), schema.get("$dynamicRef"))):
        if reference in chain or len(chain) > _MAX_REFERENCES:
            raise Unfillable("a reference leads back to itself")
        parts.append((resolve(reference), (*chain, reference)))
    for part, reached in parts:
        if part is False:
            raise Unfillable("nothing may stand here")
        if part is not True:
            flat = merge(flat, flatten(part, resolve, chain=reached))
    return flat


def both(one: Any, other: Any) -> Any:
    """A schema that holds where both do."""
    if one is False or other is False:
        return False
    if one is True or one == other:
        return other
    return one if other is True else {"allOf": [one, other]}


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two flat schemas as one. Raises Unfillable where no value can satisfy both."""
    merged = {**other, **one}
    for key in one.keys() & other.keys():
        if key not in ("properties", "additionalProperties") and (rule := _RULES.get(key)):
            merged[key] = rule(one[key], other[key])
    if "properties" in merged or "additionalProperties" in merged:
        merged |= _properties(one, other)
    return merged


def _properties(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    merged: dict[str, Any] = {}
    for name in dict.fromkeys([*mine, *theirs]):
        merged[name] = both(mine.get(name, _elsewhere(one)), theirs.get(name, _elsewhere(other)))
    found: dict[str, Any] = {"properties": merged} if merged else {}
    if "additionalProperties" in one or "additionalProperties" in other:
        found["additionalProperties"] = both(
            one.get("additionalProperties", True), other.get("additionalProperties", True)
        )
    return found


def _elsewhere(schema: Mapping[str, Any]) -> Any:
    """What a schema says of a property that it does not list (patterns are left to the final check)."""
    return True if "patternProperties" in schema else schema.get("additionalProperties", True)


def _types(one: Any, other: Any) -> Any:
    mine, theirs = ([each] if isinstance(each, str) else list(each) for each in (one, other))
    shared = [kind for kind in mine if kind in theirs or (kind == "integer" and "number" in theirs)]
    shared += [kind for kind in theirs if kind == "integer" and "number" in mine and kind not in shared]
    if not shared:
        raise Unfillable(f"no value is both {one} and {other}")
    return shared[0] if len(shared) == 1 else shared


def _enums(one: Any, other: Any) -> Any:
    return [value for value in one if value in other]


def _constants(one: Any, other: Any) -> Any:
    if one != other:
        raise Unfillable("two constants contradict each other")
    return one


def _multiples(one: Any, other: Any) -> Any:
    mine, theirs = Fraction(str(one)), Fraction(str(other))
    shared = Fraction(math.lcm(mine.numerator, theirs.numerator), math.gcd(mine.denominator, theirs.denominator))
    return int(shared) if shared.denominator == 1 else float(shared)


def _branches(one: Any, other: Any) -> Any:
    if len(one) * len(other) > _MAX_BRANCHES:
        raise Unfillable("too many branches")
    return [both(mine, theirs) for mine, theirs in product(one, other)]


def _named(one: Any, other: Any) -> Any:
    return {name: both(one.get(name, True), other.get(name, True)) for name in dict.fromkeys([*one, *other])}


def _lists(one: Any, other: Any) -> Any:
    longer, shorter = sorted((one, other), key=len, reverse=True)
    return [both(part, shorter[place] if place < len(shorter) else True) for place, part in enumerate(longer)]


def _union(one: Any, other: Any) -> Any:
    return list(dict.fromkeys([*one, *other]))


def _patterns(one: Any, other: Any) -> Any:
    return one if one == other else rf"(?=[\s\S]*?(?:{one}))(?=[\s\S]*?(?:{other}))"


_RULES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "enum": _enums,
    "const": _constants,
    "required": _union,
    "multipleOf": _multiples,
    "pattern": _patterns,
    "anyOf": _branches,
    "oneOf": _branches,
    "items": both,
    "contains": both,
    "propertyNames": both,
    "additionalItems": both,
    "prefixItems": _lists,
    "patternProperties": _named,
    "dependentSchemas": _named,
    "dependentRequired": lambda one, other: {**other, **one},
    "not": lambda one, other: {"anyOf": [one, other]},
    "uniqueItems": lambda one, other: one or other,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"), min),
}
