"""What every page for staff shares."""

from collections.abc import Callable
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponseBase

View = Callable[..., HttpResponseBase]


def staff_page(view: View) -> View:
    """A page for staff only; others are sent to the login."""
    protected: Any = staff_member_required(view, login_url="login")
    return protected  # type: ignore[no-any-return]


# What the navigation leads to: the name of a page and what it is called there.
NAVIGATION = (("dashboard", "Dashboard"), ("runs", "Runs"), ("videos", "Videos"), ("usage", "Usage"))


def navigation(request: HttpRequest) -> dict[str, Any]:
    """For every template: where one can go."""
    return {"navigation": NAVIGATION}
