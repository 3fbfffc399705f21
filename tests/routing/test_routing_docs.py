"""The worked examples of docs/routing.md are what the commands print."""

import re
import shlex
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command

from routing import snapshot
from routing.rules import plan
from routing.seeding import seed
from tests.routing.specs import ask, budget, left, rule
from tests.routing.specs import snapshot as configuration

DOCUMENT = (django_settings.BASE_DIR / "docs" / "routing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```console\n\$ python manage\.py (routing explain .*)\n((?:.*\n)*?)```", DOCUMENT)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("command", "printed"), EXAMPLES)
def test_an_example_prints_what_the_page_shows(
    command: str, printed: str, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.PROVIDER_API_KEYS = {"ANTHROPIC_API_KEY": "sk-test"}
    seed()
    snapshot.forget()
    call_command(*shlex.split(command))
    assert capsys.readouterr().out == printed


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


def test_the_worked_arithmetic_is_right() -> None:
    config = configuration(rule(chain=("claude-sonnet-4-5", "llama3.2")), budgets=(budget(10_000_000),))
    short = plan(ask("x" * 1_000), config, left(20_000, 10_000_000))
    assert f"{short.candidates[0].max_output_tokens:,} tokens of" in DOCUMENT
    insistent = plan(ask("x" * 1_000, max_output_tokens=4_000), config, left(20_000, 10_000_000))
    assert [candidate.model.slug for candidate in insistent.candidates] == ["llama3.2"]
