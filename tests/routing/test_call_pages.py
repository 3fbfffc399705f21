"""Receipts in the browser: the list with its filters and cursor, the page of one call, and the providers' page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from routing import service
from routing.configuration import snapshot
from routing.evidence import shadow
from routing.models import Circuit, Price, Provider, ProviderDay, RoutedCall
from routing.reporting import call_search
from routing.reporting.receipt_page import Tried, confidence, features, findings
from routing.types import ChatRequest, Hints, Routed, message
from routing.walk import calibration
from tests.installation import Installation, installed
from tests.routing.pages_support import seen, staff_client
from tests.routing.test_patterns_cascade import drafted, reviewed
from tests.seeding import seed
from tests.servers import Reply
from ziggie.errors import InvalidInput
from ziggie.ids import derived, first_uuid7, uuid7
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db
real = pytest.mark.django_db(transaction=True)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def staff(db: None) -> Client:
    if not Provider.objects.exists():
        seed()
    return staff_client("ziggie.view_apikey")


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    calibration.forget()
    with installed() as installation:
        yield installation


def ask(kind: str, **fields: Any) -> Routed:
    snapshot.forget()
    request = ChatRequest(
        (message("user", "Which city?"),), hints=Hints(task_kind=kind), max_output_tokens=300, **fields
    )
    return service.submit(request).result(timeout=60)


def receipt(**columns: Any) -> RoutedCall:
    standard = {
        "policy": "default",
        "policy_version": 1,
        "rule": "simple",
        "pattern": "single",
        "features": {"complexity": 0.5, "context_tokens": 3, "estimated": ["complexity"], "budget_left": 1.0},
        "candidates": [],
        "outcome": "ok",
        "model": "llama3.2",
    }
    return RoutedCall.objects.create(**(standard | columns))


# --- the list ------------------------------------------------------------------------------------


def test_calls_are_filtered_by_what_they_were(staff: Client) -> None:
    receipt(rule="nights", model="phi3", task_kind="summary")
    receipt(rule="days", model="llama3.2", outcome="deadline", task_kind="chat")
    for query, rule in (
        ("rule=nights", "nights"),
        ("model=llama3.2", "days"),
        ("outcome=deadline", "days"),
        ("task_kind=summary", "nights"),
    ):
        table = seen(staff.get(f"/usage/calls/rows/?{query}"))
        assert rule in table
        assert ({"nights", "days"} - {rule}).pop() not in table
    assert "No call of these matches." in seen(staff.get("/usage/calls/?rule=never"))


def test_calls_of_a_day_are_those_of_the_staffs_day(staff: Client) -> None:
    for rule, at in (
        ("late", datetime(2026, 3, 14, 23, 59, tzinfo=UTC)),
        ("early", datetime(2026, 3, 15, 0, 1, tzinfo=UTC)),
    ):
        receipt(id=first_uuid7(at), rule=rule, created_at=at)
    assert "late" in seen(staff.get("/usage/calls/rows/?day=2026-03-14"))
    assert "late" not in seen(staff.get("/usage/calls/rows/?day=2026-03-15"))
    assert "early" in seen(staff.get("/usage/calls/rows/?from=2026-03-15&to=2026-03-16"))
    assert "is no date" in seen(staff.get("/usage/calls/?day=yesterday"))


def test_filters_that_come_with_a_link_stay_in_the_form(staff: Client) -> None:
    receipt(creator="instasd", api_key_id="k")
    page = staff.get("/usage/calls/?creator=instasd&api_key=k&from=2026-01-01&to=2100-01-01").content.decode()
    for name, value in (("creator", "instasd"), ("api_key", "k"), ("from", "2026-01-01"), ("to", "2100-01-01")):
        assert f'name="{name}" value="{value}"' in page
    assert "simple" in page


def test_every_call_is_on_one_page_of_the_cursor(staff: Client) -> None:
    made = {str(receipt().pk) for _ in range(call_search.PAGE * 2 + 3)}
    found: list[str] = []
    before = ""
    for _ in range(3):
        page = call_search.find({"before": before})
        found += [str(call.pk) for call in page.calls]
        before = page.older
    assert (sorted(found), before) == (sorted(made), "")
    assert found == sorted(made, reverse=True)
    assert "Older" in seen(staff.get("/usage/calls/"))
    assert "Newest" in seen(staff.get(f"/usage/calls/?before={found[60]}"))


def test_a_search_looks_at_so_many_calls_and_says_how_far_it_looked(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_search, "SEARCHED", 10)
    wanted = receipt(rule="rare")
    for _ in range(12):
        receipt()
    page = staff.get("/usage/calls/?rule=rare")
    assert "Looked back to" in seen(page)
    assert "Look further back" in seen(page)
    further = call_search.find({"rule": "rare", "before": call_search.find({"rule": "rare"}).older})
    assert [call.pk for call in further.calls] == [wanted.pk]
    assert not further.older


@pytest.mark.parametrize("given", [{"before": "x"}, {"rule": "a\0b"}, {"day": "2026-13-01"}])
def test_a_list_that_cannot_be_meant_is_refused(db: None, given: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        call_search.find(given)


def test_ids_of_a_comparisons_calls_sort_by_its_time() -> None:
    early = uuid7()
    made = [shadow.call_id_of(early, name) for name in shadow.CALLS]
    assert made == [derived(early, name) for name in shadow.CALLS]
    assert len(set(made)) == len(shadow.CALLS)
    assert all(identifier.int >> 80 == early.int >> 80 and identifier.version == 7 for identifier in made)


# --- one call ------------------------------------------------------------------------------------


@real
def test_the_page_of_a_call_shows_what_was_judged_tried_and_paid(here: Installation, staff: Client) -> None:
    here.ollama.default = Reply(status=500, error=HOSTILE)
    here.anthropic.default = Reply(text="Bern", input_tokens=1000, output_tokens=200)
    key, _ = create_api_key("game engine")
    routed = ask("nl_query", api_key_id=str(key.pk))
    page = staff.get(f"/usage/calls/{routed.call_id}/")
    shown = seen(page)
    assert "ok claude-haiku-4-5 anthropic, cloud" in shown
    assert "default version 1 Rule system query Pattern single" in shown
    assert "API key game engine" in shown
    assert "Cost $0.0020" in shown
    assert "$0.0020 at $1.00 / $5.00 a million baseline $0.0060, electricity $0.0000" in shown
    assert "On the baseline model $0.0060" in shown
    assert "Complexity 0.5 estimated" in shown
    assert "Context, tokens 2 estimated" in shown
    assert "llama3.2 ollama, local" in shown
    assert "error 500" in shown
    assert "answer served ok" in shown
    assert "1000 / 200" in shown
    assert "claude-haiku-4-5 anthropic, cloud fallback fallback 1" in shown
    assert HOSTILE in shown
    assert HOSTILE not in page.content.decode()


def test_an_attempt_shows_a_reported_zero_and_names_what_is_estimated() -> None:
    used = {"cached_input_tokens": 0, "cache_write_tokens": None, "reasoning_tokens": 7}
    tried = Tried({"usage": used | {"estimated": ["output_tokens", "cost", "input_tokens"]}}, None, None)
    assert (tried.further_tokens, tried.estimated) == (["0 cached", "7 reasoning"], "cost, input, output")
    tiers = [{"above_input_tokens": 200_000, "input_usd_per_mtok": "6", "output_usd_per_mtok": "22.5"}]
    price = Price(input_usd_per_mtok=Decimal(3), output_usd_per_mtok=Decimal("0.15"), input_tiers=tiers)
    shown = [Tried({"usage": used}, None, None, price, tier).paid_at for tier in (None, 200_000)]
    assert shown == ["$3.00 / $0.15 a million", "$6.00 / $22.50 a million"]


def test_an_attempt_names_the_prices_of_its_cached_and_written_tokens() -> None:
    tiers = [{"above_input_tokens": 9, "input_usd_per_mtok": "6", "output_usd_per_mtok": "22.5"}]
    figures = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15, "cached_input_usd_per_mtok": Decimal("0.3")}
    price = Price(**figures, cache_write_usd_per_mtok=Decimal("3.75"), input_tiers=tiers)
    used = {"cached_input_tokens": 5, "cache_write_tokens": 2}
    assert Tried({"usage": used}, None, None, price).paid_at == "$3.00 / $15.00 a million, cached $0.30, written $3.75"
    assert Tried({"usage": used | {"cache_write_tokens": 0}}, None, None, price, None, True).paid_at == (
        "$1.50 / $7.50 a million, cached $0.15, half price"
    )
    long = Tried({"usage": used}, None, None, price, 9).paid_at
    assert long == "$6.00 / $22.50 a million", "such tokens cost there what input costs"


@real
def test_a_cascade_says_which_figure_its_confidence_is(here: Installation, staff: Client) -> None:
    here.ollama.default = drafted("Bern", 92)
    raw = seen(staff.get(f"/usage/calls/{ask('cascade').call_id}/"))
    assert "Confidence of the draft 92 %, the raw figure" in raw
    assert "Raw figure 92 % (92 % stated by the model)" in raw
    assert "0 of this model, 0 of all models. From 50 on" in raw
    reviewed(60, good_above=30)
    calibrated = seen(staff.get(f"/usage/calls/{ask('cascade').call_id}/"))
    assert "Confidence of the draft 100 %, calibrated on 60 reviewed outcomes" in calibrated
    assert "60 of this model, 60 of all models" in calibrated


@real
def test_a_verified_answer_shows_the_review_and_the_cost_of_each_part(here: Installation, staff: Client) -> None:
    here.anthropic.default = Reply(text="Bern", input_tokens=1000, output_tokens=200)
    here.change_rule("verified answer", roles={"verifier": "llama3.2"})
    here.ollama.default = Reply(text='{"verdict": "right", "problems": []}')
    shown = seen(staff.get(f"/usage/calls/{ask('verified_answer').call_id}/"))
    assert "Review found right by llama3.2" in shown
    assert "Part by part answer $0.0060 verifier $0.0000" in shown


@real
def test_an_answer_from_the_cache_says_what_it_saved(here: Installation, staff: Client) -> None:
    here.ollama.default = Reply(text="Bern", input_tokens=1000, output_tokens=200)
    ask("nl_query", temperature=0.0)
    hit = ask("nl_query", temperature=0.0)
    assert hit.cache == "hit"
    shown = seen(staff.get(f"/usage/calls/{hit.call_id}/"))
    assert "hit: an equal request's answer, saved $0.0060" in shown


def test_a_call_that_nobody_could_serve_says_so(staff: Client) -> None:
    shown = seen(staff.get(f"/usage/calls/{receipt(outcome='no_route', model='', error='nothing may serve').pk}/"))
    assert "no route" in shown
    assert "nothing may serve" in shown
    assert "Nobody was called." in shown


@pytest.mark.parametrize("run_id", ["", "nightly-build", HOSTILE, "0190f1e2-0000-7000-8000-000000000000"])
def test_a_clients_own_run_id_leads_nowhere(staff: Client, run_id: str) -> None:
    page = staff.get(f"/usage/calls/{receipt(run_id=run_id).pk}/")
    assert page.status_code == 200
    assert "/runs/0" not in page.content.decode()
    assert HOSTILE not in page.content.decode()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"review": {"verdict": "none", "reason": "no verifier may serve"}}, "no review: no verifier may serve"),
        (
            {"review": {"verdict": "wrong", "by": "m", "problems": ["late"], "then": "revised", "revised_by": "n"}},
            "found wrong by m|late|revised n",
        ),
        ({"members": 3, "answered": 2, "votes": 2, "chosen_by": "vote"}, "3|2|2|vote"),
        (
            {"rounds": [{"objections": ["a", "b"], "revised": True}], "ended": "no objections"},
            "a; b (revised)|no objections",
        ),
        ({"agreed": True}, "yes"),
        ({"draft": {"reason": "no model may draft"}}, "nobody: no model may draft"),
    ],
)
def test_what_a_pattern_found_is_told_in_words(kept: dict[str, Any], said: str) -> None:
    assert "|".join(fact.value for fact in findings(kept)) == said


def test_a_receipt_of_an_older_time_can_be_read() -> None:
    assert {fact.value for fact in features({})} == {"none"}
    attempt = {"model": "m", "served": True, "confidence": 81.5}
    [fact] = confidence(RoutedCall(attempts=[attempt]))
    assert fact.value == "81.5 %, the raw figure that m stated of itself"
    assert confidence(RoutedCall(attempts=[{"model": "m"}])) == []


# --- providers -----------------------------------------------------------------------------------


def test_providers_show_their_circuits_counts_and_what_is_loaded(staff: Client) -> None:
    ollama, moonshot = Provider.objects.get(slug="ollama"), Provider.objects.get(slug="moonshot")
    now = timezone.now()
    Circuit.objects.create(provider=ollama, loaded_models=["llama3.2:latest"], checked_at=now)
    Circuit.objects.create(
        provider=ollama,
        model_slug="phi3",
        state="open",
        failures=3,
        open_until=now + timedelta(seconds=75),
        reason=HOSTILE,
    )
    Circuit.objects.create(provider=ollama, model_slug="mistral", state="open", open_until=now - timedelta(seconds=1))
    ProviderDay.objects.create(provider=moonshot, day=now.date(), requests=17)
    snapshot.forget()
    page = staff.get("/providers/")
    shown = seen(page)
    assert "0 of 8 slots" in shown
    assert "In memory llama3.2:latest" in shown
    assert "May be silent for 10:00" in shown
    assert "down phi3 for another 1:1" in shown
    assert "3 failures" in shown
    assert "trying mistral the next call tries it" in shown
    assert "17 of 1000 requests" in shown
    assert "moonshot off" in shown
    assert HOSTILE not in page.content.decode()
    assert "Test now" not in shown


@real
def test_a_provider_is_tested_now(here: Installation) -> None:
    client = staff_client("routing.change_provider")
    assert "ollama answers and has" in seen(client.post("/providers/ollama/test/", follow=True))
    assert "anthropic answers" in seen(client.post("/providers/anthropic/test/", follow=True))
    assert client.post("/providers/nobody/test/").status_code == 404
