"""The offline model fills JSON schemas: whatever it returns validates, and what it cannot fill it refuses."""

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


# --- any schema ------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    [
        "summary",
        "text",
        "title",
        "score",
        "confidence",
        "items",
        "tags",
        "name",
        "start_seconds",
        "verdict",
        "x",
        "ünïcode",
    ]
)
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["a", "approve", "low", "", "é"]))


@st.composite
def _strings(draw: Any) -> dict[str, Any]:
    low = draw(st.integers(0, 30))
    schema: dict[str, Any] = {"type": "string"}
    if draw(st.booleans()):
        schema |= {"minLength": low, "maxLength": low + draw(st.integers(0, 200))}
    elif draw(st.booleans()):
        schema["pattern"] = draw(
            st.sampled_from(
                [
                    r"^\d{4}-\d{2}$",
                    "^[A-Z]{2,5}$",
                    "[a-f]+[0-9]",
                    r"^(yes|no)\.$",
                    r"^[^\s]+$",
                    r"^\w+( \w+)*$",
                    "^.{12,}$",
                ]
            )
        )
    return schema


@st.composite
def _numbers(draw: Any) -> dict[str, Any]:
    low = draw(st.integers(-50, 50))
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    schema |= draw(
        st.sampled_from(
            [
                {},
                {"minimum": low},
                {"exclusiveMinimum": low, "maximum": low + 4},
                {"exclusiveMaximum": low},
                {"multipleOf": 3, "minimum": low},
            ]
        )
    )
    return schema


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, low, extra: {"type": "array", "items": items, "minItems": low, "maxItems": low + extra},
        inner,
        st.integers(0, 4),
        st.integers(0, 5),
    )


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda listed, count, closed: {
            "type": "object",
            "properties": listed,
            "required": sorted(listed)[:count],
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(_NAMES, inner, max_size=4),
        st.integers(0, 4),
        st.booleans(),
    )


_LEAVES = st.one_of(
    _strings(),
    _numbers(),
    st.sampled_from(
        [{}, True, {"type": "boolean"}, {"type": "null"}, {"type": ["number", "null"]}, {"type": ["string", "integer"]}]
    ),
    st.builds(lambda values: {"enum": values}, st.lists(_SCALARS, min_size=1, max_size=4, unique_by=repr)),
    st.builds(lambda value: {"const": value}, _SCALARS),
)
SATISFIABLE = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _arrays(inner),
        _objects(inner),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)
# Branches that may contradict each other: some of these schemas have no value at all.
_TANGLED = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda parts: {"oneOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda when, then: {"if": when, "then": then}, inner, inner),
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 2, "uniqueItems": True}, inner),
        st.builds(
            lambda first, rest: {"type": "array", "prefixItems": first, "items": rest},
            st.lists(inner, max_size=3),
            inner,
        ),
        st.builds(lambda part: {"type": "array", "contains": part}, inner),
        st.builds(lambda part: {"type": "object", "patternProperties": {"^x": part}, "minProperties": 1}, inner),
        st.builds(
            lambda part: {"type": "object", "propertyNames": {"pattern": "^k[0-9]$"}, "additionalProperties": part},
            inner,
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SATISFIABLE, st.text(max_size=300))
def test_an_answer_validates_against_any_satisfiable_schema(schema: Any, prompt: str) -> None:
    filled(schema, prompt)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SATISFIABLE)
def test_a_schema_behind_references_is_filled_like_one_in_place(schema: Any) -> None:
    filled(
        {
            "$defs": {"part": schema},
            "type": "object",
            "properties": {"one": {"$ref": "#/$defs/part"}},
            "required": ["one"],
        }
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_TANGLED)
def test_a_schema_of_contradictions_is_filled_or_refused_as_a_bad_request(schema: Any) -> None:
    try:
        filled(schema)
    except ProviderError as error:
        problem = (error.kind, error.retryable)
    else:
        problem = ("bad_request", False)
    assert problem == ("bad_request", False)


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
    started = time.monotonic()
    filled(
        {
            "$defs": {"node": properties(label={"type": "string"}, more={"type": "array", "items": node}, **children)},
            **node,
        }
    )
    assert time.monotonic() - started < 20


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
    assert time.monotonic() - started < 15


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
    assert form["findings"] == []
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
