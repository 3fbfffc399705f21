"""Policies: the live one, their versions, and how one of them goes live, with the evidence beside the difference."""

from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from routing.configuration import policies, rows
from routing.evidence import preview, replay
from routing.models import RoutingPolicy
from ziggie.pages import needs, staff_page, told

PAGE_SIZE = 30
EDITS_SHOWN = 50
PUBLISHING = "routing.change_routingpolicy"
DRAFTING = "routing.add_routingpolicy"


@staff_page
@require_GET
def policy_list(request: HttpRequest) -> HttpResponse:
    versions = RoutingPolicy.objects.annotate(rule_count=Count("rules")).order_by("-created_at", "-pk")
    context = {
        "live": versions.filter(state="live").first(),
        "drafts": versions.filter(state="draft"),
        "page": Paginator(versions, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return render(request, "routing/policies.html", context | _rights(request))


@staff_page
@require_GET
def policy_page(request: HttpRequest, slug: str, version: int) -> HttpResponse:
    policy = _policy(slug, version)
    before = policies.predecessor(policy)
    context = {
        "policy": policy,
        "rules": [rows.rule_plain(rule) for rule in policy.rules.order_by("position")],
        "before": before,
        "diff": preview.as_lines(policies.difference(before, policy)),
        "problems": preview.problems(policy) if policy.state == "draft" else [],
        "edits": [(edit, preview.as_lines(edit.changes)) for edit in policy.edits.all()[:EDITS_SHOWN]],
        "edits_shown": EDITS_SHOWN,
        "edit_count": policy.edits.count(),
    }
    return render(request, "routing/policy.html", context | _rights(request))


@staff_page
@needs(PUBLISHING)
@require_http_methods(["GET", "POST"])
def policy_publish(request: HttpRequest, slug: str, version: int) -> HttpResponse:
    """What would change, what recorded traffic says of it, and the button. A retired version is rolled back to."""
    policy = _policy(slug, version)
    if policy.state == "live":
        return redirect("policy", slug, version)
    if request.method == "POST":
        return _put_live(request, policy)
    days, calls = preview.span_of(request.GET)
    live = RoutingPolicy.objects.filter(state="live").first()
    context = {
        "policy": policy,
        "live": live,
        "seen": policies.fingerprint(policy),
        "diff": preview.as_lines(policies.difference(live, policy)),
        "problems": preview.problems(policy),
        "replayed": preview.replayed(lambda: replay.target_of(policy), days=days, calls=calls),
        "spans": {"days": preview.DAYS, "calls": preview.CALLS},
    }
    return render(request, "routing/publish.html", context)


def _put_live(request: HttpRequest, policy: RoutingPolicy) -> HttpResponse:
    work = policies.publish if policy.state == "draft" else policies.roll_back
    by, seen = request.user.get_username(), request.POST.get("seen") or "nothing"
    name = f"{policy.slug} version {policy.version}"
    done = f"{name} is live." if policy.state == "draft" else f"The rules of {name} are live again, as a new version."
    if told(request, lambda: work(policy, by=by, seen=seen), done):
        return redirect("policies")
    return redirect("policy", policy.slug, policy.version)


@staff_page
@needs(DRAFTING)
@require_POST
def policy_duplicate(request: HttpRequest, slug: str, version: int) -> HttpResponse:
    policy, by = _policy(slug, version), request.user.get_username()
    told(request, lambda: policies.duplicate(policy, by=by), f"There is a draft with the rules of version {version}.")
    return redirect("policies")


def _policy(slug: str, version: int) -> RoutingPolicy:
    return get_object_or_404(RoutingPolicy, slug=slug, version=version)


def _rights(request: HttpRequest) -> dict[str, bool]:
    return {"can_publish": request.user.has_perm(PUBLISHING), "can_draft": request.user.has_perm(DRAFTING)}
