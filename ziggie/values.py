"""Dataclasses that nobody changes once they are made."""

import sys
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots.

    The type checker refuses every assignment. Python's own check, which makes each of them three times as slow to
    make, is on only in its development mode (`python -X dev`).
    """
    if sys.flags.dev_mode:
        return dataclass(frozen=True, slots=True)(cls)
    return dataclass(slots=True, unsafe_hash=True)(cls)
