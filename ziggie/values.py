"""Objects that nobody changes once they are made."""

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True):
    """What a call makes many of: written like a dataclass, made several times as fast.

    Many fields are given by place: looking for each of twenty names takes longer than all the rest.
    """


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, for what is made once: a field may be worked out, or kept from being printed.

    The type checker refuses every assignment. Python's own check, which makes each of them three times as slow to
    make, is on only in its development mode (`python -X dev`).
    """
    if sys.flags.dev_mode:
        return dataclass(frozen=True, slots=True)(cls)
    return dataclass(slots=True, unsafe_hash=True)(cls)


def replace(old: T, **changes: Any) -> T:
    """A copy of a Value, a Struct or a dataclass, with these fields changed. Raises TypeError for one it has not."""
    if isinstance(old, msgspec.Struct):
        return msgspec.structs.replace(old, **changes)
    return dataclasses.replace(old, **changes)  # type: ignore[type-var]  # it is one of the three
