"""PURE: which budgets watch a call, how much of them is left, and what a plan would hold of them.

Nothing here writes: the ledger alone moves money. A plan that fits here is still admitted or refused
there, in one statement, against the counters of that moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest

from routing.demand import Demand
from routing.pricing import is_free
from routing.types import ENVELOPE, BudgetSpec, ModelSpec, Source, World

_OF_REQUEST = {
    "api_keys": "api_key_id",
    "task_kinds": "task_kind",
    "agent_levels": "agent_level",
    "creators": "creator",
}


def watches_request(budget: BudgetSpec, demand: Demand) -> bool:
    """Whether what the caller says puts a request into the budget's scope; an empty list restricts nothing."""
    for name, allowed in budget.scope.items():
        if allowed and name in _OF_REQUEST and getattr(demand, _OF_REQUEST[name]) not in allowed:
            return False
    return True


def watches_model(budget: BudgetSpec, model: ModelSpec) -> bool:
    allowed = budget.scope.get
    if (locations := allowed("locations")) and model.provider.location not in locations:
        return False
    if (providers := allowed("providers")) and model.provider.slug not in providers:
        return False
    return not ((models := allowed("models")) and model.slug not in models)


def budgets_in_scope(budgets: Iterable[BudgetSpec], model: ModelSpec, demand: Demand) -> tuple[BudgetSpec, ...]:
    """The budgets that count what this model costs for this request."""
    return tuple([b for b in budgets if watches_model(b, model) and watches_request(b, demand)])


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


def budget_left(budgets: Iterable[BudgetSpec], models: Mapping[str, ModelSpec], demand: Demand, world: World) -> float:
    """The fraction (0-1) that is left of the tightest budget that watches cloud calls; 1 without one."""
    tightest = 1.0
    for budget in budgets:
        if watches_request(budget, demand) and _watches_cloud(budget, models):
            limit = budget.limit_microusd
            fraction = left_microusd(budget, world) / limit if limit else 0.0
            tightest = min(tightest, max(fraction, 0.0))
    return tightest


class Purse:
    """What a growing plan holds of each budget.

    Of all calls that a chain's candidates may see at most `max_attempts` happen, so the dearest that
    many count; None: all count. The parts of a pattern all run and always count.
    """

    def __init__(
        self, budgets: Iterable[BudgetSpec], demand: Demand, world: World, *, max_attempts: int | None
    ) -> None:
        self._budgets = [budget for budget in budgets if watches_request(budget, demand)]
        self._left = {budget.id: left_microusd(budget, world) for budget in self._budgets}
        self._parts = dict.fromkeys(self._left, 0)
        self._calls: dict[int, list[int]] = {budget_id: [] for budget_id in self._left}
        self.max_attempts = None if max_attempts is None else max(1, max_attempts)

    def watching(self, model: ModelSpec) -> list[BudgetSpec]:
        return [budget for budget in self._budgets if watches_model(budget, model)]

    def fits(self, budget: BudgetSpec, costs: Sequence[int], *, is_part: bool) -> bool:
        """Whether these calls may come on top of what the plan holds already."""
        calls = self._calls[budget.id]
        held = self._dearest([*calls, *costs]) if not is_part else self._dearest(calls) + sum(costs)
        return self._parts[budget.id] + held <= self._left[budget.id]

    def room(self, budget: BudgetSpec) -> int:
        """What is left beside all that the plan holds already. May be negative."""
        return self._left[budget.id] - self._parts[budget.id] - self._dearest(self._calls[budget.id])

    def add(self, model: ModelSpec, costs: Sequence[int], *, is_part: bool) -> None:
        for budget in self.watching(model):
            if is_part:
                self._parts[budget.id] += sum(costs)
            else:
                self._calls[budget.id].extend(costs)

    def holds(self) -> dict[int, int]:
        """Micro-dollars to reserve, by budget id; budgets of which nothing is needed are left out."""
        held = {budget_id: self._parts[budget_id] + self._dearest(calls) for budget_id, calls in self._calls.items()}
        return {budget_id: amount for budget_id, amount in held.items() if amount}

    def _dearest(self, costs: list[int]) -> int:
        if self.max_attempts is None or len(costs) <= self.max_attempts:
            return sum(costs)
        return sum(nlargest(self.max_attempts, costs))


def _watches_cloud(budget: BudgetSpec, models: Mapping[str, ModelSpec]) -> bool:
    locations = budget.scope.get("locations")
    if locations and Source.CLOUD not in locations:
        return False
    if not (budget.scope.get("providers") or budget.scope.get("models")):
        return True
    return any(m.source is Source.CLOUD and watches_model(budget, m) for m in models.values())
