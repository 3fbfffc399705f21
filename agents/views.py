"""Pages of the agents."""

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from agents.models import LEVELS, Agent, AgentRun
from agents.reviewing import review_of, say
from agents.runs import NewRun, cancel_run, create_run
from routing.models import RoutedCall
from routing.reviews import REVIEWING, said_in
from ziggie.errors import ZiggieError
from ziggie.pages import needs, staff_page, told

PAGE_SIZE = 30


@staff_page
@require_GET
def run_list(request: HttpRequest) -> HttpResponse:
    runs = AgentRun.objects.select_related("agent").order_by("-id")
    if request.GET.get("status") in AgentRun.STATUSES:
        runs = runs.filter(status=request.GET["status"])
    context = {
        "page": Paginator(runs, PAGE_SIZE).get_page(request.GET.get("page")),
        "agents": Agent.objects.filter(enabled=True)[:500],
        "levels": LEVELS,
        "statuses": AgentRun.STATUSES,
        "status": request.GET.get("status", ""),
    }
    return render(request, "agents/list.html", context)


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
        "has_receipt": over and RoutedCall.objects.filter(pk=run.call_id).exists(),
        "review": review_of(run),
        "can_review": run.status == "completed" and request.user.has_perm(REVIEWING),
    }


@staff_page
@require_POST
def run_create(request: HttpRequest) -> HttpResponse:
    """The form on the list: a prompt becomes a queued run."""
    new = NewRun(
        agent=request.POST.get("agent", ""),
        prompt=request.POST.get("prompt", ""),
        requested_by=request.user.get_username(),
    )
    try:
        run, _ = create_run(new)
    except ZiggieError as error:
        messages.error(request, error.message)
        return redirect("runs")
    return redirect(run)


@staff_page
@require_POST
def run_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(AgentRun, pk=pk)
    told(request, lambda: cancel_run(run))
    return redirect(run)


@staff_page
@needs(REVIEWING)
@require_POST
def run_review(request: HttpRequest, pk: UUID) -> HttpResponse:
    run = get_object_or_404(AgentRun, pk=pk)
    by = request.user.get_username()
    told(request, lambda: say(run, said_in(request.POST, by=by)), "Your review is noted.")
    return redirect(run)
