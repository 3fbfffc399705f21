"""What every page for staff shares."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

from ziggie.errors import ZiggieError

MAX_LINES = 20  # of one message
View = Callable[..., HttpResponseBase]

# What the navigation leads to: the name of a page and what it is called there.
NAVIGATION = (
    ("dashboard", "Dashboard"),
    ("runs", "Runs"),
    ("videos", "Videos"),
    ("usage", "Usage"),
    ("policies", "Policies"),
)


def staff_page(view: View) -> View:
    """A page for staff only: strangers are sent to the login, other accounts are refused."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("login"))
        if not request.user.is_staff:
            raise PermissionDenied("This page is for staff only.")
        return view(request, *args, **kwargs)

    return guarded


def needs(permission: str) -> Callable[[View], View]:
    """A page for those of the staff who hold `permission`; others are refused. Stands below staff_page."""
    return permission_required(permission, raise_exception=True)


def told(request: HttpRequest, work: Callable[[], Any], done: str = "") -> bool:
    """Does the work of a button and says on the next page how it ended; whether it went well."""
    try:
        work()
    except ZiggieError as error:
        messages.error(request, "\n".join([error.message, *_lines(error)]))
        return False
    if done:
        messages.success(request, done)
    return True


def _lines(error: ZiggieError) -> list[str]:
    """Each mistake that an error lists, with its place."""
    return [f"{d['place']}: {d['problem']}" for d in error.details[:MAX_LINES] if "place" in d and "problem" in d]


def navigation(request: HttpRequest) -> dict[str, Any]:
    """For every template: where one can go, and where one is ("page", "true" on a page below it, or "")."""
    return {"navigation": [(reverse(name), label, _current(request.path, reverse(name))) for name, label in NAVIGATION]}


def _current(path: str, url: str) -> str:
    if path == url:
        return "page"
    return "true" if url != "/" and path.startswith(url) else ""
