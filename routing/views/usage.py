"""Pages of usage: figures, prices, and providers' statements."""

import csv
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from routing.models import Provider, Statement
from routing.planning.pricing import usd
from routing.reporting import price_list, statements, usage
from routing.reporting import usage_page as figures_of
from ziggie.errors import InvalidInput, ZiggieError
from ziggie.pages import needs, staff_page

MAX_STATEMENTS = 200
MAX_SHOWN_LINES = 1_000
FIGURES = {"input_tokens": "Tokens in", "output_tokens": "Tokens out", "cost_microusd": "Cost"}


# --- figures --------------------------------------------------------------------------------------


@staff_page
@require_GET
def usage_page(request: HttpRequest) -> HttpResponse:
    return render(request, "routing/usage.html", _figures(request))


@staff_page
@require_GET
def usage_figures(request: HttpRequest) -> HttpResponse:
    """The part of the usage page that changes, for a page that sits open."""
    return render(request, "routing/_figures.html", _figures(request))


def _figures(request: HttpRequest) -> dict[str, Any]:
    """What was asked for, or the usual with a word about what could not be understood."""
    problem = ""
    try:
        chosen = figures_of.choice(request.GET.dict())
        shown = figures_of.figures(chosen)
    except InvalidInput as error:
        problem = error.message
        chosen = figures_of.choice({})
        shown = figures_of.figures(chosen)
    groups = [(key, name) for key, (name, _) in figures_of.GROUPS.items()]
    return shown | {"presets": figures_of.presets(chosen), "group_names": groups, "problem": problem}


@staff_page
@require_GET
def usage_csv(request: HttpRequest) -> HttpResponse:
    """The groups of the page as CSV; single records are at /api/usage/records.csv."""
    try:
        chosen = figures_of.choice(request.GET.dict())
    except InvalidInput as error:
        return HttpResponse(error.message, status=400, content_type="text/plain; charset=utf-8")
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="usage-by-{chosen.group}-{chosen.first}-{chosen.last}.csv"'
    writer = csv.writer(response)
    names = (
        "calls",
        "attempts",
        "cost_usd",
        "saved_usd",
        "input_tokens",
        "output_tokens",
        "p50_ms",
        "p95_ms",
        "success",
    )
    writer.writerow([chosen.group, *names])
    for group in figures_of.table(chosen):
        told = usage.group_json(*group)
        writer.writerow([usage.cell(told["key"]), *("" if told[name] is None else told[name] for name in names)])
    return response


# --- prices ---------------------------------------------------------------------------------------


@staff_page
@needs("routing.add_price")
@require_http_methods(["GET", "POST"])
def prices(request: HttpRequest) -> HttpResponse:
    """What differs from the list; a person ticks what is taken over."""
    if request.method == "POST":
        wanted = {slug: request.POST.get(f"seen-{slug}", "") for slug in request.POST.getlist("accept")}
        try:
            if not wanted:
                raise InvalidInput("nothing was ticked, and nothing was changed")
            names = price_list.accept(wanted, by=request.user.get_username())
        except ZiggieError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"New prices, in force from now on: {', '.join(names)}.")
        return redirect("usage-prices")
    return render(request, "routing/prices.html", {"comparison": price_list.compare()})


# --- statements -----------------------------------------------------------------------------------


@staff_page
@needs("routing.view_statement")
@require_http_methods(["GET", "POST"])
def statement_list(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return _load(request)
    context = {
        "statements": Statement.objects.all()[:MAX_STATEMENTS],
        "providers": Provider.objects.filter(location="cloud").order_by("slug"),
        "chosen": request.GET.get("provider", ""),
        "may_load": request.user.has_perm("routing.add_statement"),
    }
    return render(request, "routing/statements.html", context)


def _load(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("routing.add_statement"):
        raise PermissionDenied
    file, provider = request.FILES.get("file"), request.POST.get("provider", "")
    try:
        if not isinstance(file, UploadedFile):
            raise InvalidInput("choose a file first")
        statement = statements.load(
            file.read(statements.MAX_BYTES + 1),
            file_name=file.name or "",
            provider=provider,
            by=request.user.get_username(),
            replace=bool(request.POST.get("replace")),
        )
    except ZiggieError as error:
        places = [f"{detail.get('place')}: {detail.get('problem')}" for detail in error.details[1:]]
        messages.error(request, "; ".join([error.message, *places]))
        # The provider stays chosen: the mended file, sent again, belongs to the same one.
        return redirect(f"{reverse('statements')}?{urlencode({'provider': provider})}")
    return redirect("statement", pk=statement.pk)


@staff_page
@needs("routing.view_statement")
@require_GET
def statement_page(request: HttpRequest, pk: UUID) -> HttpResponse:
    report = statements.compare(get_object_or_404(Statement, pk=pk))
    lines = sorted(report.lines, key=lambda line: line.state == "matched")  # what needs a look comes first
    context = {
        "statement": report.statement,
        "counts": [(state, report.count(state)) for state in statements.STATES],
        "sums": _sums(report),
        "lines": [(line, _cells(report, line)) for line in lines[:MAX_SHOWN_LINES]],
        "hidden": max(0, len(lines) - MAX_SHOWN_LINES),
    }
    return render(request, "routing/statement.html", context)


def _sums(report: statements.Report) -> list[dict[str, str]]:
    return [
        {
            "name": FIGURES[name],
            "theirs": _amount(name, report.total("theirs", name)),
            "ours": _amount(name, report.total("ours", name)),
            "unexplained": _amount(name, report.unexplained(name)),
        }
        for name in report.told
    ]


def _cells(report: statements.Report, line: statements.Compared) -> list[tuple[str, ...]]:
    """The name of each figure, theirs, ours and the difference."""
    return [
        (
            FIGURES[name],
            _amount(name, getattr(line.theirs, name, None)),
            _amount(name, getattr(line.ours, name, None)),
            _amount(name, line.difference(name)),
        )
        for name in report.told
    ]


def _amount(name: str, value: int | None) -> str:
    if value is None:
        return "–"
    return f"${usd(value)}" if name.endswith("_microusd") else f"{value:,}"
