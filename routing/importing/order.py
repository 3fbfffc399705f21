"""PURE: the order that older rules ask for by a `priority`."""

import math
from typing import Any, Protocol

WORDS = {"low": 1, "medium": 2, "normal": 2, "high": 3, "critical": 4}

Spec = tuple[str, str, Any]  # place, name, what stands there


class Says(Protocol):
    """The report."""

    def took(self, place: str, what: str) -> None: ...

    def left(self, place: str, why: str) -> None: ...


def in_order(specs: list[Spec], report: Says) -> list[Spec]:
    """The rules as they are to be tried.

    Words say by themselves what goes first. Numbers do not: where the file's own order is that of its numbers, rising
    or falling, it stays; else the higher number goes first, and the report says so.
    """
    ranks = {place: rank for place, _, spec in specs if (rank := _rank(place, spec, report)) is not None}
    if not ranks:
        return specs
    kinds = {type(rank) for rank in ranks.values()}
    if len(kinds) > 1:
        for place in ranks:
            report.left(f"{place}.priority", "numbers and words cannot be compared: the order of the file stays")
        return specs
    stated = list(ranks.values())
    rising = kinds == {float} and stated == sorted(stated)
    if rising or (stated == sorted(stated, reverse=True) and len(stated) == len(specs)):
        why = "the file's order is that of its priorities"
        ordered = specs
    else:
        why = "higher goes first, and what has no priority last"
        ordered = sorted(specs, key=lambda spec: -ranks.get(spec[0], -math.inf))
    for number, (place, _, spec) in enumerate(ordered, start=1):
        if place in ranks:
            report.took(f"{place}.priority", f"{spec['priority']}: tried as number {number} of {len(ordered)} ({why})")
    return ordered


def _rank(place: str, spec: Any, report: Says) -> float | int | None:
    """A float of a number, an int of a word; None for a rule that has neither."""
    stated = spec.get("priority") if isinstance(spec, dict) else None
    if stated is None or stated == "":
        return None
    if isinstance(stated, str) and stated.strip().lower() in WORDS:
        return WORDS[stated.strip().lower()]
    try:
        number = math.nan if isinstance(stated, bool) else float(stated)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    report.left(f"{place}.priority", f"is no number and none of {', '.join(WORDS)}")
    return None
