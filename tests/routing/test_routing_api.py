"""Routing over REST: reading for keys, writing for staff and admins, the same checks as everywhere."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client

from routing.configuration import snapshot
from routing.models import Budget, BudgetPeriod, LanguageModel, Provider, RoutingPolicy
from tests.seeding import seed
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db

LISTS = ("providers", "models", "policies", "rules", "budgets")


class Api:
    """JSON in, JSON out, with one key."""

    def __init__(self, *scopes: str) -> None:
        self.client = Client()
        self.headers = {}
        if scopes:
            _, raw_key = create_api_key("-".join(scopes), scopes=list(scopes))
            self.headers = {"Authorization": f"Bearer {raw_key}"}

    def __call__(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        response = self.client.generic(
            method,
            f"/api/{path}",
            json.dumps(body) if body is not None else "",
            content_type="application/json",
            headers=self.headers,
        )
        assert response.status_code == expect, response.content
        return json.loads(response.content) if response.content else None


@pytest.fixture
def admin(db: None) -> Iterator[Api]:
    seed()
    yield Api("admin")
    snapshot.forget()


def problems(answer: Any) -> list[str]:
    return [f"{detail['place']}: {detail['problem']}" for detail in answer["error"]["details"]]


# --- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*(f"routing/{name}" for name in LISTS), "routing/settings", "budgets"])
def test_reading_needs_a_key_and_coordinators_may(admin: Api, path: str) -> None:
    Api()("GET", path, expect=401)
    Api("gateway")("GET", path, expect=403)
    Api("coordinator")("GET", path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "routing/providers"),
        ("PATCH", "routing/providers/ollama"),
        ("POST", "routing/models"),
        ("PATCH", "routing/models/phi3"),
        ("POST", "routing/budgets"),
        ("PATCH", "routing/budgets/monthly-cloud"),
        ("PATCH", "routing/settings"),
        ("POST", "routing/policies"),
        ("PUT", "routing/policies/default/1"),
        ("POST", "routing/policies/default/1/publish"),
        ("POST", "routing/policies/default/1/rollback"),
        ("POST", "routing/policies/default/1/duplicate"),
        ("POST", "routing/rules"),
        ("PATCH", "routing/rules/simple"),
        ("DELETE", "routing/rules/simple"),
    ],
)
def test_writing_needs_the_scope_admin_or_a_staff_session(admin: Api, method: str, path: str) -> None:
    Api()(method, path, {}, expect=401)
    Api("coordinator")(method, path, {}, expect=403)


@pytest.mark.parametrize(
    ("method", "path", "body", "permissions"),
    [
        ("PATCH", "budgets/monthly-cloud", {"limit_usd": "5"}, ["change_budget"]),
        ("PATCH", "providers/ollama", {"timeout_seconds": 7}, ["change_provider"]),
        ("PATCH", "settings", {"strategy": "balanced"}, ["change_routingsettings"]),
        ("PUT", "file", {"settings": {"strategy": "balanced"}}, ["change_routingpolicy"]),
    ],
)
def test_staff_write_what_their_permissions_let_them_change_in_the_admin(
    admin: Api, method: str, path: str, body: Any, permissions: list[str]
) -> None:
    user = get_user_model().objects.create_user("weak", password="x", is_staff=True)
    client = Client()
    client.force_login(user)
    address = f"/api/routing/{path}"
    assert client.get(address).status_code == 200
    assert client.generic(method, address, json.dumps(body), content_type="application/json").status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    assert client.generic(method, address, json.dumps(body), content_type="application/json").status_code == 200


def test_a_staff_session_writes(admin: Api, admin_client: Client) -> None:
    body = json.dumps({"max_concurrency": 3})
    assert admin_client.patch("/api/routing/providers/ollama", body, content_type="application/json").status_code == 200
    assert Provider.objects.get(slug="ollama").max_concurrency == 3


# --- rows ------------------------------------------------------------------------------------------


def test_lists_are_cut_into_pages(admin: Api) -> None:
    first = admin("GET", "routing/models?page_size=10")
    assert len(first["results"]) == 10
    second = admin("GET", first["next"].split("/api/")[1])
    slugs = [model["slug"] for model in first["results"] + second["results"]]
    assert slugs == sorted(slugs)
    assert len(set(slugs)) == 20


def test_a_provider_is_shown_without_its_key(admin: Api) -> None:
    provider = Provider.objects.get(slug="openai")
    provider.api_key = "sk-very-secret"
    provider.save()
    for path in ("routing/providers", "routing/providers/openai"):
        assert "secret" not in json.dumps(admin("GET", path))
    refused = admin("PATCH", "routing/providers/openai", {"api_key": "sk-2"}, expect=400)
    assert problems(refused) == [
        "providers[0].api_key: unknown key: keys are not kept here; name an environment variable in api_key_env"
    ]


def test_a_factor_of_a_provider_may_be_a_fraction(admin: Api) -> None:
    changed = admin("PATCH", "routing/providers/openai", {"options": {"pdf_token_factor": 2.5}})
    assert changed["options"] == {"pdf_token_factor": 2.5}
    assert admin("GET", "routing/providers/openai")["options"] == {"pdf_token_factor": 2.5}
    refused = admin("PATCH", "routing/providers/openai", {"options": {"pdf_token_factor": "2.5"}}, expect=400)
    assert "options.pdf_token_factor: should be a number from 1 to 1000, not '2.5'" in problems(refused)[0]


def test_rows_are_added_and_changed_key_by_key(admin: Api) -> None:
    provider = {"slug": "gpu2", "kind": "openai", "location": "local", "base_url": "http://gpu2:8000/v1"}
    assert admin("POST", "routing/providers", provider, expect=201)["enabled"] is True
    admin("POST", "routing/providers", provider, expect=409)
    model = {"slug": "qwen/3:8b", "provider": "gpu2", "name": "Qwen/Qwen3-8B", "context_window": 32768}
    admin("POST", "routing/models", model, expect=201)
    changed = admin("PATCH", "routing/models/qwen/3:8b", {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": 1})
    assert (changed["input_usd_per_mtok"], changed["output_usd_per_mtok"]) == ("0.50", "1.00")
    assert changed["context_window"] == 32768
    price = snapshot.load().models["qwen/3:8b"].price
    assert price is not None
    assert price.input_usd_per_mtok * 2 == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("PATCH", "providers/ollama", {"base_url": "gpu"}, "providers[0].base_url: should start with http"),
        ("PATCH", "providers/ollama", {"slug": "x"}, None),
        ("PATCH", "models/phi3", {"context_window": "many"}, "models[0].context_window: should be a whole number"),
        ("PATCH", "models/phi3", {"provider": "x", "colour": 1}, "models[0].provider: there is no provider 'x'"),
        ("PATCH", "budgets/monthly-cloud", {"limit_usd": -1}, "budgets[0].limit_usd: should be greater than"),
        ("PATCH", "settings", {"strategy": "fast"}, "settings.strategy: should be 'cost-optimized'"),
        ("PATCH", "rules/simple", {"chain": []}, "policies[0].rules[37].chain: is empty"),
        ("PATCH", "rules/simple", {"name": "moderate"}, "policies[0].rules[37].name: 'moderate' is used twice"),
        ("POST", "rules", {"chain": ["offline"]}, "policies[0].rules[38].name: is missing"),
        ("POST", "policies", {"slug": "x", "rules": [{"name": "a", "x": 1}]}, "policies[0].rules[0].x: unknown key"),
        ("POST", "providers", [], None),
        ("POST", "models", {}, "models[0].slug: is missing"),
    ],
)
def test_a_bad_body_is_refused_with_every_mistake_and_changes_nothing(
    admin: Api, method: str, path: str, body: Any, problem: str | None
) -> None:
    before = snapshot.load().epoch
    refused = admin(method, f"routing/{path}", body, expect=400)
    assert refused["error"]["code"] == "invalid_input"
    if problem:
        assert any(line.startswith(problem) for line in problems(refused)), problems(refused)
    assert snapshot.load().epoch == before


@pytest.mark.parametrize("path", ["providers/x", "models/x/y", "budgets/x", "policies/x/1", "rules/x"])
def test_what_is_not_there_is_not_found(admin: Api, path: str) -> None:
    assert admin("GET", f"routing/{path}", expect=404)["error"]["code"] == "not_found"


# --- policies and rules ----------------------------------------------------------------------------


def test_a_draft_is_written_replaced_published_and_rolled_back(admin: Api) -> None:
    rules = [{"name": "all", "chain": ["offline"]}]
    draft = admin("POST", "routing/policies", {"slug": "default", "rules": rules}, expect=201)
    assert (draft["version"], draft["state"], draft["created_by"]) == (2, "draft", "admin")
    rules[0]["chain"] = ["phi3", "offline"]
    admin("PUT", "routing/policies/default/2", {"rules": rules})
    assert "-chain" not in admin("GET", "routing/policies/default/2")["changes"].split("@@ all @@")[1][:20]
    assert admin("POST", "routing/policies/default/2/publish")["state"] == "live"
    assert admin("POST", "routing/policies/default/2/publish", expect=409)["error"]["code"] == "conflict"
    assert snapshot.load().policy.rules[0].chain == ("phi3", "offline")
    back = admin("POST", "routing/policies/default/1/rollback")
    assert (back["version"], back["state"], len(back["rules"])) == (3, "live", 38)
    assert admin("PUT", "routing/policies/default/1", {"rules": rules}, expect=409)
    assert admin("POST", "routing/policies/default/1/duplicate")["state"] == "draft"
    assert [policy["version"] for policy in admin("GET", "routing/policies")["results"]] == [4, 3, 2, 1]


def test_a_draft_that_cannot_serve_is_not_published(admin: Api) -> None:
    admin("POST", "routing/policies", {"slug": "x", "rules": [{"name": "all", "chain": ["gpt-9"]}]}, expect=201)
    refused = admin("POST", "routing/policies/x/1/publish", expect=400)
    assert problems(refused) == ["rules[0].chain[0]: there is no model 'gpt-9'"]
    assert RoutingPolicy.objects.get(state="live").slug == "default"


def test_a_draft_says_what_is_wrong_and_what_is_unwise_about_it(admin: Api) -> None:
    rules = [{"name": "all", "chain": ["offline"]}, {"name": "never", "chain": ["gpt-9"]}]
    draft = admin("POST", "routing/policies", {"slug": "x", "rules": rules}, expect=201)
    assert [(problem["place"], problem["warning"]) for problem in draft["problems"]] == [
        ("rules[1].chain[0]", False),
        ("rules[1]", True),
    ]
    assert "is never reached" in admin("GET", "routing/policies/x/1")["problems"][1]["problem"]
    assert admin("PUT", "routing/policies/x/1", {"rules": rules[:1]})["problems"] == []


@pytest.mark.django_db(transaction=True)
def test_rules_that_are_added_at_the_same_time_are_all_kept(admin: Api) -> None:
    def add(number: int) -> None:
        try:
            admin("POST", "routing/rules", {"name": f"n{number}", "chain": ["offline"]}, expect=201)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(add, range(6)))
    names = [rule["name"] for rule in admin("GET", "routing/rules?page_size=500")["results"]]
    assert sorted(names[-6:]) == [f"n{number}" for number in range(6)]


def test_rules_of_the_live_policy_are_listed_in_order_changed_added_and_taken_away(admin: Api) -> None:
    rules = admin("GET", "routing/rules?page_size=500")["results"]
    assert [rule["position"] for rule in rules] == list(range(1, 39))
    changed = admin("PATCH", "routing/rules/simple", {"chain": ["phi3", "offline"]})
    assert (changed["chain"], changed["version"], changed["position"]) == (["phi3", "offline"], 2, 38)
    added = admin(
        "POST", "routing/rules", {"name": "poems", "position": 1, "chain": ["mistral", "offline"]}, expect=201
    )
    assert added["position"] == 1
    admin("DELETE", "routing/rules/poems", expect=204)
    assert snapshot.load().policy.version == 4
    old = admin("GET", "routing/rules?policy=default&version=1&page_size=500")["results"]
    assert [rule["chain"] for rule in old] == [rule["chain"] for rule in rules]
    admin("GET", "routing/rules?policy=default&version=x", expect=400)
    admin("GET", "routing/rules?policy=nobody", expect=404)


def test_each_edit_of_a_draft_is_kept_with_who_made_it_and_what_it_changed(admin: Api) -> None:
    rule = {"name": "all", "chain": ["offline"]}
    made = admin("POST", "routing/policies", {"slug": "night", "rules": [rule]}, expect=201)
    path = f"routing/policies/night/{made['version']}"
    assert admin("GET", f"{path}/edits")["results"] == []
    admin("PUT", path, {"rules": [rule | {"chain": ["phi3", "offline"]}]})
    admin("PUT", path, {"rules": [rule | {"chain": ["phi3", "offline"]}], "notes": "quiet"})
    admin("PUT", path, {"rules": [rule | {"chain": ["phi3", "offline"]}], "notes": "quiet"})  # changes nothing
    newest, first = admin("GET", f"{path}/edits")["results"]
    assert first["changes"].splitlines() == ["@@ all @@", "-chain: [offline]", "+chain: [phi3, offline]"]
    assert (first["edited_by"], newest["edited_by"]) == ("admin", "admin")
    assert "+notes: quiet" in newest["changes"]
    admin("PUT", "routing/file", {"policies": [{"slug": "night", "rules": [rule]}]})
    assert len(admin("GET", f"{path}/edits")["results"]) == 3
    admin("POST", f"{path}/publish")
    assert len(admin("GET", f"{path}/edits")["results"]) == 3  # they stay with the version
    Api("coordinator")("GET", f"{path}/edits")
    admin("GET", "routing/policies/night/99/edits", expect=404)


def test_nothing_is_published_but_what_was_seen(admin: Api) -> None:
    rule = {"name": "all", "chain": ["offline"]}
    made = admin("POST", "routing/policies", {"slug": "night", "rules": [rule]}, expect=201)
    path = f"routing/policies/night/{made['version']}"
    seen = admin("GET", path)["fingerprint"]
    admin("PUT", path, {"rules": [rule | {"chain": ["phi3", "offline"]}]})
    refused = admin("POST", f"{path}/publish", {"fingerprint": seen}, expect=412)
    assert refused["error"]["code"] == "changed"
    response = admin.client.generic("POST", f"/api/{path}/publish", headers=admin.headers | {"If-Match": f'"{seen}"'})
    assert response.status_code == 412
    lost = admin.client.put(
        f"/api/{path}",
        json.dumps({"rules": [rule]}),
        content_type="application/json",
        headers={**admin.headers, "If-Match": f'"{seen}"'},
    )
    assert lost.status_code == 412
    tag = admin.client.get(f"/api/{path}", headers=admin.headers).headers["ETag"]
    admin("POST", f"{path}/publish", {"fingerprints": seen}, expect=400)
    response = admin.client.generic("POST", f"/api/{path}/publish", headers=admin.headers | {"If-Match": tag})
    assert (response.status_code, response.json()["state"]) == (200, "live")
    before = "routing/policies/default/1"
    admin("POST", f"{before}/rollback", {"fingerprint": seen}, expect=412)
    admin("POST", f"{before}/rollback", {"fingerprint": admin("GET", before)["fingerprint"]})
    assert snapshot.load().policy.slug == "default"


# --- budgets and explain ---------------------------------------------------------------------------


def test_budgets_say_what_is_left_before_and_after_the_first_call(admin: Api) -> None:
    (fresh,) = [one for one in admin("GET", "budgets") if one["slug"] == "monthly-cloud"]
    assert {**fresh, "period_start": "", "period_end": ""} == {
        "slug": "monthly-cloud",
        "period": "month",
        "period_start": "",
        "period_end": "",
        "hard": True,
        "limit_usd": "10.000000",
        "settled_usd": "0.000000",
        "held_usd": "0.000000",
        "left_usd": "10.000000",
    }
    assert fresh["period_start"].endswith("-01T00:00:00Z")
    BudgetPeriod.objects.create(
        budget=Budget.objects.get(slug="monthly-cloud"),
        period="month",
        starts_at=fresh["period_start"],
        ends_at=fresh["period_end"],
        limit_microusd=10_000_000,
        hard=True,
        settled_microusd=1_500_000,
        held_microusd=90_000,
    )
    (used,) = [one for one in admin("GET", "budgets") if one["slug"] == "monthly-cloud"]
    assert (used["settled_usd"], used["held_usd"], used["left_usd"]) == ("1.500000", "0.090000", "8.410000")


@pytest.mark.django_db(transaction=True)
def test_explain_says_which_model_would_serve_and_why_not_the_others(admin: Api) -> None:
    body = {"task_kind": "analysis", "creator_tier": "low"}
    said = Api("coordinator")("POST", "routing/explain", body)
    assert set(said) >= {"policy", "version", "rule", "pattern", "chosen", "candidates", "features"}
    assert (said["rule"], said["chosen"]) == ("medium and low analysis", "llama3.2")
    states = {candidate["model"]: candidate["state"] for candidate in said["candidates"]}
    assert states["offline"] == "fallback"
    assert all(candidate["reason"] for candidate in said["candidates"])
    none = admin("POST", "routing/explain", {"capabilities": ["teleport"]})
    assert (none["chosen"], none["rule"], none["error"]["code"]) == (None, "moderate", "no_route")
    assert {candidate["state"] for candidate in none["candidates"]} == {"dropped"}
    admin("POST", "routing/explain", {"model": "gpt-99"}, expect=404)
    for bad in ({"complexity": 2}, {"complexity": "NaN"}, {"agent_level": "L9"}, {"context_tokens": -1}):
        admin("POST", "routing/explain", bad, expect=400)


def test_explain_names_every_mistake_with_its_place(admin: Api) -> None:
    body = {"task_knd": "analysis", "complexity": 7, "capabilities": ["x" * 61], "agent_level": "L1"}
    found = problems(admin("POST", "routing/explain", body, expect=400))
    assert [line.split(":")[0] for line in found] == ["task_knd", "complexity", "capabilities[0]"]
    assert "unknown key; known are task_kind," in found[0]
    assert problems(admin("POST", "routing/explain", [1], expect=400))
    replay = admin("POST", "routing/policies/default/1/replay", {"day": 7}, expect=400)
    assert problems(replay) == ["day: unknown key; known are days, max_calls"]


def test_the_schema_describes_every_endpoint(admin_client: Client) -> None:
    schema, again = (json.loads(admin_client.get("/api/schema/?format=json").content) for _ in range(2))
    assert again == schema
    paths = {path for path in schema["paths"] if path.startswith("/api/routing")}
    assert {f"/api/routing/{name}" for name in (*LISTS, "settings", "explain")} <= paths
    described = schema["components"]["schemas"]
    assert "slug" in described["ProviderEntry"]["required"]
    assert "required" not in described["PatchedProviderEntry"]
    assert LanguageModel.objects.count() == 0
