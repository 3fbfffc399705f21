"""What a run asks of the router."""

from typing import Any, cast

from agents.models import AgentRun
from routing.types import BudgetFit, ChatRequest, Hints, message
from ziggie.models import ApiKey

MAX_OUTPUT_TOKENS = 4000
DEADLINE_SECONDS = 900.0


def request_of(run: AgentRun, **fields: Any) -> ChatRequest:
    system = (message("system", run.agent.system_prompt),) if run.agent.system_prompt else ()
    return ChatRequest(
        messages=(*system, message("user", run.prompt)),
        model=run.requested_model,
        hints=Hints(task_kind="agent", agent_level=run.level),
        max_output_tokens=MAX_OUTPUT_TOKENS,
        run_id=str(run.pk),
        api_key_id=run.api_key_id or None,
        deadline_seconds=DEADLINE_SECONDS,
        call_id=run.call_id,
        # Our limit of the output, not the caller's: for a run with a budget it gives way.
        budget_fit=cast("BudgetFit", run.budget_fit or ("" if run.budget_microusd is None else "clamp")),
        **fields,
    )


def allowed_models(run: AgentRun) -> frozenset[str]:
    """The models that the key which asked for the run may use; empty: all."""
    key = ApiKey.objects.filter(pk=run.api_key_id).first() if run.api_key_id else None
    return frozenset(key.allowed_models if key else ())
