"""Lists and objects: which elements and properties, how many, and what a schema demands beyond them."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Protocol

from routing.offline import merging, patterns, roles
from routing.offline.insights import Insights, Item
from routing.offline.leaves import Unfillable
from routing.offline.roles import Place
from ziggie.values import replace

_MAX_REPEATED = 100  # equal values offered for a list of different ones before it is given up
_MAX_MEMBERS = 1_000  # that a schema may demand of one list or object


class Builder(Protocol):
    """The walk that builds what stands inside."""

    insights: Insights
    items: int

    def build(self, schema: Any, place: Place) -> Any: ...

    def tried(self, schema: Any, place: Place) -> Iterator[Any]:
        """The built value, or nothing where none was found."""
        ...

    def flat(self, schema: Any) -> Mapping[str, Any]: ...

    def is_lean(self, place: Place) -> bool: ...


# --- lists -----------------------------------------------------------------------------------------


def array(builder: Builder, schema: Mapping[str, Any], place: Place) -> list[Any]:
    """What was found first; then, only up to a demanded number, whatever fits. Raises Unfillable."""
    listed = schema.get("items", True)
    prefix = schema.get("prefixItems", listed if isinstance(listed, list) else [])
    rest = schema.get("additionalItems", True) if isinstance(listed, list) else listed
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems", _MAX_MEMBERS)
    if least > _MAX_MEMBERS:
        raise Unfillable(f"a list of {least} elements")
    unique = bool(schema.get("uniqueItems"))
    in_prefix = min(len(prefix), most) if not builder.is_lean(place) else min(len(prefix), least)
    values = [builder.build(part, _element(place, part)) for part in prefix[: int(in_prefix)]]
    if "contains" in schema:
        wanted = merging.merge(builder.flat(rest), builder.flat(schema["contains"]))
        number = int(schema.get("minContains", 1))
        values += _distinct(values, _padding(builder, wanted, place, unique=unique), number, unique=unique)
    if not builder.is_lean(place):
        room = min(builder.items, most) - len(values)
        values += _distinct(values, _found(builder, rest, place), room, unique=True)
    missing = least - len(values)
    values += _distinct(values, _padding(builder, rest, place, unique=unique), missing, unique=unique)
    return values


def _distinct(present: list[Any], offered: Iterator[Any], count: float, *, unique: bool) -> list[Any]:
    taken: list[Any] = []
    repeated = 0
    while len(taken) < count and repeated < _MAX_REPEATED:
        value = next(offered, _distinct)
        if value is _distinct:
            break
        if not unique or (value not in present and value not in taken):
            taken.append(value)
        else:
            repeated += 1
    return taken


def _element(place: Place, schema: Any, item: Item | None = None) -> Place:
    return replace(place.child("", schema), item=item or place.item)


def _found(builder: Builder, schema: Any, place: Place) -> Iterator[Any]:
    if schema is False:
        return
    flat = builder.flat(schema)
    if choices := flat.get("enum"):
        yield from roles.mentioned_choices(choices, builder.insights)
        return
    for item in roles.items_for(place, builder.insights, of_text=flat.get("type") == "string"):
        yield from builder.tried(schema, _element(place, schema, item))


def _padding(builder: Builder, schema: Any, place: Place, *, unique: bool) -> Iterator[Any]:
    if schema is False:
        return
    flat = builder.flat(schema)
    choices = [False, True] if flat.get("type") == "boolean" else flat.get("enum", ())
    yield from roles.ordered_choices(choices, place, builder.insights)
    for text in (
        patterns.examples(flat["pattern"], min_length=int(flat.get("minLength", 0))) if "pattern" in flat else ()
    ):
        yield from builder.tried({**flat, "enum": [text]}, _element(place, schema))
    for number in range(2 * _MAX_MEMBERS):
        numbered = f"{roles.UNKNOWN} {number + 1}"
        item = Item(numbered, name=numbered, value=str(number)) if unique else None
        found = list(builder.tried(_pushed(flat, number) if unique else flat, _element(place, schema, item)))
        if not found and number > 1:
            return
        yield from found


def _pushed(schema: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """A number schema whose least value is the `number`-th of the schema, for elements that must differ."""
    kind = schema.get("type")
    if kind not in ("integer", "number"):
        return schema
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    if low is None and high is not None:
        return {**schema, "maximum": high - number}
    step = schema.get("multipleOf", 1)
    if kind == "number" and "multipleOf" not in schema and high is not None:
        step = (high - low) / (2 * _MAX_MEMBERS)
    return {**schema, "minimum": (low or 0) + number * step}


# --- objects ---------------------------------------------------------------------------------------


def mapping(builder: Builder, schema: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """All listed properties where there is room for them, at least the required ones. Raises Unfillable."""
    listed: Mapping[str, Any] = schema.get("properties", {})
    required = list(dict.fromkeys(schema.get("required", ())))
    if len(required) > _MAX_MEMBERS:
        raise Unfillable(f"an object of {len(required)} properties")
    room = schema.get("maxProperties", _MAX_MEMBERS)
    claimed = any(map(roles.carries_item, [*listed, *required]))
    made: dict[str, Any] = {}
    for name in [*(name for name in listed if name in required), *(name for name in required if name not in listed)]:
        part = _part(builder, schema, name)
        made[name] = builder.build(part, place.child(name, part, claimed=claimed))
    for name in () if builder.is_lean(place) else listed:
        if name not in made and len(made) < room:
            for value in builder.tried(listed[name], place.child(name, listed[name], claimed=claimed)):
                made[name] = value
    _add_dependents(builder, made, schema, place)
    _add_up_to(builder, made, schema, place)
    return {
        name: made[name]
        for name in chain((key for key in listed if key in made), (key for key in made if key not in listed))
    }


def _part(builder: Builder, schema: Mapping[str, Any], name: str) -> Any:
    """What the schema says of one property."""
    parts = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    parts += [part for pattern, part in schema.get("patternProperties", {}).items() if patterns.matches(pattern, name)]
    whole: Any = True
    for part in parts or [schema.get("additionalProperties", schema.get("unevaluatedProperties", True))]:
        whole = merging.both(whole, part)
    return whole


def _add_dependents(builder: Builder, made: dict[str, Any], schema: Mapping[str, Any], place: Place) -> None:
    """What the presence of one property demands of others."""
    demands = {
        **schema.get("dependencies", {}),
        **schema.get("dependentRequired", {}),
        **schema.get("dependentSchemas", {}),
    }
    for name, demand in demands.items():
        if name not in made:
            continue
        if isinstance(demand, list):
            for other in demand:
                if other not in made:
                    part = _part(builder, schema, other)
                    made[other] = builder.build(part, place.child(other, part))
        elif demand is not True:
            base = {
                key: value
                for key, value in schema.items()
                if key not in ("dependencies", "dependentSchemas", "dependentRequired")
            }
            made |= builder.build(merging.merge(base, builder.flat(demand)) | {"type": "object"}, place)


def _add_up_to(builder: Builder, made: dict[str, Any], schema: Mapping[str, Any], place: Place) -> None:
    """Names of our own where the schema demands more properties than it lists."""
    least = int(schema.get("minProperties", 0))
    if least > _MAX_MEMBERS:
        raise Unfillable(f"an object of {least} properties")
    for name in chain(schema.get("properties", {}), _names(builder, schema, place) if len(made) < least else ()):
        if len(made) >= least:
            return
        if name not in made:
            part = _part(builder, schema, name)
            for value in builder.tried(part, place.child(name, part)):
                made[name] = value


def _names(builder: Builder, schema: Mapping[str, Any], place: Place) -> Iterator[str]:
    for pattern in schema.get("patternProperties", ()):
        stem = next(patterns.examples(pattern), "")
        yield stem
        yield from (f"{stem}{number}" for number in range(_MAX_MEMBERS) if patterns.matches(pattern, f"{stem}{number}"))
        yield from (text for size in range(1, 30) for text in patterns.examples(pattern, min_length=size))
    wanted = merging.merge({"type": "string"}, builder.flat(schema.get("propertyNames", True)))
    yield from roles.ordered_choices(wanted.get("enum", ()), place, builder.insights)
    for number in range(2 * _MAX_MEMBERS):
        item = Item(f"item{number + 1}")
        yield from builder.tried(
            {**wanted, "minLength": max(1, wanted.get("minLength", 0))}, _element(place, wanted, item)
        )
        if wanted.get("pattern"):
            yield from patterns.examples(wanted["pattern"], min_length=number)
