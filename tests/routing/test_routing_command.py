"""`manage.py routing …` as people run it: exit codes, clean JSON, nothing changed by a bad file."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from routing.configuration import seeding, snapshot
from routing.models import RoutingPolicy
from ziggie.errors import InvalidInput, NotFound, TooLarge, UnknownModel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def seeded(db: None) -> Any:
    seeding.seed()
    yield
    snapshot.forget()


def run(*arguments: str) -> tuple[str, str]:
    """stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("routing", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_an_export_is_applied_again_without_a_change(tmp_path: Path) -> None:
    for file_format in ("yaml", "json"):
        text, _ = run("export", "--format", file_format)
        file = tmp_path / f"routing.{file_format}"
        file.write_text(text)
        assert run("apply", str(file))[0] == "Changed nothing: all of it is in force already\n"


def test_a_change_is_told_and_warnings_go_to_stderr(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("policies: [{slug: default, live: true, rules: [{name: a, chain: [grok-4, offline]}]}]")
    out, err = run("apply", str(file))
    assert out == "Changed policies default version 2, live\n"
    assert err == (
        f"warning: {file}:1:65 policies[0].rules[0].chain: 'grok-4' has no price, so no hard budget admits it\n"
    )


def test_a_bad_file_is_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("settings: {strategy: fast}")
    with pytest.raises(InvalidInput, match="has 1 mistake; nothing was changed") as refused:
        run("apply", str(file))
    assert refused.value.exit_code == 2
    with pytest.raises(NotFound) as absent:
        run("apply", str(tmp_path / "absent"))
    assert absent.value.exit_code == 2
    with pytest.raises(InvalidInput, match="cannot be read"):
        run("apply", str(tmp_path))
    file.write_bytes(b"x" * 3_000_000)
    with pytest.raises(TooLarge):
        run("apply", str(file))
    assert RoutingPolicy.objects.count() == 1


def test_an_import_reports_in_words_and_in_json(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"routing_rules": [{"condition": "requires_moe || !x", "primary": "kimi-k2:1t-cloud"}]}))
    out, _ = run("import-cortex", str(file))
    assert out.startswith("Draft cortex version 1 with 1 rules; nothing is live yet.")
    report = json.loads(run("import-cortex", str(file), "--json")[0])
    assert report["version"] == 2
    assert report["not_mapped"] == [
        {"place": "routing_rules[0].condition", "why": "a rule cannot ask that 'x' does not hold"}
    ]


def test_explain_gives_the_documents_shape() -> None:
    said = json.loads(
        run("explain", "--capability", "mixture_of_experts", "--capability", "tools", "--context", "5", "--json")[0]
    )
    assert (said["policy"], said["version"], said["rule"]) == ("default", 1, "frontier capabilities")
    assert said["features"]["context_tokens"] == 5
    assert said["features"]["estimated"] == ["complexity"]
    dropped = {candidate["model"] for candidate in said["candidates"] if candidate["state"] == "dropped"}
    assert "kimi-k2:1t-cloud" in dropped
    text, _ = run("explain", "--agent-level", "L3")
    assert "chosen   llama3.2:3b (ollama, local): first choice" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--complexity", "x"],
        ["explain", "--agent-level", "L9"],
        [],
        ["fly"],
        ["apply"],
        ["export", "--format", "xml"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)


def test_hints_that_cannot_be_meant_are_refused() -> None:
    for arguments in (["--complexity", "nan"], ["--complexity", "2"], ["--context", "-1"]):
        with pytest.raises(InvalidInput):
            run("explain", *arguments)
    with pytest.raises(UnknownModel):
        run("explain", "--model", "gpt-99")
