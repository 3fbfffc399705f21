"""Values: frozen for the type checker always, for Python in its development mode."""

import subprocess
import sys
from dataclasses import field

from ziggie.values import replace, value


@value
class Point:
    x: int
    tags: frozenset[str] = field(default_factory=frozenset)


def test_equal_values_are_one_key_and_a_changed_copy_is_another() -> None:
    one = Point(1, frozenset({"a"}))
    assert {one: "found"}[Point(1, frozenset({"a"}))] == "found"
    assert replace(one, x=2) != one
    assert not hasattr(one, "__dict__")


def test_in_development_mode_python_itself_refuses_a_change() -> None:
    code = "from ziggie.values import value\n@value\nclass Point:\n    x: int\np = Point(1)\np.x = 2"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=False)
    assert "FrozenInstanceError" in done.stderr
