"""What rules do and would do: explain, rollouts with their shadows, and work that waits."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from routing import service
from routing.batches import overview
from routing.evidence import explaining, rollouts
from routing.evidence.explain_form import ExplainForm
from routing.reporting.receipt_page import features
from ziggie.errors import ZiggieError
from ziggie.pages import staff_page, told


@staff_page
@require_GET
def explain_page(request: HttpRequest) -> HttpResponse:
    form = ExplainForm(request.GET if "explain" in request.GET else None)
    explained: dict[str, Any] = {}
    problem = ""
    if form.is_valid():
        try:
            explained = explaining.explain(form.request())
        except ZiggieError as error:
            problem = error.message
    judged_by = features(explained.get("features", {}))
    context = {"form": form, "explained": explained, "features": judged_by, "problem": problem}
    return render(request, "routing/explain.html", context)


@staff_page
@require_GET
def rollout_page(request: HttpRequest) -> HttpResponse:
    return render(request, "routing/rollouts.html", rollouts.overview())


@staff_page
@require_GET
def batch_page(request: HttpRequest) -> HttpResponse:
    return render(request, "routing/batches.html", overview.overview())


@staff_page
@require_POST
def batch_hurry(request: HttpRequest, pk: UUID) -> HttpResponse:
    told(request, lambda: service.hurry_batch(pk), "It is answered now.")
    return redirect("batches")


@staff_page
@require_POST
def batch_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    told(request, lambda: service.cancel_batch(pk), "It is taken back.")
    return redirect("batches")
