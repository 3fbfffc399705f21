"""Insights: their published schema, reading them out of a model's answer, and merging those of parts. PURE."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("insights.schema.json").read_text(encoding="utf-8"))
_validator = Draft202012Validator(SCHEMA)
LISTS = ("workflow_steps", "tools", "settings", "topics")
LEVELS = ("beginner", "intermediate", "advanced")
LEVEL_WORDS = {
    "basic": "beginner",
    "easy": "beginner",
    "medium": "intermediate",
    "expert": "advanced",
    "high": "advanced",
}
MAX_PROBLEMS = 5
MAX_LIST = 200
TOLERANCE_SECONDS = 5.0


class InvalidInsights(Exception):
    """An answer that is not insights; the text says why, for the model that is to correct it."""


def read_insights(answer: str, *, duration_seconds: float | None) -> dict[str, Any]:
    """The insights in a model's answer. Raises InvalidInsights naming each problem.

    `duration_seconds` bounds the key points' times; None for a transcript without times, whose key
    points then get no time at all.
    """
    insights = _normalised(json_object(answer), timed=duration_seconds is not None)
    problems = [_problem(error) for error in _validator.iter_errors(insights)]
    if not problems and duration_seconds is not None:
        problems = _times_outside(insights["key_points"], duration_seconds)
    if problems:
        raise InvalidInsights("; ".join(problems[:MAX_PROBLEMS]))
    insights["key_points"].sort(key=lambda point: point["start_seconds"] or 0)
    return insights


def json_object(answer: str) -> dict[str, Any]:
    """The one JSON object of an answer, be it fenced, preceded by thinking, or wrapped in prose."""
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL).strip()
    start = text.find("{")
    if start < 0:
        raise InvalidInsights("there is no JSON object in it")
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInsights(f"its JSON does not parse: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInsights("its JSON is not an object")
    return value


def _normalised(raw: Mapping[str, Any], *, timed: bool) -> dict[str, Any]:
    """The same content in the schema's spelling, where a model's spelling leaves no doubt."""
    insights = {name: raw[name] for name in SCHEMA["properties"] if name in raw}
    for name in LISTS:
        if name in insights:
            insights[name] = _texts(insights[name])
    if isinstance(insights.get("key_points"), list):
        insights["key_points"] = [_key_point(point, timed=timed) for point in insights["key_points"]]
    level = insights.get("technical_level")
    if isinstance(level, str):
        insights["technical_level"] = LEVEL_WORDS.get(level.strip().lower(), level.strip().lower())
    confidence = insights.get("confidence")
    if isinstance(confidence, str) and re.fullmatch(r"\d+(\.\d+)?\s*%?", confidence.strip()):
        confidence = insights["confidence"] = float(confidence.strip(" %"))
    if isinstance(confidence, float) and 0 < confidence < 1:
        insights["confidence"] = round(confidence * 100, 1)  # a fraction: nobody is 0.8 percent sure
    return insights


def _texts(value: Any) -> Any:
    """A list of texts from the forms that models give lists in; anything else is left for the validator."""
    if isinstance(value, Mapping):
        value = [{"name": name, "value": setting} for name, setting in value.items()]
    if not isinstance(value, list):
        return value
    texts = [_text(item) for item in value[:MAX_LIST]]
    return [text for text in texts if text != ""]


def _text(item: Any) -> Any:
    if isinstance(item, str):
        return item.strip()
    if isinstance(item, Mapping):
        if "name" in item and "value" in item:
            return f"{item['name']}: {item['value']}"
        for name in ("text", "step", "description", "name", "title"):
            if isinstance(item.get(name), str):
                return item[name].strip()
    return item


def _key_point(point: Any, *, timed: bool) -> Any:
    if isinstance(point, str) and not timed:
        return {"text": point.strip(), "start_seconds": None}
    if not isinstance(point, Mapping):
        return point
    text = point.get("text")
    start = _seconds(point.get("start_seconds")) if timed else None
    if timed and "start_seconds" not in point:
        return {"text": text}
    return {"text": text.strip() if isinstance(text, str) else text, "start_seconds": start}


def _seconds(value: Any) -> Any:
    """Seconds from a number or a stamp such as "1:02:03" or "75 s"."""
    if not isinstance(value, str):
        return value
    stamp = re.fullmatch(r"\[?(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)\]?", value.strip())
    if stamp:
        hours, minutes, seconds = stamp.groups(default="0")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    plain = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?", value.strip())
    return float(plain[1]) if plain else value


def _problem(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    return f"{place or 'the answer'}: {error.message[:200]}"


def _times_outside(points: Sequence[Mapping[str, Any]], duration_seconds: float) -> list[str]:
    problems = []
    for number, point in enumerate(points):
        start = point["start_seconds"]
        if start is None:
            problems.append(f"key_points[{number}].start_seconds: is null, but the lines bear stamps")
        elif start > duration_seconds + TOLERANCE_SECONDS:
            problems.append(f"key_points[{number}].start_seconds: {start} is after the end ({duration_seconds:.0f} s)")
    return problems


def merge_insights(parts: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """The insights of consecutive parts as one: summaries follow each other, lists are joined, what two parts
    say is said once. `weights` are the parts' lengths."""
    if len(parts) == 1:
        return dict(parts[0])
    total = sum(weights) or len(parts)
    levels = [LEVELS.index(part["technical_level"]) for part in parts]
    level = sum(index * weight for index, weight in zip(levels, weights, strict=True)) / total
    confidence = sum(part["confidence"] * weight for part, weight in zip(parts, weights, strict=True)) / total
    return {
        "summary": "\n\n".join(part["summary"] for part in parts),
        "key_points": _distinct_points(point for part in parts for point in part["key_points"]),
        **{name: _distinct(text for part in parts for text in part[name]) for name in LISTS},
        "technical_level": LEVELS[round(level)],
        "confidence": round(confidence, 1),
    }


def _distinct(texts: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    for text in texts:
        seen.setdefault(text.casefold(), text)
    return list(seen.values())


def _distinct_points(points: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Parts overlap a little, so that a point can be made by two of them."""
    seen: dict[str, Mapping[str, Any]] = {}
    for point in points:
        seen.setdefault(re.sub(r"\W+", " ", point["text"]).strip().casefold(), point)
    return list(seen.values())
