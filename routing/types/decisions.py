"""What was decided for a call, and what became of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, field

from routing.types.answers import ChatResult, Usage
from routing.types.configuration import ModelSpec, RuleOptions
from routing.types.conversation import Source
from ziggie.values import Value


class Features(Value):
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


class Candidate(Value):
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
    "withheld",  # the caller's API key may not use it
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


class Dropped(Value):
    """A model that may not serve, and why: `kind` for programs, `reason` for people."""

    model: str
    provider: str
    source: str
    reason: str
    kind: DropKind = "disabled"


class Plan(Value):
    """What to try, in order, and why not the others.

    `candidates` are the chain's, in its order. `parts` are the models that the pattern needs beside them,
    by role. `holds` is what the ledger is to reserve: the most that the whole plan can cost, by budget id.
    `notes` say which rules were passed over by their rollout. `short_of` are the budgets that had no room for a model
    that was dropped, or for the longest answer of one that serves.
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
    short_of: frozenset[int] = frozenset()


CacheState = Literal["hit", "miss", "off"]
Outcome = Literal["ok", "error", "timeout", "invalid", "low_confidence", "cancelled", "cut"]


class Attempt(Struct):
    """One call of one provider. `cost_microusd` is filled for every outcome: a failed attempt can cost money too.

    `role` is the part it had in a pattern; "cache" stands for no call at all, an answer that was there.
    `note` is what the pattern found of what it said. `served`: the call's answer is this attempt's.
    `first_token_seconds` is None where the answer came whole, too. `sent`: it had begun to go out to the provider.
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
    sent: bool = True


class Skipped(Value):
    """A candidate that was not asked when its turn came, because it was busy. `seconds` were waited for it."""

    model: str
    provider: str
    source: str
    role: str
    reason: str
    seconds: float


class Routed(Value):
    """A routed call's answer with its receipt in short. `findings` is what its pattern learned: what a verifier
    found, how sure a draft was and by what reckoning, how a vote went (JSON-like, docs/routing.md). `others` are the
    answers beside the first one, where several were asked for."""

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
    others: tuple[ChatResult, ...] = ()
