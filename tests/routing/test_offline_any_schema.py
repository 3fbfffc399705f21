"""Schemas drawn at random: the offline model fills what can be filled, and refuses the rest as bad requests."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routing.types import ProviderError
from tests.routing.test_offline_schema import filled

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
