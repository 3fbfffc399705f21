"""Which model would serve a request, and why not the others. Calls nobody."""

from typing import Any

from routing.configuration import snapshot
from routing.planning import rules
from routing.planning.demand import measure
from routing.records import receipts
from routing.types import ChatRequest, Hints, Snapshot, World, message
from routing.world import health
from ziggie.background import background_loop
from ziggie.errors import RoutingError


def request_of(hints: Hints, *, model: str = "auto", prompt: str = "?") -> ChatRequest:
    return ChatRequest(messages=(message("user", prompt),), model=model, hints=hints)


def explain(request: ChatRequest) -> dict[str, Any]:
    """`{policy, version, rule, pattern, chosen, candidates, features}` as things are now.

    Where no model may serve, `chosen` is null and `error` says what a call would be answered with. Raises
    InvalidInput for a hint that cannot be meant, UnknownModel for a model that nobody knows.
    """
    configuration = snapshot.current()
    world = background_loop().submit(health.world(configuration)).result()
    return explanation(request, configuration, world)


def explanation(request: ChatRequest, configuration: Snapshot, world: World) -> dict[str, Any]:
    """PURE: explain() for a given state of things."""
    try:
        plan = rules.plan(request, configuration, world)
    except RoutingError as error:
        if error.code == "unknown_model":
            raise
        return _refusal(request, configuration, world, error)
    return {
        "policy": plan.policy,
        "version": plan.version,
        "rule": plan.rule,
        "pattern": plan.pattern,
        "chosen": plan.candidates[0].model.slug if plan.candidates else None,
        "candidates": receipts.candidates_json(plan),
        "parts": [{"role": part.role, "model": part.model.slug} for part in plan.parts],
        "notes": list(plan.notes),
        "features": receipts.features_json(plan.features),
    }


def _refusal(request: ChatRequest, configuration: Snapshot, world: World, error: RoutingError) -> dict[str, Any]:
    """The same for a request that would be refused: the rule that takes it and why none of its models may serve."""
    features = rules.features_of(measure(request), configuration, world)
    rule = next((rule for rule in configuration.policy.rules if rules.matches(rule.when, features)), None)
    return {
        "policy": configuration.policy.slug,
        "version": configuration.policy.version,
        "rule": rule.name if rule else None,
        "pattern": rule.pattern if rule else None,
        "chosen": None,
        "candidates": error.details,
        "parts": [],
        "notes": [],
        "features": receipts.features_json(features),
        "error": {"code": error.code, "message": error.message},
    }


def as_text(explained: dict[str, Any]) -> str:
    """For people: one line a model."""
    lines = [f"{explained['policy']} version {explained['version']}, rule: {explained['rule'] or 'none'}"]
    if explained.get("error"):
        lines.append(f"Nothing would serve ({explained['error']['code']}).")
    for candidate in explained["candidates"]:
        provider = f"{candidate['provider']}, {candidate['source']}" if candidate["provider"] else "no provider"
        lines.append(f"  {candidate['state']:8} {candidate['model']} ({provider}): {candidate['reason']}")
    lines += [f"  {part['role']:8} {part['model']}" for part in explained["parts"]]
    lines += [f"  note: {note}" for note in explained["notes"]]
    features = explained["features"]
    guessed = ", ".join(features["estimated"])
    lines.append(
        f"  judged by: complexity {features['complexity']}, {features['context_tokens']} tokens, "
        f"strategy {features['strategy']}, {features['budget_left']:.0%} of the budget left"
        + (f" (estimated: {guessed})" if guessed else "")
    )
    return "\n".join(lines)
