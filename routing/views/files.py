"""The routing file in the browser: download, upload with a look before it is applied, and the older JSON of rules."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from routing.configuration import routing_file
from routing.configuration.text import MAX_BYTES, decode
from routing.evidence import file_check, preview, replay
from routing.importing import cortex
from ziggie.errors import InvalidInput, ZiggieError
from ziggie.pages import needs, staff_page

APPLYING = "routing.change_routingpolicy"
IMPORTING = "routing.add_routingpolicy"
FORMATS = {"yaml": "application/yaml", "json": "application/json"}


@staff_page
@needs(APPLYING)
@require_GET
def file_page(request: HttpRequest) -> HttpResponse:
    return render(request, "routing/file.html")


@staff_page
@needs(APPLYING)
@require_GET
def file_export(request: HttpRequest, file_format: str) -> HttpResponse:
    text = routing_file.export("json" if file_format == "json" else "yaml")
    headers = {"Content-Disposition": f'attachment; filename="routing.{file_format}"'}
    return HttpResponse(text, content_type=f"{FORMATS[file_format]}; charset=utf-8", headers=headers)


@staff_page
@needs(APPLYING)
@require_POST
def file_check_page(request: HttpRequest) -> HttpResponse:
    """What the file would change, with the evidence, and the button that applies it; or its mistakes."""
    context: dict[str, Any] = {}
    try:
        text, name = _text(request)
        context |= {"text": text, "name": name}
        checked = file_check.check(text, name=name)
        days, calls = preview.span_of(request.POST)
        if checked.policy:
            context["replayed"] = preview.replayed(
                lambda: replay.target_of_file(text, name=name), days=days, calls=calls
            )
        context["checked"] = checked
    except ZiggieError as error:
        return render(request, "routing/file.html", context | {"refused": error}, status=error.http_status)
    return render(request, "routing/file_check.html", context)


@staff_page
@needs(APPLYING)
@require_POST
def file_apply(request: HttpRequest) -> HttpResponse:
    context: dict[str, Any] = {}
    try:
        text, name = _text(request)
        context |= {"text": text, "name": name}
        by, seen = request.user.get_username(), request.POST.get("seen", "")
        changes = file_check.apply_seen(text, by=by, name=name, seen=seen)
    except ZiggieError as error:
        return render(request, "routing/file.html", context | {"refused": error}, status=error.http_status)
    return render(request, "routing/file.html", {"changes": changes, "name": name})


@staff_page
@needs(IMPORTING)
@require_http_methods(["GET", "POST"])
def import_page(request: HttpRequest) -> HttpResponse:
    """The older JSON becomes a draft; the report says what was mapped and what was not."""
    context: dict[str, Any] = {"slug": request.POST.get("slug", "") or "cortex"}
    if request.method == "GET":
        return render(request, "routing/import.html", context)
    try:
        text, name = _text(request)
        by = request.user.get_username()
        context["report"] = cortex.import_draft(text, slug=context["slug"], by=by, name=name)
    except ZiggieError as error:
        return render(request, "routing/import.html", context | {"refused": error}, status=error.http_status)
    return render(request, "routing/import.html", context)


def _text(request: HttpRequest) -> tuple[str, str]:
    """The file that was chosen, else the text that was typed, and a name for it. Raises InvalidInput, TooLarge."""
    upload = request.FILES.get("file")
    if upload is not None:
        name = (upload.name or "the file")[:200]
        return decode(upload.read(MAX_BYTES + 1), name), name
    typed = request.POST.get("text", "")
    if not typed.strip():
        raise InvalidInput("Choose a file, or type one.")
    return decode(typed.encode("utf-8", "surrogatepass"), "the text"), request.POST.get("name") or "the text"
