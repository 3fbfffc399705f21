"""API keys in the admin: what nobody may give beyond his own rights, and models that there are not."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone

from routing.models import LanguageModel
from tests.routing.books import book
from tests.routing.pages_support import seen, staff_client
from tests.seeding import seed
from ziggie.auth import ADMIN_PERMISSIONS, authenticate_key
from ziggie.models import ApiKey, create_api_key

KEYS = ("ziggie.view_apikey", "ziggie.add_apikey", "ziggie.change_apikey")
ADD, LIST = reverse("admin:ziggie_apikey_add"), reverse("admin:ziggie_apikey_changelist")
pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(admin_client: Client) -> Client:
    seed()
    return admin_client


def add(client: Client, **fields: Any) -> str:
    data = {"name": "nightly", "scopes": ["gateway"], "enabled": "on", **fields}
    return seen(client.post(ADD, data, follow=True))


# --- the scope admin -------------------------------------------------------------------------------


def test_nobody_gives_a_key_more_rights_than_his_own() -> None:
    keeper = staff_client(*KEYS)
    assert "Your account cannot give the scope admin" in add(keeper, scopes=["gateway", "admin"])
    assert not ApiKey.objects.exists()
    key, _ = create_api_key("plain")
    page = seen(
        keeper.post(reverse("admin:ziggie_apikey_change", args=[key.pk]), {"name": "plain", "scopes": ["admin"]})
    )
    assert "Your account cannot give the scope admin" in page
    add(staff_client(*KEYS, *ADMIN_PERMISSIONS), scopes=["gateway", "admin"])
    assert ApiKey.objects.get(name="nightly").scopes == ["gateway", "admin"]


@pytest.mark.parametrize("action", ["rotate", "renew"])
def test_nobody_is_shown_a_secret_of_more_rights_than_his_own(action: str) -> None:
    key, secret = create_api_key("deploys", scopes=["admin"])
    sent = {"action": action, "_selected_action": [key.pk]}
    page = seen(staff_client(*KEYS).post(LIST, sent, follow=True))
    assert "deploys: your account cannot see a secret of the scope admin" in page
    assert authenticate_key(secret) is not None
    assert "shown this once" in seen(staff_client(*KEYS, *ADMIN_PERMISSIONS).post(LIST, sent, follow=True))


def test_a_key_that_has_the_scope_admin_is_named_and_limited_by_whoever_keeps_keys() -> None:
    key, secret = create_api_key("deploys", scopes=["admin"])
    sent = {"name": "renamed", "scopes": ["admin"]}  # not enabled: taken back
    staff_client(*KEYS).post(reverse("admin:ziggie_apikey_change", args=[key.pk]), sent)
    key.refresh_from_db()
    assert (key.name, key.enabled, authenticate_key(secret)) == ("renamed", False, None)


def test_the_scope_admin_takes_all_that_writing_by_rest_takes() -> None:
    def wanted(resolver: URLResolver) -> set[str]:
        found: set[str] = set()
        for pattern in resolver.url_patterns:
            if isinstance(pattern, URLResolver):
                found |= wanted(pattern)
            elif getattr(view := getattr(pattern.callback, "cls", None), "staff_write", False):
                found |= set(getattr(view, "staff_permissions", ()))
        return found

    asked = wanted(get_resolver())
    assert len(asked) > 5
    assert asked <= set(ADMIN_PERMISSIONS)


def test_the_end_of_a_key_is_asked_for_in_a_stated_time_zone(staff: Client) -> None:
    assert "Date and time in UTC." in seen(staff.get(ADD))


# --- models ----------------------------------------------------------------------------------------


def test_models_that_a_key_may_use_are_models_that_there_are(staff: Client) -> None:
    page = add(staff, allowed_models="gpt-4o, gtp-4o")
    assert "there is no model 'gtp-4o'" in page
    page = add(staff, allowed_models="sonnet")
    assert "'sonnet' is another name of claude-sonnet-4-5: write the slug" in page
    assert not ApiKey.objects.exists()
    add(staff, allowed_models="gpt-4o, llama3.2")
    assert ApiKey.objects.get().allowed_models == ["gpt-4o", "llama3.2"]


def test_a_model_that_is_gone_keeps_nobody_from_changing_the_key(staff: Client) -> None:
    key, _ = create_api_key("old", allowed_models=["gone", "gpt-4o"])
    assert not LanguageModel.objects.filter(slug="gone").exists()
    sent = {"name": "newer", "scopes": ["gateway"], "allowed_models": "gone,gpt-4o", "enabled": "on"}
    staff.post(reverse("admin:ziggie_apikey_change", args=[key.pk]), sent)
    key.refresh_from_db()
    assert (key.name, key.allowed_models) == ("newer", ["gone", "gpt-4o"])


# --- what a key has spent --------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_list_says_what_each_key_has_spent_this_month(staff: Client) -> None:
    key, _ = create_api_key("nightly")
    create_api_key("idle")
    now = timezone.now()
    book({"at": now}, {"at": now}, {"at": now - timedelta(days=40)}, api_key_id=str(key.pk), cost_microusd=1_250_001)
    page = seen(staff.get(LIST))
    assert "2.500002" in page
    assert "0.000000" in page
