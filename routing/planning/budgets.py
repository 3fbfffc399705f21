"""PURE: which budgets watch a call, how much of them is left, and what a plan would hold of them.

Nothing here writes: the ledger alone moves money. A plan that fits here is still admitted or refused
there, in one statement, against the counters of that moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest

from routing.planning.demand import Demand
from routing.planning.pricing import is_free
from routing.types import ENVELOPE, BudgetSpec, ModelSpec, Plan, Snapshot, Source, World

CLOUD = ""  # stands for every cloud model among the watchers of models


def watches_request(budget: BudgetSpec, demand: Demand) -> bool:
    """Whether what the caller says puts a request into the budget's scope; an empty list restricts nothing."""
    return all(getattr(demand, name) in allowed for name, allowed in budget.of_request)


def watches_model(budget: BudgetSpec, model: ModelSpec) -> bool:
    for name, allowed in budget.of_model:
        if name == "models":
            told_by = model.slug
        else:
            told_by = model.provider.location if name == "locations" else model.provider.slug
        if told_by not in allowed:
            return False
    return True


def watchers(snapshot: Snapshot, model: ModelSpec) -> tuple[BudgetSpec, ...]:
    """The budgets that count what this model costs, whoever asks it."""
    known = snapshot.watchers.get(model.slug)
    if known is None:
        known = snapshot.watchers[model.slug] = tuple(b for b in snapshot.budgets if watches_model(b, model))
    return known


def budgets_in_scope(snapshot: Snapshot, model: ModelSpec, demand: Demand) -> Sequence[BudgetSpec]:
    """The budgets that count what this model costs for this request."""
    watching = watchers(snapshot, model)
    for budget in watching:
        if budget.of_request:  # few ask anything of a request
            return [b for b in watching if watches_request(b, demand)]
    return watching


def envelope_budget(name: str, limit_microusd: int) -> BudgetSpec:
    """An envelope's limit as a hard budget that watches every call and denies what does not fit."""
    return BudgetSpec(ENVELOPE, name, {}, "total", limit_microusd, hard=True, on_exhausted="deny")


def budgets_of_every_call(
    budgets: Iterable[BudgetSpec], models: Iterable[ModelSpec], demand: Demand
) -> tuple[BudgetSpec, ...]:
    """The budgets that pay for such a request whichever of these models serves it, unless that costs nothing."""
    paid = [model for model in models if model.price is not None and not is_free(model.price)]
    if not paid:
        return ()
    return tuple(b for b in budgets if watches_request(b, demand) and all(watches_model(b, model) for model in paid))


def left_microusd(budget: BudgetSpec, world: World) -> int:
    state = world.budgets.get(budget.id)
    return budget.limit_microusd if state is None else state.left_microusd


def may_find_more(plan: Plan, world: World) -> bool:
    """Whether the plan goes without a model, or with shorter answers, for money that calls held when the world was
    seen: they may have ended since, and mostly cost less than they held."""
    if not plan.short_of:
        return False
    short = (world.budgets.get(budget) for budget in plan.short_of)
    return any(state is not None and state.held_microusd > 0 for state in short)


def budget_left(snapshot: Snapshot, demand: Demand, world: World) -> float:
    """The fraction (0-1) that is left of the tightest budget that watches cloud calls; 1 without one."""
    tightest = 1.0
    for budget in _cloud_watchers(snapshot):
        if not budget.of_request or watches_request(budget, demand):
            limit = budget.limit_microusd
            fraction = left_microusd(budget, world) / limit if limit else 0.0
            tightest = min(tightest, max(fraction, 0.0))
    return tightest


class Purse:
    """What a growing plan holds of each budget.

    Of all calls that a chain's candidates may see at most `max_attempts` happen, so the dearest that
    many count; None: all count. The parts of a pattern all run and always count.
    """

    def __init__(self, snapshot: Snapshot, demand: Demand, world: World, *, max_attempts: int | None) -> None:
        self._snapshot = snapshot
        self._demand = demand
        self._world = world
        self._parts: dict[int, int] = {}  # by budget id, as are the calls
        self._calls: dict[int, list[int]] = {}
        self.short_of: set[int] = set()  # budgets that had no room for something
        self.max_attempts = None if max_attempts is None else max(1, max_attempts)

    def watching(self, model: ModelSpec) -> Sequence[BudgetSpec]:
        return budgets_in_scope(self._snapshot, model, self._demand)

    def fits(self, budget: BudgetSpec, costs: Sequence[int], *, is_part: bool) -> bool:
        """Whether these calls may come on top of what the plan holds already."""
        calls = self._calls.get(budget.id, [])
        held = self._dearest([*calls, *costs]) if not is_part else self._dearest(calls) + sum(costs)
        if self._parts.get(budget.id, 0) + held <= left_microusd(budget, self._world):
            return True
        self.short_of.add(budget.id)
        return False

    def room(self, budget: BudgetSpec) -> int:
        """What is left beside all that the plan holds already. May be negative."""
        held = self._parts.get(budget.id, 0) + self._dearest(self._calls.get(budget.id, []))
        return left_microusd(budget, self._world) - held

    def add(self, budgets: Iterable[BudgetSpec], costs: Sequence[int], *, is_part: bool) -> None:
        for budget in budgets:
            if is_part:
                self._parts[budget.id] = self._parts.get(budget.id, 0) + sum(costs)
            else:
                self._calls.setdefault(budget.id, []).extend(costs)

    def holds(self) -> dict[int, int]:
        """Micro-dollars to reserve, by budget id; budgets of which nothing is needed are left out."""
        held = dict(self._parts)
        for budget_id, calls in self._calls.items():
            held[budget_id] = held.get(budget_id, 0) + self._dearest(calls)
        return {budget_id: amount for budget_id, amount in held.items() if amount}

    def _dearest(self, costs: list[int]) -> int:
        if self.max_attempts is None or len(costs) <= self.max_attempts:
            return sum(costs)
        return sum(nlargest(self.max_attempts, costs))


def _cloud_watchers(snapshot: Snapshot) -> tuple[BudgetSpec, ...]:
    known = snapshot.watchers.get(CLOUD)
    if known is None:
        watching = tuple(b for b in snapshot.budgets if _watches_cloud(b, snapshot.models))
        known = snapshot.watchers[CLOUD] = watching
    return known


def _watches_cloud(budget: BudgetSpec, models: Mapping[str, ModelSpec]) -> bool:
    locations = budget.scope.get("locations")
    if locations and Source.CLOUD not in locations:
        return False
    if not (budget.scope.get("providers") or budget.scope.get("models")):
        return True
    return any(m.source is Source.CLOUD and watches_model(budget, m) for m in models.values())
