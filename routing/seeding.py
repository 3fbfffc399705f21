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

from routing import rows
from routing.configuration import Document, PolicyEntry, Problem
from routing.models import Budget, LanguageModel, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from routing.reading import read
from ziggie.errors import ConfigurationError

CATALOGUE = Path(__file__).with_name("catalogue.toml")
# What a value of SEED is called in the environment, for error messages.
VARIABLES = {"$strategy": "LLM_STRATEGY", "$kimi_enabled": "ENABLE_KIMI_K2"}


def seed() -> dict[str, int]:
    """Adds the missing rows in one transaction. Returns how many of each section were added.

    Raises ConfigurationError for a setting that cannot be seeded (a budget that is no number, …).
    """
    document = catalogue(settings.SEED)
    with transaction.atomic():
        rows.lock_configuration()  # two processes that seed at once take turns
        return {
            "settings": _seed_settings(document),
            "providers": _seed_rows(document.providers, Provider, rows.save_provider),
            "models": _seed_rows(document.models, LanguageModel, rows.save_model),
            "budgets": _seed_rows(document.budgets, Budget, rows.save_budget),
            "policies": _seed_policies(document),
        }


def catalogue(seed_values: Mapping[str, Any]) -> Document:
    """The catalogue with the seed values put in. Raises ConfigurationError if one of them does not fit."""
    data = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    document, problems = read(_with_values(data, seed_values))
    if problems:
        raise ConfigurationError(
            "the settings for seeding cannot be used", details=[_detail(data, problem) for problem in problems]
        )
    return document


def _with_values(data: Any, seed_values: Mapping[str, Any]) -> Any:
    if isinstance(data, dict):
        return {key: _with_values(value, seed_values) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_values(item, seed_values) for item in data]
    if isinstance(data, str) and data.startswith("$"):
        return seed_values[data[1:]]
    return data


def _detail(data: Any, problem: Problem) -> dict[str, str]:
    """Names the environment variable that a wrong value came from."""
    for step in problem.path:
        data = data[step]
    name = VARIABLES.get(data, data[1:].upper()) if isinstance(data, str) and data.startswith("$") else problem.place
    return {"place": name.removesuffix("_USD"), "problem": problem.message}


def _seed_rows(placed: Any, kind: Any, save: Any) -> int:
    present = set(kind.objects.values_list("slug", flat=True))
    missing = [item.entry for item in placed or () if item.entry.slug not in present]
    for entry in missing:
        save(entry)
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
