"""Retuning in the admin, as staff do it: pages, forms that refuse half-valid edits, versions, secrets."""

from decimal import Decimal
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from routing.admin.forms import BudgetForm, LanguageModelForm, ProviderForm, RuleForm, SettingsForm
from routing.configuration import policies, rows, snapshot
from routing.configuration.shape import PolicyEntry, RuleEntry
from routing.models import (
    Budget,
    BudgetPeriod,
    ConfigEpoch,
    LanguageModel,
    PolicyEdit,
    Provider,
    RoutingPolicy,
    RoutingRule,
    RoutingSettings,
)
from tests.seeding import seed
from tests.servers import OllamaServer
from tests.servers.http import Exchange, HTTPServer
from ziggie.auth import authenticate_key
from ziggie.models import ApiKey

pytestmark = pytest.mark.django_db

PAGES = ("provider", "languagemodel", "routingsettings", "budget", "routingpolicy", "routingrule", "circuit")


@pytest.fixture
def staff(admin_client: Client) -> Client:
    seed()
    return admin_client


def filled(form: Any) -> dict[str, Any]:
    """What a browser would send of an untouched form."""
    data = {}
    for bound in form:
        value = bound.value()
        if value is not None and value is not False:
            data[bound.html_name] = "on" if value is True else value
    return data


def change(client: Client, row: Any, form: type[Any], **edits: Any) -> HttpResponse:
    """Sends the row's form with some fields changed; None leaves a field out."""
    data = filled(form(instance=row)) | edits
    data = {name: value for name, value in data.items() if value is not None}
    if isinstance(row, LanguageModel):
        data |= {"prices-TOTAL_FORMS": "0", "prices-INITIAL_FORMS": "0"} | edits
    url = reverse(f"admin:routing_{row._meta.model_name}_change", args=[row.pk])
    return client.post(url, data)  # type: ignore[return-value]


def text_of(response: HttpResponse) -> str:
    assert response.status_code == 200, "the form was accepted"
    return response.content.decode().replace("&#x27;", "'").replace("&quot;", '"')


def look_and_confirm(client: Client, page: Any) -> Any:
    """Presses the button of the page that publishes, or rolls back, what it shows."""
    return client.post(page.request["PATH_INFO"], {"seen": page.context["seen"]}, follow=True)


def act(client: Client, kind: str, action: str, *rows: Any) -> HttpResponse:
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(reverse(f"admin:routing_{kind}_changelist"), data, follow=True)  # type: ignore[return-value]


# --- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, "routedcall", "usagerecord", "statement", "usagemonth"])
def test_every_page_opens(staff: Client, page: str) -> None:
    assert staff.get(reverse(f"admin:routing_{page}_changelist")).status_code == 200


def test_every_row_opens(staff: Client) -> None:
    for kind in (Provider, LanguageModel, RoutingSettings, Budget, RoutingPolicy, RoutingRule):
        row = kind.objects.first()
        assert row is not None
        url = reverse(f"admin:routing_{kind._meta.model_name}_change", args=[row.pk])
        assert staff.get(url).status_code == 200
    for kind in (Provider, LanguageModel, Budget, RoutingPolicy, RoutingRule):
        assert staff.get(reverse(f"admin:routing_{kind._meta.model_name}_add")).status_code == 200


def test_the_list_of_budgets_says_what_is_left_of_each(staff: Client) -> None:
    budget = Budget.objects.get(slug="monthly-cloud")
    sums = {"settled_microusd": 2_000_001, "held_microusd": 500_000, "limit_microusd": budget.limit_microusd}
    month = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    BudgetPeriod.objects.create(budget=budget, period="month", starts_at=month, ends_at=None, hard=True, **sums)
    text = text_of(staff.get(reverse("admin:routing_budget_changelist")))
    assert all(amount in text for amount in ("2.000001", "0.500000", "7.499999"))
    Budget.objects.update(enabled=False)
    assert "7.499999" not in text_of(staff.get(reverse("admin:routing_budget_changelist")))


def test_models_lead_to_the_list_of_prices(staff: Client) -> None:
    page = staff.get(reverse("admin:routing_languagemodel_changelist"))
    address = reverse("admin:routing_languagemodel_compare_prices")
    assert address in page.content.decode()
    assert staff.get(address).headers["location"] == "/usage/prices/"


def test_redaction_patterns_stand_one_a_line_and_bad_ones_are_refused(staff: Client) -> None:
    row = RoutingSettings.objects.get()
    response = change(staff, row, SettingsForm, redact_patterns="ACME-\\d{2,3}\n\nproject, x\n", usage_months="")
    assert response.status_code == 302
    row.refresh_from_db()
    assert (row.redact_patterns, row.usage_months) == (["ACME-\\d{2,3}", "project, x"], None)
    response = change(staff, row, SettingsForm, redact_patterns="(\n")
    assert "is no RE2 expression" in text_of(response)
    assert "at least one character" in text_of(change(staff, row, SettingsForm, redact_patterns="a*"))


def test_people_without_a_staff_login_see_nothing(client: Client) -> None:
    assert client.get(reverse("admin:routing_provider_changelist")).status_code == 302


def test_saving_an_untouched_form_changes_nothing(staff: Client) -> None:
    before = snapshot.load()
    for kind, form in (
        (Provider, ProviderForm),
        (LanguageModel, LanguageModelForm),
        (RoutingSettings, SettingsForm),
        (Budget, BudgetForm),
    ):
        for row in kind.objects.all():  # type: ignore[attr-defined]
            response: Any = change(staff, row, form)
            assert response.status_code == 302, (row, response.context["adminform"].form.errors)
    after = snapshot.load()
    assert (after.models, after.budgets, after.settings) == (before.models, before.budgets, before.settings)


def test_a_form_that_is_older_than_the_row_takes_nothing_back(staff: Client) -> None:
    budget = Budget.objects.get(slug="monthly-cloud")
    older = filled(BudgetForm(instance=budget))
    assert change(staff, budget, BudgetForm, limit_usd="3").status_code == 302
    url = reverse("admin:routing_budget_change", args=[budget.pk])
    assert "somebody has changed this" in text_of(staff.post(url, older | {"alert_at_percent": "90"}))  # type: ignore[arg-type]
    budget.refresh_from_db()
    assert (budget.limit_microusd, budget.alert_at_percent) == (3_000_000, [50, 80, 100])
    assert f'name="seen" value="{BudgetForm(instance=budget)["seen"].value()}"' in staff.get(url).content.decode()


# --- a half-valid edit is refused with the reason --------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"base_url": "gpu:11434"}, "should start with http:// or https:// and name a host"),
        ({"base_url": "http://me:secret@gpu"}, "should hold no user name or password"),
        ({"base_url": ""}, "should start with http"),
        ({"location": "offline"}, "the kind offline has the location offline"),
        ({"api_key_env": "HOME"}, "is no valid name here"),
        ({"options": "[1]"}, "should be a mapping"),
        ({"options": "{"}, "Enter a valid JSON."),
        ({"options": '{"pdf_token_factor": "2.5"}'}, "should be a number from 1 to 1000, not '2.5'"),
        ({"timeout_seconds": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_provider_that_could_not_be_called_is_refused(staff: Client, edits: dict[str, str], reason: str) -> None:
    before = ConfigEpoch.objects.get().epoch
    assert reason in text_of(change(staff, Provider.objects.get(slug="ollama"), ProviderForm, **edits))
    assert ConfigEpoch.objects.get().epoch == before


def test_a_factor_is_set_as_it_is_documented(staff: Client) -> None:
    ollama = Provider.objects.get(slug="ollama")
    assert change(staff, ollama, ProviderForm, options='{"pdf_token_factor": 2.5}').status_code == 302
    assert snapshot.load().models["phi3"].provider.options == {"pdf_token_factor": 2.5}
    rows.load()  # what stands there is not damaged


@pytest.mark.parametrize(("location", "said", "seconds"), [("local", "", 600), ("cloud", "", 120), ("local", "90", 90)])
def test_a_new_provider_is_waited_for_as_long_as_its_place_has_it(
    staff: Client, location: str, said: str, seconds: int
) -> None:
    new = {"slug": "new", "kind": "openai", "location": location, "base_url": "http://gpu:11434"}
    data = filled(ProviderForm()) | new
    assert "timeout_seconds" not in data, "nobody has set it"
    url = reverse("admin:routing_provider_add")
    assert staff.post(url, data | {"timeout_seconds": said}).status_code == 302
    assert Provider.objects.get(slug="new").timeout_seconds == seconds


def test_a_host_without_a_dot_is_an_address_too(staff: Client) -> None:
    ollama = Provider.objects.get(slug="ollama")
    assert change(staff, ollama, ProviderForm, base_url="http://ollama:11434").status_code == 302
    assert snapshot.load().models["phi3"].provider.base_url == "http://ollama:11434"


def test_the_only_provider_of_a_live_rule_is_not_disabled(staff: Client) -> None:
    policies.put_live(PolicyEntry(slug="default", rules=[RuleEntry(name="all", chain=["phi3"])]), by="x")
    ollama = Provider.objects.get(slug="ollama")
    assert "the provider ollama is disabled" in text_of(change(staff, ollama, ProviderForm, enabled=None))
    ollama.refresh_from_db()
    assert ollama.enabled


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"context_window": "100"}, "greater than or equal to 256"),
        ({"max_output_tokens": "131073"}, "is more than the context window"),
        ({"name": ""}, "This field is required."),
        ({"provider": "99999"}, "not one of the available choices"),
        ({"capabilities": "chat, two words"}, "is no valid name here"),
    ],
)
def test_a_model_that_cannot_be_is_refused(staff: Client, edits: dict[str, str], reason: str) -> None:
    assert reason in text_of(change(staff, LanguageModel.objects.get(slug="phi3"), LanguageModelForm, **edits))


def price_row(**columns: str) -> dict[str, str]:
    row = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "2", "origin": "invoice"} | columns
    row |= {"effective_from_0": "2026-01-01", "effective_from_1": "00:00:00"}
    return {"prices-TOTAL_FORMS": "1", "prices-INITIAL_FORMS": "0"} | {f"prices-0-{k}": v for k, v in row.items()}


def test_a_price_is_added_below_its_model_and_is_in_force(staff: Client) -> None:
    grok = LanguageModel.objects.get(slug="grok-4")
    assert change(staff, grok, LanguageModelForm, **price_row()).status_code == 302
    price = snapshot.load().models["grok-4"].price
    assert price is not None
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok) == (1, 2)


def test_what_longer_inputs_cost_stands_one_tier_a_line(staff: Client) -> None:
    grok = LanguageModel.objects.get(slug="grok-4")
    row = price_row(tiers="128000: 6 / 22.5 / - / 7.50\n\n 256000 : 12/45")
    assert change(staff, grok, LanguageModelForm, **row).status_code == 302
    price = snapshot.load().models["grok-4"].price
    assert price is not None
    assert [(tier.above, tier.price.input_usd_per_mtok) for tier in price.tiers] == [(128_000, 6), (256_000, 12)]
    assert price.tiers[0].price.cached_input_usd_per_mtok is None
    assert price.tiers[0].price.cache_write_usd_per_mtok == Decimal("7.5")
    page = staff.get(reverse("admin:routing_languagemodel_change", args=[grok.pk])).content.decode()
    assert "128000: 6.00 / 22.50 / - / 7.50" in page


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("6 / 22.5", "Line 1 should read like"),
        ("100: 6", "Line 1 should read like"),
        ("100: 6 / -1", "Line 1: output"),
        ("100: 6 / x", "Line 1: output"),
        ("-5: 6 / 7", "Line 1 should read like"),
        ("99999999999: 6 / 7", "Line 1 should read like"),
        ("9999999999: 6 / 7", "Line 1: above input tokens"),
        ("100: 6 / 7\n100: 8 / 9", "Line 2: its number of tokens must be more"),
        ("\n".join(f"{number}: 6 / 7" for number in range(1, 13)), "At most 10 tiers"),
    ],
)
def test_tiers_that_mean_nothing_are_refused(staff: Client, lines: str, reason: str) -> None:
    grok = LanguageModel.objects.get(slug="grok-4")
    assert reason in text_of(change(staff, grok, LanguageModelForm, **price_row(tiers=lines)))
    assert not grok.prices.exists()


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "1e9", "", "0.1234567", "abc"])
def test_a_price_that_is_none_is_refused(staff: Client, amount: str) -> None:
    grok = LanguageModel.objects.get(slug="grok-4")
    assert change(staff, grok, LanguageModelForm, **price_row(input_usd_per_mtok=amount)).status_code == 200
    assert not grok.prices.exists()


def test_a_model_that_something_speaks_of_is_not_deleted(staff: Client) -> None:
    haiku, opus = LanguageModel.objects.get(slug="claude-haiku-4-5"), LanguageModel.objects.get(slug="claude-opus")
    url = reverse("admin:routing_languagemodel_delete", args=[haiku.pk])
    assert "speaks of claude-haiku-4-5" in staff.get(url).content.decode()
    staff.post(url, {"post": "yes"})
    staff.post(reverse("admin:routing_languagemodel_delete", args=[opus.pk]), {"post": "yes"})
    kept = LanguageModel.objects.filter(slug__in=["claude-haiku-4-5", "claude-opus"])
    assert [model.slug for model in kept] == ["claude-haiku-4-5"]


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"limit_usd": "-1"}, "greater than or equal to 0"),
        ({"limit_usd": "NaN"}, "Enter a number."),
        ({"providers": "anthropic, nobody"}, "there is no provider 'nobody'"),
        ({"models": "gpt-9"}, "there is no model 'gpt-9'"),
        ({"api_keys": "nobody"}, "there is no API key named 'nobody'"),
        ({"alert_at_percent": "50, x"}, "should be whole numbers"),
        ({"alert_at_percent": "5000"}, "less than or equal to 1000"),
    ],
)
def test_a_budget_that_counts_nothing_is_refused(staff: Client, edits: dict[str, str], reason: str) -> None:
    assert reason in text_of(change(staff, Budget.objects.get(slug="monthly-cloud"), BudgetForm, **edits))


def test_a_budget_is_entered_in_dollars_and_its_scope_in_names(staff: Client) -> None:
    edits = {"limit_usd": "12.5", "models": "claude-opus\nclaude-haiku-4-5", "agent_levels": ["L1"]}
    assert change(staff, Budget.objects.get(slug="monthly-cloud"), BudgetForm, **edits).status_code == 302
    budget = Budget.objects.get(slug="monthly-cloud")
    assert budget.limit_microusd == 12_500_000
    assert budget.scope == {
        "locations": ["cloud"],
        "models": ["claude-opus", "claude-haiku-4-5"],
        "agent_levels": ["L1"],
    }


def test_a_budget_that_has_counted_is_not_deleted(staff: Client) -> None:
    budget = Budget.objects.get(slug="monthly-cloud")
    BudgetPeriod.objects.create(
        budget=budget, period="month", starts_at="2026-01-01T00:00Z", limit_microusd=1, hard=True
    )
    staff.post(reverse("admin:routing_budget_delete", args=[budget.pk]), {"post": "yes"})
    assert Budget.objects.exists()


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"time_zone": "Mars/Base"}, "is no time zone"),
        ({"time_zone": "posixrules"}, "is no time zone"),  # Python has such a file, the database does not
        ({"time_zone": "CET"}, "is no time zone"),  # the database would leave its summer time out
        ({"baseline_model": "gpt-9"}, "there is no model 'gpt-9'"),
        ({"electricity_usd_per_kwh": "-1"}, "greater than or equal to 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(staff: Client, edits: dict[str, str], reason: str) -> None:
    assert reason in text_of(change(staff, RoutingSettings.objects.get(), SettingsForm, **edits))


# --- rules and policies ----------------------------------------------------------------------------


def live_rule(name: str) -> RoutingRule:
    return RoutingRule.objects.get(policy__state="live", name=name)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"chain": "gpt-9, offline"}, "there is no model 'gpt-9'"),
        ({"chain": ""}, "is empty: name at least one model"),
        ({"chain": "kimi-k2"}, "no model of the chain can serve"),
        ({"chain": "offline, offline"}, "is listed twice"),
        ({"complexity_above": "0.9", "complexity_at_most": "0.4"}, "can never hold together"),
        ({"complexity_above": "1.5"}, "less than or equal to 1"),
        ({"complexity_above": "NaN"}, "Enter a number."),
        ({"name": "moderate"}, "is used twice"),
        ({"pattern": "ensemble", "chain": "offline"}, "needs at least two models"),
        ({"verifier": "phi3"}, "the pattern single knows no verifier"),
        ({"max_attempts": "99"}, "less than or equal to 20"),
        ({"rollout_percent": "101"}, "less than or equal to 100"),
        ({"capabilities": "teleport"}, "no model of the chain has the capability"),
        ({"agent_levels": ["L9"]}, "not one of the available choices"),
    ],
)
def test_a_rule_that_would_break_routing_is_refused(staff: Client, edits: dict[str, Any], reason: str) -> None:
    before = ConfigEpoch.objects.get().epoch
    assert reason in text_of(change(staff, live_rule("simple"), RuleForm, **edits))
    assert ConfigEpoch.objects.get().epoch == before
    assert RoutingPolicy.objects.count() == 1


def test_saving_an_untouched_rule_keeps_it_as_it_is(staff: Client) -> None:
    before = snapshot.load().policy.rules
    for name in ("simple", "cascade", "draft, then refine", "medium and low analysis", "complex, ample budget"):
        rule = RoutingRule.objects.filter(policy__state="live", name=name).first()
        assert rule is None or change(staff, rule, RuleForm).status_code == 302
    assert snapshot.load().policy.rules == before


def test_an_edit_of_a_live_rule_is_in_force_and_can_be_rolled_back(staff: Client) -> None:
    edits = {"chain": "phi3, offline", "max_attempts": "2", "complexity_at_most": "0.3"}
    assert change(staff, live_rule("simple"), RuleForm, **edits).status_code == 302
    now = snapshot.load().policy
    assert now.version == 2
    (rule,) = [rule for rule in now.rules if rule.name == "simple"]
    assert (rule.chain, rule.options.max_attempts, rule.when.complexity.at_most) == (("phi3", "offline"), 2, 0.3)
    first = RoutingPolicy.objects.get(version=1)
    assert (first.state, RoutingPolicy.objects.get(version=2).published_by) == ("retired", "admin")
    look_and_confirm(staff, act(staff, "routingpolicy", "look", first))
    assert [rule.chain for rule in snapshot.load().policy.rules if rule.name == "simple"] == [
        ("llama3.2", "claude-haiku-4-5", "offline")
    ]


def test_a_rule_is_moved_by_its_position(staff: Client) -> None:
    assert change(staff, live_rule("simple"), RuleForm, position="1").status_code == 302
    names = [rule.name for rule in snapshot.load().policy.rules]
    assert names[:2] == ["simple", "verified answer"]
    warned = staff.get(reverse("admin:routing_routingrule_changelist")).content.decode()
    assert "is never reached" in warned


def test_a_retired_version_is_only_looked_at(staff: Client) -> None:
    policies.put_live(PolicyEntry(slug="default", rules=[RuleEntry(name="all", chain=["offline"])]), by="x")
    old = RoutingPolicy.objects.get(version=1)
    rule = old.rules.first()
    assert rule is not None
    assert staff.get(reverse("admin:routing_routingrule_change", args=[rule.pk])).status_code == 200
    assert change(staff, rule, RuleForm, chain="offline").status_code == 403
    assert staff.post(reverse("admin:routing_routingpolicy_delete", args=[old.pk]), {"post": "yes"}).status_code == 403


def order_form(policy: RoutingPolicy, **edits: str) -> dict[str, str]:
    rules = list(policy.rules.order_by("position"))
    data = {"notes": policy.notes, "rules-TOTAL_FORMS": str(len(rules)), "rules-INITIAL_FORMS": str(len(rules))}
    for index, rule in enumerate(rules):
        data |= {f"rules-{index}-id": str(rule.pk), f"rules-{index}-policy": str(policy.pk)}
        data[f"rules-{index}-position"] = str(rule.position)
    return data | {name.replace("__", "-"): value for name, value in edits.items()}


def test_rules_are_swapped_and_taken_away_on_the_page_of_their_policy(staff: Client) -> None:
    live = RoutingPolicy.objects.get(state="live")
    url = reverse("admin:routing_routingpolicy_change", args=[live.pk])
    names = [rule.name for rule in snapshot.load().policy.rules]
    edits = {"rules__0__position": "2", "rules__1__position": "1", "rules__2__DELETE": "on"}
    assert staff.post(url, order_form(live, **edits)).status_code == 302
    assert [rule.name for rule in snapshot.load().policy.rules] == [names[1], names[0], *names[3:]]
    assert snapshot.load().policy.version == 2
    live.refresh_from_db()
    twice = order_form(live, rules__0__position="2")
    assert "Two rules have the same position." in text_of(staff.post(url, twice))  # type: ignore[arg-type]


def test_the_last_rule_of_the_live_policy_is_not_taken_away(staff: Client) -> None:
    live = policies.put_live(PolicyEntry(slug="one", rules=[RuleEntry(name="all", chain=["offline"])]), by="x")
    url = reverse("admin:routing_routingpolicy_change", args=[live.pk])
    response = staff.post(url, order_form(live, rules__0__DELETE="on"))
    assert "a live policy needs at least one rule" in text_of(response)  # type: ignore[arg-type]


def test_a_draft_is_made_filled_and_published_in_the_admin(staff: Client) -> None:
    staff.post(
        reverse("admin:routing_routingpolicy_add"),
        {"slug": "night", "notes": "", "rules-TOTAL_FORMS": "0", "rules-INITIAL_FORMS": "0"},
    )
    draft = RoutingPolicy.objects.get(slug="night")
    assert (draft.state, draft.created_by) == ("draft", "admin")
    refused = look_and_confirm(staff, act(staff, "routingpolicy", "look", draft)).content.decode()
    assert "a live policy needs at least one rule" in refused
    rule = {"policy": draft.pk, "position": 1, "name": "all", "pattern": "single", "chain": "llama3.2, offline"}
    response = staff.post(reverse("admin:routing_routingrule_add"), rule)
    assert response.status_code == 302, response.context["adminform"].form.errors
    url = reverse("admin:routing_routingpolicy_change", args=[draft.pk])
    page = staff.post(url, order_form(draft, routing_routingpolicy_save_and_look="1"), follow=True)
    assert snapshot.load().policy.slug == "default"
    look_and_confirm(staff, page)
    assert snapshot.load().policy.slug == "night"


def test_what_is_chosen_in_the_list_is_published_only_as_it_was_looked_at(staff: Client) -> None:
    draft = policies.duplicate(RoutingPolicy.objects.get(state="live"), by="x")
    page = act(staff, "routingpolicy", "look", draft)
    change(staff, draft.rules.get(name="simple"), RuleForm, chain="offline")
    assert "have changed since you looked" in look_and_confirm(staff, page).content.decode()
    assert snapshot.load().policy.version == 1
    assert "Choose one version." in act(staff, "routingpolicy", "look", *RoutingPolicy.objects.all()).content.decode()


def test_edits_of_a_draft_are_kept_with_who_made_them(staff: Client) -> None:
    live = RoutingPolicy.objects.get(state="live")
    draft = policies.duplicate(live, by="x")
    change(staff, draft.rules.get(name="simple"), RuleForm, chain="offline")
    url = reverse("admin:routing_routingpolicy_change", args=[draft.pk])
    staff.post(url, order_form(draft, notes="for the night", rules__0__DELETE="on"))
    second, first = draft.edits.all()
    assert (first.edited_by, second.edited_by) == ("admin", "admin")
    assert "@@ simple @@\n-chain: [llama3.2, claude-haiku-4-5, offline]\n+chain: [offline]" in first.changes
    assert "+notes: for the night" in second.changes
    assert "@@ verified answer @@" in second.changes
    staff.post(url, order_form(draft, notes="for the night"))
    assert draft.edits.count() == 2  # nothing was changed
    change(staff, live_rule("simple"), RuleForm, chain="offline")
    assert not PolicyEdit.objects.exclude(policy=draft).exists()  # that made a version, which says who
    page = staff.get(f"/policies/default/{draft.version}/").content.decode()
    assert "admin at" in page
    assert "+chain: [offline]" in page


def test_the_changes_of_a_version_are_shown(staff: Client) -> None:
    draft = policies.duplicate(RoutingPolicy.objects.get(state="live"), by="x")
    rule = draft.rules.get(name="simple")
    assert change(staff, rule, RuleForm, chain="offline").status_code == 302
    page = staff.get(reverse("admin:routing_routingpolicy_change", args=[draft.pk])).content.decode()
    assert "+chain: [offline]" in page


# --- secrets ---------------------------------------------------------------------------------------


def test_a_providers_key_is_stored_encrypted_kept_and_never_shown(staff: Client) -> None:
    openai = Provider.objects.get(slug="openai")
    change(staff, openai, ProviderForm, new_api_key="sk-very-secret")
    openai.refresh_from_db()
    assert openai.api_key == "sk-very-secret"
    for url in (
        reverse("admin:routing_provider_changelist"),
        reverse("admin:routing_provider_change", args=[openai.pk]),
        reverse("admin:routing_provider_history", args=[openai.pk]),
    ):
        assert "sk-very-secret" not in staff.get(url).content.decode()
    change(staff, openai, ProviderForm, max_requests_per_day="5")
    openai.refresh_from_db()
    assert openai.api_key == "sk-very-secret"
    change(staff, openai, ProviderForm, forget_api_key="on")
    openai.refresh_from_db()
    assert openai.api_key == ""


def test_an_api_key_is_shown_once_and_renewed(staff: Client) -> None:
    data = {"name": "nightly", "scopes": ["gateway", "coordinator"], "enabled": "on"}
    page = staff.post(reverse("admin:ziggie_apikey_add"), data, follow=True).content.decode()
    raw_key = page.split("<code>")[1].split("</code>")[0]
    caller = authenticate_key(raw_key)
    assert caller is not None
    assert caller.scopes == {"gateway", "coordinator"}
    assert raw_key not in staff.get(reverse("admin:ziggie_apikey_changelist")).content.decode()
    key = ApiKey.objects.get()
    edit = data | {"name": "renamed"}
    staff.post(reverse("admin:ziggie_apikey_change", args=[key.pk]), edit)
    assert authenticate_key(raw_key) is not None
    url = reverse("admin:ziggie_apikey_changelist")
    page = staff.post(url, {"action": "rotate", "_selected_action": [key.pk]}, follow=True).content.decode()
    fresh = page.split("<code>")[1].split("</code>")[0]
    assert authenticate_key(raw_key) is not None
    assert raw_key[:10] in staff.get(reverse("admin:ziggie_apikey_change", args=[key.pk])).content.decode()
    staff.post(url, {"action": "renew", "_selected_action": [key.pk]}, follow=True)
    assert authenticate_key(raw_key) is None
    assert authenticate_key(fresh) is None


@pytest.mark.parametrize("scopes", [[], ["root"]])
def test_an_api_key_without_a_known_scope_is_refused(staff: Client, scopes: list[str]) -> None:
    response = staff.post(reverse("admin:ziggie_apikey_add"), {"name": "n", "scopes": scopes, "enabled": "on"})
    assert response.status_code == 200
    assert not ApiKey.objects.exists()


# --- asking a provider -----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_provider_is_tested_from_its_list(staff: Client) -> None:
    with OllamaServer() as server:
        ollama = Provider.objects.get(slug="ollama")
        Provider.objects.filter(slug="ollama").update(base_url=server.url)
        page = act(staff, "provider", "test_providers", ollama).content.decode()
        assert "ollama: answers and has" in page
    page = act(staff, "provider", "test_providers", ollama).content.decode()
    assert "ollama: does not serve" in page
    others = list(Provider.objects.filter(slug__in=["offline", "vllm", "anthropic"]))
    page = act(staff, "provider", "test_providers", *others).content.decode()
    assert "offline: is built in and always answers" in page
    assert "vllm: has no model yet" in page
    assert "anthropic: has no API key" in page


@pytest.mark.django_db(transaction=True)
def test_a_test_of_a_provider_knows_what_its_check_knows(staff: Client) -> None:
    refused = {"error": {"message": "Missing scopes: api.model.read.", "type": "invalid_request_error"}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.send_json(403, refused)

    provider = Provider.objects.get(slug="ollama")
    LanguageModel.objects.filter(provider=provider).update(enabled=False)
    with OllamaServer() as server, HTTPServer(refuse) as hosted:
        server.models = ("qwen2.5:14b",)
        Provider.objects.filter(pk=provider.pk).update(base_url=server.url)
        for name in ("Qwen2.5:14B", "kimi-k2.5:cloud"):
            LanguageModel.objects.filter(slug="llama3.2").update(name=name, enabled=True)
            assert "but not" not in act(staff, "provider", "test_providers", provider).content.decode(), name
        LanguageModel.objects.filter(slug="llama3.2").update(name="phi3")
        assert "but not llama3.2" in act(staff, "provider", "test_providers", provider).content.decode()
        Provider.objects.filter(pk=provider.pk).update(kind="openai", base_url=hosted.url)
        page = act(staff, "provider", "test_providers", provider).content.decode()
        assert "ollama: answers, though its key may not read the list of models" in page
