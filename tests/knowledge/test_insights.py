"""Reading insights out of what models write."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from knowledge.insights import SCHEMA, InvalidInsights, merge_insights, read_insights


def insights(**changes: Any) -> dict[str, Any]:
    return {
        "summary": "How to make sprites.",
        "key_points": [{"text": "Use a low denoise.", "start_seconds": 12}],
        "workflow_steps": ["Load the model"],
        "tools": ["ComfyUI"],
        "settings": ["denoise 0.4"],
        "topics": ["sprites"],
        "technical_level": "intermediate",
        "confidence": 85,
    } | changes


def read(answer: Any, duration_seconds: float | None = 60.0) -> dict[str, Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return read_insights(text, duration_seconds=duration_seconds)


def test_the_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_valid_answer_comes_back_unchanged() -> None:
    assert read(insights()) == insights()


@pytest.mark.parametrize(
    "wrapped",
    [
        "```json\n{}\n```",
        "Here it is:\n{}\nI hope that helps.",
        "<think>The viewer wants {{braces}}.</think>\n{}",
    ],
)
def test_the_json_is_found_inside_fences_prose_and_thinking(wrapped: str) -> None:
    assert read(wrapped.replace("{}", json.dumps(insights()), 1)) == insights()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"settings": {"CFG": 7}}, {"settings": ["CFG: 7"]}),
        ({"settings": [{"name": "steps", "value": 20}]}, {"settings": ["steps: 20"]}),
        ({"workflow_steps": [{"text": "Open it"}]}, {"workflow_steps": ["Open it"]}),
        ({"technical_level": "Advanced"}, {"technical_level": "advanced"}),
        ({"confidence": "85%"}, {"confidence": 85.0}),
        ({"confidence": 0.85}, {"confidence": 85.0}),
        ({"mood": "happy"}, {}),
    ],
)
def test_a_spelling_that_leaves_no_doubt_is_taken(given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert read(insights(**given)) == insights(**kept)


@pytest.mark.parametrize(("stamp", "seconds"), [("0:12", 12), ("1:00:05", 3605), ("75 s", 75), ("[0:00:09]", 9)])
def test_key_point_stamps_become_seconds(stamp: str, seconds: float) -> None:
    answer = insights(key_points=[{"text": "x", "start_seconds": stamp}])
    assert read(answer, 4000)["key_points"][0]["start_seconds"] == seconds


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"confidence": 120}, "confidence"),
        ({"summary": ""}, "summary"),
        ({"key_points": []}, "key_points"),
        ({"key_points": [{"text": "x"}]}, "start_seconds"),
        ({"key_points": [{"text": "x", "start_seconds": 900}]}, "after the end"),
        ({"key_points": [{"text": "x", "start_seconds": None}]}, "is null"),
        ({"key_points": "none"}, "key_points"),
        ({"technical_level": "wizard"}, "technical_level"),
        ({"tools": [3]}, "tools[0]"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInsights, match=re.escape(problem)):
        read(insights(**changes))


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "[1, 2]", '{"summary": "half', "{" * 100_000])
def test_an_answer_without_a_json_object_is_refused(answer: str) -> None:
    with pytest.raises(InvalidInsights):
        read(answer)


def test_a_missing_field_is_named() -> None:
    answer = insights()
    del answer["topics"]
    with pytest.raises(InvalidInsights, match="topics"):
        read(answer)


def test_a_transcript_without_times_gives_key_points_without_times() -> None:
    answer = insights(key_points=["Use a low denoise.", {"text": "And few steps.", "start_seconds": 4}])
    points = read(answer, None)["key_points"]
    assert points == [
        {"text": "Use a low denoise.", "start_seconds": None},
        {"text": "And few steps.", "start_seconds": None},
    ]


def test_parts_are_merged_without_losing_anything() -> None:
    first = insights(confidence=90, tools=["ComfyUI", "Krita"])
    second = insights(
        confidence=60,
        tools=["krita", "Blender"],
        key_points=[{"text": "Later.", "start_seconds": 400}],
        technical_level="advanced",
    )
    merged = merge_insights([first, second], weights=[2, 1])
    assert merged["confidence"] == 80
    assert merged["tools"] == ["ComfyUI", "Krita", "Blender"]
    assert [point["start_seconds"] for point in merged["key_points"]] == [12, 400]
    assert first["summary"] in merged["summary"]
    assert second["summary"] in merged["summary"]
    Draft202012Validator(SCHEMA).validate(merged)
