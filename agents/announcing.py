"""What open pages hear of runs."""

from agents.models import AgentRun
from routing.planning.pricing import usd
from ziggie import live


def announce(run: AgentRun) -> None:
    """Tells open pages what a run's row says now."""
    live.publish(
        ["runs", f"run:{run.pk}"],
        "run.changed",
        version=run.version,
        data={
            "run_id": str(run.pk),
            "agent": run.agent.slug,
            "level": run.level,
            "status": run.status,
            "progress": run.progress,
            "model": run.model,
            "source": run.source,
            "cost_usd": usd(run.cost_microusd),
            "saved_usd": usd(run.saved_microusd),
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "seconds": run.seconds,
            "error": run.error,
            "waits_for": run.waits_for,
        },
    )
