"""How the providers are: a page that stays true, and a button that asks one of them now."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from routing.models import Provider
from routing.reporting.provider_states import provider_states
from routing.world.probing import probe
from ziggie.pages import needs, staff_page

TESTING = "routing.change_provider"


@staff_page
@require_GET
def provider_list(request: HttpRequest) -> HttpResponse:
    disabled = Provider.objects.filter(enabled=False).values_list("slug", flat=True)
    return render(request, "routing/providers.html", _states(request) | {"disabled": disabled})


@staff_page
@require_GET
def provider_rows(request: HttpRequest) -> HttpResponse:
    """The states, for a page that sits open."""
    return render(request, "routing/_providers.html", _states(request))


def _states(request: HttpRequest) -> dict[str, object]:
    return {"providers": provider_states(), "can_test": request.user.has_perm(TESTING)}


@staff_page
@needs(TESTING)
@require_POST
def provider_test(request: HttpRequest, slug: str) -> HttpResponse:
    provider = get_object_or_404(Provider, slug=slug)
    level, text = probe(provider.slug)
    messages.add_message(request, level, f"{provider.slug} {text}")
    return redirect("providers")
