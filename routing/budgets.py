"""PURE: which budgets watch a call, how much of them is left, and what a plan would hold of them.

Nothing here writes: the ledger alone moves money. A plan that fits here is still admitted or refused
there, in one statement, against the counters of that moment.
"""

from collections.abc import Iterable, Mapping
from heapq import nlargest

from routing.demand import Demand
from routing.types import BudgetSpec, Candidate, ModelSpec, Source, World

_OF_REQUEST = {
    "api_keys": "api_key_id",
    "task_kinds": "task_kind",
    "agent_levels": "agent_level",
    "creators": "creator",
}


def watches_request(budget: BudgetSpec, demand: Demand) -> bool:
    """Whether what the caller says puts a request into the budget's scope; an empty list restricts nothing."""
    return all(
        getattr(demand, attribute) in budget.scope[name]
        for name, attribute in _OF_REQUEST.items()
        if budget.scope.get(name)
    )


def watches_model(budget: BudgetSpec, model: ModelSpec) -> bool:
    allowed = budget.scope.get
    if (locations := allowed("locations")) and model.provider.location not in locations:
        return False
    if (providers := allowed("providers")) and model.provider.slug not in providers:
        return False
    return not ((models := allowed("models")) and model.slug not in models)


def budgets_in_scope(budgets: Iterable[BudgetSpec], model: ModelSpec, demand: Demand) -> tuple[BudgetSpec, ...]:
    """The budgets that count what this model costs for this request."""
    return tuple(b for b in budgets if watches_model(b, model) and watches_request(b, demand))


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

    Parts of a pattern all run, so they add up. Of a chain at most `max_attempts` candidates are tried,
    so the dearest that many count.
    """

    def __init__(self, budgets: Iterable[BudgetSpec], demand: Demand, world: World, *, max_attempts: int) -> None:
        self._budgets = [budget for budget in budgets if watches_request(budget, demand)]
        self._left = {budget.id: left_microusd(budget, world) for budget in self._budgets}
        self._parts = dict.fromkeys(self._left, 0)
        self._answers: dict[int, list[int]] = {budget_id: [] for budget_id in self._left}
        self._max_attempts = max(1, max_attempts)

    def watching(self, model: ModelSpec) -> list[BudgetSpec]:
        return [budget for budget in self._budgets if watches_model(budget, model)]

    def room(self, budget: BudgetSpec, *, is_part: bool) -> int:
        """The most that one more candidate may cost at worst. May be negative."""
        free = self._left[budget.id] - self._held(budget.id)
        if not is_part and len(self._answers[budget.id]) >= self._max_attempts:
            # The newcomer takes the place of the cheapest attempt that counts.
            free += nlargest(self._max_attempts, self._answers[budget.id])[-1]
        return free

    def add(self, candidate: Candidate, *, is_part: bool) -> None:
        if not candidate.worst_case_microusd:
            return
        for budget in self.watching(candidate.model):
            if is_part:
                self._parts[budget.id] += candidate.worst_case_microusd
            else:
                self._answers[budget.id].append(candidate.worst_case_microusd)

    def holds(self) -> dict[int, int]:
        """Micro-dollars to reserve, by budget id; budgets of which nothing is needed are left out."""
        held = {budget_id: self._held(budget_id) for budget_id in self._left}
        return {budget_id: amount for budget_id, amount in held.items() if amount}

    def _held(self, budget_id: int) -> int:
        answers = self._answers[budget_id]
        if len(answers) > self._max_attempts:
            answers = nlargest(self._max_attempts, answers)
        return self._parts[budget_id] + sum(answers)


def _watches_cloud(budget: BudgetSpec, models: Mapping[str, ModelSpec]) -> bool:
    locations = budget.scope.get("locations")
    if locations and Source.CLOUD not in locations:
        return False
    if not (budget.scope.get("providers") or budget.scope.get("models")):
        return True
    return any(m.source is Source.CLOUD and watches_model(budget, m) for m in models.values())
