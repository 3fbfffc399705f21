"""A sampled copy of the traffic goes to a second model, and a judge compares both answers blind, in both orders.

    compare(id)     in a worker: asks the shadow model, then the judge twice
    summary()       how often the shadow won, by rule

Every call of a comparison has the task kind "shadow". What costs money needs a hard budget of its own that counts
this kind; without one, or once it is used up, nothing is compared. Texts are kept until then and no longer.
"""

from concurrent.futures import wait
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from routing import service
from routing.configuration import snapshot
from routing.models import RoutedCall, ShadowComparison
from routing.planning.budgets import watches_model
from routing.planning.pricing import is_free, usd
from routing.records import kept_requests
from routing.types import SHADOW, ChatRequest, Hints, ModelSpec, Routed, Snapshot
from routing.walk.comparing import parts_text, preference_of, question, win_rate, winner
from ziggie import queue
from ziggie.errors import BudgetExceeded, InvalidInput, RoutingError
from ziggie.ids import derived
from ziggie.values import replace

CALLS = ("answer", "model first", "shadow first")
MAX_TRIES = 3
CALL_SECONDS = 180.0
POLL_SECONDS = 5.0
KEPT_FOR = timedelta(days=3)
MAX_PROBLEM_CHARACTERS = 300
MAX_GROUPS = 500

SUMMARY = """
SELECT policy, rule, model, shadow_model, judge_model,
    count(*) FILTER (WHERE winner = 'shadow'), count(*) FILTER (WHERE winner = 'tie'),
    count(*) FILTER (WHERE winner = 'model'),
    count(*) FILTER (WHERE winner = 'tie' AND preferences <> '["tie", "tie"]'),
    count(*) FILTER (WHERE state = 'waiting'),
    count(*) FILTER (WHERE state = 'skipped'), count(*) FILTER (WHERE state = 'failed'), sum(cost_microusd)::bigint
FROM routing_shadowcomparison GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT %s
"""
COLUMNS = (
    *("policy", "rule", "model", "shadow_model", "judge_model"),
    *("wins", "ties", "losses", "split", "waiting", "skipped", "failed", "cost_microusd"),
)


class _Skipped(Exception):
    """Nothing may be compared now, and why."""


def compare(comparison_id: str) -> bool:
    """Makes one comparison; False if another worker has it or it is over.

    What the models or the budget refuse ends it. Any other exception leaves the row claimed: the sweep hands it on.
    """
    fence = queue.claim(ShadowComparison.objects.all(), comparison_id, waiting=Q(state="waiting"))
    if fence is None:
        return False
    row = ShadowComparison.objects.get(pk=comparison_id)
    try:
        if row.tries > MAX_TRIES:
            raise InvalidInput(f"given up: {MAX_TRIES} workers died or were stopped during this comparison")
        columns = _compared(row, fence)
    except (_Skipped, BudgetExceeded) as error:
        columns = {"state": "skipped", "problem": str(error)}
    except (RoutingError, InvalidInput) as error:
        columns = {"state": "failed", "problem": error.message}
    columns["problem"] = columns.get("problem", "")[:MAX_PROBLEM_CHARACTERS]
    columns["cost_microusd"] = _spent(row)
    try:
        _write(row, fence, bodies=None, judged_at=timezone.now(), **columns, **queue.end_lease())
    except queue.LostLease:
        return False
    for name in CALLS:
        service.forget(call_id_of(row.pk, name))
    return True


def _compared(row: ShadowComparison, fence: int) -> dict[str, Any]:
    configuration = snapshot.current()
    judge = row.judge_model
    if not judge:
        raise _Skipped("there is no judge: set the rule's shadow_judge, or a baseline model")
    for slug in (row.shadow_model, judge):
        _check_payable(configuration.models.get(slug), slug, configuration)
    kept = row.bodies or {}
    task = kept_requests.from_json(kept["request"])
    copy = replace(task, model=row.shadow_model, hints=Hints(task_kind=SHADOW, capabilities=task.hints.capabilities))
    shadow = parts_text(_ask(row, fence, "answer", copy).result.parts)
    asked = {"model first": (kept["answer"], shadow), "shadow first": (shadow, kept["answer"])}
    first, second = (
        preference_of(_ask(row, fence, name, question(task, *answers, judge=judge)).result)
        for name, answers in asked.items()
    )
    return {"state": "judged", "winner": winner(first, second), "preferences": [first, second]}


def _check_payable(model: ModelSpec | None, slug: str, configuration: Snapshot) -> None:
    """Raises _Skipped for a model that costs money of which no budget has set anything aside for this."""
    if model is None:
        raise _Skipped(f"there is no model {slug} any more")
    if is_free(model.price) or model.provider.kind == "offline":
        return
    own = [budget for budget in configuration.budgets if budget.hard and SHADOW in budget.scope.get("task_kinds", ())]
    if not any(watches_model(budget, model) for budget in own):
        raise _Skipped(f"{slug} costs money, and no hard budget counts the task kind {SHADOW!r} for it")


def _ask(row: ShadowComparison, fence: int, name: str, request: ChatRequest) -> Routed:
    """One routed call, paid once even if another worker makes it again; meanwhile the lease is kept."""
    call = service.submit(replace(request, call_id=call_id_of(row.pk, name), deadline_seconds=CALL_SECONDS, creator=""))
    try:
        while not call.done():
            wait([call], timeout=POLL_SECONDS)
            _write(row, fence)
    finally:
        call.cancel()
    return call.result()


def call_id_of(comparison_id: UUID, name: str) -> UUID:
    """The id of one of a comparison's calls, the same for every worker that makes it."""
    return derived(comparison_id, name)


def _spent(row: ShadowComparison) -> int:
    """What the comparison cost, from the receipts of its calls."""
    calls = RoutedCall.objects.filter(pk__in=[call_id_of(row.pk, name) for name in CALLS])
    return sum(calls.values_list("cost_microusd", flat=True))


def _write(row: ShadowComparison, fence: int, **columns: Any) -> None:
    """Raises LostLease."""
    queue.write_fenced(ShadowComparison.objects.all(), row.pk, fence, **columns)


def forget_old() -> int:
    """Drops the texts of comparisons that nobody made in time; returns how many."""
    old = ShadowComparison.objects.filter(state="waiting", created_at__lt=timezone.now() - KEPT_FOR)
    return old.filter(lease_until__isnull=True).update(
        state="skipped", problem="nobody came to compare it in time", bodies=None
    )


def summary() -> list[dict[str, Any]]:
    """One entry for each rule, model, shadow and judge. `split` counts the ties in which the judge chose otherwise
    in the other order. `win_rate` and `interval` are null without a verdict."""
    with connection.cursor() as cursor:
        cursor.execute(SUMMARY, [MAX_GROUPS])
        return [_summed(dict(zip(COLUMNS, row, strict=True))) for row in cursor.fetchall()]


def _summed(group: dict[str, Any]) -> dict[str, Any]:
    rate = win_rate(wins=group["wins"], ties=group["ties"], losses=group["losses"])
    cost = group.pop("cost_microusd")
    return {
        **group,
        "judged": group["wins"] + group["ties"] + group["losses"],
        "win_rate": None if rate is None else round(rate[0], 4),
        "interval": None if rate is None else [round(rate[1], 4), round(rate[2], 4)],
        "cost_usd": usd(cost),
    }
