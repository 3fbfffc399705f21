"""PURE: answers as JSON, and back: those that wait for their callers, and those that equal requests share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import asdict

from routing.types import Attempt, ChatResult, Part, Reasoning, Routed, Source, Text, ToolCall, Usage
from routing.walk.attempts import Answer

PART_KINDS = {"text": Text, "tool_call": ToolCall, "reasoning": Reasoning}


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON; `result_from_json` gives its result back."""
    kinds = {kind: name for name, kind in PART_KINDS.items()}
    result = answer.result
    parts = [{"kind": kinds[type(part)], **_said(part)} for part in result.parts if type(part) in kinds]
    return {
        "parts": parts,
        "stop_reason": result.stop_reason,
        "stop_sequence": result.stop_sequence,
        **({"stop_details": result.stop_details} if result.stop_details else {}),
        "model": result.model,
        "usage": _usage_json(result.usage),
        "confidence": answer.verdict.confidence,
        "findings": answer.findings,
        **({"others": [answer_json(other) for other in answer.others]} if answer.others else {}),
    }


def result_from_json(kept: Mapping[str, Any]) -> ChatResult:
    parts = tuple(map(_part, kept["parts"]))
    return ChatResult(
        parts=parts,
        stop_reason=kept["stop_reason"],
        stop_sequence=kept["stop_sequence"],
        stop_details=kept.get("stop_details"),
        usage=_usage_from_json(kept["usage"]),
        model=kept["model"],
    )


def _said(part: Part) -> dict[str, Any]:
    said = asdict(part)
    if not said.get("citations"):
        said.pop("citations", None)
    return said


def _part(kept: Mapping[str, Any]) -> Part:
    said = {name: value for name, value in kept.items() if name != "kind"}
    if "citations" in said:
        said["citations"] = tuple(said["citations"])
    part: Part = PART_KINDS[kept["kind"]](**said)
    return part


def routed_from_row(row: Mapping[str, Any]) -> Routed:
    """The answer of a receipt that still keeps it; `row` holds RoutedCall's columns."""
    kept = row["bodies"]
    return Routed(
        result=result_from_json(kept),
        call_id=str(row["id"]),
        model=row["model"],
        provider=row["provider"],
        source=Source(row["source"]),
        rule=row["rule"],
        policy=row["policy"],
        version=row["policy_version"],
        attempts=tuple(_attempt_from_json(attempt) for attempt in row["attempts"]),
        cost_microusd=row["cost_microusd"],
        saved_microusd=row["saved_microusd"],
        seconds=row["duration_ms"] / 1000,
        confidence=kept["confidence"],
        cache=row["cache"],
        findings=kept["findings"],
        others=tuple(result_from_json(other) for other in kept.get("others", ())),
    )


def _usage_json(usage: Usage) -> dict[str, Any]:
    return asdict(usage) | {"estimated": sorted(usage.estimated)}


def _usage_from_json(kept: Mapping[str, Any]) -> Usage:
    return Usage(**{**kept, "estimated": frozenset(kept["estimated"])})


def _attempt_from_json(kept: Mapping[str, Any]) -> Attempt:
    return Attempt(
        **{
            **kept,
            "started_at": datetime.fromisoformat(kept["started_at"]),
            "usage": _usage_from_json(kept["usage"]),
        }
    )
