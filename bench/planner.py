"""How long one decision takes, at 50 rules and 30 models. Prints one JSON line."""

import json
import statistics
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from routing.planning.rules import plan
from routing.types import (
    BudgetSpec,
    BudgetState,
    ChatRequest,
    Hints,
    ModelSpec,
    PolicySpec,
    PriceSpec,
    ProviderSpec,
    Range,
    RuleSpec,
    SettingsSpec,
    Snapshot,
    Source,
    When,
    World,
    message,
)

RULES, MODELS, CHAIN = 50, 30, 6
BAR_US = 100
ROUNDS, DECISIONS = 10, 1_000


def snapshot() -> Snapshot:
    """50 rules of which only the last one matches, 30 models at 5 providers, two hard budgets."""
    locations = (Source.LOCAL, Source.CLOUD, Source.CLOUD, Source.LOCAL, Source.OFFLINE)
    providers = [
        ProviderSpec(number, f"provider-{number}", "openai", location, "http://127.0.0.1:1", max_concurrency=8)
        for number, location in enumerate(locations)
    ]
    models = {}
    for number in range(MODELS):
        dollars = Decimal(3 if providers[number % 5].location is Source.CLOUD else 0)
        price = PriceSpec(number, dollars, dollars * 5, dollars / 10, dollars * Decimal("1.25"))
        models[f"model-{number}"] = ModelSpec(
            number, f"model-{number}", f"model-{number}", providers[number % 5], 131_072, 8_192, price=price
        )
    rules = [
        RuleSpec(
            number,
            f"rule {number}",
            When(task_kinds=frozenset({"analysis"}), complexity=Range(above=0.9), context_tokens=Range(above=number)),
            tuple(f"model-{(number + place) % MODELS}" for place in range(CHAIN)),
        )
        for number in range(RULES - 1)
    ]
    rules.append(RuleSpec(RULES, "otherwise", When(), tuple(f"model-{place}" for place in range(CHAIN))))
    cloud = {"locations": frozenset({"cloud"})}
    budgets = (
        BudgetSpec(1, "monthly-cloud", cloud, "month", 10_000_000, True, "local"),
        BudgetSpec(2, "everything", {}, "day", 5_000_000, True, "deny"),
    )
    return Snapshot(1, models, PolicySpec(1, "default", 1, tuple(rules)), budgets, SettingsSpec(), {})


def main() -> None:
    configuration = snapshot()
    world = World(datetime.now(UTC), {1: BudgetState(9_000_000, 10_000_000)}, busy={"provider-0": 3})
    request = ChatRequest(
        (message("system", "You are a careful assistant."), message("user", "What does this log line mean? " * 60)),
        hints=Hints(task_kind="analysis", agent_level="L2"),
    )
    medians = []
    for _ in range(ROUNDS):
        times = []
        for _ in range(DECISIONS):
            before = time.perf_counter_ns()
            plan(request, configuration, world)
            times.append(time.perf_counter_ns() - before)
        medians.append(statistics.median(times))
    # The quietest round: what the machine's other work adds is not ours.
    figure = {"figure": "planner.plan_us_p50", "value": round(min(medians) / 1_000, 1), "bar": BAR_US}
    sys.stdout.write(json.dumps(figure) + "\n")


if __name__ == "__main__":
    main()
