"""Policies in the browser: versions, a draft with its evidence, publishing once, files, the older JSON."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from routing import service
from routing.configuration import policies, routing_file, snapshot
from routing.models import BatchItem, ProviderBatch, RoutingPolicy, RoutingRule, ShadowComparison
from routing.types import ChatRequest, Hints, message
from tests.installation import Installation, installed
from tests.routing.pages_support import seen, staff_client, value_in
from tests.seeding import seed
from tests.servers import Reply
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db
with_traffic = pytest.mark.django_db(transaction=True)
RIGHTS = ("routing.change_routingpolicy", "routing.add_routingpolicy")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text="the local answer", input_tokens=1000, output_tokens=200)
        yield installation


@pytest.fixture
def staff(db: None) -> Client:
    if not RoutingPolicy.objects.exists():
        seed()
    return staff_client(*RIGHTS)


def draft(**chains: list[str]) -> RoutingPolicy:
    """A draft of the live rules with other chains, by the rule's name with _ for spaces."""
    live = policies.entry_of(RoutingPolicy.objects.get(state="live"))
    other = {name.replace("_", " "): chain for name, chain in chains.items()}
    rules = [rule.model_copy(update={"chain": other.get(rule.name, rule.chain)}) for rule in live.rules]
    return policies.create_draft(live.model_copy(update={"rules": rules}), by="nina")


def ask(kind: str = "nl_query") -> None:
    snapshot.forget()
    request = ChatRequest((message("user", "What is a sprite?"),), hints=Hints(task_kind=kind), max_output_tokens=300)
    service.submit(request).result(timeout=60)


def publish(client: Client, policy: RoutingPolicy) -> Any:
    path = f"/policies/{policy.slug}/{policy.version}/publish/"
    return client.post(path, {"seen": value_in(client.get(path), "seen")}, follow=True)


def live_versions() -> list[int]:
    return list(RoutingPolicy.objects.filter(state="live").values_list("version", flat=True))


# --- versions ------------------------------------------------------------------------------------


def test_versions_show_who_made_and_published_them(staff: Client) -> None:
    made = draft(system_query=["claude-haiku-4-5"])
    publish(staff, made)
    shown = seen(staff.get("/policies/"))
    assert "default version 2 , " in shown
    assert "published by staff" in shown
    assert "nina" in shown
    one = seen(staff.get("/policies/default/2/"))
    assert "Difference to default version 1" in one
    assert "-chain: [llama3.2, claude-haiku-4-5, offline]" in one
    assert "+chain: [claude-haiku-4-5]" in one
    assert "task kinds: nl_query" in one


def test_a_version_of_every_pattern_can_be_read(staff: Client) -> None:
    shown = seen(staff.get("/policies/default/1/"))
    for pattern in ("verify", "cascade", "ensemble", "debate", "critique"):
        assert pattern in shown
    assert "members: llama3.2, qwen2.5:7b, mistral" in shown


def test_what_people_wrote_into_a_policy_is_shown_as_text(staff: Client) -> None:
    made = draft()
    RoutingPolicy.objects.filter(pk=made.pk).update(notes=HOSTILE, created_by=HOSTILE)
    made.rules.filter(position=1).update(name="<b>bold</b>")
    for path in ("/policies/", "/policies/default/2/", "/policies/default/2/publish/"):
        page = staff.get(path).content.decode()
        assert HOSTILE not in page
        assert "<b>bold" not in page


# --- publishing ----------------------------------------------------------------------------------


@with_traffic
def test_the_publish_page_shows_the_difference_beside_what_recorded_traffic_says(
    here: Installation, staff: Client
) -> None:
    for _ in range(3):
        ask()
    made = draft(system_query=["claude-haiku-4-5", "offline"])
    shown = seen(staff.get(f"/policies/default/{made.version}/publish/"))
    assert "+chain: [claude-haiku-4-5, offline]" in shown
    assert "The newest 3 of 3 calls of 7 days" in shown
    assert "3: llama3.2 → claude-haiku-4-5" in shown
    assert "+$0.0060" in shown
    assert "100 % → 0 %" in shown
    assert "monthly-cloud $10.00 of $10.00 lasts" in shown


@with_traffic
def test_the_publish_page_names_the_calls_that_nothing_would_serve(here: Installation, staff: Client) -> None:
    ask()
    made = draft(system_query=["claude-opus"])
    made.rules.filter(name="system query").update(capabilities=["vision"])
    made.rules.exclude(name="system query").delete()
    shown = staff.get(f"/policies/default/{made.version}/publish/")
    assert "1 call would be served by nothing." in seen(shown)
    assert "/usage/calls/" in shown.content.decode()


def test_publishing_makes_the_draft_live_once(staff: Client) -> None:
    made = draft(system_query=["claude-haiku-4-5"])
    path = f"/policies/default/{made.version}/publish/"
    form = {"seen": value_in(staff.get(path), "seen")}
    assert "default version 2 is live." in seen(staff.post(path, form, follow=True))
    again = staff.post(path, form, follow=True)
    assert live_versions() == [2]
    assert RoutingPolicy.objects.count() == 2
    assert again.redirect_chain[0][0] == "/policies/default/2/"


def test_rolling_back_twice_rolls_back_once(staff: Client) -> None:
    publish(staff, draft(system_query=["claude-haiku-4-5"]))
    path = "/policies/default/1/publish/"
    page = staff.get(path)
    assert "Roll back to default version 1?" in seen(page)
    form = {"seen": value_in(page, "seen")}
    assert "live again, as a new version" in seen(staff.post(path, form, follow=True))
    assert "have changed since you looked" in seen(staff.post(path, form, follow=True))
    assert (live_versions(), RoutingPolicy.objects.count()) == ([3], 3)


def test_what_was_changed_since_it_was_looked_at_is_not_published(staff: Client) -> None:
    made = draft(system_query=["claude-haiku-4-5"])
    path = f"/policies/default/{made.version}/publish/"
    form = {"seen": value_in(staff.get(path), "seen")}
    made.rules.filter(name="system query").update(chain=["claude-opus"])
    assert "have changed since you looked" in seen(staff.post(path, form, follow=True))
    assert "have changed since you looked" in seen(staff.post(path, follow=True))
    assert live_versions() == [1]


def test_a_draft_with_mistakes_is_refused_with_their_places(staff: Client) -> None:
    made = draft(system_query=["nobody", "nothing"])
    path = f"/policies/default/{made.version}/publish/"
    assert "mistake rules[19].chain[0] there is no model 'nobody'" in seen(staff.get(path))
    shown = seen(publish(staff, made))
    assert "cannot be published" in shown
    assert "rules[19].chain[1]: there is no model 'nothing'" in shown
    assert live_versions() == [1]


def test_a_version_is_duplicated_as_a_draft(staff: Client) -> None:
    staff.post("/policies/default/1/duplicate/")
    made = RoutingPolicy.objects.get(state="draft")
    assert (made.version, made.rules.count()) == (2, RoutingPolicy.objects.get(state="live").rules.count())


# --- explain -------------------------------------------------------------------------------------


@with_traffic
def test_explain_says_who_would_serve_and_why_not_the_others(here: Installation, staff: Client) -> None:
    shown = seen(staff.get("/policies/explain/?explain=1&task_kind=analysis&creator_tier=high&capabilities=vision"))
    assert "llava:13b would serve default version 1, rule: images" in shown
    assert "claude-haiku-4-5 anthropic, cloud fallback fallback 1" in shown
    assert "offline offline, offline dropped cannot do vision" in shown
    assert "Complexity 0.5 estimated" in shown
    stated = seen(staff.get("/policies/explain/?explain=1&complexity=0.95"))
    assert "Complexity 0.95 Context, tokens 0 estimated" in stated


@with_traffic
def test_explain_says_what_cannot_be_meant(here: Installation, staff: Client) -> None:
    assert "less than or equal to 1" in seen(staff.get("/policies/explain/?explain=1&complexity=7"))
    assert "no model" in seen(staff.get(f"/policies/explain/?explain=1&model={HOSTILE}"))
    assert HOSTILE not in staff.get(f"/policies/explain/?explain=1&model={HOSTILE}").content.decode()
    refused = seen(staff.get("/policies/explain/?explain=1&capabilities=telepathy"))
    assert "Nothing would serve" in refused
    assert "cannot do telepathy" in refused


# --- files ---------------------------------------------------------------------------------------


def upload(client: Client, text: str, path: str = "/policies/file/check/", **fields: str) -> Any:
    return client.post(path, {"file": SimpleUploadedFile("new.yaml", text.encode()), **fields})


def changed_file() -> str:
    data = routing_file.export_data()
    rule = next(rule for rule in data["policies"][0]["rules"] if rule["name"] == "system query")
    rule["chain"] = ["claude-haiku-4-5", "offline"]
    return json.dumps(data)


def test_the_routing_file_is_downloaded_as_it_is_in_force(staff: Client) -> None:
    response = staff.get("/policies/file/routing.yaml")
    assert response.content.decode() == routing_file.export()
    assert "routing.yaml" in response.headers["Content-Disposition"]
    assert json.loads(staff.get("/policies/file/routing.json").content) == routing_file.export_data()


@with_traffic
def test_a_file_is_looked_at_before_it_is_applied(here: Installation, staff: Client) -> None:
    ask()
    page = upload(staff, changed_file())
    shown = seen(page)
    assert "policies default version 2, live" in shown
    assert "+chain: [claude-haiku-4-5, offline]" in shown
    assert "1: llama3.2 → claude-haiku-4-5" in shown
    assert live_versions() == [1]
    form = {"text": changed_file(), "name": "new.yaml", "seen": value_in(page, "seen")}
    assert "new.yaml is applied" in seen(staff.post("/policies/file/apply/", form))
    assert live_versions() == [2]
    assert "has changed since this file was checked" in seen(staff.post("/policies/file/apply/", form), 409)
    assert live_versions() == [2]


def test_a_file_with_mistakes_shows_all_of_them_with_their_places(staff: Client) -> None:
    text = (
        "models:\n  - {slug: x, provider: nobody, name: x, context_window: 4096}\n"
        "budgets:\n  - {slug: b, limit_usd: -1}\n"
    )
    shown = seen(upload(staff, text), 400)
    assert "new.yaml has 2 mistakes; nothing was changed" in shown
    assert "2:25 models[0].provider there is no provider 'nobody'" in shown
    assert "4:26 budgets[0].limit_usd should be greater than or equal to 0" in shown


def test_hostile_and_huge_files_are_refused(staff: Client) -> None:
    assert HOSTILE not in upload(staff, f"policies: [{{slug: '{HOSTILE}'}}]").content.decode()
    assert upload(staff, "a: &a [b]\nb: *a\n").status_code == 400
    assert upload(staff, "x" * (2 * 1024 * 1024 + 1)).status_code == 413
    assert "Choose a file" in seen(staff.post("/policies/file/check/"), 400)


def test_older_json_becomes_a_draft_with_a_report(staff: Client) -> None:
    older = {
        "routing_rules": {"deep": {"condition": "requires_moe || complex_reasoning", "primary": "kimi-k2"}},
        "health_checks": {"interval": 30},
        "magic": 1,
    }
    shown = seen(upload(staff, json.dumps(older), "/policies/import/", slug="older"))
    assert "older version 1 has 2 rules" in shown
    assert "routing_rules.deep.condition requires_moe -> capabilities mixture_of_experts" in shown
    assert "magic this section is not known" in shown
    assert "health_checks the router checks" in shown
    assert RoutingPolicy.objects.get(slug="older").state == "draft"
    assert "is no file of rules" in seen(upload(staff, "[", "/policies/import/", slug="older"), 400)


# --- rollouts and waiting work -------------------------------------------------------------------


def set_options(rule: str, **options: Any) -> None:
    row = RoutingRule.objects.get(policy__state="live", name=rule)
    RoutingRule.objects.filter(pk=row.pk).update(options=row.options | options)
    snapshot.forget()


def test_rollouts_show_each_rule_with_what_the_judge_said(staff: Client) -> None:
    set_options("system query", shadow_model="claude-haiku-4-5")
    set_options("simple", rollout_percent=10)
    for number, won in enumerate(["shadow"] * 8 + ["model"] + ["tie"]):
        ShadowComparison.objects.create(
            id=uuid7(),
            policy="default",
            policy_version=1,
            rule="system query",
            model="llama3.2",
            shadow_model="claude-haiku-4-5",
            judge_model="claude-sonnet-4-5",
            state="judged",
            winner=won,
            preferences=["first", "first"] if number == 9 else ["first", "second"],
            cost_microusd=1000,
        )
    shown = seen(staff.get("/policies/rollouts/"))
    assert "10 % of what matches it" in shown
    assert "8 won, 1 tied, 1 lost in 1 of the ties the judge chose otherwise in the other order" in shown
    assert "85 % (54.1 % to 96.5 %) better" in shown
    assert "$0.0100" in shown


def test_waiting_work_shows_its_windows_and_what_has_come_of_it(staff: Client) -> None:
    set_options("summaries", batch=True, batch_window="23:00-06:00")
    batch = ProviderBatch.objects.create(provider="anthropic", remote_id="msgbatch_1", state="open")
    BatchItem.objects.create(state="sent", batch=batch, submissions=1)
    BatchItem.objects.create(state="failed", error=HOSTILE, request={"secret": "the text"})
    page = staff.get("/policies/waiting/")
    shown = seen(page)
    assert "summaries" in shown
    assert "23:00-06:00" in shown
    assert "batch msgbatch_1" in shown
    assert "0 of 1" in shown
    assert HOSTILE in shown
    assert HOSTILE not in page.content.decode()
    assert "the text" not in shown
