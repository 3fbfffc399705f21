"""PURE: what is wrong with a whole configuration, beyond the shape of its entries.

check() looks at everything together: names that mean nothing, chains that cannot serve, rules that are
never reached. An error would make routing fail or lie; a warning says that it will not do what was meant.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import available_timezones

from routing.configuration.shape import (
    MAX_PROBLEMS,
    BudgetEntry,
    CountRange,
    Document,
    FractionRange,
    ModelEntry,
    Path,
    Placed,
    PolicyEntry,
    Problem,
    ProviderEntry,
    RuleEntry,
    SettingsEntry,
    WhenEntry,
)
from routing.types import EMBEDS, SHADOW

ROLES_OF_PATTERN = {
    "single": frozenset[str](),
    "verify": frozenset({"verifier"}),
    "cascade": frozenset({"draft", "refiner"}),
    "ensemble": frozenset({"members", "synthesiser", "vote"}),
    "debate": frozenset({"members", "synthesiser", "vote", "rounds"}),
    "critique": frozenset({"rounds"}),
}
STRATEGY_COUNT = 3


def check(document: Document, *, api_keys: Iterable[str] = ()) -> list[Problem]:
    """Every mistake of meaning. `api_keys` are the names that budgets may speak of."""
    return _Check(document, frozenset(api_keys)).run()


def errors(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if not problem.warning]


class _Check:
    def __init__(self, document: Document, api_keys: frozenset[str]) -> None:
        self.document = document
        self.api_keys = api_keys
        self.providers = {placed.entry.slug: placed.entry for placed in document.providers or ()}
        self.models = {placed.entry.slug: placed.entry for placed in document.models or ()}
        self.settings = document.settings.entry if document.settings else SettingsEntry()
        self.problems: list[Problem] = []
        self.unpriced: set[str] = set()

    def run(self) -> list[Problem]:
        document = self.document
        for section in (document.providers, document.models, document.budgets):
            self._unique((placed.path, "slug", placed.entry.slug) for placed in section or ())
        for provider in document.providers or ():
            self._provider(provider)
        for model in document.models or ():
            self._model(model)
        self._policies(document.policies or [])
        for budget in document.budgets or ():
            self._budget(budget)
        if document.settings:
            self._settings(document.settings)
        return self.problems[:MAX_PROBLEMS]

    def error(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message))

    def warn(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message, warning=True))

    def _unique(self, names: Iterable[tuple[Path, str, Any]]) -> None:
        first: dict[Any, Path] = {}
        for path, key, name in names:
            if name in first:
                self.error((*path, key), f"{_shown(name)} is used twice: see {Problem(first[name], '').place}")
            first.setdefault(name, path)

    # --- providers and models ------------------------------------------------------------------

    def _provider(self, placed: Placed[ProviderEntry]) -> None:
        provider, path = placed.entry, placed.path
        if (provider.kind == "offline") != (provider.location == "offline"):
            self.error((*path, "location"), "the kind offline has the location offline, and no other kind has it")
        if provider.kind == "offline":
            if provider.base_url:
                self.error((*path, "base_url"), "the offline model is built in and has no address")
        elif problem := base_url_problem(provider.base_url):
            self.error((*path, "base_url"), problem)

    def _model(self, placed: Placed[ModelEntry]) -> None:
        model, path = placed.entry, placed.path
        if model.slug == "auto":
            self.error((*path, "slug"), '"auto" means that the router chooses; no model can have this name')
        if model.provider not in self.providers and model.provider not in self.document.damaged:
            self.error((*path, "provider"), f"there is no provider {model.provider!r}")
        if model.max_output_tokens is not None and model.max_output_tokens > model.context_window:
            self.error((*path, "max_output_tokens"), f"is more than the context window of {model.context_window}")
        prices = [model.input_usd_per_mtok, model.output_usd_per_mtok]
        extras = [model.cached_input_usd_per_mtok, model.cache_write_usd_per_mtok, model.input_tiers or None]
        if prices.count(None) == 1 or (None in prices and extras.count(None) < len(extras)):
            self.error(path, "a price needs both input_usd_per_mtok and output_usd_per_mtok")
        for index, (shorter, longer) in enumerate(pairwise(model.input_tiers), start=1):
            if longer.above_input_tokens <= shorter.above_input_tokens:
                place = (*path, "input_tiers", index, "above_input_tokens")
                self.error(place, "must be more than that of the tier before")
        for alias in model.aliases:
            if alias != model.slug and alias in self.models:
                self.warn((*path, "aliases"), f"{alias!r} is the name of another model, which is served by it")

    # --- policies and rules --------------------------------------------------------------------

    def _policies(self, policies: list[Placed[PolicyEntry]]) -> None:
        self._unique((placed.path, "slug", (placed.entry.slug, placed.entry.live)) for placed in policies)
        live = [placed for placed in policies if placed.entry.live]
        for extra in live[1:]:
            self.error((*extra.path, "live"), f"exactly one policy is live, and {live[0].entry.slug!r} is already")
        if not live:
            self.error(("policies",), "exactly one policy is live, and here none is")
        for placed in policies:
            self._policy(placed)

    def _policy(self, placed: Placed[PolicyEntry]) -> None:
        policy = placed.entry
        rules = [((*placed.path, "rules", index), rule) for index, rule in enumerate(policy.rules) if rule.name]
        if policy.live and not policy.rules:
            self.error((*placed.path, "rules"), "a live policy needs at least one rule")
        self._unique((path, "name", rule.name) for path, rule in rules)
        for path, rule in rules:
            self._rule(path, rule, live=policy.live)
        self._shadowed(rules)
        if policy.rules and not any(_is_empty(rule.when) and rule.options.rollout_percent == 100 for _, rule in rules):
            self.warn((*placed.path, "rules"), "no rule takes every request: one that fits none is refused (no_route)")

    def _rule(self, path: Path, rule: RuleEntry, *, live: bool) -> None:
        self._conditions((*path, "when"), rule.when)
        self._roles((*path, "roles"), rule)
        if not rule.chain:
            self.error((*path, "chain"), "is empty: name at least one model")
        for index, slug in enumerate(rule.chain):
            self._names_model((*path, "chain", index), slug)
        for slug in sorted({slug for slug in rule.chain if rule.chain.count(slug) > 1}):
            self.error((*path, "chain"), f"{slug!r} is listed twice")
        for option in ("shadow_model", "shadow_judge"):
            if slug := getattr(rule.options, option):
                self._names_model((*path, "options", option), slug)
        self._shadow((*path, "options"), rule)
        if rule.chain and all(slug in self.models for slug in rule.chain):
            self._can_serve(path, rule, [self.models[slug] for slug in rule.chain], live=live)

    def _shadow(self, path: Path, rule: RuleEntry) -> None:
        options = rule.options
        model = self.models.get(options.shadow_model or "")
        if model is None:
            return
        judge = options.shadow_judge or self.settings.baseline_model
        if not judge:
            problem = "needs a judge: name one in shadow_judge, or set a baseline model"
            self.error((*path, "shadow_model"), problem)
        elif judge in (options.shadow_model, *rule.chain[:1]):
            self.warn((*path, "shadow_judge"), f"{judge!r} judges, and is one of the two models that it compares")
        own = [b.entry for b in self.document.budgets or () if SHADOW in b.entry.scope.task_kinds]
        if model.output_usd_per_mtok and not any(budget.hard and budget.enabled for budget in own):
            problem = f"costs money, and no hard budget counts the task kind {SHADOW!r}: nothing will be compared"
            self.warn((*path, "shadow_model"), problem)

    def _names_model(self, path: Path, slug: str) -> None:
        model = self.models.get(slug)
        if model is None and slug not in self.document.damaged:
            self.error(path, f"there is no model {slug!r}")
        elif model is not None and EMBEDS.intersection(model.capabilities) and "chat" not in model.capabilities:
            self.error(path, f"{slug!r} makes embeddings, not answers")

    def _conditions(self, path: Path, when: WhenEntry) -> None:
        for name in ("complexity", "context_tokens", "budget_left"):
            bounds: FractionRange | CountRange = getattr(when, name)
            if bounds.above is not None and bounds.at_most is not None and bounds.above >= bounds.at_most:
                self.error((*path, name), f"above {bounds.above} and at most {bounds.at_most} can never hold together")
            elif isinstance(bounds, FractionRange) and bounds.above == 1:
                self.error((*path, name, "above"), "can never hold: the most there is is 1")

    def _roles(self, path: Path, rule: RuleEntry) -> None:
        roles = rule.roles
        given = {name for name, value in roles.model_dump().items() if value not in (None, [])}
        for name in sorted(given - ROLES_OF_PATTERN[rule.pattern]):
            self.error((*path, name), f"the pattern {rule.pattern} knows no {name}")
        for name in ("verifier", "draft", "refiner", "synthesiser"):
            if slug := getattr(roles, name):
                self._names_model((*path, name), slug)
        for index, slug in enumerate(roles.members):
            self._names_model((*path, "members", index), slug)
        if rule.pattern in {"ensemble", "debate"} and len(set(roles.members or rule.chain)) < 2:
            self.error((*path, "members"), f"the pattern {rule.pattern} needs at least two models")
        if roles.vote and roles.synthesiser:
            self.warn((*path, "synthesiser"), "is not asked: the members vote")

    def _can_serve(self, path: Path, rule: RuleEntry, chain: list[ModelEntry], *, live: bool) -> None:
        usable = [model for model in chain if not self._idle(model)]
        if not usable:
            reasons = "; ".join(f"{model.slug}: {self._idle(model)}" for model in chain)
            (self.error if live else self.warn)((*path, "chain"), f"no model of the chain can serve: {reasons}")
        above = rule.when.context_tokens.above
        if above is not None and above >= max(model.context_window for model in chain):
            self.error((*path, "chain"), f"no model of the chain has a context of more than {above} tokens")
        for capability in rule.when.capabilities:
            able = [model for model in chain if capability in model.capabilities]
            if not able:
                self.error((*path, "chain"), f"no model of the chain has the capability {capability!r}")
            elif all(self._idle(model) for model in able):
                names = ", ".join(model.slug for model in able)
                self.warn((*path, "chain"), f"nothing serves {capability!r} while {names} cannot be used")
        if live:
            self._unpriced((*path, "chain"), usable)

    def _unpriced(self, path: Path, chain: list[ModelEntry]) -> None:
        guarded = any(b.entry.hard and b.entry.enabled and _counts_cloud(b.entry) for b in self.document.budgets or ())
        for model in chain:
            provider = self.providers.get(model.provider)
            if model.slug in self.unpriced or not guarded or model.input_usd_per_mtok is not None:
                continue
            if provider and provider.location == "cloud":
                self.unpriced.add(model.slug)
                self.warn(path, f"{model.slug!r} has no price, so no hard budget admits it")

    def _idle(self, model: ModelEntry) -> str:
        """Why the model cannot be used as things are set; "" if it can."""
        provider = self.providers.get(model.provider)
        if not model.enabled:
            return "the model is disabled"
        if provider is None:
            return ""  # reported with the model
        if not provider.enabled:
            return f"the provider {provider.slug} is disabled"
        if provider.switch == "kimi" and not self.settings.kimi_enabled:
            return "Kimi is switched off"
        return ""

    def _shadowed(self, rules: list[tuple[Path, RuleEntry]]) -> None:
        earlier: list[tuple[Path, RuleEntry]] = []
        for path, rule in rules:
            cover = next((before for before in earlier if _covers(before[1].when, rule.when)), None)
            if cover:
                self.warn(path, f"is never reached: {cover[1].name!r} ({Problem(cover[0], '').place}) takes all of it")
            if rule.options.rollout_percent == 100:
                earlier.append((path, rule))

    # --- budgets and settings ------------------------------------------------------------------

    def _budget(self, placed: Placed[BudgetEntry]) -> None:
        scope, path = placed.entry.scope, (*placed.path, "scope")
        for index, slug in enumerate(scope.providers):
            if slug not in self.providers and slug not in self.document.damaged:
                self.error((*path, "providers", index), f"there is no provider {slug!r}")
        for index, slug in enumerate(scope.models):
            if slug not in self.models and slug not in self.document.damaged:
                self.error((*path, "models", index), f"there is no model {slug!r}")
        for index, name in enumerate(scope.api_keys):
            if name in self.api_keys:
                continue
            if _is_uuid(name):
                self.warn((*path, "api_keys", index), "this API key is gone; the budget counts nothing of it")
            else:
                self.error((*path, "api_keys", index), f"there is no API key named {name!r}")

    def _settings(self, placed: Placed[SettingsEntry]) -> None:
        settings = placed.entry
        baseline = self.models.get(settings.baseline_model)
        if settings.baseline_model and baseline is None and settings.baseline_model not in self.document.damaged:
            self.error((*placed.path, "baseline_model"), f"there is no model {settings.baseline_model!r}")
        elif baseline is not None and baseline.input_usd_per_mtok is None:
            self.warn((*placed.path, "baseline_model"), "has no price: no saving can be counted against it")
        if not is_time_zone(settings.time_zone):
            self.error((*placed.path, "time_zone"), "is no time zone; name one like Europe/Berlin")


# --- single values -----------------------------------------------------------------------------


def base_url_problem(url: str) -> str:
    """Why an address cannot be called; "" if it can."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return "is no address"
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine:
        return "should start with http:// or https:// and name a host"
    if parts.username is not None or parts.password is not None:
        return "should hold no user name or password; keys belong into api_key_env"
    if parts.query or parts.fragment or any(character <= " " or character == "\x7f" for character in url):
        return "should end with its path: no spaces, no ? and no #"
    return ""


# What PostgreSQL takes for an abbreviation without summer time, or does not know. A budget would roll over at another
# moment than reports say, or no call could be admitted at all.
_READ_DIFFERENTLY = frozenset({"CET", "EET", "MET", "WET", "localtime"})


def is_time_zone(name: str) -> bool:
    """Whether Python and the database know it and mean the same by it."""
    return name in _time_zones()


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _READ_DIFFERENTLY


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _shown(name: Any) -> str:
    return repr(name[0] if isinstance(name, tuple) else name)


def _counts_cloud(budget: BudgetEntry) -> bool:
    return not budget.scope.locations or "cloud" in budget.scope.locations


# --- which requests a rule takes ---------------------------------------------------------------


def _is_empty(when: WhenEntry) -> bool:
    return not any(_lists(when)) and all(bounds == (None, None) for bounds in _bounds(when))


def _lists(when: WhenEntry) -> Iterator[frozenset[str]]:
    yield frozenset(when.task_kinds)
    yield frozenset(when.agent_levels)
    yield frozenset(when.creator_tiers)
    yield frozenset(when.capabilities)
    # All strategies there are: no condition.
    yield frozenset(when.strategies if len(set(when.strategies)) < STRATEGY_COUNT else ())


def _bounds(when: WhenEntry) -> Iterator[tuple[Decimal | int | None, Decimal | int | None]]:
    for fraction in (when.complexity, when.budget_left):
        yield fraction.above, None if fraction.at_most == 1 else fraction.at_most
    yield when.context_tokens.above, when.context_tokens.at_most
    yield when.local_queue.above, None


def _covers(first: WhenEntry, second: WhenEntry) -> bool:
    """Whether whatever `second` takes, `first` takes as well."""
    for wide, narrow in zip(_lists(first), _lists(second), strict=True):
        if wide and not (narrow and narrow <= wide):
            return False
    for (above, at_most), (narrow_above, narrow_at_most) in zip(_bounds(first), _bounds(second), strict=True):
        if above is not None and (narrow_above is None or narrow_above < above):
            return False
        if at_most is not None and (narrow_at_most is None or narrow_at_most > at_most):
            return False
    return True
