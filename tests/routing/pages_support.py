"""What tests of pages share: a page's text as a reader sees it, and who may see it."""

import re
from html import unescape
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client


def seen(response: Any, status: int = 200) -> str:
    """The text between the tags, with single spaces."""
    assert response.status_code == status, response.content.decode()[:2000]
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def staff_client(*permissions: str) -> Client:
    """Somebody of the staff with these permissions, as "app.codename", and no others."""
    user = User.objects.create_user(f"staff{User.objects.count()}", password="p", is_staff=True)
    for name in permissions:
        app, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client


def value_in(response: Any, name: str) -> str:
    """The value of a form's hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', response.content.decode())
    assert found is not None, f"no field {name}"
    return unescape(found[1])
