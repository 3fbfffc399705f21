"""The worked examples of docs/routing.md are what the commands print."""

import re
import shlex
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command

from routing.configuration import snapshot
from routing.configuration.routing_file import apply
from routing.configuration.seeding import seed
from routing.planning.rules import plan
from tests.routing.specs import ask, budget, left, rule
from tests.routing.specs import snapshot as configuration
from ziggie.errors import InvalidInput

DOCUMENT = (django_settings.BASE_DIR / "docs" / "routing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```console\n\$ python manage\.py (routing .*)\n((?:.*\n)*?)```", DOCUMENT)
ROLLOUT = DOCUMENT.split("### 6. A rule for a part of its traffic")[1].split("\n## ")[0]
BAD_FILE = DOCUMENT.split("its line, its column and its path. This file")[1].split("What may be meant")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n((?:.*\n)*?)```", text)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("command", "printed"), EXAMPLES)
def test_an_example_prints_what_the_page_shows(
    command: str, printed: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.PROVIDER_API_KEYS = {"ANTHROPIC_API_KEY": "sk-test"}
    seed()
    if command in ROLLOUT:
        apply(blocks(ROLLOUT, "yaml")[0], by="docs")
    snapshot.forget()
    call_command(*shlex.split(command))
    assert capsys.readouterr().out == printed


@pytest.mark.django_db
def test_a_bad_file_is_refused_in_the_words_of_the_page() -> None:
    seed()
    with pytest.raises(InvalidInput) as refused:
        apply(blocks(BAD_FILE, "yaml")[0], by="docs", name="routing.yaml")
    told = [f"  {detail['place']}: {detail['problem']}" for detail in refused.value.details]
    assert "\n".join([refused.value.message, *told]) + "\n" == blocks(BAD_FILE.split("is refused with")[1], "")[0]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 8


def test_the_worked_arithmetic_is_right() -> None:
    config = configuration(rule(chain=("claude-sonnet-4-5", "llama3.2")), budgets=(budget(10_000_000),))
    short = plan(ask("x" * 1_000), config, left(20_000, 10_000_000))
    assert f"{short.candidates[0].max_output_tokens:,} tokens of" in DOCUMENT
    insistent = plan(ask("x" * 1_000, max_output_tokens=4_000), config, left(20_000, 10_000_000))
    assert [candidate.model.slug for candidate in insistent.candidates] == ["llama3.2"]


def test_every_option_of_a_provider_is_in_its_table() -> None:
    read = re.compile(r"\boptions\.get\(\s*\"(\w+)\"")
    files = (django_settings.BASE_DIR / "routing").rglob("*.py")
    used = {name for file in files for name in read.findall(file.read_text(encoding="utf-8"))}
    section = DOCUMENT.split("## Servers that people run themselves")[1].split("## The routing file")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert {"structured_output", "keep_alive"} <= used
    assert used == documented
