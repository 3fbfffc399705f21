"""The dashboard, and what machines ask to know whether Ziggie lives."""

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from agents.models import AgentRun
from knowledge.models import Video
from monitoring import kpis, readiness
from routing.reporting import usage
from ziggie.pages import staff_page

RECENT = 8


@staff_page
@require_GET
def dashboard(request: HttpRequest) -> HttpResponse:
    return render(request, "monitoring/dashboard.html", _figures() | _recent())


@staff_page
@require_GET
def dashboard_figures(request: HttpRequest) -> HttpResponse:
    """The figures on top of the dashboard, for a page that sits open."""
    return render(request, "monitoring/_figures.html", _figures())


def _figures() -> dict[str, object]:
    return {
        "totals": kpis.totals(usage.last_days(30)),
        "budgets": kpis.budgets_now(),
        "providers": kpis.providers_now(),
    }


def _recent() -> dict[str, object]:
    return {
        "runs": AgentRun.objects.select_related("agent").order_by("-id")[:RECENT],
        "videos": Video.objects.select_related("creator").prefetch_related("analyses").order_by("-id")[:RECENT],
    }


@require_GET
def healthz(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers. Touches nothing else."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_GET
def readyz(request: HttpRequest) -> HttpResponse:
    """Ready: database, queue and live layer answer; 503 naming the one that does not."""
    states = readiness.check_all()
    connection.close()
    return JsonResponse(states, status=200 if all(state == "ok" for state in states.values()) else 503)
