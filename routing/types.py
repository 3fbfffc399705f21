"""Frozen dataclasses that cross boundaries inside routing. No behaviour beyond small derivations.

Money is integer micro-dollars (`_microusd`), prices are Decimal dollars per million tokens
(`_usd_per_mtok`), times are seconds or milliseconds as the name says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

ENVELOPE = 0  # the budget id that stands for an envelope's own limit: rows count from 1
SHADOW = "shadow"  # the task kind of every call that only compares: it serves nobody, so it saves nothing


class Source(StrEnum):
    """Where an answer is made; also a provider's location."""

    LOCAL = "local"
    CLOUD = "cloud"
    OFFLINE = "offline"


# --- a conversation ----------------------------------------------------------------------------

Role = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image by value (`data`, base64 without prefix, with `media_type`) or by address (`url`)."""

    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool. `arguments` is a JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The caller's answer to a ToolCall."""

    tool_call_id: str
    content: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A model's visible thinking. `signature` is Anthropic's, needed to send it back."""

    text: str
    signature: str = ""
    redacted: bool = False


Part = Text | Image | ToolCall | ToolResult | Reasoning


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))


def message(role: Role, text: str) -> Message:
    """A message of plain text."""
    return Message(role, (Text(text),))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller says about a task, for the router. None and empty mean: not stated."""

    task_kind: str = ""
    agent_level: str = ""  # L1, L2, L3
    creator_tier: str = ""  # critical, high, medium, low
    complexity: float | None = None  # 0.0-1.0
    capabilities: frozenset[str] = frozenset()
    context_tokens: int | None = None
    strategy: str = ""  # overrides the installation's
    pattern: str = ""  # overrides the rule's


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a caller's `accept` says of an answer: usable or not, why not, how sure (0-100)."""

    ok: bool
    problem: str = ""
    confidence: float | None = None


BudgetFit = Literal["", "clamp", "refuse"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One task for a language model, independent of any wire format.

    `json_schema` asks for an answer that is one JSON document of that schema (structured output
    where the model supports it, else said in the prompt). `json_object` asks for any JSON object.
    `accept` judges an answer; an answer it refuses is repaired once and then redone elsewhere.
    `deadline_seconds` bounds the whole call, fallbacks included. `extra` holds provider parameters
    passed through unchanged (top_p, presence_penalty, ...). `end_user` names for whom the caller asks; it goes
    to providers that have a field for it and changes no answer. A request with a `call_id` of its own may
    be sent again after a crash: it is paid for and answered once. `on_output` is told how many
    characters of the answer have come so far. A request with an `envelope_id` is paid from that envelope.

    `budget_fit` says what becomes of a call whose worst case is more than a budget has left: "clamp" allows a
    shorter answer, "refuse" does not; "" clamps where no `max_output_tokens` is stated and refuses where one is.
    """

    messages: tuple[Message, ...]
    model: str = "auto"
    hints: Hints = Hints()
    max_output_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""  # "", auto, none, required, or a tool's name
    parallel_tool_calls: bool | None = None
    json_schema: Mapping[str, Any] | None = None
    json_schema_name: str = "answer"
    json_schema_strict: bool | None = None  # None: strict where the schema allows it
    json_object: bool = False
    reasoning_effort: str = ""
    end_user: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    accept: Callable[["ChatResult"], Verdict] | None = None
    on_output: Callable[[int], None] | None = None
    deadline_seconds: float | None = None
    call_id: UUID | None = None
    # who pays and for what; all end up on the usage record
    api_key_id: str | None = None
    run_id: str | None = None
    creator: str = ""
    envelope_id: UUID | None = None
    budget_fit: BudgetFit = ""

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities without which a model cannot serve this request at all."""
        needed = set(self.hints.capabilities)
        if self.tools:
            needed.add("tools")
        if any(isinstance(part, Image) for m in self.messages for part in m.parts):
            needed.add("vision")
        return frozenset(needed)


# --- an answer ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. None: the provider did not say. `input_tokens` includes the cached and the
    cache-written ones, `output_tokens` includes reasoning. `estimated` names counts that we worked
    out ourselves."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChatResult:
    """One complete answer. `model` is the name the provider reported, `stop_sequence` the one that ended it."""

    parts: tuple[Part, ...]
    stop_reason: StopReason = "stop"
    usage: Usage = Usage()
    model: str = ""
    response_id: str = ""
    stop_sequence: str = ""
    mean_logprob: float | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of a streamed answer. Text, reasoning and tool arguments are to be appended;
    `tool_index` says which tool call a piece belongs to, `tool_id` and `tool_name` come once with its
    first piece. `reasoning_redacted` marks one whole block of encrypted thinking. `usage`, `stop_reason`
    and `mean_logprob` come near the end, in any order."""

    text: str = ""
    reasoning: str = ""
    reasoning_signature: str = ""
    reasoning_redacted: bool = False
    tool_index: int | None = None
    tool_id: str = ""
    tool_name: str = ""
    tool_arguments: str = ""
    stop_reason: StopReason | None = None
    stop_sequence: str = ""
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    mean_logprob: float | None = None

    @property
    def is_output(self) -> bool:
        """True if a client would see something: such a delta ends the time in which we may fall back."""
        return bool(self.text or self.reasoning or self.tool_index is not None)


@dataclass(frozen=True, slots=True)
class Embeddings:
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = Usage()
    model: str = ""


ErrorKind = Literal[
    "connection",  # nobody answered
    "timeout",
    "rate_limited",  # 429
    "quota",  # 429 or 403: money or quota is used up; waiting will not help
    "overloaded",  # 503, 529
    "server",  # other 5xx
    "auth",  # 401, 403
    "not_found",  # the model or path does not exist there
    "bad_request",  # the provider refuses this very request
    "context_overflow",  # the prompt is longer than the model's context
    "content_filter",
    "protocol",  # the answer is not what the API promises
    "cut",  # the answer stopped before its end
    "busy",  # we did not ask: no slot came free, or another call tries a provider that had failed
]


class ProviderError(Exception):
    """What any adapter raises when a provider gave no answer.

    `retryable`: the same request may work at the same provider later. `retry_after_seconds`: what the
    provider asked for, if it did. `usage`: what it reported before failing. Every kind lets the walk
    move on to another candidate.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retryable: bool,
        retry_after_seconds: float | None = None,
        status: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.status = status
        self.usage = usage


class UnsupportedByProvider(Exception):
    """This provider's API cannot express the request (say, tools on a plain completion server)."""


# --- configuration, as the planner sees it -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A provider row. `api_key` is resolved (environment or encrypted field) and never printed."""

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
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PriceSpec:
    """Dollars per million tokens, from the price row `id`. None: this kind of token has no price of
    its own (cached and cache-written tokens then cost what input costs)."""

    id: int
    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None


@dataclass(frozen=True, slots=True)
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

    @property
    def source(self) -> Source:
        return self.provider.location


@dataclass(frozen=True, slots=True)
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

    def __contains__(self, value: float) -> bool:
        above, at_most = self.limits
        return above < value <= at_most


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class RuleOptions:
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


@dataclass(frozen=True, slots=True)
class RuleSpec:
    id: int
    name: str
    when: When
    chain: tuple[str, ...]  # model slugs
    pattern: str = "single"
    roles: Mapping[str, Any] = field(default_factory=dict)  # verifier, draft, refiner, members, ...
    options: RuleOptions = RuleOptions()


@dataclass(frozen=True, slots=True)
class PolicySpec:
    id: int
    slug: str
    version: int
    rules: tuple[RuleSpec, ...]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class SettingsSpec:
    strategy: str = "balanced"
    baseline_model: str = ""
    electricity_usd_per_kwh: Decimal = Decimal("0.12")
    kimi_enabled: bool = False
    time_zone: str = "UTC"
    body_kilobytes: int = 64
    redact_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
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


# --- the state of the world, as the planner sees it --------------------------------------------


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How much of a budget is free in its current period."""

    left_microusd: int
    limit_microusd: int


@dataclass(frozen=True, slots=True)
class World:
    """What changes from second to second. Missing entries mean: healthy, empty, unspent."""

    at: datetime
    budgets: Mapping[int, BudgetState] = field(default_factory=dict)  # by budget id
    open_circuits: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (provider, model slug or "") -> why
    probes_due: frozenset[tuple[str, str]] = frozenset()  # open circuits that one call may now try
    busy: Mapping[str, int] = field(default_factory=dict)  # provider slug -> calls in flight or waiting
    requests_today: Mapping[str, int] = field(default_factory=dict)  # provider slug -> count
    loaded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # provider slug -> wire names in memory
    local_queue: int = 0


# --- a decision --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Features:
    """What a request was judged by. `estimated` names the features that nobody stated."""

    task_kind: str
    agent_level: str
    creator_tier: str
    complexity: float
    context_tokens: int
    capabilities: frozenset[str]
    strategy: str
    budget_left: float
    local_queue: int
    estimated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may serve, in its place of the chain.

    `max_output_tokens` is to be sent with each call of it. `calls` is how often it may be called, tries,
    repairs and rounds of a pattern included; `worst_case_microusd` is what all of them could cost
    together (0 where there is no price, which no hard budget admits).
    """

    model: ModelSpec
    reason: str
    max_output_tokens: int
    worst_case_microusd: int
    role: str = "answer"  # or the part of a pattern: verifier, draft, refiner, member, synthesiser
    calls: int = 1


DropKind = Literal[
    "unknown",  # the chain names no such model
    "disabled",
    "switch",
    "key",
    "capability",
    "context",
    "circuit",
    "daily_limit",
    "busy",
    "unpriced",
    "budget",
    "denied",  # a budget that refuses instead of turning to what is free
    "rollout",
    "preferred",  # the same wire name at another provider goes first
]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A model that may not serve, and why: `kind` for programs, `reason` for people."""

    model: str
    provider: str
    source: str
    reason: str
    kind: DropKind = "disabled"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to try, in order, and why not the others.

    `candidates` are the chain's, in its order. `parts` are the models that the pattern needs beside them,
    by role. `holds` is what the ledger is to reserve: the most that the whole plan can cost, by budget id.
    `notes` say which rules were passed over by their rollout.
    """

    policy: str
    version: int
    rule: str
    pattern: str
    options: RuleOptions
    features: Features
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...]
    roles: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Candidate, ...] = ()
    holds: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


CacheState = Literal["hit", "miss", "off"]
Outcome = Literal["ok", "error", "timeout", "invalid", "low_confidence", "cancelled", "cut"]


@dataclass(slots=True)
class Attempt:
    """One call of one provider. `cost_microusd` is filled for every outcome: a failed attempt can cost money too.

    `role` is the part it had in a pattern; "cache" stands for no call at all, an answer that was there.
    `note` is what the pattern found of what it said. `served`: the call's answer is this attempt's.
    """

    number: int
    model: str
    provider: str
    source: str
    outcome: Outcome
    started_at: datetime
    seconds: float
    first_token_seconds: float | None = None
    error: str = ""
    status: int | None = None
    usage: Usage = Usage()
    cost_microusd: int = 0
    confidence: float | None = None
    role: str = "answer"
    repair: bool = False
    note: str = ""
    served: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A candidate that was not asked when its turn came, because it was busy. `seconds` were waited for it."""

    model: str
    provider: str
    source: str
    role: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Routed:
    """A routed call's answer with its receipt in short. `findings` is what its pattern learned: what a verifier
    found, how sure a draft was and by what reckoning, how a vote went (JSON-like, docs/routing.md)."""

    result: ChatResult
    call_id: str
    model: str
    provider: str
    source: Source
    rule: str
    policy: str
    version: int
    attempts: tuple[Attempt, ...]
    cost_microusd: int
    saved_microusd: int
    seconds: float
    confidence: float | None = None
    cache: CacheState = "off"
    findings: Mapping[str, Any] = field(default_factory=dict)
