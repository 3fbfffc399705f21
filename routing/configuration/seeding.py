"""Fills an installation with the catalogue's rows. Only what is missing is added.

Rows are known by their slug. A row that staff changed is left alone, whatever the catalogue says by now;
a row that staff deleted is missing and comes back, so a row that is not wanted is disabled, not deleted.
Prices come with their model, rules with their policy: neither is added to what is there already.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from routing.configuration import rows
from routing.configuration.reading import read
from routing.configuration.shape import Document, PolicyEntry, Problem
from routing.configuration.validation import check, errors
from routing.models import Budget, LanguageModel, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from ziggie.errors import ConfigurationError

CATALOGUE = Path(__file__).with_name("catalogue.toml")
# What a value of SEED is called in the environment, for error messages.
VARIABLES = {
    "$strategy": "LLM_STRATEGY",
    "$kimi_enabled": "ENABLE_KIMI_K2",
    "$monthly_api_budget_usd": "MONTHLY_API_BUDGET",
}
KINDS: dict[str, Any] = {
    "providers": Provider,
    "models": LanguageModel,
    "budgets": Budget,
    "policies": RoutingPolicy,
}


def seed() -> dict[str, int]:
    """Adds the missing rows in one transaction. Returns how many of each section were added.

    Raises ConfigurationError for a setting that a missing row needs and that does not fit (a budget that is
    no number, an address without http://). Of rows that are there the settings are not asked.
    """
    data = _with_values(tomllib.loads(CATALOGUE.read_text(encoding="utf-8")), settings.SEED)
    document, problems = read(data)
    problems += errors(check(document))
    with transaction.atomic():
        rows.lock_configuration()  # two processes that seed at once take turns
        if in_the_way := [problem for problem in problems if not _is_there(problem, data)]:
            raise ConfigurationError("the settings for seeding cannot be used", details=_details(in_the_way))
        return {
            "settings": _seed_settings(document),
            "providers": _seed_rows(document.providers, Provider, rows.add_providers),
            "models": _seed_rows(document.models, LanguageModel, rows.add_models),
            "budgets": _seed_rows(document.budgets, Budget, rows.add_budgets),
            "policies": _seed_policies(document),
        }


def _is_there(problem: Problem, data: dict[str, Any]) -> bool:
    """Whether the row that has the problem is in the database already."""
    section = str(problem.path[0])
    if section == "settings":
        return RoutingSettings.objects.exists()
    slug = data[section][problem.path[1]]["slug"]
    return bool(KINDS[section].objects.filter(slug=slug).exists())


def _details(problems: list[Problem]) -> list[dict[str, str]]:
    """Names the environment variables that the values came from; each once."""
    original = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    named = {_variable(original, problem): problem.message for problem in problems}
    return [{"place": place, "problem": message} for place, message in named.items()]


def _variable(data: Any, problem: Problem) -> str:
    for step in problem.path:
        data = data[step]
    if not isinstance(data, str) or not data.startswith("$"):
        return problem.place
    return VARIABLES.get(data, data[1:].upper())


def _with_values(data: Any, seed_values: Mapping[str, Any]) -> Any:
    if isinstance(data, dict):
        return {key: _with_values(value, seed_values) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_values(item, seed_values) for item in data]
    if isinstance(data, str) and data.startswith("$"):
        value = seed_values[data[1:]]
        return value.lower().replace("_", "-") if data == "$strategy" else value
    return data


def _seed_rows(placed: Any, kind: Any, add: Any) -> int:
    present = set(kind.objects.values_list("slug", flat=True))
    missing = [item.entry for item in placed or () if item.entry.slug not in present]
    add(missing)
    return len(missing)


def _seed_settings(document: Document) -> int:
    if document.settings is None or RoutingSettings.objects.exists():
        return 0
    return int(rows.save_settings(document.settings.entry))


def _seed_policies(document: Document) -> int:
    present = set(RoutingPolicy.objects.values_list("slug", flat=True))
    missing = [item.entry for item in document.policies or () if item.entry.slug not in present]
    for entry in missing:
        _add_policy(entry)
    return len(missing)


def _add_policy(entry: PolicyEntry) -> None:
    """A policy goes live only where none is."""
    live = entry.live and not RoutingPolicy.objects.filter(state="live").exists()
    row = RoutingPolicy.objects.create(
        slug=entry.slug,
        notes=entry.notes,
        state="live" if live else "draft",
        created_by="seed",
        published_by="seed" if live else "",
        published_at=timezone.now() if live else None,
    )
    RoutingRule.objects.bulk_create(rows.policy_rows(row, entry))
