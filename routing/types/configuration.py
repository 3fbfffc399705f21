"""Configuration and the state of the world, as the planner sees them."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from routing.types.conversation import Source
from ziggie.values import Value, value

ENVELOPE = 0  # the budget id that stands for an envelope's own limit: rows count from 1
# A budget's scope: which of its names restrict requests, with the field of a demand, and which restrict models.
OF_REQUEST = {
    "api_keys": "api_key_id",
    "task_kinds": "task_kind",
    "agent_levels": "agent_level",
    "creators": "creator",
}
OF_MODEL = frozenset({"locations", "providers", "models"})
SHADOW = "shadow"  # the task kind of every call that only compares: it serves nobody, so it saves nothing


@value
class ProviderSpec:
    """A provider row. `api_key` and the headers in `options` are resolved (environment or encrypted field) and never
    printed."""

    id: int
    slug: str
    kind: str
    location: Source
    base_url: str
    enabled: bool = True
    switch: str = ""  # "kimi": serves only while that setting is on
    api_key: str = field(default="", repr=False)
    needs_api_key: bool = False
    api_key_problem: str = ""  # why a stored key is not in api_key
    max_concurrency: int | None = None
    max_requests_per_day: int | None = None
    timeout_seconds: float = 120.0
    power_watts: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@value
class PriceSpec:
    """Dollars per million tokens, from the price row `id`. None: this kind of token has no price of
    its own (cached and cache-written tokens then cost what input costs). `tiers` are what longer
    requests pay, the shortest first; () for nearly all models."""

    id: int
    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    tiers: "tuple[PriceTier, ...]" = ()


@value
class PriceTier:
    """What every token of a request costs that has more input tokens than `above`, cached ones included."""

    above: int
    price: PriceSpec  # without tiers


# how a model's row says that it makes vectors: people write both
EMBEDS = frozenset({"embedding", "embeddings"})
READS_PDF = "pdf"  # and that it reads PDF documents
CITES = "citations"  # and that it says where in its documents stands what it says


@value
class ModelSpec:
    """A language-model row with the price in force. `name` goes on the wire, `slug` is ours."""

    id: int
    slug: str
    name: str
    provider: ProviderSpec
    context_window: int
    max_output_tokens: int | None
    capabilities: frozenset[str] = frozenset()
    enabled: bool = True
    price: PriceSpec | None = None
    aliases: tuple[str, ...] = ()
    dimensions: int | None = None  # of an embedding model
    source: Source = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.provider.location)


@value
class Range:
    """above < value <= at_most; None is open."""

    above: float | None = None
    at_most: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        return (
            float("-inf") if self.above is None else self.above,
            float("inf") if self.at_most is None else self.at_most,
        )


@value
class When:
    """A rule's conditions; all must hold, an empty one always does."""

    task_kinds: frozenset[str] = frozenset()
    agent_levels: frozenset[str] = frozenset()
    creator_tiers: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()  # any of them among the request's
    strategies: frozenset[str] = frozenset()
    complexity: Range = Range()
    context_tokens: Range = Range()
    budget_left: Range = Range()  # fraction 0-1 of the tightest cloud budget
    local_queue: Range = Range()  # calls waiting for local providers
    # The conditions that are not empty, as (feature, ...), worked out once: a rule then costs nothing for
    # what it does not ask.
    members: tuple[tuple[str, frozenset[str]], ...] = field(init=False, repr=False, compare=False)
    bounds: tuple[tuple[str, float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sets = {
            "task_kind": self.task_kinds,
            "agent_level": self.agent_levels,
            "creator_tier": self.creator_tiers,
            "strategy": self.strategies,
        }
        ranges = {
            "complexity": self.complexity,
            "context_tokens": self.context_tokens,
            "budget_left": self.budget_left,
            "local_queue": self.local_queue,
        }
        bounds = tuple((name, *wanted.limits) for name, wanted in ranges.items() if wanted != Range())
        object.__setattr__(self, "members", tuple((name, wanted) for name, wanted in sets.items() if wanted))
        object.__setattr__(self, "bounds", bounds)


class RuleOptions(Value):
    min_confidence: float | None = None  # 0-100
    first_token_seconds: float | None = 5.0
    max_attempts: int = 3
    local_tries: int = 1  # how often a failing local model is tried before the walk moves on
    cache_ttl_seconds: int | None = None
    cache_any_temperature: bool = False
    rollout_percent: int = 100
    shadow_model: str | None = None
    shadow_percent: int = 10
    shadow_judge: str | None = None  # the baseline model if not stated
    batch: bool = False
    batch_window: str = "23:00-06:00"  # of the staff's day; "" is any time
    store_bodies: bool = False


@value
class RuleSpec:
    id: int
    name: str
    when: When
    chain: tuple[str, ...]  # model slugs
    pattern: str = "single"
    roles: Mapping[str, Any] = field(default_factory=dict)  # verifier, draft, refiner, members, ...
    options: RuleOptions = RuleOptions()


@value
class PolicySpec:
    id: int
    slug: str
    version: int
    rules: tuple[RuleSpec, ...]


@value
class BudgetSpec:
    """A budget row. `scope` maps locations, providers, models, api_keys, task_kinds, agent_levels,
    creators to the values it counts; an empty mapping counts everything."""

    id: int
    slug: str
    scope: Mapping[str, frozenset[str]]
    period: Literal["day", "week", "month", "total"]
    limit_microusd: int
    hard: bool
    on_exhausted: Literal["local", "deny"]
    alert_at_percent: tuple[int, ...] = ()
    # What the scope asks of a request and of a model, as (field, values), worked out once.
    of_request: tuple[tuple[str, frozenset[str]], ...] = field(init=False, repr=False, compare=False)
    of_model: tuple[tuple[str, frozenset[str]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = [(name, values) for name, values in self.scope.items() if values]
        object.__setattr__(self, "of_request", tuple((OF_REQUEST[n], v) for n, v in asked if n in OF_REQUEST))
        object.__setattr__(self, "of_model", tuple((n, v) for n, v in asked if n in OF_MODEL))


@value
class SettingsSpec:
    strategy: str = "balanced"
    baseline_model: str = ""
    electricity_usd_per_kwh: Decimal = Decimal("0.12")
    kimi_enabled: bool = False
    time_zone: str = "UTC"
    body_kilobytes: int = 64
    redact_patterns: tuple[str, ...] = ()


@value
class Snapshot:
    """All configuration at one epoch. A call uses one snapshot from start to end, so that no call
    sees half of a change."""

    epoch: int
    models: Mapping[str, ModelSpec]  # by slug
    policy: PolicySpec
    budgets: tuple[BudgetSpec, ...]
    settings: SettingsSpec
    by_name: Mapping[str, tuple[ModelSpec, ...]]  # wire names and aliases
    valid_until: datetime | None = None  # when the next price comes into force
    withheld: Mapping[str, ModelSpec] = field(default_factory=dict)  # by slug: those that this caller may not use
    # The budgets that count what a model costs, by its slug: worked out when somebody
    # first asks (budgets.py).
    watchers: dict[str, tuple[BudgetSpec, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)


@value
class BudgetState:
    """How much of a budget is free in its current period, and how much more will be if what is held comes back."""

    left_microusd: int
    limit_microusd: int
    held_microusd: int = 0


@value
class World:
    """What changes from second to second. Missing entries mean: healthy, empty, unspent."""

    at: datetime
    budgets: Mapping[int, BudgetState] = field(default_factory=dict)  # by budget id
    open_circuits: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (provider, model slug or "") -> why
    reopening: Mapping[tuple[str, str], float] = field(default_factory=dict)  # the same -> seconds until one may try
    busy: Mapping[str, int] = field(default_factory=dict)  # provider slug -> calls in flight or waiting
    requests_today: Mapping[str, int] = field(default_factory=dict)  # provider slug -> count
    loaded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # provider slug -> wire names in memory
    local_queue: int = 0
