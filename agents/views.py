"""Pages of the agents."""

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.models import LEVELS, Agent, AgentRun
from agents.reviewing import review_of, say
from agents.runs import MAX_BUDGET_USD, NewRun, cancel_run, create_run
from agents.waiting import hurry_run, is_out
from routing.models import RoutedCall
from routing.planning.pricing import microusd
from routing.records.reviews import REVIEWING, said_in
from ziggie.errors import InvalidInput, ZiggieError
from ziggie.pages import needs, staff_page, told

PAGE_SIZE = 30


@staff_page
@require_http_methods(["GET", "POST"])
def run_list(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return _started(request)
    return render(request, "agents/list.html", _list_context(request))


def _list_context(request: HttpRequest) -> dict[str, object]:
    runs = AgentRun.objects.select_related("agent").order_by("-id")
    if request.GET.get("status") in AgentRun.STATUSES:
        runs = runs.filter(status=request.GET["status"])
    return {
        "page": Paginator(runs, PAGE_SIZE).get_page(request.GET.get("page")),
        "agents": Agent.objects.filter(enabled=True)[:500],
        "levels": LEVELS,
        "statuses": AgentRun.STATUSES,
        "status": request.GET.get("status", ""),
    }


def _started(request: HttpRequest) -> HttpResponse:
    """The form on the list: a prompt becomes a queued run. What was wrong is said above what was typed."""
    said = {name: request.POST.get(name, "").strip() for name in ("agent", "budget_usd", "callback_url")}
    prompt = request.POST.get("prompt", "")
    try:
        new = NewRun(
            agent=said["agent"],
            prompt=prompt,
            requested_by=request.user.get_username(),
            budget_microusd=_budget(said["budget_usd"]),
            callback_url=said["callback_url"],
        )
        run, _ = create_run(new)
    except ZiggieError as error:
        messages.error(request, error.message)
        context = _list_context(request) | {"said": {**said, "prompt": prompt}}
        return render(request, "agents/list.html", context, status=error.http_status)
    return redirect(run)


def _budget(said: str) -> int | None:
    """Micro-dollars; None where none is set. Raises InvalidInput."""
    try:
        budget = microusd(said) if said else None
    except ValueError as error:
        raise InvalidInput(f"Budget: {error}") from error
    if budget is not None and not 0 <= budget <= MAX_BUDGET_USD * 1_000_000:
        raise InvalidInput(f"Budget: must be from 0 to {MAX_BUDGET_USD} dollars")
    return budget


@staff_page
@require_GET
def run_row(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One row of the list, for a page that sits open."""
    run = get_object_or_404(AgentRun.objects.select_related("agent"), pk=pk)
    return render(request, "agents/_row.html", {"run": run})


@staff_page
@require_GET
def run_page(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(AgentRun.objects.select_related("agent"), pk=pk)
    return render(request, "agents/run.html", _run_context(request, run))


@staff_page
@require_GET
def run_body(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The part of the run page that changes, for a page that sits open."""
    run = get_object_or_404(AgentRun.objects.select_related("agent"), pk=pk)
    return render(request, "agents/_run.html", _run_context(request, run))


def _run_context(request: HttpRequest, run: AgentRun) -> dict[str, object]:
    over = run.status in AgentRun.FINAL
    return {
        "run": run,
        "over": over,
        "in_batch": bool(run.waits_for) and is_out(run),
        "has_receipt": over and RoutedCall.objects.filter(pk=run.call_id).exists(),
        "review": review_of(run),
        "can_review": run.status == "completed" and request.user.has_perm(REVIEWING),
    }


@staff_page
@require_POST
def run_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(AgentRun, pk=pk)
    told(request, lambda: cancel_run(run))
    return redirect(run)


@staff_page
@require_POST
def run_hurry(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The button of a run that waits."""
    run = get_object_or_404(AgentRun, pk=pk)
    told(request, lambda: hurry_run(run), "It is answered now.")
    return redirect(run)


@staff_page
@needs(REVIEWING)
@require_POST
def run_review(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(AgentRun, pk=pk)
    by = request.user.get_username()
    told(request, lambda: say(run, said_in(request.POST, by=by)), "Your review is noted.")
    return redirect(run)
