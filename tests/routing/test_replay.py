"""Recorded calls, made through real servers, through other policies; and every recorded decision made again."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from routing import service
from routing.configuration import policies, snapshot
from routing.configuration.routing_file import export_data
from routing.evidence import replay
from routing.models import Budget, BudgetPeriod, Provider, RoutedCall, RoutingPolicy
from routing.types import ChatRequest, ChatResult, Hints, Routed, Verdict, message
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.errors import InvalidInput, NotFound, ZiggieError

pytestmark = pytest.mark.django_db(transaction=True)
QUESTION = Hints(task_kind="nl_query")
HIGH_TIER = Hints(task_kind="analysis", creator_tier="high")


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text="a local answer", input_tokens=1000, output_tokens=200)
        installation.anthropic.default = Reply(text="a cloud answer", input_tokens=1000, output_tokens=200)
        yield installation


def ask(text: str = "What is a sprite?", **fields: Any) -> Routed:
    request = ChatRequest(messages=(message("user", text),), max_output_tokens=300, **fields)
    return service.submit(request).result(timeout=60)


def draft(**chains: list[str]) -> RoutingPolicy:
    """The live policy as a draft with other chains, by rule name with underscores."""
    live = RoutingPolicy.objects.get(state="live")
    row = policies.duplicate(live, by="test")
    for name, chain in chains.items():
        assert row.rules.filter(name=name.replace("_", " ")).update(chain=chain)
    return row


def replayed(policy: RoutingPolicy, **more: Any) -> dict[str, Any]:
    return replay.replay(replay.target_of(policy), **more)


def command(*words: str) -> str:
    out = StringIO()
    call_command("routing", "replay", *words, stdout=out)
    return out.getvalue()


# --- the same decision again ---------------------------------------------------------------------


def test_every_kind_of_decision_comes_out_again(here: Installation) -> None:
    ask(hints=QUESTION)
    ask(hints=HIGH_TIER)
    ask(model="llama3.2:3b")
    ask(hints=Hints(agent_level="L1", complexity=0.9, pattern="verify"), creator="instasd")
    here.ollama.default = Reply(fault="reset")
    for _ in range(6):
        ask(hints=QUESTION)  # the circuit opens on the way
        time.sleep(0.4)  # plans go by a look at the world that may be half a second old
    report = replay.check()
    assert (report["calls"], report["same"], report["different"]) == (10, 10, 0)
    assert any(call.request["circumstances"].get("circuits") for call in RoutedCall.objects.all())


def test_a_decision_made_under_a_used_up_budget_comes_out_again_when_the_budget_is_full(here: Installation) -> None:
    Budget.objects.update(limit_microusd=5000)
    snapshot.forget()
    ask(hints=HIGH_TIER)  # 6,000 micro-dollars at most fit in part: the answer is limited
    ask(hints=HIGH_TIER)
    models = list(RoutedCall.objects.order_by("id").values_list("model", flat=True))
    assert models[0] != models[1]
    BudgetPeriod.objects.update(settled_microusd=0)
    report = replay.check()
    assert (report["same"], report["different"]) == (2, 0)


def test_decisions_of_earlier_versions_are_made_by_their_own_version(here: Installation) -> None:
    ask(hints=QUESTION)
    policies.publish(draft(system_query=["claude-haiku-4-5", "offline"]), by="test")
    snapshot.forget()
    ask(hints=QUESTION)
    models = list(RoutedCall.objects.order_by("id").values_list("model", flat=True))
    assert models == ["llama3.2", "claude-haiku-4-5"]
    assert replay.check()["same"] == 2


def test_a_receipt_that_was_tampered_with_is_found(here: Installation) -> None:
    routed = ask(hints=QUESTION)
    call = RoutedCall.objects.get()
    call.request["demand"]["task_kind"] = "analysis"
    call.save()
    report = replay.check()
    assert report["different"] == 1
    assert report["differences"][0]["call_id"] == routed.call_id
    with pytest.raises(ZiggieError, match="do not come out again"):
        command("--check")


def test_a_decision_that_differs_because_the_configuration_changed_is_told_apart(here: Installation) -> None:
    ask(hints=QUESTION)
    Provider.objects.filter(slug="ollama").update(enabled=False)
    snapshot.forget()
    report = replay.check()
    assert (report["changed"], report["different"]) == (1, 0)


def test_a_decision_for_a_key_that_may_use_some_models_comes_out_again(here: Installation) -> None:
    async def scenario() -> None:
        request = ChatRequest((message("user", "Hi"),), hints=QUESTION, max_output_tokens=100)
        call = await service.open_call(request, allowed_models=frozenset({"claude-haiku-4-5"}))
        answer = await service.answer(call)
        await service.settle(call, service.close_books(call, answer, None))

    asyncio.run(scenario())
    call = RoutedCall.objects.get()
    assert call.model == "claude-haiku-4-5"
    assert call.candidates[0]["model"] == "llama3.2" or call.request["circumstances"]["allowed_models"]
    assert replay.check()["same"] == 1


@pytest.fixture
def keys(here: Installation, settings: Any) -> Callable[[str], None]:
    """Claude's key is where not every process has it: sets it for this one."""
    here.change_provider("anthropic", api_key="", api_key_env="ANTHROPIC_API_KEY")

    def have(key: str) -> None:
        settings.PROVIDER_API_KEYS = {"ANTHROPIC_API_KEY": key}
        snapshot.forget()

    return have


def test_a_process_without_the_keys_makes_the_same_decisions_again(here: Installation, keys: Any) -> None:
    keys("test-key")
    assert ask(hints=HIGH_TIER).model == "claude-sonnet-4-5"
    keys("")
    report = replay.check()
    assert (report["same"], report["different"]) == (1, 0)
    through = replay.replay(replay.target("default"))
    assert (through["moved"], through["keys_assumed"]) == (0, ["anthropic"])
    assert "no API key here for anthropic" in replay.as_text(through)


def test_decisions_of_a_time_without_the_keys_come_out_again_with_them(here: Installation, keys: Any) -> None:
    keys("")
    assert ask(hints=HIGH_TIER).model == "llama3.2"
    keys("test-key")
    report = replay.check()
    assert (report["same"], report["different"]) == (1, 0)
    assert replay.replay(replay.target("default"))["keys_assumed"] == []


# --- another policy ------------------------------------------------------------------------------


def test_a_replay_says_who_would_move_where_and_what_it_would_cost(here: Installation) -> None:
    for _ in range(3):
        ask(hints=QUESTION)
    ask(hints=HIGH_TIER)
    report = replayed(draft(system_query=["claude-haiku-4-5", "offline"]))
    assert (report["calls"], report["moved"]) == (4, 3)
    rule = next(rule for rule in report["rules"] if rule["rule"] == "system query")
    assert rule["moves"] == [{"from": "llama3.2", "to": "claude-haiku-4-5", "calls": 3}]
    # 1,000 x $1 + 200 x $5 a million tokens, three times.
    assert rule["cost"]["difference_microusd"] == 6000
    assert report["cost"]["before_usd"] == "0.006000"  # Sonnet: 1,000 x $3 + 200 x $15
    assert report["cost"]["after_usd"] == "0.012000"
    assert report["local_share"] == {"before": 0.75, "after": 0.0}
    assert not here.anthropic.requests[4:]


def test_the_live_policy_through_itself_moves_nobody(here: Installation) -> None:
    ask(hints=QUESTION)
    ask(hints=HIGH_TIER)
    here.ollama.default = Reply(status=500, error="broken")
    ask(hints=QUESTION)
    report = replayed(RoutingPolicy.objects.get(state="live"))
    assert (report["moved"], report["cost"]["difference_microusd"], report["unserved"]["calls"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "cloud", [Reply(text="Bern"), Reply(status=500, error="broken")], ids=["cloud up", "cloud down"]
)
@pytest.mark.parametrize(
    "local",
    [
        Reply(text='{"verdict": "wrong", "problems": ["x"], "answer": "a", "confidence": 20, "agrees": false}'),
        Reply(status=500, error="broken"),
        Reply(fault="garbage"),
    ],
    ids=["unsure", "down", "garbage"],
)
def test_no_pattern_moves_under_its_own_rules_whatever_went_wrong(
    here: Installation, local: Reply, cloud: Reply
) -> None:
    here.ollama.default, here.anthropic.default = local, cloud
    for kind in ("verified_answer", "ensemble", "large_ensemble", "cascade", "debate", "critique", "chat"):
        ask(hints=Hints(task_kind=kind))
    report = replayed(RoutingPolicy.objects.get(state="live"))
    assert (report["calls"], report["moved"], report["cost"]["difference_microusd"]) == (7, 0, 0)
    checked = replay.check()
    assert (checked["same"], checked["different"]) == (7, 0)


def test_a_model_that_failed_a_call_fails_it_again(here: Installation) -> None:
    here.ollama.default = Reply(status=500, error="broken")
    assert ask(hints=QUESTION).source == "cloud"
    report = replayed(draft(system_query=["llama3.2", "claude-sonnet-4-5"]))
    assert report["rules"][0]["moves"] == [{"from": "claude-haiku-4-5", "to": "claude-sonnet-4-5", "calls": 1}]
    report = replayed(draft(system_query=["llama3.2"]))
    assert report["failed_again"] == 1


def test_calls_without_an_answer_move_nowhere_under_the_same_rules(here: Installation) -> None:
    here.ollama.default = Reply(text="late", first_token=30)
    with pytest.raises(ZiggieError):
        ask(model="llama3.2", deadline_seconds=2)
    with pytest.raises(ZiggieError):
        ask(hints=QUESTION, deadline_seconds=2)

    async def give_up() -> None:
        request = ChatRequest((message("user", "Hello"),), hints=QUESTION, max_output_tokens=50)
        asked = len(here.ollama.calls)
        call = asyncio.create_task(service.complete(request))
        while len(here.ollama.calls) == asked:
            await asyncio.sleep(0.02)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(give_up())
    outcomes = list(RoutedCall.objects.order_by("id").values_list("outcome", flat=True))
    assert outcomes == ["deadline", "deadline", "cancelled"]
    assert replayed(RoutingPolicy.objects.get(state="live"))["moved"] == 0


def test_a_critique_that_could_not_be_used_says_nothing_of_the_answer(here: Installation) -> None:
    here.ollama.when(Reply(text="no list of objections"), contains="objections")
    assert ask(hints=Hints(task_kind="critique")).model == "llama3.2"
    call = RoutedCall.objects.get()
    assert ("critic", "invalid") in [(attempt["role"], attempt["outcome"]) for attempt in call.attempts]
    report = replayed(RoutingPolicy.objects.get(state="live"))
    assert (report["moved"], report["cost"]["difference_microusd"]) == (0, 0)
    report = replayed(draft(**{"self-critique": ["llama3.2", "claude-haiku-4-5"]}))
    assert report["moved"] == 0


def test_what_members_make_together_is_not_paid_to_the_chain(here: Installation) -> None:
    ask(hints=HIGH_TIER)
    change = draft()
    rule = change.rules.filter(name="critical and high analysis")
    members = {"members": ["llama3.2", "mistral"], "vote": True}
    rule.update(pattern="ensemble", roles=members)
    report = replayed(change)
    assert report["rules"][0]["moves"] == [{"from": "claude-sonnet-4-5", "to": "llama3.2", "calls": 1}]
    assert report["cost"]["after_usd"] == "0.000000"
    rule.update(roles={"members": ["llama3.2", "mistral"], "synthesiser": "claude-haiku-4-5"})
    report = replayed(change)
    assert report["rules"][0]["moves"] == [{"from": "claude-sonnet-4-5", "to": "claude-haiku-4-5", "calls": 1}]
    # It reads the task (1,000) and two answers (200 each) and writes one: 1,400 x $1 + 200 x $5 a million.
    assert report["cost"]["after_usd"] == "0.002400"


def test_a_draft_that_nobody_has_seen_is_taken_to_be_refined(here: Installation) -> None:
    ask(hints=HIGH_TIER)
    change = draft()
    roles = {"draft": "phi3", "refiner": "claude-haiku-4-5"}
    change.rules.filter(name="critical and high analysis").update(pattern="cascade", roles=roles)
    report = replayed(change)
    assert report["rules"][0]["moves"] == [{"from": "claude-sonnet-4-5", "to": "claude-haiku-4-5", "calls": 1}]
    assert report["cost"]["after_usd"] == "0.002200"  # 1,200 x $1 + 200 x $5 a million


def test_an_unsure_answer_stays_unsure(here: Installation) -> None:
    here.ollama.default = Reply(text='{"confidence": 40}', input_tokens=1000, output_tokens=200)

    def graded(result: ChatResult) -> Verdict:
        return Verdict(ok=True, confidence=40.0 if "confidence" in result.text else 90.0)

    routed = ask(hints=Hints(task_kind="analysis", creator_tier="low"), accept=graded)
    assert routed.source == "cloud"
    cheaper = draft()
    rule = cheaper.rules.get(name="medium and low analysis")
    rule.options["min_confidence"] = 30
    rule.save()
    report = replayed(cheaper)
    assert report["rules"][0]["moves"] == [{"from": "claude-haiku-4-5", "to": "llama3.2", "calls": 1}]
    assert report["cost"]["after_usd"] == "0.000000"


def test_calls_that_nothing_would_serve_are_counted_with_the_reason(here: Installation) -> None:
    routed = ask(hints=QUESTION)
    ask(hints=HIGH_TIER)
    only_analysis = draft()
    only_analysis.rules.exclude(name="critical and high analysis").delete()
    report = replayed(only_analysis)
    assert report["unserved"]["calls"] == 1
    reason = report["unserved"]["reasons"][0]
    assert (reason["code"], reason["recorded_rule"], reason["call_id"]) == ("no_route", "system query", routed.call_id)
    assert "no rule" in reason["reason"]


def test_a_budget_that_the_replay_uses_up_changes_what_comes_after(here: Installation) -> None:
    Budget.objects.update(limit_microusd=6000)
    snapshot.forget()
    for _ in range(6):
        ask(hints=QUESTION)  # free, as it was
    report = replayed(draft(system_query=["claude-haiku-4-5", "llama3.2"]))
    moves = report["rules"][0]["moves"]
    # $0.002 each: three of them use the budget up, and the others stay where they were.
    assert moves == [{"from": "llama3.2", "to": "claude-haiku-4-5", "calls": 3}]


def test_the_day_on_which_a_budget_would_be_used_up(here: Installation) -> None:
    Budget.objects.update(limit_microusd=100_000, period="total", scope={})
    snapshot.forget()
    for _ in range(4):
        ask(hints=QUESTION)
    now = datetime.now(UTC) + timedelta(seconds=1)
    report = replayed(draft(system_query=["claude-haiku-4-5"]), now=now)
    budget = report["budgets"][0]
    assert budget["before"] == {"usd_a_day": "0.000000", "used_up_at": None}
    assert budget["after"]["usd_a_day"] == "0.008000"  # traffic of less than a day counts as a day's
    assert budget["after"]["used_up_at"] == now + timedelta(days=12.5)


def test_only_the_days_asked_for_count(here: Installation) -> None:
    ask(hints=QUESTION)
    RoutedCall.objects.update(created_at=datetime.now(UTC) - timedelta(days=10))
    ask(hints=QUESTION)
    live = RoutingPolicy.objects.get(state="live")
    assert replayed(live, days=7)["calls"] == 1
    assert replayed(live, days=30)["calls"] == 2
    assert replayed(live, days=30, max_calls=1)["calls"] == 1
    with pytest.raises(InvalidInput):
        replayed(live, days=0)


def test_receipts_that_say_too_little_are_counted_and_passed_over(here: Installation) -> None:
    ask(hints=QUESTION)
    RoutedCall.objects.update(request={})
    report = replayed(RoutingPolicy.objects.get(state="live"))
    assert (report["calls"], report["not_replayable"]) == (0, 1)
    assert replay.check()["not_replayable"] == 1


# --- naming a policy -----------------------------------------------------------------------------


def test_the_command_takes_a_name_a_version_or_a_file(here: Installation, tmp_path: Path) -> None:
    ask(hints=QUESTION)
    row = draft(system_query=["claude-haiku-4-5"])
    assert json.loads(command("default", "--json"))["version"] == row.version  # the newest draft
    live = RoutingPolicy.objects.get(state="live")
    assert json.loads(command(f"default@{live.version}", "--json"))["moved"] == 0
    data = export_data()
    policy = next(policy for policy in data["policies"] if policy["live"])
    rule = next(rule for rule in policy["rules"] if rule["name"] == "system query")
    rule["chain"] = ["new-model", "offline"]
    model = {"slug": "new-model", "provider": "ollama", "name": "new", "context_window": 8192}
    prices = {"input_usd_per_mtok": "0", "output_usd_per_mtok": "0", "capabilities": ["chat", "json", "tools"]}
    file = tmp_path / "next.json"
    file.write_text(json.dumps({"models": [model | prices], "policies": [policy]}))
    before = list(RoutingPolicy.objects.values_list("pk", "version", "state"))
    report = json.loads(command(str(file), "--json"))
    assert report["rules"][0]["moves"] == [{"from": "llama3.2", "to": "new-model", "calls": 1}]
    assert list(RoutingPolicy.objects.values_list("pk", "version", "state")) == before
    assert "new-model" not in snapshot.load().models
    text = command(str(file))
    assert "1 would move" in text
    assert "llama3.2 -> new-model" in text


def test_a_policy_that_is_not_there_or_a_wrong_file_is_refused(here: Installation, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        replay.target("nothing")
    with pytest.raises(InvalidInput):
        replay.target("default@two")
    file = tmp_path / "bad.yaml"
    file.write_text("policies:\n  - {slug: default, live: true, rules: [{name: a, chain: [nobody]}]}\n")
    with pytest.raises(InvalidInput):
        command(str(file))
    with pytest.raises(InvalidInput):
        command()


# --- before publishing ---------------------------------------------------------------------------


def test_staff_see_the_replay_beside_the_difference(here: Installation, admin_client: Client) -> None:
    ask(hints=QUESTION)
    row = draft(system_query=["claude-haiku-4-5", "offline"])
    page = admin_client.get(f"/admin/routing/routingpolicy/{row.pk}/change/").content.decode()
    assert "1 would move" in page
    assert "llama3.2 -&gt; claude-haiku-4-5" in page


def test_the_replay_over_rest(here: Installation, admin_client: Client, client: Client) -> None:
    ask(hints=QUESTION)
    row = draft(system_query=["claude-haiku-4-5", "offline"])
    address = f"/api/routing/policies/default/{row.version}/replay"
    report = admin_client.post(address, {"days": 3}, content_type="application/json").json()
    assert (report["version"], report["moved"], report["days"]) == (row.version, 1, 3)
    for body in ({"days": 0}, {"days": "many"}, {"max_calls": 10**9}):
        assert admin_client.post(address, body, content_type="application/json").status_code == 400
    missing = admin_client.post("/api/routing/policies/default/999/replay", {}, content_type="application/json")
    assert missing.status_code == 404
    assert client.post(address, {}, content_type="application/json").status_code in (401, 403)
