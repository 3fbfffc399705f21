"""PURE planner: request + policy + health + budget state -> Plan.

The first rule whose conditions hold serves. Every model of its chain ends up as a candidate, in the chain's
order, or as dropped with a reason. Nothing here reads a clock, a database or the network.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

from msgspec import Struct, field

from routing.planning.budgets import Purse, budget_left
from routing.planning.demand import BUCKETS, Demand, measure
from routing.planning.pricing import is_free
from routing.planning.roles import Calls, chain_calls, part_calls, parts, resolve
from routing.planning.screening import Screen, dropped, not_to_be_had
from routing.types import (
    SHADOW,
    Candidate,
    ChatRequest,
    Dropped,
    Features,
    ModelSpec,
    Plan,
    RuleOptions,
    RuleSpec,
    Snapshot,
    Source,
    When,
    World,
)
from ziggie.errors import BudgetExceeded, NoRoute, RoutingError, UnknownModel, Unsupported
from ziggie.values import replace

AUTO = ("", "auto")
EXPLICIT = "explicit"
SIDE_BY_SIDE = ("ensemble", "debate")
MEMBERS_BEGIN_SECONDS = 60.0  # local members load one after another
_MONEY = {"budget", "denied", "unpriced"}
_SPENT = {"budget", "denied"}
_ABILITY = {"capability", "context"}
_PASSING = {"circuit", "daily_limit", "busy"}  # by themselves, so that to ask again is worth while
_NEAREST_FIRST = {Source.LOCAL: 0, Source.CLOUD: 1, Source.OFFLINE: 2}


def plan(request: ChatRequest, snapshot: Snapshot, world: World) -> Plan:
    """What to try for this request, in order, and why not the others.

    Raises UnknownModel; Unsupported, BudgetExceeded or NoRoute, whose details list every dropped model;
    InvalidInput for a hint that cannot be meant.
    """
    return decide(measure(request), snapshot, world)


def decide(demand: Demand, snapshot: Snapshot, world: World) -> Plan:
    """The same from a measured request: a receipt's demand gives the receipt's decision again."""
    features = features_of(demand, snapshot, world)
    if demand.model not in AUTO:
        return _plan_named(demand, features, snapshot, world)
    place, rule, notes = _serving_rule(demand, features, snapshot)
    chain, missing = _look_up(rule.chain, snapshot)
    pattern = demand.pattern or rule.pattern
    roles, screen = resolve(rule, pattern, chain), _screen(demand, snapshot, world, rule, pattern)
    draft = _Draft(demand, features, snapshot, rule, pattern, chain, missing, notes, roles, screen)
    draft.screen_chain()
    draft.screen_parts()
    if draft.is_beyond_a_budget:
        later = [other for other in snapshot.policy.rules[place + 1 :] if _serves(other, demand, features, [])]
        draft.turn_to_what_is_free(later, "from the next rule {!r}: this one's chain is beyond a budget")
    return draft.finish()


def features_of(demand: Demand, snapshot: Snapshot, world: World) -> Features:
    """What rules judge a request by."""
    return Features(  # by place: see ziggie/values.py
        demand.task_kind,
        demand.agent_level,
        demand.creator_tier,
        demand.complexity,
        demand.context_tokens,
        demand.needs,
        demand.strategy or snapshot.settings.strategy,
        budget_left(snapshot, demand, world),
        world.local_queue,
        demand.estimated,
    )


def matches(when: When, features: Features) -> bool:
    """Whether all conditions hold. Of capabilities one is enough."""
    for name, allowed in when.members:
        if getattr(features, name) not in allowed:
            return False
    for name, above, at_most in when.bounds:
        if not above < getattr(features, name) <= at_most:
            return False
    return not (when.capabilities and when.capabilities.isdisjoint(features.capabilities))


# --- which rule --------------------------------------------------------------------------------


def _serving_rule(demand: Demand, features: Features, snapshot: Snapshot) -> tuple[int, RuleSpec, tuple[str, ...]]:
    """The first rule that serves: its place, itself, and notes of those that let the request pass. Raises NoRoute."""
    notes: list[str] = []
    for place, rule in enumerate(snapshot.policy.rules):
        if _serves(rule, demand, features, notes):
            return place, rule, tuple(notes)
    raise NoRoute(" ".join([f"no rule of the policy {snapshot.policy.slug!r} serves this request", *notes]))


def _serves(rule: RuleSpec, demand: Demand, features: Features, notes: list[str]) -> bool:
    """Whether the rule matches and its rollout takes this request; a note is added where only the latter does not."""
    if not matches(rule.when, features):
        return False
    percent = rule.options.rollout_percent
    if percent < 100 and demand.bucket(rule.name) * 100 >= percent * BUCKETS:
        notes.append(f"rule {rule.name!r} matches and serves {percent}% of its requests, not this one")
        return False
    return True


def _look_up(slugs: Iterable[str], snapshot: Snapshot) -> tuple[list[ModelSpec], list[Dropped]]:
    """The models of a chain, each once, and the names that mean nothing to this caller."""
    known, unknown = [], []
    for slug in dict.fromkeys(slugs):
        model = snapshot.models.get(slug)
        if model is None:
            unknown.append(not_to_be_had(slug, snapshot))
        else:
            known.append(model)
    return known, unknown


# --- a model asked for by name -----------------------------------------------------------------


def _plan_named(demand: Demand, features: Features, snapshot: Snapshot, world: World) -> Plan:
    """That model alone. A name that several providers know means the one that can serve, local first. Where a budget
    has no room for it and turns to what is free, the free models of the rules for such a task serve; but a comparison
    is about the model that it names."""
    slug_match = snapshot.models.get(demand.model)
    named = (slug_match,) if slug_match else snapshot.by_name.get(demand.model, ())
    if not named:
        raise UnknownModel(f"there is no model named {demand.model[:100]!r}")
    draft = None
    for model in sorted(named, key=lambda m: (_NEAREST_FIRST[m.source], m.slug)):
        if draft is not None and draft.candidates:
            why = f"{draft.candidates[0].model.slug} has the same name and goes first: able to serve, nearest"
            draft.dropped.append(dropped(model, "preferred", why))
            continue
        earlier: list[Dropped] = draft.dropped if draft else []
        rule = RuleSpec(0, EXPLICIT, When(), (model.slug,), options=RuleOptions(first_token_seconds=None))
        screen = _screen(demand, snapshot, world, rule, "single")
        draft = _Draft(demand, features, snapshot, rule, "single", [model], earlier, (), {}, screen)
        draft.screen_chain()
    assert draft is not None
    if draft.is_beyond_a_budget and demand.task_kind != SHADOW:
        serving = [rule for rule in snapshot.policy.rules if _serves(rule, demand, features, [])]
        draft.turn_to_what_is_free(serving, "from the rule {!r}: the model asked for is beyond a budget")
    return draft.finish()


# --- a plan in the making ----------------------------------------------------------------------


class _Draft(Struct):
    demand: Demand
    features: Features
    snapshot: Snapshot
    rule: RuleSpec
    pattern: str
    chain: list[ModelSpec]
    dropped: list[Dropped]
    notes: tuple[str, ...]
    roles: dict[str, Any]
    screen: Screen
    candidates: list[Candidate] = field(default_factory=list)
    parts: list[Candidate] = field(default_factory=list)
    part_models: list[tuple[str, ModelSpec]] = field(default_factory=list)

    def _take_parts(self) -> None:
        wanted = parts(self.roles)
        models, missing = _look_up((slug for _, slug in wanted), self.snapshot)
        self.dropped += missing
        by_slug = {model.slug: model for model in models}
        self.part_models = [(role, by_slug[slug]) for role, slug in wanted if slug in by_slug]
        if self.part_models:
            self.screen.others_output = self._most_written()

    def screen_chain(self) -> None:
        """Raises BudgetExceeded if a budget that denies has no room for the model that would serve first."""
        if self.roles:
            self._take_parts()
        by_source: dict[Source, Calls] = {}
        for place, model in enumerate(self.chain):
            calls = by_source.get(model.provider.location)
            if calls is None:
                repair = self.demand.may_repair
                calls = chain_calls(model.source, self.rule, self.pattern, self.roles, repair=repair)
                by_source[model.source] = calls
            verdict = self.screen.judge(model, role="answer", reason=self._reason(place), calls=calls)
            self._sort(verdict, self.candidates)
            if isinstance(verdict, Dropped) and verdict.kind == "denied" and not self.candidates:
                self._refuse()

    def screen_parts(self) -> None:
        for role, model in self.part_models:
            verdict = self.screen.judge(
                model, role=role, reason=f"{role} of {self.rule.name!r}", calls=part_calls(role, self.roles)
            )
            self._sort(verdict, self.parts)
            if isinstance(verdict, Candidate) and not self.candidates and role in ("draft", "refiner", "member"):
                self._sort(self._alone(model, role), self.candidates)

    def _alone(self, model: ModelSpec, role: str) -> Candidate | Dropped:
        """A part that answers by itself, where nothing of the chain can."""
        calls = Calls(1, int(self.demand.may_repair))
        reason = f"{role} of {self.rule.name!r}; nothing of its chain may serve"
        return self.screen.judge(model, role="answer", reason=reason, calls=calls)

    @property
    def is_beyond_a_budget(self) -> bool:
        """A budget that turns to what is free is used up, and no model of the chain is free."""
        return not self.candidates and any(d.kind == "budget" for d in self.dropped)

    def turn_to_what_is_free(self, rules: Iterable[RuleSpec], why: str) -> None:
        """The free models of these rules serve. `why` has a place for the rule's name."""
        seen = {model.slug for model in self.chain}
        for rule in rules:
            for model in _look_up(rule.chain, self.snapshot)[0]:
                if model.slug in seen or not (is_free(model.price) or model.provider.kind == "offline"):
                    continue
                seen.add(model.slug)
                reason = f"costs nothing, {why.format(rule.name)}"
                calls = Calls(1, int(self.demand.may_repair))
                verdict = self.screen.judge(model, role="answer", reason=reason, calls=calls)
                if isinstance(verdict, Candidate):
                    self.candidates.append(verdict)

    def finish(self) -> Plan:
        if not self.candidates:
            self._refuse()
        policy = self.snapshot.policy
        return Plan(  # by place: see ziggie/values.py
            policy.slug,
            policy.version,
            self.rule.name,
            self.pattern,
            self._options(),
            self.features,
            tuple(self.candidates),
            tuple(self.dropped),
            self.roles,
            tuple(self.parts),
            self.screen.purse.holds(),
            self.notes,
            frozenset(self.screen.purse.short_of),
        )

    def _options(self) -> RuleOptions:
        """The rule's, but not its time for one model's first token where the caller has several of them begin."""
        options = self.rule.options
        seconds = options.first_token_seconds
        if seconds is None or self.pattern == self.rule.pattern or self.pattern not in SIDE_BY_SIDE:
            return options
        return replace(options, first_token_seconds=max(seconds, MEMBERS_BEGIN_SECONDS))

    def _sort(self, verdict: Candidate | Dropped, accepted: list[Candidate]) -> None:
        if isinstance(verdict, Candidate):
            accepted.append(verdict)
        elif not any(verdict.model == before.model for before in self.dropped):
            self.dropped.append(verdict)

    def _reason(self, place: int) -> str:
        if self.rule.name == EXPLICIT:
            return "asked for by name"
        if not self.candidates:
            return "first choice" if place == 0 else "first of the chain that may serve"
        return f"fallback {len(self.candidates)}"

    def _most_written(self) -> int:
        """The most output tokens that the other models of the pattern may put before one of them."""
        written = sum(self.screen.output_cap(model) for _, model in self.part_models)
        return written + max((self.screen.output_cap(model) for model in self.chain), default=0)

    def _refuse(self) -> NoReturn:
        raise refusal(self.dropped, self.rule.name, retry_after=self.screen.soonest(self.dropped))


def _screen(demand: Demand, snapshot: Snapshot, world: World, rule: RuleSpec, pattern: str) -> Screen:
    attempts = rule.options.max_attempts * demand.answers if pattern == "single" else None
    return Screen(demand, snapshot, world, Purse(snapshot, demand, world, max_attempts=attempts))


def lacks_money(refused: RoutingError) -> bool:
    """Whether one of the models that were dropped would serve if a budget had more left."""
    return any(detail.get("kind") in _SPENT for detail in refused.details)


def refusal(dropped_models: list[Dropped], rule: str, *, retry_after: float | None = None) -> RoutingError:
    """The error for a plan without a candidate: 402 where money is what is missing, 400 for abilities alone, else 503:
    clients ask again then. It tells of the model that would have come first, and after how many seconds one may be
    called again."""
    kinds = {d.kind for d in dropped_models}
    kind: type[RoutingError] = NoRoute
    if kinds <= _MONEY or "denied" in kinds or (kinds & _MONEY and not kinds & _PASSING):
        kind = BudgetExceeded
    elif kinds <= _ABILITY:
        kind = Unsupported
    reasons = "; ".join(f"{d.model}: {d.reason}" for d in dropped_models)
    details = [
        {"model": d.model, "provider": d.provider, "source": d.source, "state": "dropped", "kind": d.kind}
        | {"reason": d.reason}
        for d in dropped_models
    ]
    error = kind(f"no model may serve this request (rule {rule!r}): {reasons}", details=details)
    first = {name: str(details[0][name]) for name in ("model", "provider", "source")} if details else {}
    error.told = {**first, "rule": rule, "attempts": "0", "cache": "off"}
    error.retry_after_seconds = retry_after
    return error
