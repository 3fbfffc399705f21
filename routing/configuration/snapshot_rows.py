"""From rows to a Snapshot: the one statement that reads all configuration, and what its answer means."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings

from routing.configuration.provider_headers import resolved
from routing.types import (
    BudgetSpec,
    ModelSpec,
    PolicySpec,
    PriceSpec,
    PriceTier,
    ProviderSpec,
    Range,
    RuleOptions,
    RuleSpec,
    SettingsSpec,
    Snapshot,
    Source,
    When,
)
from ziggie.errors import ConfigurationError
from ziggie.fields import decrypt

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

KINDS_WITH_KEYS = ("anthropic", "gemini", "cohere")
PRICES = ("input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok", "cache_write_usd_per_mtok")
OPTIONS = frozenset(RuleOptions.__struct_fields__)

EPOCH = "SELECT coalesce(max(epoch), 0) FROM routing_configepoch"
# One statement sees one state of the database, whatever is committed while it runs. Money travels as text.
EVERYTHING = """
SELECT json_build_object(
    'epoch', (SELECT coalesce(max(epoch), 0) FROM routing_configepoch),
    'settings', (SELECT row_to_json(s) FROM (
        SELECT *, electricity_usd_per_kwh::text AS usd_per_kwh FROM routing_routingsettings WHERE id = 1) s),
    'providers', (SELECT json_agg(p) FROM routing_provider p),
    'models', (SELECT json_agg(m ORDER BY slug) FROM (
        SELECT m.*, (SELECT json_build_array(p.id, p.input_usd_per_mtok::text, p.output_usd_per_mtok::text,
                p.cached_input_usd_per_mtok::text, p.cache_write_usd_per_mtok::text, p.input_tiers)
            FROM routing_price p WHERE p.model_id = m.id AND p.effective_from <= now()
            ORDER BY p.effective_from DESC, p.id DESC LIMIT 1) AS price
        FROM routing_languagemodel m) m),
    'next_price_at', (SELECT min(effective_from) FROM routing_price WHERE effective_from > now()),
    'policy', (SELECT row_to_json(p) FROM routing_routingpolicy p WHERE state = 'live'),
    'rules', (SELECT json_agg(r ORDER BY r.position) FROM routing_routingrule r
        JOIN routing_routingpolicy p ON p.id = r.policy_id WHERE p.state = 'live'),
    'budgets', (SELECT json_agg(b ORDER BY slug) FROM routing_budget b WHERE enabled)
)::text
"""

# One version of a policy, whatever its state: the live one and what receipts were judged by.
POLICY = """
SELECT json_build_object('policy', row_to_json(p), 'rules', (
    SELECT json_agg(r ORDER BY r.position) FROM routing_routingrule r WHERE r.policy_id = p.id))::text
FROM routing_routingpolicy p WHERE slug = %s AND version = %s
"""


def build(text: str) -> Snapshot:
    """The snapshot that EVERYTHING's answer describes. Raises ConfigurationError where no policy is live."""
    rows = json.loads(text)
    if rows["policy"] is None:
        raise ConfigurationError("no routing policy is live; run: manage.py seed, or publish a policy")
    providers = {row["id"]: _provider(row) for row in rows["providers"] or ()}
    models = [_model(row, providers[row["provider_id"]]) for row in rows["models"] or ()]
    next_price_at = rows["next_price_at"]
    return Snapshot(
        epoch=rows["epoch"],
        models={model.slug: model for model in models},
        policy=_policy(rows),
        budgets=tuple(_budget(row) for row in rows["budgets"] or ()),
        settings=_settings(rows["settings"]) if rows["settings"] else SettingsSpec(),
        by_name=_by_name(models),
        valid_until=datetime.fromisoformat(next_price_at) if next_price_at else None,
    )


def build_policy(text: str) -> PolicySpec:
    """The policy that POLICY's answer describes."""
    return _policy(json.loads(text))


def _policy(rows: Row) -> PolicySpec:
    return PolicySpec(
        id=rows["policy"]["id"],
        slug=rows["policy"]["slug"],
        version=rows["policy"]["version"],
        rules=tuple(_rule(row) for row in rows["rules"] or ()),
    )


def _settings(row: Row) -> SettingsSpec:
    return SettingsSpec(
        strategy=row["strategy"],
        baseline_model=row["baseline_model"],
        electricity_usd_per_kwh=Decimal(row["usd_per_kwh"]),
        kimi_enabled=row["kimi_enabled"],
        time_zone=row["time_zone"],
        body_kilobytes=row["body_kilobytes"],
        redact_patterns=tuple(row["redact_patterns"]),
    )


def _provider(row: Row) -> ProviderSpec:
    api_key, problem = _api_key(row)
    options, unset = row["options"], ""
    if "headers" in options:
        headers, unset = resolved(options["headers"], settings.PROVIDER_API_KEYS)
        options = {**options, "headers": headers}
    if unset:
        api_key, problem = "", f"{unset} is not set, which its headers name"
    return ProviderSpec(
        id=row["id"],
        slug=row["slug"],
        kind=row["kind"],
        location=Source(row["location"]),
        base_url=row["base_url"],
        enabled=row["enabled"],
        switch=row["switch"],
        api_key=api_key,
        needs_api_key=bool(unset or row["api_key_env"]) or row["kind"] in KINDS_WITH_KEYS,
        api_key_problem=problem,
        max_concurrency=row["max_concurrency"],
        max_requests_per_day=row["max_requests_per_day"],
        timeout_seconds=row["timeout_seconds"],
        power_watts=row["power_watts"],
        options=options,
    )


def _api_key(row: Row) -> tuple[str, str]:
    """The stored key, else that of the environment; and what is wrong if there is none.

    One key that cannot be read takes one provider away, not all of routing.
    """
    problem = ""
    if row["api_key"]:
        try:
            return decrypt(row["api_key"]), ""
        except ConfigurationError as error:
            logger.error("the stored API key of the provider %s cannot be read", row["slug"])
            problem = error.message
    variable = row["api_key_env"]
    if not variable:
        return "", problem or "none is stored and no variable is named"
    return settings.PROVIDER_API_KEYS.get(variable, ""), problem or f"{variable} is not set"


def _model(row: Row, provider: ProviderSpec) -> ModelSpec:
    return ModelSpec(
        id=row["id"],
        slug=row["slug"],
        name=row["name"],
        provider=provider,
        context_window=row["context_window"],
        max_output_tokens=row["max_output_tokens"],
        capabilities=frozenset(row["capabilities"]),
        enabled=row["enabled"],
        price=_price(*row["price"]) if row["price"] else None,
        aliases=tuple(row["aliases"]),
        dimensions=row["dimensions"],
    )


def _price(price_id: int, *values: Any) -> PriceSpec:
    *dollars, tiers = values
    into, out, cached, written = (None if amount is None else Decimal(amount) for amount in dollars)
    assert into is not None
    assert out is not None
    higher = tuple(
        PriceTier(tier["above_input_tokens"], _price(price_id, *map(tier.get, PRICES), ())) for tier in tiers
    )
    return PriceSpec(price_id, into, out, cached, written, higher)


def _rule(row: Row) -> RuleSpec:
    return RuleSpec(
        id=row["id"],
        name=row["name"],
        when=When(
            task_kinds=frozenset(row["task_kinds"]),
            agent_levels=frozenset(row["agent_levels"]),
            creator_tiers=frozenset(row["creator_tiers"]),
            capabilities=frozenset(row["capabilities"]),
            strategies=frozenset(row["strategies"]),
            complexity=Range(row["complexity_above"], row["complexity_at_most"]),
            context_tokens=Range(row["context_tokens_above"], row["context_tokens_at_most"]),
            budget_left=Range(row["budget_left_above"], row["budget_left_at_most"]),
            local_queue=Range(row["local_queue_above"]),
        ),
        chain=tuple(row["chain"]),
        pattern=row["pattern"],
        roles=row["roles"],
        # Options of a newer version are no reason to stop while processes are being replaced.
        options=RuleOptions(**{name: value for name, value in row["options"].items() if name in OPTIONS}),
    )


def _budget(row: Row) -> BudgetSpec:
    return BudgetSpec(
        id=row["id"],
        slug=row["slug"],
        scope={name: frozenset(values) for name, values in row["scope"].items()},
        period=row["period"],
        limit_microusd=row["limit_microusd"],
        hard=row["hard"],
        on_exhausted=row["on_exhausted"],
        alert_at_percent=tuple(row["alert_at_percent"]),
    )


def _by_name(models: Iterable[ModelSpec]) -> dict[str, tuple[ModelSpec, ...]]:
    named: defaultdict[str, list[ModelSpec]] = defaultdict(list)
    for model in models:
        for name in dict.fromkeys((model.name, *model.aliases)):
            named[name].append(model)
    return {name: tuple(known) for name, known in named.items()}
