"""PURE: what is written down of a routed call, and the way back from there to an answer."""

from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from msgspec.structs import asdict

from routing.money.ledger_rows import CallRow, UsageRow
from routing.planning import pricing
from routing.planning.budgets import budgets_in_scope
from routing.planning.demand import Demand
from routing.planning.rerun import Circumstances
from routing.records.kept_answers import answer_json
from routing.types import (
    SHADOW,
    Attempt,
    CacheState,
    ChatRequest,
    Dropped,
    Features,
    ModelSpec,
    Plan,
    Routed,
    Skipped,
    Snapshot,
    Source,
    Usage,
)
from routing.walk.attempts import Answer, Walk
from ziggie.errors import ZiggieError
from ziggie.live import UsageRecorded
from ziggie.values import Value, replace

CACHE = "cache"  # the role of an answer that was there already


Decision = dict[str, Any]  # the receipt's columns that are known once a call is planned; msgspec makes JSON of them


class Asked(Value):
    """All that a decision depended on beside the policy (rerun.py)."""

    demand: Demand
    circumstances: Circumstances


def context(request: ChatRequest, plan: Plan) -> dict[str, Any]:
    """What the sweep settles from if this process dies: the call's columns and its first candidate.

    Written for every call and read for hardly any, so it leaves out what is long."""
    first = plan.candidates[0]
    return {
        **_basics(request, plan),
        "model": first.model.slug,
        "provider": first.model.provider.slug,
        "source": str(first.model.source),
        "price_id": first.model.price.id if first.model.price else None,
    }


def decision(request: ChatRequest, demand: Demand, plan: Plan, circumstances: Circumstances) -> Decision:
    """What was decided, why, and for whom; and all that the decision depended on."""
    return {
        **_basics(request, plan),
        "features": plan.features,
        "candidates": candidates_json(plan),
        "request": Asked(demand, circumstances),
    }


def _basics(request: ChatRequest, plan: Plan) -> dict[str, Any]:
    return {
        "rule": plan.rule,
        "policy": plan.policy,
        "policy_version": plan.version,
        "pattern": plan.pattern,
        "task_kind": request.hints.task_kind,
        "agent_level": request.hints.agent_level,
        "creator": request.creator,
        "run_id": request.run_id or "",
        "api_key_id": request.api_key_id or "",
    }


def features_json(features: Features) -> dict[str, Any]:
    sets = {"capabilities": sorted(features.capabilities), "estimated": sorted(features.estimated)}
    return asdict(features) | sets


def candidates_json(plan: Plan) -> list[dict[str, Any]]:
    """Every model that was looked at: the chosen one, its fallbacks, and the dropped with their reasons."""
    rows = [
        {
            "model": candidate.model.slug,
            "provider": candidate.model.provider.slug,
            "source": str(candidate.model.source),
            "state": "chosen" if place == 0 else "fallback",
            "reason": candidate.reason,
        }
        for place, candidate in enumerate(plan.candidates)
    ]
    return rows + [dropped_json(dropped) for dropped in plan.dropped]


def dropped_json(dropped: Dropped) -> dict[str, str]:
    return {
        "model": dropped.model,
        "provider": dropped.provider,
        "source": dropped.source,
        "reason": dropped.reason,
        "kind": dropped.kind,
        "state": "dropped",
    }


def skipped_json(skipped: Skipped) -> dict[str, Any]:
    return {
        "model": skipped.model,
        "provider": skipped.provider,
        "source": str(skipped.source),
        "reason": skipped.reason,
        "kind": "busy",
        "role": skipped.role,
        "seconds": round(skipped.seconds, 3),
        "state": "skipped",
    }


# --- after the walk ----------------------------------------------------------------------------


class Books(Value):
    """What is written when a call ends; `charges` by budget id."""

    call: CallRow
    records: list[UsageRow]
    charges: dict[int, int]


def books(
    *,
    call_id: UUID,
    request: ChatRequest,
    demand: Demand,
    decision: Decision,
    walk: Walk,
    answer: Answer | None,
    failure: BaseException | None,
    snapshot: Snapshot,
    cache: CacheState,
    reserved_microusd: int,
    seconds: float,
) -> Books:
    """The receipt, a record an attempt, and the charges. The answer itself is kept only for a call that its
    caller may send again."""
    if answer:
        _mark_served(walk, answer)
    model = answer.candidate.model if answer else None
    records = usage_rows(walk, answer if demand.task_kind != SHADOW else None, snapshot)
    if walk.skipped:
        decision = decision | {"candidates": [*decision["candidates"], *map(skipped_json, walk.skipped)]}
    row = CallRow(  # by place: see ziggie/values.py
        call_id,
        decision["rule"],
        "ok" if answer else _outcome_of(failure),
        datetime.now(UTC),
        decision["policy"],
        decision["policy_version"],
        decision["pattern"],
        decision["features"],
        decision["candidates"],
        decision["request"],
        walk.attempts.copy(),
        failure.message if isinstance(failure, ZiggieError) else "",
        model.slug if model else "",
        model.provider.slug if model else "",
        str(model.source) if model else "",
        cache,
        reserved_microusd,
        sum([record.cost_microusd for record in records]),
        sum([record.saved_microusd for record in records]),
        round(seconds * 1000),
        decision["task_kind"],
        decision["agent_level"],
        decision["creator"],
        decision["run_id"],
        decision["api_key_id"],
        answer_json(answer) if answer and request.call_id else None,
        answer.findings or None if answer else None,
    )
    return Books(row, records, charges(walk, demand, snapshot))


def _mark_served(walk: Walk, answer: Answer) -> None:
    walk.attempts[answer.attempt - 1].served = True
    for other in answer.others:
        walk.attempts[other.attempt - 1].served = True


def _outcome_of(failure: BaseException | None) -> str:
    return failure.code if isinstance(failure, ZiggieError) else "cancelled"


def usage_rows(walk: Walk, answer: Answer | None, snapshot: Snapshot) -> list[UsageRow]:
    """A record for each attempt. What an attempt cost saves nothing, if the answer is not its own."""
    return [
        _usage_row(
            attempt,
            snapshot,
            serves=task_usage(walk, _whose(answer, attempt) if answer.others else answer)
            if answer and attempt.served
            else None,
        )
        for attempt in walk.attempts
    ]


def _whose(answer: Answer, attempt: Attempt) -> Answer:
    """The one of several answers that this attempt gave."""
    return next(one for one in (answer, *answer.others) if one.attempt == attempt.number)


def task_usage(walk: Walk, answer: Answer) -> Usage:
    """The tokens of the task and its answer, without what a pattern wrapped around them: what the baseline
    model, asked once, would have read and written."""
    usage = answer.result.usage
    if len(walk.attempts) == 1 and walk.attempts[0].usage is usage:
        return usage
    read = [attempt.usage.input_tokens for attempt in walk.attempts if attempt.role != CACHE]
    fewest = min([tokens for tokens in [*read, usage.input_tokens] if tokens], default=None)
    return usage if fewest == usage.input_tokens else replace(usage, input_tokens=fewest)


def _usage_row(attempt: Attempt, snapshot: Snapshot, *, serves: Usage | None) -> UsageRow:
    model, usage = snapshot.models[attempt.model], attempt.usage
    seconds = attempt.seconds if attempt.sent else 0.0  # a machine that never heard of it was not at work
    watt_hours, energy = pricing.energy(seconds, model.provider.power_watts, snapshot.settings.electricity_usd_per_kwh)
    baseline = pricing.baseline_microusd(serves, _baseline_price(snapshot)) if serves else 0
    return UsageRow(  # by place: see ziggie/values.py
        attempt.number,
        attempt.model,
        attempt.provider,
        str(attempt.source),
        attempt.outcome,
        attempt.started_at,
        attempt.role,
        attempt.error,
        attempt.status,
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.estimated,
        model.price.id if model.price else None,
        attempt.cost_microusd,
        baseline,
        energy,
        pricing.saved_microusd(baseline=baseline, paid=attempt.cost_microusd, electricity=energy),
        watt_hours,
        round(attempt.seconds * 1000),
        None if attempt.first_token_seconds is None else round(attempt.first_token_seconds * 1000),
    )


def _baseline_price(snapshot: Snapshot) -> Any:
    baseline: ModelSpec | None = snapshot.models.get(snapshot.settings.baseline_model)
    return baseline.price if baseline else None


def charges(walk: Walk, demand: Demand, snapshot: Snapshot) -> dict[int, int]:
    """What each budget in scope pays: budget id -> micro-dollars."""
    paid: dict[int, int] = {}
    for attempt in walk.attempts:
        if attempt.cost_microusd:
            for budget in budgets_in_scope(snapshot, snapshot.models[attempt.model], demand):
                paid[budget.id] = paid.get(budget.id, 0) + attempt.cost_microusd
    return paid


def routed(row: CallRow, plan: Plan, walk: Walk, answer: Answer) -> Routed:
    return Routed(
        result=answer.result,
        call_id=str(row.id),
        model=row.model,
        provider=row.provider,
        source=Source(row.source),
        rule=plan.rule,
        policy=plan.policy,
        version=plan.version,
        attempts=tuple(walk.attempts),
        cost_microusd=row.cost_microusd,
        saved_microusd=row.saved_microusd,
        seconds=row.duration_ms / 1000,
        confidence=answer.verdict.confidence,
        cache=cast("CacheState", row.cache),
        findings=answer.findings,
        others=tuple([other.result for other in answer.others]),
    )


class Outline(Value):
    """What is told of a settled call, without holding all that was written of it."""

    call_id: UUID
    model: str
    provider: str
    source: str
    cost_microusd: int
    saved_microusd: int
    input_tokens: int
    output_tokens: int
    duration_ms: int
    task_kind: str


def outline(books: Books) -> Outline:
    row = books.call
    return Outline(  # by place: see ziggie/values.py
        row.id,
        row.model,
        row.provider,
        row.source,
        row.cost_microusd,
        row.saved_microusd,
        sum([record.input_tokens or 0 for record in books.records]),
        sum([record.output_tokens or 0 for record in books.records]),
        row.duration_ms,
        row.task_kind,
    )


def event(call: Outline) -> UsageRecorded:
    """The live event of a settled call."""
    return {
        "call_id": str(call.call_id),
        "model": call.model,
        "provider": call.provider,
        "source": call.source,
        "cost_usd": pricing.usd(call.cost_microusd),
        "saved_usd": pricing.usd(call.saved_microusd),
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "seconds": call.duration_ms / 1000,
        "task_kind": call.task_kind,
    }
