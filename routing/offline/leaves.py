"""Bends a proposed string or number to the limits that a schema sets."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from routing.offline import patterns

MAX_LENGTH = 20_000  # characters that a schema may demand of one string
_MAX_CANDIDATES = 120  # strings tried against one pattern

# Strings of each format: how one looks inside a text, and a neutral one for texts that hold none.
_FORMATS: dict[str, tuple[str, str]] = {
    "date": (r"\b\d{4}-\d{2}-\d{2}\b", "1970-01-01"),
    "date-time": (r"\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:Z|[+-]\d{2}:\d{2})", "1970-01-01T00:00:00Z"),
    "time": (r"\b\d{2}:\d{2}:\d{2}(?:Z|[+-]\d{2}:\d{2})", "00:00:00Z"),
    "duration": (r"\bP(?:\d+[YMWD])*(?:T(?:\d+[HMS])+)?\b(?<=\w\w)", "PT0S"),
    "email": (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "nobody@example.invalid"),
    "uri": (r"https?://[^\s<>\"')\]]+", "https://example.invalid/"),
    "uri-reference": (r"https?://[^\s<>\"')\]]+", "https://example.invalid/"),
    "uuid": (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "00000000-0000-0000-0000-000000000000"),
    "ipv4": (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", "0.0.0.0"),  # noqa: S104 - the neutral address, bound nowhere
    "ipv6": (r"\b(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\b", "::"),
    "hostname": (r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}\b", "example.invalid"),
    "regex": (r"(?!)", ".*"),
    "json-pointer": (r"(?!)", ""),
}


class Unfillable(Exception):
    """No value was found for a schema here; another branch of it may still have one."""


def strings(proposal: str, schema: Mapping[str, Any], *, material: Iterable[str] = ()) -> Iterator[str]:
    """Strings within the schema's lengths, the proposal first; for a pattern also the material's words and
    an example made from the pattern."""
    low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
    if low > MAX_LENGTH:
        raise Unfillable(f"a string of {low} characters")
    for count, text in enumerate(_proposals(proposal, schema, material, min_length=low)):
        if count >= _MAX_CANDIDATES:
            break
        fitted = _fit(text, low, high)
        if "pattern" not in schema or patterns.matches(schema["pattern"], fitted):
            yield fitted
    for text in patterns.examples(schema["pattern"], min_length=low) if "pattern" in schema else ():
        if low <= len(text) <= (math.inf if high is None else high) and patterns.matches(schema["pattern"], text):
            yield text


def _proposals(proposal: str, schema: Mapping[str, Any], material: Iterable[str], *, min_length: int) -> Iterator[str]:
    if found := _FORMATS.get(str(schema.get("format", ""))):
        look, neutral = found
        yield from re.findall(look, proposal)[:1]
        yield neutral
    yield from (proposal, "unknown", "-")
    if "pattern" in schema:
        yield from (
            proposal.lower(),
            proposal[:1].upper() + proposal[1:],
            re.sub(r"\W+", "-", proposal.lower()).strip("-"),
        )
        yield from re.findall(r"\S+", proposal)[:20]
        yield from (text for text in material if len(text) >= min_length)


def _fit(text: str, low: int, high: float | None) -> str:
    if high is not None and len(text) > high:
        limit = max(0, int(high))
        space = text.rfind(" ", limit // 2, limit + 1)
        text = text[: space if space > 0 else limit].rstrip() or text[:limit]
    return text.ljust(low, ".")


def numbers(proposal: float | None, schema: Mapping[str, Any], *, integer: bool) -> Iterator[int | float]:
    """Numbers within the schema's bounds, the nearest to the proposal first (to the least without one)."""
    low, high = _bounds(schema, integer=integer)
    step = Fraction(str(schema["multipleOf"])) if schema.get("multipleOf") else None
    if integer:
        step = Fraction(1) if step is None else Fraction(math.lcm(step.numerator, step.denominator) // step.denominator)
    wanted = Fraction(proposal) if proposal is not None and math.isfinite(proposal) else (low or Fraction(0))
    for value in (wanted, low, high, Fraction(0), wanted + 1, wanted - 1):
        if value is None:
            continue
        inside = _clamp(value, low, high)
        if step:
            below, above = math.floor(inside / step) * step, math.ceil(inside / step) * step
            yield from (
                _plain(each, integer=integer) for each in sorted((below, above), key=lambda each: abs(each - inside))
            )
        else:
            yield _plain(inside, integer=integer)


def _bounds(schema: Mapping[str, Any], *, integer: bool) -> tuple[Fraction | None, Fraction | None]:
    lows = [_exact(schema[key]) for key in ("minimum", "exclusiveMinimum") if _is_number(schema.get(key))]
    highs = [_exact(schema[key]) for key in ("maximum", "exclusiveMaximum") if _is_number(schema.get(key))]
    low, high = max(lows, default=None), min(highs, default=None)
    open_low = low is not None and _is_open(schema, "exclusiveMinimum", "minimum", low)
    open_high = high is not None and _is_open(schema, "exclusiveMaximum", "maximum", high)
    gap = (
        Fraction(1) if integer else ((high - low) / 1000 if low is not None and high is not None else Fraction(1, 1000))
    )
    if low is not None and integer:
        low = Fraction(math.floor(low) + 1 if open_low else math.ceil(low))
    elif low is not None and open_low:
        low += gap
    if high is not None and integer:
        high = Fraction(math.ceil(high) - 1 if open_high else math.floor(high))
    elif high is not None and open_high:
        high -= gap
    return low, high


def _is_open(schema: Mapping[str, Any], exclusive: str, inclusive: str, bound: Fraction) -> bool:
    """True if the bound itself is out; in draft 4 `exclusive` is a flag beside `inclusive`."""
    limit = schema.get(exclusive)
    return limit is True or (_is_number(limit) and _exact(limit) == bound)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _exact(value: Any) -> Fraction:
    return Fraction(str(value))


def _clamp(value: Fraction, low: Fraction | None, high: Fraction | None) -> Fraction:
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


def _plain(value: Fraction, *, integer: bool) -> int | float:
    return int(value) if integer or value.denominator == 1 else float(value)
