"""Forms of the admin that are older than their row, and forms that are sent twice."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from routing.configuration import policies
from routing.models import Budget, LanguageModel, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from tests.routing.pages_support import seen, staff_client
from tests.seeding import seed
from ziggie.models import create_api_key

CHANGED = "somebody has changed this since the page was opened"
pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(admin_client: Client) -> Client:
    seed()
    return admin_client


def address(row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def opened(client: Client, row: Any) -> dict[str, Any]:
    """What a browser would send of the page as it is, its rows below included."""
    context: Any = client.get(address(row)).context
    forms = [context["adminform"].form]
    for below in context["inline_admin_formsets"]:
        forms += [below.formset.management_form, *below.formset.forms]
    values = {field.html_name: field.value() for form in forms for field in form}
    shown = {name: value for name, value in values.items() if value is not None and value is not False}
    return {name: "on" if value is True else value for name, value in shown.items()}


def test_a_key_that_was_taken_back_stays_so(staff: Client) -> None:
    key, _ = create_api_key("nightly")
    older = opened(staff, key)
    key.enabled = False
    key.save()
    assert CHANGED in seen(staff.post(address(key), older | {"requests_per_minute": "5"}))
    key.refresh_from_db()
    assert (key.enabled, key.requests_per_minute) == (False, None)


def test_a_key_that_has_been_used_meanwhile_is_edited(staff: Client) -> None:
    key, _ = create_api_key("nightly")
    form = opened(staff, key)
    key.last_used_at = key.created_at
    key.save()
    assert staff.post(address(key), form | {"requests_per_minute": "5"}).status_code == 302
    key.refresh_from_db()
    assert key.requests_per_minute == 5


def test_an_older_form_of_a_rule_takes_nothing_back(staff: Client) -> None:
    rule = RoutingRule.objects.filter(policy__state="live").latest("position")
    older, first = opened(staff, rule), rule.chain[0]
    assert staff.post(address(rule), older | {"chain": first}).status_code == 302
    assert CHANGED in seen(staff.post(address(rule), older | {"max_attempts": "3"}))
    rule.refresh_from_db()
    assert rule.chain == [first]


def test_an_older_page_of_a_policy_takes_back_neither_order_nor_notes(staff: Client) -> None:
    draft = policies.duplicate(RoutingPolicy.objects.get(state="live"), by="x")
    older = opened(staff, draft)
    first, second = draft.rules.all()[:2]
    moved = {"rules-0-position": "2", "rules-1-position": "1"}
    assert staff.post(address(draft), older | moved).status_code == 302
    assert CHANGED in seen(staff.post(address(draft), older | {"notes": "mine"}))
    assert staff.post(address(draft), opened(staff, draft) | {"notes": "theirs"}).status_code == 302
    assert CHANGED in seen(staff.post(address(draft), older | moved | {"notes": "mine"}))
    draft.refresh_from_db()
    assert (draft.notes, list(draft.rules.all()[:2])) == ("theirs", [second, first])


def test_an_older_page_that_nobody_has_edited_takes_nothing_back_either(staff: Client) -> None:
    provider = Provider.objects.get(slug="ollama")
    older = opened(staff, provider)
    assert "initial-options" not in staff.get(address(provider)).content.decode()
    Provider.objects.filter(pk=provider.pk).update(options={"max_queue": 9})
    assert CHANGED in seen(staff.post(address(provider), older))
    provider.refresh_from_db()
    assert provider.options == {"max_queue": 9}


def test_a_policy_that_is_only_shown_shows_no_cell_without_a_head(staff: Client) -> None:
    live = RoutingPolicy.objects.get(state="live")
    policies.begin_edit(live, by="x")
    retired = RoutingPolicy.objects.get(state="retired")
    for client, shown in (
        (staff, retired),
        (staff_client("routing.view_routingpolicy", "routing.view_routingrule"), live),
    ):
        table = client.get(address(shown)).content.decode().partition('id="rules-group"')[2]
        row = table[table.index("form-row") :].partition("</tr>")[0]
        assert row.count("<td") == table.count("<th ")


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        (Provider, {"timeout_seconds": "77", "options": '{"max_queue": 9}'}),
        (LanguageModel, {"notes": "new"}),
        (Budget, {"limit_usd": "3"}),
        (RoutingSettings, {"body_days": "7"}),
        (RoutingRule, {"max_attempts": "3"}),
        (RoutingPolicy, {"rules-0-position": "2", "rules-1-position": "1"}),
    ],
)
def test_a_form_that_is_sent_twice_is_taken_twice(staff: Client, kind: Any, edit: dict[str, str]) -> None:
    row = kind.objects.first()
    form = opened(staff, row) | edit
    for _ in range(2):
        answer: Any = staff.post(address(row), form)
        assert answer.status_code == 302, answer.context["adminform"].form.errors
