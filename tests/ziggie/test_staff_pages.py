"""Who may see which page, and that every page opens on an installation where nothing has happened yet."""

import re

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import resolve, reverse

from routing.models import RoutingPolicy
from tests.routing.pages_support import seen, staff_client
from tests.seeding import seed

pytestmark = pytest.mark.django_db
NOBODY = "0190f1e2-0000-7000-8000-000000000000"

READ = (
    *(
        "dashboard",
        "dashboard-figures",
        "runs",
        "videos",
        "usage",
        "usage-calls",
        "usage-call-rows",
        "policies",
        "explain",
        "rollouts",
    ),
    *("batches", "providers", "provider-rows"),
)
GUARDED = ("routing-file", "routing-import")


@pytest.fixture
def seeded(db: None) -> None:
    seed()


@pytest.mark.parametrize("name", [*READ, *GUARDED])
def test_strangers_are_sent_to_the_login_and_back(seeded: None, client: Client, name: str) -> None:
    response = client.get(reverse(name))
    assert response.status_code == 302
    assert response.headers["Location"] == f"/login/?next={reverse(name)}"


@pytest.mark.parametrize("name", [*READ, *GUARDED])
def test_accounts_that_are_not_staff_are_refused(seeded: None, client: Client, name: str) -> None:
    client.force_login(User.objects.create_user("guest", password="p"))
    assert "Not allowed" in seen(client.get(reverse(name)), 403)


def test_a_form_from_before_another_login_is_refused_in_plain_words(seeded: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("staff", password="p", is_staff=True, is_superuser=True))
    client.get(reverse("routing-file"))
    page = seen(client.post(reverse("routing-file"), {"csrfmiddlewaretoken": "x" * 64}), 403)
    assert "Nothing was changed" in page
    assert "load the page again" in page


@pytest.mark.parametrize("name", READ)
def test_every_page_opens_where_nothing_has_happened_yet(seeded: None, name: str) -> None:
    assert staff_client().get(reverse(name)).status_code == 200


def test_empty_pages_say_so(seeded: None) -> None:
    client = staff_client()
    assert "No call has been made yet." in seen(client.get("/usage/calls/"))
    assert "There is no draft." in seen(client.get("/policies/"))
    assert "No request waits." in seen(client.get("/policies/waiting/"))
    assert "no model runs in the shadow" in seen(client.get("/policies/rollouts/"))


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("/policies/file/", "routing.change_routingpolicy"),
        ("/policies/file/routing.yaml", "routing.change_routingpolicy"),
        ("/policies/import/", "routing.add_routingpolicy"),
        ("/policies/default/1/publish/", "routing.change_routingpolicy"),
    ],
)
def test_what_changes_routing_needs_its_permission(seeded: None, path: str, permission: str) -> None:
    RoutingPolicy.objects.update(state="draft")
    assert staff_client().get(path).status_code == 403
    assert staff_client(permission).get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/policies/default/1/publish/", "/policies/default/1/duplicate/", "/policies/file/check/"),
        *("/policies/file/apply/", "/policies/import/", "/providers/ollama/test/"),
        *(f"/knowledge/videos/{NOBODY}/review/", f"/knowledge/videos/{NOBODY}/redo/", f"/runs/{NOBODY}/review/"),
    ],
)
def test_buttons_need_a_permission_of_their_own(seeded: None, path: str) -> None:
    assert staff_client().post(path).status_code == 403
    assert Client().post(path).status_code == 302


def test_the_navigation_says_where_one_is(seeded: None) -> None:
    client = staff_client()
    assert '<a href="/policies/" aria-current="page">' in client.get("/policies/").content.decode()
    below = client.get("/policies/explain/").content.decode()
    assert '<a href="/policies/" aria-current="true">' in below
    assert '<a href="/policies/explain/" aria-current="page">' in below


@pytest.mark.parametrize("path", ["/usage/calls/", "/policies/nowhere/1/", f"/usage/calls/{NOBODY}/"])
def test_a_page_is_found_or_not(seeded: None, path: str) -> None:
    assert staff_client().get(path).status_code == (200 if path == "/usage/calls/" else 404)


def test_every_page_and_address_in_the_docs_is_one(seeded: None) -> None:
    text = (settings.BASE_DIR / "docs" / "pages.md").read_text(encoding="utf-8")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `/")]
    named = {address for cell in table for address in re.findall(r"`(/[^`]*)`", cell)}
    example = {"SLUG": "default", "VERSION": "1", "ID": NOBODY}
    found = {resolve(re.sub(r"SLUG|VERSION|ID", lambda word: example[word[0]], address)).url_name for address in named}
    assert set(READ) - {"dashboard-figures", "usage-call-rows", "provider-rows"} <= found
    assert {"policy", "policy-publish", "usage-call", "run", "video", *GUARDED} <= found
