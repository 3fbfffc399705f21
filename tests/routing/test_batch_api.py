"""Work that may wait over REST: handed in by programs, listed, hurried, taken back, forgotten."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from routing.models import BatchItem, BudgetPeriod, RoutedCall
from routing.reporting import retention
from tests.installation import Installation, installed
from tests.routing.test_batches import tick
from tests.servers import Reply
from ziggie.ids import uuid7
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/api/routing/batch"
CLOUD = {"task_kind": "analysis", "creator_tier": "high"}


class Caller:
    """JSON in, JSON out, with one key."""

    def __init__(self, *scopes: str, **fields: Any) -> None:
        _, self.key = create_api_key(uuid7().hex, scopes=list(scopes), **fields)

    def __call__(self, method: str, path: str = "", body: Any = None, *, expect: int = 200) -> Any:
        response = Client().generic(
            method,
            PATH + path,
            json.dumps(body) if body is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.key}"},
        )
        assert response.status_code == expect, response.content
        return json.loads(response.content) if response.content else None


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text="a local answer", input_tokens=1000, output_tokens=200)
        installation.anthropic.default = Reply(text="a batched answer", input_tokens=10_000, output_tokens=4_000)
        yield installation


@pytest.fixture
def coordinator(here: Installation) -> Caller:
    return Caller("coordinator")


def closed_window() -> str:
    later = timezone.now() + timedelta(hours=10)
    return f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"


def problems(answer: Any) -> list[str]:
    return [f"{detail['place']}: {detail['problem']}" for detail in answer["error"]["details"]]


def test_requests_are_handed_in_together_and_answered_at_half_price(here: Installation, coordinator: Caller) -> None:
    made = coordinator("POST", body=[{"prompt": f"question {n}", **CLOUD} for n in range(3)], expect=201)
    assert [work["state"] for work in made] == ["queued"] * 3
    tick()
    tick()
    assert len(here.anthropic.batches["msgbatch_1"]) == 3
    for work in made:
        told = coordinator("GET", f"/{work['id']}")
        assert (told["state"], told["by"], told["answer"]) == ("done", "batch", "a batched answer")
        assert (told["model"], told["cost_usd"]) == ("claude-sonnet-4-5", "0.045000")
        assert RoutedCall.objects.get(pk=told["call_id"]).cost_microusd == 45_000
    listed = coordinator("GET", "?state=done&page_size=2")
    assert len(listed["results"]) == 2
    assert listed["next"]
    assert "answer" not in listed["results"][0]
    here.assert_books_are_closed()


def test_a_conversation_with_its_parameters_reaches_the_provider(here: Installation, coordinator: Caller) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    body = {"messages": messages, "model": "claude-haiku-4-5", "max_output_tokens": 50, "temperature": 0.5}
    coordinator("POST", body=body, expect=201)
    tick()
    (sent,) = here.anthropic.batches["msgbatch_1"]
    assert [message["role"] for message in sent["params"]["messages"]] == ["user", "assistant", "user"]
    assert "Be short." in json.dumps(sent["params"]["system"])
    assert (sent["params"]["max_tokens"], sent["params"]["temperature"]) == (50, 0.5)


def test_the_same_external_id_is_the_same_work(here: Installation, coordinator: Caller) -> None:
    first = {"prompt": "one", "external_id": "a"}
    made = coordinator("POST", body=first, expect=201)
    assert coordinator("POST", body=first, expect=200)["id"] == made["id"]
    both = coordinator("POST", body=[first, {"prompt": "two", "external_id": "b"}], expect=201)
    assert both[0]["id"] == made["id"]
    other = [{"prompt": "three", "external_id": "c"}, {"prompt": "another one", "external_id": "a"}]
    assert "'a'" in coordinator("POST", body=other, expect=409)["error"]["message"]
    assert BatchItem.objects.count() == 2
    assert Caller("coordinator")("POST", body=first, expect=201)["id"] != made["id"]
    assert coordinator("GET", "?external_id=a")["results"][0]["id"] == made["id"]


def test_every_mistake_is_named_with_its_place_and_nothing_is_queued(here: Installation, coordinator: Caller) -> None:
    body = [
        {"prompt": "fine"},
        {"promt": "?", "complexity": 2},
        {"prompt": "?", "messages": [{"role": "user", "content": "?"}]},
        {"messages": [{"role": "judge", "content": "?", "name": "x"}]},
        {"prompt": "?", "budget_usd": "-1", "agent_level": "L9"},
        "no object",
    ]
    found = problems(coordinator("POST", body=body, expect=400))
    places = [line.split(":")[0] for line in found]
    assert places == [
        *("[1].promt", "[1].complexity", "[2]", "[3].messages[0].name", "[3].messages[0].role"),
        *("[4].agent_level", "[4].budget_usd", "[5]"),
    ]
    assert "unknown key; known are" in found[0]
    meant = [{"prompt": "?", "model": "nobody"}, {"prompt": "?", "external_id": "x"}]
    found = problems(coordinator("POST", body=[*meant, {"prompt": "?", "external_id": "x"}], expect=400))
    assert [line.split(":")[0] for line in found] == ["[0].model", "[2].external_id"]
    deep: Any = {}
    for _ in range(80):
        deep = {"properties": {"a": deep}}
    assert "nested" in problems(coordinator("POST", body={"prompt": "?", "json_schema": deep}, expect=400))[0]
    for wrong in ([], [{"prompt": "?"}] * 501, "text", {}):
        coordinator("POST", body=wrong, expect=400)
    assert not BatchItem.objects.exists()


def test_a_key_sees_and_changes_its_own_work(here: Installation, coordinator: Caller, admin_client: Client) -> None:
    work = coordinator("POST", body={"prompt": "private"}, expect=201)
    other, admin = Caller("coordinator"), Caller("admin")
    assert other("GET")["results"] == []
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/hurry"), ("DELETE", "")):
        other(method, f"/{work['id']}{path}", expect=404)
    assert [one["id"] for one in admin("GET")["results"]] == [work["id"]]
    assert admin_client.get(f"{PATH}/{work['id']}").status_code == 200
    Caller("gateway")("GET", expect=403)
    assert admin("POST", f"/{work['id']}/cancel")["state"] == "cancelled"


def test_work_is_hurried_taken_back_and_forgotten(here: Installation, coordinator: Caller) -> None:
    here.anthropic.batches_end = False
    first, second = coordinator("POST", body=[{"prompt": "one", **CLOUD}, {"prompt": "two", **CLOUD}], expect=201)
    coordinator("DELETE", f"/{first['id']}", expect=409)
    tick()
    assert coordinator("GET", f"/{first['id']}")["by"] == "batch"
    assert coordinator("POST", f"/{first['id']}/hurry", expect=202)["by"] == "call"
    coordinator("POST", f"/{first['id']}/hurry", expect=409)
    tick()
    told = coordinator("GET", f"/{first['id']}")
    assert (told["state"], told["cost_usd"]) == ("done", "0.090000")
    assert coordinator("POST", f"/{second['id']}/cancel")["state"] == "cancelled"
    coordinator("POST", f"/{second['id']}/cancel", expect=409)
    for _ in range(2):
        tick()
    assert here.anthropic.batches_cancelled
    assert len(coordinator("GET")["results"]) == 2  # what was left behind in the batch is no work of anybody's
    coordinator("DELETE", f"/{first['id']}", expect=204)
    coordinator("GET", f"/{first['id']}", expect=404)
    assert not RoutedCall.objects.filter(bodies__isnull=False).exists()
    here.assert_books_are_closed()


def test_staff_hurry_and_cancel_requests_on_the_page(
    here: Installation, coordinator: Caller, admin_client: Client
) -> None:
    here.change_rule("system query", options={"batch": True, "batch_window": closed_window()})
    first, second = coordinator(
        "POST", body=[{"prompt": p, "task_kind": "nl_query"} for p in ("one", "two")], expect=201
    )
    page = admin_client.get("/policies/waiting/").content.decode()
    assert f"/policies/waiting/{first['id']}/hurry/" in page
    admin_client.post(f"/policies/waiting/{first['id']}/hurry/")
    admin_client.post(f"/policies/waiting/{second['id']}/cancel/")
    tick()
    states = {one["id"]: one["state"] for one in coordinator("GET")["results"]}
    assert states == {first["id"]: "done", second["id"]: "cancelled"}
    again = admin_client.post(f"/policies/waiting/{second['id']}/cancel/", follow=True).content.decode()
    assert "this is over already: cancelled" in again
    assert Client().post(f"/policies/waiting/{first['id']}/hurry/").status_code == 302  # to the login
    here.assert_books_are_closed()


def test_a_budget_holds_for_all_calls_for_it(here: Installation, coordinator: Caller) -> None:
    poor = coordinator("POST", body={"prompt": "?", "budget_usd": "0.000100", **CLOUD}, expect=201)
    free = coordinator("POST", body={"prompt": "?", "budget_usd": 0, "task_kind": "nl_query"}, expect=201)
    for _ in range(2):
        tick()
    told = coordinator("GET", f"/{poor['id']}")
    assert (told["state"], told["budget_usd"], told["cost_usd"]) == ("failed", "0.000100", "0.000000")
    assert "budget" in told["error"]
    assert coordinator("GET", f"/{free['id']}")["state"] == "done"
    assert not BudgetPeriod.objects.filter(settled_microusd__gt=0).exists()
    here.assert_books_are_closed()


def test_a_key_that_may_use_some_models_has_its_work_done_by_these(here: Installation) -> None:
    caller = Caller("coordinator", allowed_models=["llama3.2"])
    refused = caller("POST", body={"prompt": "?", "model": "claude-haiku-4-5"}, expect=400)
    assert problems(refused) == ["model: this API key may not use that model"]
    work = caller("POST", body={"prompt": "?", **CLOUD}, expect=201)
    tick()
    assert caller("GET", f"/{work['id']}")["model"] == "llama3.2"


def test_finished_work_is_kept_as_long_as_bodies_are(here: Installation, coordinator: Caller) -> None:
    work = coordinator("POST", body=[{"prompt": "old"}, {"prompt": "waits"}], expect=201)
    BatchItem.objects.filter(pk=work[0]["id"]).update(state="done", finished_at=timezone.now() - timedelta(days=31))
    BatchItem.objects.filter(pk=work[1]["id"]).update(created_at=timezone.now() - timedelta(days=31))
    assert retention.keep_house().work == 1
    assert [one["id"] for one in coordinator("GET")["results"]] == [work[1]["id"]]


def test_what_is_no_state_is_refused(here: Installation, coordinator: Caller) -> None:
    assert "state: should be one of" in coordinator("GET", "?state=gone", expect=400)["error"]["message"]
