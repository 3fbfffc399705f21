"""Routing configuration as rows, and back. The only writer of provider, model, price, budget and
settings rows besides the admin; policies are written by `policies.py`.

Nothing is written that is not different, so that applying what is there already wakes nobody.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import connection

from routing.configuration.reading import read
from routing.configuration.shape import (
    BudgetEntry,
    Document,
    Entry,
    FractionRange,
    ModelEntry,
    Placed,
    PolicyEntry,
    ProviderEntry,
    RuleEntry,
    SettingsEntry,
    WhenEntry,
)
from routing.models import Budget, LanguageModel, Price, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from ziggie.errors import ConfigurationError
from ziggie.models import ApiKey

MICRO = 1_000_000
PROVIDER_COLUMNS = tuple(name for name in ProviderEntry.model_fields if name != "slug")
PRICE_COLUMNS = (*(name for name in ModelEntry.model_fields if name.endswith("_per_mtok")), "input_tiers")
MODEL_COLUMNS = tuple(
    name for name in ModelEntry.model_fields if name not in {"slug", "provider", "price_origin", *PRICE_COLUMNS}
)
BUDGET_COLUMNS = ("period", "hard", "on_exhausted", "alert_at_percent", "enabled")
WHEN_LISTS = ("task_kinds", "agent_levels", "creator_tiers", "capabilities", "strategies")
WHEN_RANGES = ("complexity", "context_tokens", "budget_left")
WHEN_COLUMNS = (
    *WHEN_LISTS,
    *(f"{name}_{side}" for name in WHEN_RANGES for side in ("above", "at_most")),
    "local_queue_above",
)
SETTINGS_ID = 1
LOCK = 7_264_001  # the advisory lock of those who change the configuration

Plain = dict[str, Any]


def lock_configuration() -> None:
    """Until the end of the transaction nobody else changes the configuration, so that what was checked is
    what is written."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


# --- entries as plain data ---------------------------------------------------------------------


def plain(entry: Entry) -> Plain:
    """An entry as the routing file holds it. Rows have every key, rules only those that say something."""
    everything = isinstance(entry, (ProviderEntry, ModelEntry, BudgetEntry, SettingsEntry))
    fractions = isinstance(entry, FractionRange)
    result = {}
    for name, field in type(entry).model_fields.items():
        value = getattr(entry, name)
        if everything or field.is_required() or name in {"when", "chain", "live", "rules"} or value != field.default:
            result[name] = _plain_number(value) if fractions and value is not None else _plain_value(name, value)
    return result


def _plain_value(name: str, value: Any) -> Any:
    if isinstance(value, Entry):
        return plain(value)
    if isinstance(value, list):
        return [_plain_value(name, item) for item in value]
    if isinstance(value, Decimal) and "usd" in name:
        return money(value)
    return _plain_number(value) if isinstance(value, (float, Decimal)) else value


def _plain_number(value: Decimal | float) -> int | float:
    return int(value) if value == int(value) else float(value)


def money(amount: Decimal) -> str:
    """ "0", "3.00", "0.15", "0.0375": as many decimals as it takes, and two where there are any."""
    whole, _, decimals = f"{amount:f}".partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole}.{decimals:0<2}" if decimals or int(whole) else "0"


# --- from rows ---------------------------------------------------------------------------------


def load() -> Document:
    """The whole configuration that is in force, with the newest draft of each policy.

    Raises ConfigurationError if a row holds what the routing file could not.
    """
    return _read(load_plain())


def _read(data: Plain) -> Document:
    document, problems = read(data)
    if problems:
        raise ConfigurationError(
            "the routing configuration in the database is damaged",
            details=[{"place": problem.place, "problem": problem.message} for problem in problems],
        )
    return document


def policy_entry(row: RoutingPolicy) -> PolicyEntry:
    """Raises ConfigurationError as load() does."""
    placed = _read({"policies": [policy_plain(row)]}).policies
    assert placed
    return placed[0].entry


def api_key_names() -> frozenset[str]:
    """What a budget may call the keys: their names, and their ids."""
    named = key_names()
    return frozenset(named) | frozenset(named.values())


def load_plain() -> Plain:
    """The configuration as the routing file holds it, sections and rows in a fixed order."""
    return {section: section_plain(section) for section in SECTIONS}


def section_plain(section: str) -> Any:
    """One section: a list of entries, or the settings."""
    return SECTIONS[section]()


def _providers_plain() -> list[Plain]:
    return [_provider_plain(row) for row in Provider.objects.order_by("slug")]


def _policies_plain() -> list[Plain]:
    return [policy_plain(row) for row in _policies()]


def _provider_plain(row: Provider) -> Plain:
    return {"slug": row.slug} | {name: getattr(row, name) for name in PROVIDER_COLUMNS}


def _models_plain() -> list[Plain]:
    prices = prices_in_force()
    rows = LanguageModel.objects.select_related("provider").order_by("slug")
    return [_model_plain(row, prices.get(row.pk)) for row in rows]


def _model_plain(row: LanguageModel, price: Price | None) -> Plain:
    values: Plain = {"slug": row.slug, "provider": row.provider.slug}
    values |= {name: getattr(row, name) for name in MODEL_COLUMNS}
    values |= {name: getattr(price or Price(), name) for name in PRICE_COLUMNS}
    values["price_origin"] = price.origin if price else ""
    return {name: _plain_value(name, value) for name, value in values.items()}


def prices_in_force() -> dict[int, Price]:
    """By model id: the newest price that is not of the future."""
    past = Price.objects.filter(effective_from__lte=TransactionNow())
    newest = past.order_by("model_id", "-effective_from", "-id").distinct("model_id")
    return {price.model_id: price for price in newest}


def _policies() -> Iterable[RoutingPolicy]:
    """The live policy and the newest draft of each name."""
    rows = RoutingPolicy.objects.prefetch_related("rules")
    drafts = rows.filter(state="draft").order_by("slug", "-version").distinct("slug")
    return sorted([*rows.filter(state="live"), *drafts], key=lambda row: (row.state != "live", row.slug))


def policy_plain(row: RoutingPolicy) -> Plain:
    result: Plain = {"slug": row.slug, "live": row.state == "live"}
    if row.notes:
        result["notes"] = row.notes
    return result | {"rules": [rule_plain(rule) for rule in row.rules.order_by("position")]}


def rule_plain(row: RoutingRule) -> Plain:
    """A rule as the routing file holds it; what it does not say is left out."""
    when: Plain = {name: list(getattr(row, name)) for name in WHEN_LISTS if getattr(row, name)}
    for name in (*WHEN_RANGES, "local_queue"):
        bounds = {side: getattr(row, f"{name}_{side}", None) for side in ("above", "at_most")}
        bounds = {side: _plain_number(value) for side, value in bounds.items() if value is not None}
        when |= {name: bounds} if bounds else {}
    result: Plain = {"name": row.name, "when": when}
    if row.pattern != "single":
        result["pattern"] = row.pattern
    result["chain"] = list(row.chain)
    return result | {name: getattr(row, name) for name in ("roles", "options") if getattr(row, name)}


def budget_plain(row: Budget) -> Plain:
    return _budget_plain(row, key_names())


def _budgets_plain() -> list[Plain]:
    names = key_names()
    return [_budget_plain(row, names) for row in Budget.objects.order_by("slug")]


def key_names() -> dict[str, str]:
    """API keys' names by their ids."""
    return {str(pk): name for pk, name in ApiKey.objects.values_list("pk", "name")}


def _budget_plain(row: Budget, key_names: Mapping[str, str]) -> Plain:
    """Keys are named in the file and kept by id, so that a key may be renamed."""
    scope = dict(row.scope)
    if "api_keys" in scope:
        scope["api_keys"] = [key_names.get(key, key) for key in scope["api_keys"]]
    return {
        "slug": row.slug,
        "scope": scope,
        "limit_usd": money(Decimal(row.limit_microusd) / MICRO),
        **{name: getattr(row, name) for name in BUDGET_COLUMNS},
    }


def _settings_plain() -> Plain:
    row = _settings_row()
    return {name: _plain_value(name, getattr(row, name)) for name in SettingsEntry.model_fields}


def _settings_row() -> RoutingSettings:
    """Without a row the defaults are in force."""
    return RoutingSettings.objects.filter(pk=SETTINGS_ID).first() or RoutingSettings(pk=SETTINGS_ID)


SECTIONS: dict[str, Callable[[], Any]] = {
    "providers": _providers_plain,
    "models": _models_plain,
    "policies": _policies_plain,
    "budgets": _budgets_plain,
    "settings": _settings_plain,
}


def mentions_of(model_slug: str) -> list[str]:
    """Where the configuration in force, or a draft, speaks of a model."""
    document = load()
    found = [
        f"the rule {rule.name!r} of the policy {placed.entry.slug!r} speaks of {model_slug}"
        for placed in document.policies or ()
        for rule in placed.entry.rules
        if model_slug in _models_of(rule)
    ]
    found += [
        f"the budget {placed.entry.slug!r} counts {model_slug}"
        for placed in document.budgets or ()
        if model_slug in placed.entry.scope.models
    ]
    if document.settings and document.settings.entry.baseline_model == model_slug:
        found.append(f"savings are counted against {model_slug}")
    return found


def _models_of(rule: RuleEntry) -> set[str | None]:
    roles = rule.roles
    single = {roles.verifier, roles.draft, roles.refiner, roles.synthesiser}
    return {*rule.chain, *roles.members, *single, rule.options.shadow_model, rule.options.shadow_judge}


# --- to rows -----------------------------------------------------------------------------------


def add_providers(entries: Sequence[ProviderEntry]) -> None:
    """Rows that are known to be missing, in one statement; the same for the two below."""
    Provider.objects.bulk_create(Provider(slug=entry.slug, **_columns(entry, PROVIDER_COLUMNS)) for entry in entries)


def add_models(entries: Sequence[ModelEntry]) -> None:
    providers = dict(Provider.objects.values_list("slug", "pk"))
    models = LanguageModel.objects.bulk_create(
        LanguageModel(slug=entry.slug, provider_id=providers[entry.provider], **_columns(entry, MODEL_COLUMNS))
        for entry in entries
    )
    priced = [
        (model, entry) for model, entry in zip(models, entries, strict=True) if entry.input_usd_per_mtok is not None
    ]
    Price.objects.bulk_create(Price(model=model, **_price_columns(entry)) for model, entry in priced)


def add_budgets(entries: Sequence[BudgetEntry]) -> None:
    Budget.objects.bulk_create(Budget(slug=entry.slug, **_budget_columns(entry)) for entry in entries)


def save_provider(entry: ProviderEntry) -> bool:
    """True if there was something to write."""
    return _save(Provider, entry.slug, _columns(entry, PROVIDER_COLUMNS))


def save_model(entry: ModelEntry) -> bool:
    """Writes a model and, if it differs from the price in force, a new price from now on."""
    provider = Provider.objects.get(slug=entry.provider)
    changed = _save(LanguageModel, entry.slug, {"provider_id": provider.pk} | _columns(entry, MODEL_COLUMNS))
    return _save_price(entry) or changed


def _save_price(entry: ModelEntry) -> bool:
    if entry.input_usd_per_mtok is None:
        return False
    model = LanguageModel.objects.get(slug=entry.slug)
    past = Price.objects.filter(model=model, effective_from__lte=TransactionNow())
    price = past.order_by("-effective_from", "-id").first()
    values = _price_values(entry)
    if price is not None and all(getattr(price, name) == value for name, value in values.items()):
        return False
    Price.objects.create(model=model, **_price_columns(entry))
    return True


def _price_columns(entry: ModelEntry) -> Plain:
    """A price from now on, by the database's clock, which decides what is in force."""
    return _price_values(entry) | {"effective_from": TransactionNow()}


def _price_values(entry: ModelEntry) -> Plain:
    tiers = [plain(tier) for tier in entry.input_tiers]
    return _columns(entry, PRICE_COLUMNS) | {"input_tiers": tiers, "origin": entry.price_origin}


def _columns(entry: Entry, names: Iterable[str]) -> Plain:
    return {name: getattr(entry, name) for name in names}


def save_budget(entry: BudgetEntry) -> bool:
    return _save(Budget, entry.slug, _budget_columns(entry))


def _budget_columns(entry: BudgetEntry) -> Plain:
    limit = {"scope": scope_row(entry.scope.model_dump()), "limit_microusd": int(entry.limit_usd * MICRO)}
    return _columns(entry, BUDGET_COLUMNS) | limit


def scope_row(scope: Plain) -> Plain:
    """A scope as the row keeps it: without empty lists, keys by their id."""
    kept = {name: value for name, value in scope.items() if value}
    if "api_keys" in kept:
        ids = {name: key for key, name in key_names().items()}
        kept["api_keys"] = [ids.get(name, name) for name in kept["api_keys"]]
    return kept


def save_settings(entry: SettingsEntry) -> bool:
    values = {name: getattr(entry, name) for name in entry.model_fields_set}
    row = _settings_row()
    if all(getattr(row, name) == value for name, value in values.items()):
        return False
    RoutingSettings.objects.update_or_create(pk=SETTINGS_ID, defaults=values)
    return True


def _save(kind: type[Provider | LanguageModel | Budget], slug: str, values: Mapping[str, Any]) -> bool:
    row = kind.objects.filter(slug=slug).first()
    if row is None:
        kind.objects.create(slug=slug, **values)
        return True
    different = [name for name, value in values.items() if getattr(row, name) != value]
    for name in different:
        setattr(row, name, values[name])
    if different:
        row.save(update_fields=different)
    return bool(different)


def rule_row(policy: RoutingPolicy, position: int, entry: RuleEntry) -> RoutingRule:
    """An unsaved row."""
    return RoutingRule(
        policy=policy,
        position=position,
        name=entry.name,
        **when_columns(entry.when),
        pattern=entry.pattern,
        chain=entry.chain,
        roles=plain(entry.roles),
        options=plain(entry.options),
    )


def when_columns(when: WhenEntry) -> Plain:
    columns: Plain = {name: getattr(when, name) for name in WHEN_LISTS}
    for name in WHEN_RANGES:
        columns |= {f"{name}_{side}": getattr(getattr(when, name), side) for side in ("above", "at_most")}
    return columns | {"local_queue_above": when.local_queue.above}


def policy_rows(row: RoutingPolicy, entry: PolicyEntry) -> list[RoutingRule]:
    return [rule_row(row, position, rule) for position, rule in enumerate(entry.rules, start=1)]


def by_slug(placed: Iterable[Placed[Any]] | None) -> dict[str, Placed[Any]]:
    return {item.entry.slug: item for item in placed or ()}
