"""Receipts: the list of routed calls, and the page of one with the bodies that its rule keeps."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from routing.models import RoutedCall
from routing.records import reviews
from routing.reporting import call_search, receipt_page
from routing.reporting.usage import time_zone
from ziggie.errors import InvalidInput
from ziggie.pages import staff_page

SEEING_BODIES = "routing.view_storedbody"
ASKED = (*call_search.FILTERS, *call_search.PERIOD)
MAX_FILTER_CHARACTERS = 200


@staff_page
@require_GET
def call_list(request: HttpRequest) -> HttpResponse:
    shown = _found(request)
    choices = call_search.choices(request.GET)
    others = {name: value for name, value in shown["filters"].items() if name not in (*choices, "day")}
    return render(request, "routing/calls.html", shown | {"choices": choices, "others": others, "zone": time_zone()})


@staff_page
@require_GET
def call_rows(request: HttpRequest) -> HttpResponse:
    """The table of the list, for a page that sits open."""
    return render(request, "routing/_call_list.html", _found(request))


def _found(request: HttpRequest) -> dict[str, Any]:
    given = {name: request.GET.get(name, "")[:MAX_FILTER_CHARACTERS] for name in (*ASKED, "before")}
    filters = {name: value for name, value in given.items() if value and name != "before"}
    problem, found = "", call_search.Found([])
    try:
        found = call_search.find(given)
    except InvalidInput as error:
        problem = error.message
    return {"found": found, "calls": found.calls, "given": given, "filters": filters, "problem": problem}


@staff_page
@require_GET
def call_page(request: HttpRequest, pk: UUID) -> HttpResponse:
    call = get_object_or_404(RoutedCall.objects.defer("bodies", "request"), pk=pk)
    context = receipt_page.context_of(call) | {
        "review": reviews.newest_review([call.pk]),
        "stored": receipt_page.stored_bodies(call, visible=request.user.has_perm(SEEING_BODIES)),
    }
    return render(request, "routing/call.html", context)
