"""The routing file in the admin: taken out, put in; and the older JSON of rules, put in as a draft."""

from typing import Any, Literal

from django import forms
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminSelectWidget

from routing.configuration import routing_file
from routing.configuration.text import MAX_BYTES, decode
from routing.importing import cortex
from ziggie.errors import ZiggieError

KINDS = {"routing": "Routing file (YAML or JSON): in force at once", "cortex": "Older JSON of rules: becomes a draft"}
TEMPLATE = "admin/routing/load_file.html"
VERSIONS = "admin:routing_routingpolicy_changelist"


class FileForm(forms.Form):
    file = forms.FileField(
        widget=UnfoldAdminFileFieldWidget(), help_text="At most 2 MB. If anything in it is wrong, nothing is changed."
    )
    kind = forms.ChoiceField(choices=list(KINDS.items()), widget=UnfoldAdminSelectWidget())


class FileActions:
    """Buttons above the list of policies. To be mixed into its admin."""

    admin_site: Any
    actions_list = ("load_file", "export_file")

    @action(description="Load a file", url_path="load-file", permissions=["change"])  # type: ignore[untyped-decorator]
    def load_file(self, request: HttpRequest) -> HttpResponse:
        form = FileForm(request.POST or None, request.FILES or None)
        refused: ZiggieError | None = None
        if request.method == "POST" and form.is_valid():
            try:
                _load(request, form.cleaned_data["file"], form.cleaned_data["kind"])
                return HttpResponseRedirect(reverse(VERSIONS))
            except ZiggieError as error:
                refused = error
        context = {**self.admin_site.each_context(request), "title": "Load a file", "form": form, "refused": refused}
        context["versions_url"] = reverse(VERSIONS)
        return TemplateResponse(request, TEMPLATE, context, status=refused.http_status if refused else 200)

    @action(description="Export", url_path="export-file", permissions=["view"])  # type: ignore[untyped-decorator]
    def export_file(self, request: HttpRequest) -> HttpResponse:
        wanted: Literal["yaml", "json"] = "json" if request.GET.get("as") == "json" else "yaml"
        answer = HttpResponse(routing_file.export(wanted), content_type=f"application/{wanted}; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="routing.{wanted}"'
        return answer


def _load(request: HttpRequest, file: "UploadedFile[Any]", kind: str) -> None:
    """Raises ZiggieError; then nothing was changed."""
    name = str(file.name)[:100]
    text, by = decode(file.read(MAX_BYTES + 1), name), request.user.get_username()
    if kind == "cortex":
        report = cortex.import_draft(text, slug="cortex", by=by, name=name)
        left = "; ".join(f"{entry['place']}: {entry['why']}" for entry in report.not_mapped[:20])
        messages.success(request, f"There is a draft {report.policy} version {report.version}.")
        if left:
            messages.warning(request, f"Not mapped: {left}")
        return
    changes = routing_file.apply(text, by=by, name=name)
    messages.success(request, "Changed " + ", ".join(changes.written or ["nothing: all of it is in force already"]))
    for warning in changes.warnings[:20]:
        messages.warning(request, warning)
