"""Checks values against a stranger's JSON schema: fetches nothing, and no pattern holds the process."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from routing.offline import patterns
from routing.offline.leaves import Unfillable

_MAX_SUBSCHEMAS = 5_000
_DEFAULT = "https://json-schema.org/draft/2020-12/schema"


class Checker:
    """One schema document. Raises ValueError for what is no JSON schema."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        # jsonschema costs 14 MB and 0.2 s, which plain answers need not pay.
        import jsonschema
        from referencing import Registry
        from referencing.jsonschema import specification_with

        dialect = schema.get("$schema", _DEFAULT) if isinstance(schema, Mapping) else _DEFAULT
        if not isinstance(dialect, str):
            raise ValueError("$schema is no string")
        base: Any = jsonschema.validators.validator_for({"$schema": dialect}, default=jsonschema.Draft202012Validator)
        if base.META_SCHEMA.get("$schema", "").rstrip("#") != dialect.rstrip("#"):
            raise ValueError(f"unknown schema dialect {dialect[:80]!r}")
        self.root: Any = dict(schema) if isinstance(schema, Mapping) else schema
        if isinstance(self.root, dict):
            # The registered class for a `$schema` would take the place of ours.
            self.root.pop("$schema", None)
        self._check_document(base)
        resource = specification_with(dialect).create_resource(self.root)
        _survey(resource)
        identity = resource.id() or ""
        self._resolver = Registry().with_resource(identity, resource).resolver(identity)
        extend: Any = jsonschema.validators.extend
        guarded = extend(base, {name: guard for name, guard in _GUARDS.items() if name in base.VALIDATORS})
        self._validator = guarded(self.root, registry=Registry())

    def _check_document(self, base: Any) -> None:
        import jsonschema

        try:
            base.check_schema(self.root)
        except jsonschema.SchemaError as error:
            raise ValueError(f"at {error.json_path}: {error.message[:200]}") from error

    def resolve(self, reference: str) -> Any:
        """The subschema that a reference inside the document names. Raises ValueError if there is none."""
        from referencing.exceptions import NoSuchResource, Unresolvable

        try:
            return self._resolver.lookup(reference).contents
        except (Unresolvable, NoSuchResource) as error:
            raise ValueError(f"reference {reference[:80]!r} leads nowhere") from error

    def accepts(self, schema: Any, value: Any) -> bool:
        """Whether the value validates against a subschema of this document (or one made of its parts)."""
        from referencing.exceptions import Unresolvable

        try:
            return bool(self._validator.evolve(schema=schema).is_valid(value))
        except Unresolvable as error:
            raise ValueError("a reference leads nowhere") from error
        except (RecursionError, OverflowError) as error:
            raise Unfillable("the schema never ends") from error
        except (AttributeError, TypeError) as error:  # jsonschema takes whatever is referred to for a schema
            raise ValueError("a reference is none, or leads to what is no schema") from error


def _survey(resource: Any) -> None:
    """Refuses documents that are too large, whose patterns are none, or that could slip past the guards."""
    waiting, count = [resource], 0
    while waiting:
        each = waiting.pop()
        count += 1
        if count > _MAX_SUBSCHEMAS:
            raise ValueError(f"more than {_MAX_SUBSCHEMAS} subschemas")
        if isinstance(each.contents, Mapping):
            _check_words(each.contents)
        waiting += each.subresources()


def _check_words(schema: Mapping[str, Any]) -> None:
    if "$schema" in schema:
        raise ValueError("a subschema of another dialect")
    if "patternProperties" in schema and "unevaluatedProperties" in schema:
        raise ValueError("patternProperties beside unevaluatedProperties")
    for pattern in [*schema.get("patternProperties", ()), *([schema["pattern"]] if "pattern" in schema else [])]:
        patterns.matches(pattern, "")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not patterns.matches(pattern, instance):
        yield ValidationError("does not match its pattern")


def _pattern_properties(validator: Any, listed: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, subschema in listed.items():
            for name, value in instance.items():
                if patterns.matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    if isinstance(instance, dict):
        for name, value in instance.items():
            listed = name in schema.get("properties", ())
            if not listed and not any(
                patterns.matches(pattern, name) for pattern in schema.get("patternProperties", ())
            ):
                yield from validator.descend(value, allowed, path=name)


_GUARDS: dict[str, Callable[..., Iterator[Any]]] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
