"""Runs of agents: taking them in, changing them, and telling open pages."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.text import slugify

from agents import callbacks, waiting
from agents.announcing import announce
from agents.models import LEVELS, Agent, AgentRun
from agents.run_budgets import announce_budget, close_budget, spent_microusd
from routing.configuration import snapshot
from routing.models import RoutedCall
from routing.reporting.owners import Owner
from ziggie import queue
from ziggie.errors import Conflict, InvalidInput, NotFound, UnknownModel, is_storable

MAX_PROMPT_CHARACTERS = 1_000_000
MAX_BUDGET_USD = 100_000_000


@dataclass(frozen=True, slots=True)
class NewRun:
    """A task for an agent: one by slug, or one described by name, level and system prompt."""

    prompt: str
    agent: str = ""
    name: str = ""
    level: str = ""
    system_prompt: str = ""
    model: str = "auto"
    metadata: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str = ""
    requested_by: str = ""
    api_key_id: str = ""
    budget_microusd: int | None = None  # the most that all calls of the run may cost
    budget_fit: str = ""
    callback_url: str = ""


def create_run(new: NewRun) -> tuple[AgentRun, bool]:
    """The queued run and whether it is new: the same idempotency key of the same caller is the same run.

    Raises InvalidInput or NotFound; nothing is stored then.
    """
    if not new.prompt.strip():
        raise InvalidInput("prompt: must not be empty")
    if len(new.prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidInput(f"prompt: is longer than {MAX_PROMPT_CHARACTERS} characters")
    if not is_storable(new.prompt + new.agent + new.name + new.system_prompt):
        raise InvalidInput("prompt, agent, name or system_prompt: holds a NUL character or half a surrogate pair")
    _check_model(new.model)
    if new.callback_url:
        callbacks.check_url(new.callback_url)
    earlier = _earlier(new)
    if earlier is not None:
        return earlier, False
    try:
        with transaction.atomic():
            agent = _agent(new)
            run = AgentRun.objects.create(
                agent=agent,
                level=new.level or agent.level,
                prompt=new.prompt,
                requested_model=new.model or "auto",
                metadata=new.metadata,
                idempotency_key=new.idempotency_key,
                requested_by=new.requested_by,
                api_key_id=new.api_key_id,
                budget_microusd=new.budget_microusd,
                budget_fit=new.budget_fit,
                callback_url=new.callback_url,
            )
            announce_budget(run)
            announce(run)
            queue.enqueue("agents.tasks.execute_run", str(run.pk))
    except IntegrityError:
        earlier = _earlier(new)  # the same key came twice at once
        if earlier is None:
            raise
        return earlier, False
    return run, True


def _check_model(name: str) -> None:
    configuration = snapshot.current()
    if name not in ("", "auto") and name not in configuration.models and name not in configuration.by_name:
        raise UnknownModel(
            f"model: there is none named {name!r}; see /api/routing/models, or leave it to the rules: auto"
        )


def _earlier(new: NewRun) -> AgentRun | None:
    if not new.idempotency_key:
        return None
    run = AgentRun.objects.filter(requested_by=new.requested_by, idempotency_key=new.idempotency_key).first()
    if run is not None and run.prompt != new.prompt:
        raise Conflict("Idempotency-Key: was used before with another prompt")
    return run


def _agent(new: NewRun) -> Agent:
    if new.level and new.level not in LEVELS:
        raise InvalidInput(f"level: {new.level!r} is none of {', '.join(LEVELS)}")
    if new.agent:
        agent = Agent.objects.filter(slug=new.agent).first()
        if agent is None:
            raise NotFound(f"agent: there is none called {new.agent!r}")
        if not agent.enabled:
            raise Conflict(f"agent: {new.agent!r} is switched off")
        return agent
    slug = slugify(new.name)[:100]
    if not slug:
        raise InvalidInput("agent: give the slug of an agent, or a name (and level and system_prompt)")
    agent, _ = Agent.objects.get_or_create(
        slug=slug,
        defaults={"name": new.name[:200], "level": new.level or "L3", "system_prompt": new.system_prompt},
    )
    return agent


def cancel_run(run: AgentRun) -> AgentRun:
    """Ends a run that is not over yet; its worker notices at its next step. Raises Conflict."""
    with transaction.atomic():
        if (
            not AgentRun.objects.filter(pk=run.pk)
            .exclude(status__in=AgentRun.FINAL)
            .update(
                status="cancelled",
                finished_at=timezone.now(),
                waits_for="",
                cost_microusd=spent_microusd(run),
                version=F("version") + 1,
                fence=F("fence") + 1,
                **queue.end_lease(),
            )
        ):
            raise Conflict("this run is over already")
        waiting.take_back(run)
        run.refresh_from_db()
        announce(run)
        callbacks.owe(run)
        transaction.on_commit(lambda: close_budget(run))
    return run


def owner_of(call: RoutedCall) -> Owner | None:
    """The run that a call was made for; a client's own run id is none of ours."""
    wanted = Q(call_id=call.pk)
    with suppress(ValueError):
        wanted |= Q(pk=UUID(call.run_id))
    run = AgentRun.objects.filter(wanted).select_related("agent").first()
    return Owner("run", f"{run.agent.name}: {run.prompt[:80]}", run.get_absolute_url()) if run else None
