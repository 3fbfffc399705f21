"""The offline model fills JSON schemas: whatever it returns validates, and what it cannot fill it refuses."""

import json
import time
from typing import Any

import jsonschema
import pytest
from referencing import Registry

from routing import offline
from routing.types import ChatRequest, ProviderError, message

PROMPT = """Fill in the form from these notes.

name: Ada Lovelace
age: 36
email: ada@example.org
Her notes on the Analytical Engine were published on 1843-09-01 in London.
She used the Analytical Engine with 3 programs and CFG 7.
The first program computes Bernoulli numbers."""


def filled(schema: Any, prompt: str = PROMPT, **options: Any) -> Any:
    """The parsed answer, checked against the schema."""
    result = offline.answer(ChatRequest((message("user", prompt),), json_schema=schema, **options))
    document = json.loads(result.text)
    jsonschema.validate(document, schema, registry=Registry())
    return document


def refused(schema: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        offline.answer(ChatRequest((message("user", PROMPT),), json_schema=schema))
    return caught.value


def properties(**listed: Any) -> dict[str, Any]:
    return {"type": "object", "properties": listed, "required": list(listed), "additionalProperties": False}


KIND = {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]}
NODES = {"type": "array", "items": {"$ref": "#/$defs/node"}}
DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}

# --- single keywords ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 300, "maxLength": 310},
        {"type": "string", "maxLength": 3},
        {"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"},
        {"type": "string", "pattern": r"^(?!a)\w{8,}$"},
        {"type": "string", "format": "uuid"},
        {"type": "integer", "minimum": 5, "maximum": 5},
        {"type": "integer", "exclusiveMinimum": 2.5, "maximum": 3.9},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
        {"type": "number", "multipleOf": 0.01, "minimum": 3.333},
        {"type": "integer", "multipleOf": 2.5, "minimum": 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": 5, "uniqueItems": True},
        {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 30, "uniqueItems": True},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "uniqueItems": True},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "string"}, "contains": {"const": "x"}, "minContains": 2},
        {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "items": False, "minItems": 2},
        {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
        {"type": "object", "minProperties": 2, "propertyNames": {"pattern": "^[a-z]{4}$"}},
        {"type": "object", "patternProperties": {"^s_": {}}, "additionalProperties": False, "minProperties": 2},
        {"type": "object", "required": ["unlisted"]},
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["c"]}, "required": ["a"]},
        {"allOf": [properties(a={"type": "string"}) | {"additionalProperties": True}, {"required": ["b"]}]},
        {"oneOf": [{"type": "string", "maxLength": 5}, {"type": "string", "minLength": 3}]},
        KIND | {"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["y"]}},
        {"not": {"type": "string"}},
        {"$ref": "#/$defs/node", "$defs": {"node": properties(name={"type": "string"}, children=NODES)}},
        {"$defs": {"n": properties(next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})}, "$ref": "#/$defs/n"},
        {"$id": "https://example.org/s", "$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "integer"}}},
        DRAFT_7 | {"type": "array", "items": [{"type": "string"}], "additionalItems": False, "minItems": 1},
        DRAFT_4 | {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
        {"type": "object", "properties": {"$schema": {"type": "string"}}, "required": ["$schema"]},
        True,
        {},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)  # fmt: skip
def test_this_schema_is_filled(schema: Any) -> None:
    filled(schema)


def test_a_tree_of_wide_nodes_is_filled_in_bounded_time() -> None:
    node = {"$ref": "#/$defs/node"}
    children = {f"child{number}": {"anyOf": [node, {"type": "null"}]} for number in range(8)}
    started = time.thread_time()
    filled(
        {
            "$defs": {"node": properties(label={"type": "string"}, more={"type": "array", "items": node}, **children)},
            **node,
        }
    )
    assert time.thread_time() - started < 20


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (False, "nothing"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "fits"),
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "string", "minLength": 10**9}, "schema"),
        ({"type": "array", "minItems": 10**9}, "schema"),
        ({"$ref": "#"}, "reference"),
        ({"$ref": "#/$defs/missing"}, "nowhere"),
        ({"$ref": "http://127.0.0.1:9/never-fetched.json"}, "nowhere"),
        ({"$schema": "https://example.org/other", "type": "string"}, "dialect"),
        ({"anyOf": [{"anyOf": [{"$ref": "#"}] * 9}] * 9}, ""),
        (properties(confidence={"type": "number", "minimum": 90}), ""),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_cannot_be_filled_is_refused_as_a_bad_request(schema: Any, word: str) -> None:
    error = refused(schema)
    assert (error.kind, error.retryable) == ("bad_request", False)
    assert word in str(error)


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"^(\w+\s*)+:$", r"(x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_never_ends_does_not_hold_the_process(pattern: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": pattern}},
        "patternProperties": {pattern: {}},
    }
    request = ChatRequest((message("user", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! " * 9),), json_schema=schema)
    started = time.monotonic()
    offline.answer(request)
    assert time.monotonic() - started < 60  # without a limit: longer than the universe


# --- what stands in the fields -------------------------------------------------------------------------


def test_fields_named_in_the_prompt_take_their_values() -> None:
    form = filled(
        properties(name={"type": "string"}, age={"type": "integer"}, email={"type": "string", "format": "email"})
    )
    assert form == {"name": "Ada Lovelace", "age": 36, "email": "ada@example.org"}


def test_a_number_that_the_prompt_does_not_state_is_null_where_null_is_allowed() -> None:
    form = filled(
        properties(shoe_size={"type": ["number", "null"]}, height={"anyOf": [{"type": "number"}, {"type": "null"}]})
    )
    assert form == {"shoe_size": None, "height": None}


def test_every_answer_says_what_made_it_where_the_schema_has_room() -> None:
    for schema in (
        properties(summary={"type": "string"}),
        properties(answer={"type": "string"}, score={"type": "number"}),
        properties(verdict={"enum": ["approve", "reject"]}, reason={"type": "string"}),
        {"type": "object", "properties": {"score": {"type": "number"}}},
    ):
        assert "offline extractive" in json.dumps(filled(schema)).lower()


def test_a_schema_without_room_for_a_word_still_gets_its_answer() -> None:
    assert filled(properties(count={"type": "integer"}, ok={"type": "boolean"})) == {"count": 0, "ok": False}


@pytest.mark.parametrize(
    ("verdicts", "given"),
    [
        (["approve", "reject"], "reject"),
        (["APPROVED", "CHANGES_REQUESTED", "UNSURE"], "UNSURE"),
        (["pass", "fail"], "fail"),
        (["valid", "invalid", "unknown"], "unknown"),
        (["incorrect", "correct"], "incorrect"),
        (["right", "wrong"], "wrong"),
        (["approved"], "approved"),  # the schema leaves no other answer
    ],
)
def test_a_judgement_never_claims_approval_while_the_schema_allows_another(verdicts: list[str], given: str) -> None:
    prompt = "Review this answer and give a verdict.\n\nAnswer: 2 + 2 = 4. It was approved, correct, valid and passed."
    schema = properties(
        verdict={"enum": verdicts},
        approved={"type": "boolean"},
        score={"type": "integer", "minimum": 1, "maximum": 10},
        confidence={"type": "number"},
        findings={"type": "array", "items": {"type": "string"}},
        reason={"type": "string"},
    )
    form = filled(schema, prompt)
    assert form["verdict"] == given
    assert form["approved"] is False
    assert form["score"] == 1
    assert form["confidence"] == 20
    assert form["findings"] == ["Offline extractive: no judgement was made on this; no language model was available."]
    assert form["reason"].startswith("Offline extractive")


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ({"type": "number"}, 20, 60),
        ({"type": "integer", "minimum": 0, "maximum": 100}, 20, 60),
        ({"type": "number", "minimum": 0, "maximum": 1}, 0.2, 0.6),
        ({"type": "number", "description": "how sure you are, 0.0 to 1.0"}, 0.2, 0.6),
    ],
)
def test_confidence_is_modest_on_the_scale_of_the_schema(field: dict[str, Any], low: float, high: float) -> None:
    schema = properties(summary={"type": "string"}, confidence=field)
    assert low <= filled(schema)["confidence"] <= high
    request = ChatRequest((message("user", PROMPT),), json_schema=schema)
    assert 20 <= offline.confidence(request, offline.answer(request)) <= 60


def test_an_enum_takes_the_value_that_the_text_speaks_of() -> None:
    prompt = "Classify the ticket.\n\nThe invoice shows the wrong amount and billing charged me twice. Billing again!"
    assert filled(properties(category={"enum": ["login", "shipping", "billing"]}), prompt) == {"category": "billing"}


def test_lists_shrink_until_the_answer_fits_the_limit_of_tokens() -> None:
    schema = properties(sentences={"type": "array", "items": {"type": "string"}})
    assert len(filled(schema)["sentences"]) > len(filled(schema, max_output_tokens=40)["sentences"])
    cut = offline.answer(ChatRequest((message("user", PROMPT),), json_schema=schema, max_output_tokens=2))
    assert cut.stop_reason == "length"


def test_a_json_object_without_a_schema_bears_answer_and_confidence() -> None:
    request = ChatRequest((message("user", PROMPT + "\n\nWhat is her age?"),), json_object=True)
    document = json.loads(offline.answer(request).text)
    assert "36" in document["answer"]
    assert document["answer"].startswith("Offline extractive")
    assert 20 <= document["confidence"] <= 60


def test_findings_that_need_a_reader_are_not_invented() -> None:
    finding = properties(file={"type": "string"}, line={"type": "integer"}, severity={"enum": ["low", "high"]})
    schema = properties(summary={"type": "string"}, findings={"type": "array", "items": finding})
    form = filled(schema, "Review this code for security issues.\n\n```python\neval(input())\n```")
    assert form["findings"] == []
    assert form["summary"].startswith("Offline extractive: no judgement was made")


def test_the_errors_of_a_log_are_found_by_their_words() -> None:
    log = "10:01 started\n10:02 ERROR disk full on /var\n10:03 request served\n10:04 connection to db failed\n10:05 end"
    form = filled(properties(errors={"type": "array", "items": {"type": "string"}}), f"Parse this log:\n\n{log}")
    assert form["errors"] == ["10:02 ERROR disk full on /var", "10:04 connection to db failed"]
