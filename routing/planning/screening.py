"""PURE: may this model serve this request now? Yes with a bound on its cost, or no with a plain reason."""

from collections.abc import Sequence

from msgspec import Struct

from routing.planning.budgets import Purse, left_microusd
from routing.planning.demand import Demand
from routing.planning.pricing import affordable_output_tokens, is_free, most_that_fits, usd, worst_case_microusd
from routing.planning.roles import WRAPPING_TOKENS, Calls
from routing.types import EMBEDS, BudgetSpec, Candidate, DropKind, Dropped, ModelSpec, PriceSpec, Snapshot, World

# An answer cut shorter than this is money spent on nothing.
LEAST_OUTPUT_TOKENS = 256
# Calls that may wait for one provider; the provider's option "max_queue" says otherwise.
DEFAULT_MAX_QUEUE = 1_000

Reason = tuple[DropKind, str]


def dropped(model: ModelSpec, kind: DropKind, reason: str) -> Dropped:
    return Dropped(model.slug, model.provider.slug, model.source.value, reason, kind)


def not_to_be_had(slug: str, snapshot: Snapshot) -> Dropped:
    """Why a name of a chain stands for no model that may be looked at."""
    if (model := snapshot.withheld.get(slug)) is not None:
        return dropped(model, "withheld", "this API key may not use it")
    return Dropped(slug, "", "", "there is no such model", "unknown")


class Screen(Struct):
    """One request, before which models are held one after the other. `others_output` is how many tokens
    the other models of a pattern may write into a model's prompt."""

    demand: Demand
    snapshot: Snapshot
    world: World
    purse: Purse
    others_output: int = 0

    def judge(self, model: ModelSpec, *, role: str, reason: str, calls: Calls) -> Candidate | Dropped:
        """The candidate, already counted in the purse, or why the model may not serve."""
        if self.demand.answers != 1:
            calls = calls.times(self.demand.answers)
        problem = (
            self._switched_off(model)
            or self._incapable(model)
            or (self._unhealthy(model) if self.world.open_circuits else None)
            or self._overloaded(model)
            or self._too_small(model)
        )
        if problem:
            return dropped(model, *problem)
        return self._price(model, role=role, reason=reason, calls=calls)

    def output_cap(self, model: ModelSpec) -> int:
        """How many tokens an answer may have: the caller's word, the model's limit, the room in its context."""
        cap = max(model.context_window - self.demand.input_likely, 1)
        if model.max_output_tokens is not None and model.max_output_tokens < cap:
            cap = model.max_output_tokens
        stated = self.demand.max_output_tokens
        return cap if stated is None or stated > cap else stated

    def _switched_off(self, model: ModelSpec) -> Reason | None:
        provider = model.provider
        if not model.enabled:
            return "disabled", "the model is disabled"
        if not provider.enabled:
            return "disabled", f"the provider {provider.slug} is disabled"
        if provider.switch and not getattr(self.snapshot.settings, f"{provider.switch}_enabled", False):
            return "switch", f"{provider.switch.capitalize()} is switched off"
        if provider.needs_api_key and not provider.api_key:
            return "key", f"{provider.slug} has no API key" + (
                f": {provider.api_key_problem}" if provider.api_key_problem else ""
            )
        return None

    def _incapable(self, model: ModelSpec) -> Reason | None:
        if not self.demand.needs <= model.capabilities:
            missing = self.demand.needs - model.capabilities
            return "capability", f"cannot do {', '.join(sorted(missing))}"
        if EMBEDS & model.capabilities and "chat" not in model.capabilities:
            return "capability", "makes embeddings, not answers"
        return None

    def _unhealthy(self, model: ModelSpec) -> Reason | None:
        circuits = self.world.open_circuits
        provider = model.provider.slug
        if (why := circuits.get((provider, ""))) is not None:
            return "circuit", f"{provider} is not called for now: {why}"
        if (why := circuits.get((provider, model.slug))) is not None:
            return "circuit", f"not called for now: {why}"
        return None

    def soonest(self, dropped: Sequence[Dropped]) -> float | None:
        """The seconds until the first of these may be called again, of those whose circuits are open."""
        seconds = [
            max(self.world.reopening.get((one.provider, slug), 0.0) for slug in ("", one.model))
            for one in dropped
            if one.kind == "circuit"
        ]
        return min(filter(None, seconds), default=None)

    def _overloaded(self, model: ModelSpec) -> Reason | None:
        provider = model.provider
        daily = provider.max_requests_per_day
        if (
            daily is not None
            and (left := daily - self.world.requests_today.get(provider.slug, 0)) < self.demand.answers
        ):
            if left > 0:
                return "daily_limit", f"{provider.slug} has only {left} of its {daily} requests of today left"
            return "daily_limit", f"{provider.slug} has had its {daily} requests of today"
        if provider.max_concurrency is not None:
            at_once = provider.max_concurrency + max_queue(model)
            if self.world.busy.get(provider.slug, 0) >= at_once:
                return "busy", f"{provider.slug} is busy: {at_once} calls running or waiting"
        return None

    def _too_small(self, model: ModelSpec) -> Reason | None:
        demand = self.demand
        wanted = LEAST_OUTPUT_TOKENS if demand.max_output_tokens is None else demand.max_output_tokens
        if model.max_output_tokens is not None and model.max_output_tokens < wanted:
            wanted = model.max_output_tokens
        if demand.input_likely + wanted <= model.context_window:
            return None
        return "context", (
            f"context of {model.context_window} tokens is too small for about {demand.input_likely} in and {wanted} out"
        )

    def _price(self, model: ModelSpec, *, role: str, reason: str, calls: Calls) -> Candidate | Dropped:
        output = self.output_cap(model)
        if model.provider.kind == "offline" or is_free(model.price):
            return Candidate(model, reason, output, 0, role, calls.total)
        watching = self.purse.watching(model)
        hard = [budget for budget in watching if budget.hard]
        if problem := self._unbounded(model, hard):
            return dropped(model, *problem)
        if model.price is None:
            return Candidate(model, reason, output, 0, role, calls.total)
        is_part = role != "answer"
        most = self.purse.max_attempts
        if not is_part and most is not None and calls.total > most:
            calls = calls.at_most(most)
        costs = self._costs(model, model.price, calls, output)
        refusing: BudgetSpec | None = None
        for budget in hard:
            if self.purse.fits(budget, costs, is_part=is_part):
                continue
            affordable = self._affordable(model, model.price, calls, self.purse.room(budget))
            if affordable is None:
                if refusing is None or (_denies(budget) and not _denies(refusing)):
                    refusing = budget
                continue
            output = min(output, affordable)
            costs = self._costs(model, model.price, calls, output)
            reason = f"{reason}, its answer limited to {output} tokens by the budget {budget.slug}"
        if refusing is not None:
            kind: DropKind = "denied" if _denies(refusing) else "budget"
            return dropped(model, kind, self._does_not_fit(sum(costs), refusing))
        self.purse.add(watching, costs, is_part=is_part)
        return Candidate(model, reason, output, sum(costs), role, calls.total)

    def _unbounded(self, model: ModelSpec, hard: list[BudgetSpec]) -> Reason | None:
        if not hard:
            return None
        if model.price is None:
            return "unpriced", f"has no price, and the hard budget {hard[0].slug} admits nothing without one"
        if model.max_output_tokens is None and self.demand.max_output_tokens is None:
            return "unpriced", f"has no output limit, and the hard budget {hard[0].slug} admits nothing without one"
        return None

    def _costs(self, model: ModelSpec, price: PriceSpec, calls: Calls, output: int) -> list[int]:
        """The worst case of each call."""
        output_tokens = self.demand.choices * output
        seen = self._seen(model, calls)
        costs = [worst_case_microusd(price, input_tokens=seen, output_tokens=output_tokens)] * calls.first
        if calls.again:
            seen += WRAPPING_TOKENS + calls.echoes * output
            costs += [worst_case_microusd(price, input_tokens=seen, output_tokens=output_tokens)] * calls.again
        return costs

    def _seen(self, model: ModelSpec, calls: Calls) -> int:
        """Input tokens of a first call."""
        at_most = self.demand.most_input(model)
        return at_most + self.others_output + WRAPPING_TOKENS if calls.sees_others else at_most

    def _affordable(self, model: ModelSpec, price: PriceSpec, calls: Calls, room: int) -> int | None:
        """A shorter output with which the calls fit into `room`, if the caller wants one."""
        if not self.demand.may_clamp:
            return None
        cap = self.output_cap(model)
        if price.tiers:
            tokens: int | None = most_that_fits(
                lambda output: sum(self._costs(model, price, calls, output)), at_most=cap, room_microusd=room
            )
        else:
            tokens = affordable_output_tokens(
                price,
                input_tokens=calls.total * self._seen(model, calls) + calls.again * WRAPPING_TOKENS,
                echoes=calls.again * calls.echoes,
                calls=calls.total * self.demand.choices,
                left_microusd=room - calls.total,  # each call's worst case is rounded up
            )
        return tokens if tokens is not None and tokens >= min(LEAST_OUTPUT_TOKENS, cap) else None

    def _does_not_fit(self, worst_case: int, budget: BudgetSpec) -> str:
        left = usd(left_microusd(budget, self.world))
        return f"could cost ${usd(worst_case)}, and the budget {budget.slug} has ${left} left"


def _denies(budget: BudgetSpec) -> bool:
    """One such among those that have no room decides: another one that is used up, too, must not open what it shuts."""
    return budget.on_exhausted == "deny"


def max_queue(model: ModelSpec) -> int:
    stated = model.provider.options.get("max_queue")
    return stated if isinstance(stated, int) and stated >= 0 else DEFAULT_MAX_QUEUE
