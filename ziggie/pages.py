"""What every page for staff shares."""

from collections.abc import Callable
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpResponseBase

View = Callable[..., HttpResponseBase]


def staff_page(view: View) -> View:
    """A page for staff only; others are sent to the login."""
    protected: Any = staff_member_required(view, login_url="login")
    return protected  # type: ignore[no-any-return]
