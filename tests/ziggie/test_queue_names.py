"""Tasks that are named instead of imported must be there."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

APPS = ("ziggie", "routing", "knowledge", "agents", "monitoring")


def named_tasks() -> Iterator[tuple[str, str]]:
    """(file and line, dotted name) of every task that is given to the queue by its name."""
    for app in APPS:
        for file in Path(settings.BASE_DIR, app).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    place = {"enqueue": 0, "wake_forgotten": 2}.get(node.func.attr)
                    given = node.args[place : place + 1] if place is not None else []
                    for argument in given:
                        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                            yield f"{file}:{node.lineno}", argument.value


def test_every_task_that_is_given_by_name_exists() -> None:
    named = list(named_tasks())
    assert len(named) >= 4
    for place, name in named:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function, None)), f"{place}: there is no {name}"
