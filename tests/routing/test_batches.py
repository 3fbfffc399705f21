"""Work that may wait: providers' batches at half price, plain calls in the window, one settlement each."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from routing import service, tasks
from routing.batches import batching
from routing.configuration import policies, snapshot
from routing.evidence import replay
from routing.models import (
    BatchItem,
    Budget,
    BudgetPeriod,
    Envelope,
    LanguageModel,
    Price,
    ProviderBatch,
    Reservation,
    RoutedCall,
    RoutingPolicy,
    RoutingRule,
    StoredBody,
    UsageRecord,
)
from routing.reporting import receipt_page
from routing.types import ChatRequest, ChatResult, Hints, Image, Message, Text, Tool, Verdict, message
from routing.waiting.rows import in_window, next_change
from tests.installation import Installation, installed
from tests.servers import Reply
from ziggie.errors import Conflict, InvalidInput, NotFound
from ziggie.ids import uuid7
from ziggie.queue import pending

pytestmark = pytest.mark.django_db(transaction=True)
CLOUD = Hints(task_kind="analysis", creator_tier="high")  # Sonnet first
LOCAL = Hints(task_kind="nl_query")  # llama first


@pytest.fixture
def here(transactional_db: None) -> Iterator[Installation]:
    with installed() as installation:
        installation.ollama.default = Reply(text="a local answer", input_tokens=1000, output_tokens=200)
        installation.anthropic.default = Reply(text="a batched answer", input_tokens=10_000, output_tokens=4_000)
        yield installation


def hand_in(text: str = "What is a sprite?", hints: Hints = CLOUD, **fields: Any) -> UUID:
    return service.submit_batch(ChatRequest((message("user", text),), hints=hints, max_output_tokens=5000, **fields))


def tick() -> None:
    """A minute later."""
    snapshot.forget()
    ProviderBatch.objects.update(checked_at=timezone.now() - timedelta(minutes=2))
    batching.tick()
    for pk in BatchItem.objects.filter(state="ready").values_list("pk", flat=True):
        batching.run(str(pk))


def state_of(item: UUID) -> str:
    return service.batch_result(item).state


@pytest.mark.parametrize(
    ("window", "now", "inside"),
    [
        ("23:00-06:00", time(23, 0), True),
        ("23:00-06:00", time(3, 30), True),
        ("23:00-06:00", time(6, 0), False),
        ("23:00-06:00", time(12, 0), False),
        ("01:00-02:00", time(1, 59), True),
        ("01:00-02:00", time(2, 0), False),
        ("", time(12, 0), True),
        ("22:00-22:00", time(12, 0), True),
    ],
)
def test_a_window_may_go_over_midnight(window: str, now: time, inside: bool) -> None:
    assert in_window(window, now) is inside


def test_work_goes_as_one_batch_and_is_settled_once_at_half_price(here: Installation) -> None:
    items = [hand_in(f"question {number}") for number in range(3)]
    assert [state_of(item) for item in items] == ["queued"] * 3
    tick()
    assert [state_of(item) for item in items] == ["sent"] * 3
    assert len(here.anthropic.batches["msgbatch_1"]) == 3
    # Their worst cases are held once, at no more than half of the full price's.
    assert not Reservation.objects.exists()
    assert Envelope.objects.get().amounts_microusd == [BudgetPeriod.objects.get().held_microusd]
    held = BudgetPeriod.objects.get().held_microusd
    assert 3 * 5000 * 7.5 < held < 3 * 5000 * 15
    tick()
    for item in items:
        routed = service.batch_result(item).routed
        assert routed is not None
        assert (routed.result.text, routed.model) == ("a batched answer", "claude-sonnet-4-5")
        assert routed.cost_microusd == 45_000  # 10,000 in and 4,000 out would be $0.09
    assert BudgetPeriod.objects.get().settled_microusd == 3 * 45_000
    assert not BatchItem.objects.exclude(request=None).exists()
    tick()
    assert RoutedCall.objects.count() == 3
    here.assert_books_are_closed()


def test_a_model_is_not_deleted_while_a_batch_that_asks_it_is_out(here: Installation, admin_client: Client) -> None:
    """Its answers are paid, and could not be put on the books."""
    hand_in()
    tick()
    model = LanguageModel.objects.get(slug=BatchItem.objects.get().sent["model"])
    page = admin_client.get(f"/admin/routing/languagemodel/{model.pk}/delete/").content.decode()
    assert f"a batch is out that asks {model.slug} 1 times" in page


def test_a_price_that_changes_while_a_batch_is_out_is_not_that_of_its_answers(here: Installation) -> None:
    Price.objects.update(
        input_tiers=[{"above_input_tokens": 9_000, "input_usd_per_mtok": "4", "output_usd_per_mtok": "20"}]
    )
    hand_in()
    tick()
    model = LanguageModel.objects.get(slug=BatchItem.objects.get().sent["model"])
    held_at = Price.objects.get(model=model)
    Price.objects.create(model=model, input_usd_per_mtok=30, output_usd_per_mtok=150)
    tick()
    record = UsageRecord.objects.get()
    assert (record.price_id, record.cost_microusd) == (held_at.pk, 60_000)  # 10,000 in and 4,000 out, in the tier
    here.assert_books_are_closed()


def test_the_receipt_says_the_half_price_that_was_paid(here: Installation) -> None:
    hand_in()
    tick()
    tick()
    (tried,) = receipt_page.context_of(RoutedCall.objects.get())["attempts"]
    assert tried.record.cost_microusd == 45_000  # 10,000 in, 4,000 out
    assert tried.paid_at == "$1.50 / $7.50 a million, half price"


def test_a_rule_that_stores_bodies_does_so_for_work_that_waits(here: Installation) -> None:
    for rule in RoutingRule.objects.all():
        rule.options["store_bodies"] = True
        rule.save()
    snapshot.forget()
    items = [hand_in("Ask ada@example.com"), hand_in("Ask ada@example.com", hints=LOCAL)]
    tick()
    tick()
    calls = {service.batch_result(item).routed.call_id for item in items}  # type: ignore[union-attr]
    stored = StoredBody.objects.all()
    assert {str(body.call_id) for body in stored} == calls
    assert {body.request["messages"][0]["parts"][0]["text"] for body in stored} == {"Ask [mail address]"}
    assert {body.answer["parts"][0]["text"] for body in stored} == {"a batched answer", "a local answer"}


def test_nothing_is_fetched_before_the_batch_has_ended(here: Installation) -> None:
    here.anthropic.batches_end = False
    item = hand_in()
    tick()
    tick()
    assert state_of(item) == "sent"
    here.anthropic.batches_end = True
    tick()
    assert state_of(item) == "done"


def test_what_is_answered_locally_is_answered_by_a_plain_call(here: Installation) -> None:
    item = hand_in(hints=LOCAL)
    tick()
    routed = service.batch_result(item).routed
    assert routed is not None
    assert (routed.result.text, routed.source) == ("a local answer", "local")
    assert not here.anthropic.batches
    here.assert_books_are_closed()


def test_a_rule_with_batch_waits_for_its_window(here: Installation) -> None:
    now = datetime.now(UTC)
    later, end = now + timedelta(hours=2), now + timedelta(hours=3)
    for name in ("critical and high analysis", "system query"):
        here.change_rule(name, options={"batch": True, "batch_window": f"{later:%H:%M}-{end:%H:%M}"})
    items = [hand_in(), hand_in(hints=LOCAL)]
    tick()
    assert [state_of(item) for item in items] == ["queued", "queued"]
    for name in ("critical and high analysis", "system query"):
        here.change_rule(name, options={"batch_window": f"{now - timedelta(hours=1):%H:%M}-{end:%H:%M}"})
    tick()
    assert [state_of(item) for item in items] == ["sent", "done"]


def test_what_expires_is_sent_once_more_and_then_called(here: Installation) -> None:
    here.anthropic.batch_kinds = {"slow": "expired"}
    slow, quick = hand_in("slow question"), hand_in("quick question")
    tick()
    tick()  # the answers of the first batch are there, and what expired goes with a second one
    assert (state_of(slow), state_of(quick)) == ("sent", "done")
    assert len(here.anthropic.batches) == 2
    tick()
    tick()
    routed = service.batch_result(slow).routed
    assert routed is not None
    assert routed.cost_microusd == 90_000  # a plain call has the plain price
    assert len(here.anthropic.batches) == 2
    here.assert_books_are_closed()


def test_what_a_batch_refuses_is_done_by_a_plain_call(here: Installation) -> None:
    here.anthropic.batch_kinds = {"odd": "errored"}
    item = hand_in("odd question")
    for _ in range(3):
        tick()
    assert state_of(item) == "done"
    outcomes = sorted(RoutedCall.objects.values_list("outcome", flat=True))
    assert outcomes == ["all_providers_failed", "ok"]
    here.assert_books_are_closed()


def test_an_answer_that_does_not_fit_its_schema_is_asked_for_again(here: Installation) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    item = hand_in(json_schema=schema)
    here.anthropic.when(
        Reply(text='{"m": 1}', input_tokens=100, output_tokens=10), times=2
    )  # the batch's, and its creation
    here.anthropic.default = Reply(text='{"n": 1}', input_tokens=100, output_tokens=10)
    for _ in range(3):
        tick()
    routed = service.batch_result(item).routed
    assert routed is not None
    assert routed.result.text == '{"n": 1}'
    here.assert_books_are_closed()


def test_a_provider_that_takes_no_batch_now_is_asked_again_later(here: Installation) -> None:
    here.anthropic.queue(Reply(status=529, error="Overloaded"))
    item = hand_in()
    tick()
    assert state_of(item) == "queued"
    assert not Reservation.objects.exists()
    tick()
    tick()
    assert state_of(item) == "done"
    assert ProviderBatch.objects.filter(state="lost").count() == 1
    here.assert_books_are_closed()


def test_a_batch_that_is_gone_is_sent_again(here: Installation) -> None:
    item = hand_in()
    tick()
    here.anthropic.batches["msgbatch_x"] = here.anthropic.batches.pop("msgbatch_1")
    tick()
    tick()
    assert state_of(item) == "done"
    here.assert_books_are_closed()


def forget_the_id_of_the_batch() -> None:
    """What is there if the process dies between the provider's taking the batch and its writing that down."""
    moment = timezone.now() - timedelta(minutes=20)
    ProviderBatch.objects.update(state="sending", remote_id="", created_at=moment)


def test_a_batch_whose_sender_died_is_found_again_and_not_paid_twice(here: Installation) -> None:
    item = hand_in()
    tick()
    forget_the_id_of_the_batch()
    made = (timezone.now() - timedelta(minutes=19)).isoformat()
    here.anthropic.batches_made = {"msgbatch_1": made, "msgbatch_other": made}
    here.anthropic.batches["msgbatch_other"] = [1, 2, 3]  # somebody else's, with the same key
    tick()
    assert ProviderBatch.objects.get().remote_id == "msgbatch_1"
    tick()
    assert state_of(item) == "done"
    assert sum("params" in str(requests) for requests in here.anthropic.batches.values()) == 1
    here.assert_books_are_closed()


def test_a_batch_that_the_provider_never_took_is_sent_again(here: Installation) -> None:
    item = hand_in()
    tick()
    forget_the_id_of_the_batch()
    here.anthropic.batches.clear()
    tick()
    tick()
    assert state_of(item) == "done"
    assert ProviderBatch.objects.filter(state="lost").count() == 1
    here.assert_books_are_closed()


def test_a_batch_whose_answer_is_lost_is_found_with_the_next_round(here: Installation) -> None:
    here.anthropic.queue(Reply(fault="reset"))
    item = hand_in()
    tick()
    assert ProviderBatch.objects.get().state == "sending"
    tick()
    tick()
    assert state_of(item) == "done"
    assert len(here.anthropic.batches) == 1
    here.assert_books_are_closed()


def test_a_batch_of_somebody_else_is_not_taken_for_ours_for_long(here: Installation) -> None:
    item = hand_in()
    tick()
    forget_the_id_of_the_batch()
    foreign = [{"custom_id": "theirs", "params": here.anthropic.batches["msgbatch_1"][0]["params"]}]
    here.anthropic.batches = {"msgbatch_x": foreign}
    here.anthropic.batches_made = {"msgbatch_x": (timezone.now() - timedelta(minutes=19)).isoformat()}
    for _ in range(4):
        tick()
    assert state_of(item) == "done"
    here.assert_books_are_closed()


def test_a_replay_knows_what_batches_cost(here: Installation) -> None:
    hand_in()
    tick()
    tick()
    live = RoutingPolicy.objects.get(state="live")
    report = replay.replay(replay.target_of(live))
    assert (report["cost"]["before_usd"], report["cost"]["after_usd"]) == ("0.045000", "0.045000")
    draft = policies.duplicate(live, by="test")
    chain = ["claude-haiku-4-5", "offline"]
    RoutingRule.objects.filter(policy=draft, name="critical and high analysis").update(chain=chain)
    report = replay.replay(replay.target_of(draft))
    # 10,000 in at $0.50 and 4,000 out at $2.50 a million
    assert report["cost"]["after_usd"] == "0.015000"


def test_a_process_that_died_between_settling_and_writing_settles_once(here: Installation) -> None:
    item = hand_in()
    tick()
    row = BatchItem.objects.get()
    tick()
    BatchItem.objects.update(state="sent", batch=row.batch_id, request=row.request, finished_at=None)
    ProviderBatch.objects.update(state="open")
    tick()
    assert state_of(item) == "done"
    assert RoutedCall.objects.count() == 1
    here.assert_books_are_closed()


def test_a_batch_that_would_pass_a_budget_is_done_for_nothing(here: Installation) -> None:
    Budget.objects.update(limit_microusd=100)
    item = hand_in()
    tick()
    routed = service.batch_result(item).routed
    assert routed is not None
    assert routed.source == "local"
    here.assert_books_are_closed()


def test_a_batch_takes_as_many_as_the_budget_has_room_for(here: Installation) -> None:
    Budget.objects.update(limit_microusd=100_000)  # each could cost $0.0375 and a little
    items = [hand_in(f"question {number}") for number in range(4)]
    tick()
    assert sorted(map(state_of, items)) == ["queued", "queued", "sent", "sent"]
    assert 75_000 < BudgetPeriod.objects.get().held_microusd < 80_000
    for _ in range(3):
        tick()
    assert {state_of(item) for item in items} == {"done"}
    assert BudgetPeriod.objects.get().settled_microusd <= 100_000
    here.assert_books_are_closed()


def test_an_answer_that_comes_after_its_money_was_given_back_is_paid_and_kept(here: Installation) -> None:
    item = hand_in()
    tick()
    service.close_envelope(Envelope.objects.get().pk)
    tick()
    assert state_of(item) == "done"
    assert BudgetPeriod.objects.get().settled_microusd == 45_000
    here.assert_books_are_closed()


def test_a_request_that_nothing_can_serve_fails_with_the_reason(here: Installation) -> None:
    item = hand_in(model="no-such-model")
    tick()
    result = service.batch_result(item)
    assert result.state == "failed"
    assert "no-such-model" in result.error
    assert BatchItem.objects.get().request is None


def test_what_cannot_be_kept_is_refused(here: Installation) -> None:
    def accept(result: ChatResult) -> Verdict:
        return Verdict(ok=True)

    with pytest.raises(InvalidInput):
        hand_in(accept=accept)
    with pytest.raises(InvalidInput):
        hand_in(hints=Hints(complexity=7.0))
    with pytest.raises(NotFound):
        service.batch_result(uuid7())


def test_a_request_is_kept_whole(here: Installation) -> None:
    from routing.records import kept_requests

    request = ChatRequest(
        messages=(Message("user", (Text("look"), Image(media_type="image/png", data="AAAA"))),),
        hints=Hints(task_kind="nl_query", complexity=0.5, capabilities=frozenset({"vision"})),
        tools=(Tool("add", "adds", {"type": "object"}),),
        stop=("END",),
        temperature=0.25,
        json_schema={"type": "object"},
        extra={"top_p": 0.5},
        seed=7,
    )
    assert kept_requests.from_json(kept_requests.to_json(request)) == request


def test_staff_see_what_waits_but_not_its_texts(here: Installation, admin_client: Client) -> None:
    item = hand_in("a very private question")
    tick()
    for name, pk in (("batchitem", item), ("providerbatch", ProviderBatch.objects.get().pk)):
        page = admin_client.get(f"/admin/routing/{name}/")
        assert page.status_code == 200
        detail = admin_client.get(f"/admin/routing/{name}/{pk}/change/")
        assert detail.status_code == 200
        assert "very private" not in page.content.decode() + detail.content.decode()


def test_the_sweep_has_workers_do_what_waits(here: Installation) -> None:
    tasks.sweep()
    assert pending() == 0
    hand_in()
    tasks.sweep()
    assert pending() == 1


def test_decisions_of_batches_come_out_again(here: Installation) -> None:
    hand_in()
    tick()
    tick()
    assert replay.check()["same"] == 1


@pytest.mark.parametrize(
    ("window", "now", "changes"),
    [
        ("23:00-06:00", datetime(2026, 3, 14, 12, tzinfo=UTC), datetime(2026, 3, 14, 23, tzinfo=UTC)),
        ("23:00-06:00", datetime(2026, 3, 14, 23, 30, tzinfo=UTC), datetime(2026, 3, 15, 6, tzinfo=UTC)),
        ("23:00-06:00", datetime(2026, 3, 14, 5, 59, tzinfo=UTC), datetime(2026, 3, 14, 6, tzinfo=UTC)),
        ("23:00-06:00", datetime(2026, 3, 14, 6, tzinfo=UTC), datetime(2026, 3, 14, 23, tzinfo=UTC)),
        ("09:00-17:00", datetime(2026, 3, 14, 18, tzinfo=UTC), datetime(2026, 3, 15, 9, tzinfo=UTC)),
        ("", datetime(2026, 3, 14, 18, tzinfo=UTC), None),
    ],
)
def test_a_window_says_when_it_opens_or_closes(window: str, now: datetime, changes: datetime | None) -> None:
    assert next_change(window, now) == changes


# --- taken back, or answered now -------------------------------------------------------------------


def test_waiting_work_is_taken_back(here: Installation) -> None:
    item = hand_in()
    service.cancel_batch(item)
    assert state_of(item) == "cancelled"
    tick()
    assert not here.anthropic.calls
    assert BatchItem.objects.get().request is None
    with pytest.raises(Conflict):
        service.cancel_batch(item)
    with pytest.raises(NotFound):
        service.cancel_batch(uuid7())


def test_work_that_is_taken_back_from_its_batch_is_paid_if_it_is_answered_all_the_same(here: Installation) -> None:
    gone, kept = hand_in("one question"), hand_in("another question")
    tick()
    service.cancel_batch(gone)
    assert (state_of(gone), state_of(kept)) == ("cancelled", "sent")
    tick()
    assert (state_of(gone), state_of(kept)) == ("cancelled", "done")
    assert BudgetPeriod.objects.get().settled_microusd == 2 * 45_000
    assert RoutedCall.objects.filter(bodies__isnull=False).count() == 1  # the unwanted answer is not kept
    assert not BatchItem.objects.filter(state="sent").exists()
    here.assert_books_are_closed()


def test_a_batch_that_nobody_wants_is_cancelled_at_its_provider_and_costs_nothing(here: Installation) -> None:
    here.anthropic.batches_end = False
    items = [hand_in("one question"), hand_in("another question")]
    tick()
    service.cancel_batch(items[0])
    tick()
    assert not here.anthropic.batches_cancelled
    service.cancel_batch(items[1])
    tick()
    assert here.anthropic.batches_cancelled == {"msgbatch_1"}
    tick()
    assert ProviderBatch.objects.get().state == "ended"
    assert BudgetPeriod.objects.get().settled_microusd == 0
    assert not BatchItem.objects.exclude(state="cancelled").exists()
    here.assert_books_are_closed()


def test_work_in_a_batch_is_answered_now_and_both_answers_are_paid(here: Installation) -> None:
    here.anthropic.batches_end = False
    hurried, patient = hand_in("one question"), hand_in("another question")
    tick()
    service.hurry_batch(hurried)
    tick()
    routed = service.batch_result(hurried).routed
    assert routed is not None
    assert routed.cost_microusd == 90_000  # at once has the plain price
    here.anthropic.batches_end = True
    tick()
    assert (state_of(hurried), state_of(patient)) == ("done", "done")
    assert BudgetPeriod.objects.get().settled_microusd == 90_000 + 2 * 45_000
    kept = service.batch_result(hurried).routed
    assert kept is not None
    assert kept.call_id == routed.call_id
    here.assert_books_are_closed()


def test_work_that_is_hurried_waits_for_no_window(here: Installation) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    window = f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"
    here.change_rule("system query", options={"batch": True, "batch_window": window})
    item = hand_in(hints=LOCAL)
    tick()
    assert state_of(item) == "queued"
    service.hurry_batch(item)
    with pytest.raises(Conflict):  # it is under way
        service.hurry_batch(item)
    tick()
    assert state_of(item) == "done"


def test_what_was_given_up_is_over_with_its_batch_however_that_ends(here: Installation) -> None:
    item = hand_in()
    tick()
    service.cancel_batch(item)
    here.anthropic.batches["msgbatch_x"] = here.anthropic.batches.pop("msgbatch_1")
    tick()
    tick()
    assert list(BatchItem.objects.values_list("state", flat=True)) == ["cancelled", "cancelled"]
    assert len(here.anthropic.batches) == 1  # it was not sent again
    here.assert_books_are_closed()


def test_work_of_an_owner_is_its_owners_again_when_no_batch_can_answer_it(here: Installation) -> None:
    request = ChatRequest((message("user", "odd question"),), hints=CLOUD, max_output_tokens=5000)
    item = service.submit_batch(request, service.Terms(made_for="run"))
    here.anthropic.batch_kinds = {"odd": "errored"}
    for _ in range(3):
        tick()
    result = service.batch_result(item)
    assert (result.state, result.error) == ("failed", "prompt is too odd")
    assert len(here.anthropic.batches) == 1
    assert not RoutedCall.objects.filter(outcome="ok").exists()
    here.assert_books_are_closed()


def test_a_limit_of_its_own_holds_for_all_calls_for_the_work(here: Installation) -> None:
    request = ChatRequest((message("user", "?"),), hints=CLOUD, max_output_tokens=5000, budget_fit="refuse")
    poor = service.submit_batch(request, service.Terms(limit_microusd=1_000))
    rich = service.submit_batch(request, service.Terms(limit_microusd=1_000_000))
    tick()
    tick()
    assert "of request" in service.batch_result(poor).error
    assert (state_of(poor), state_of(rich)) == ("failed", "done")
    assert replay.check()["same"] == 1
    here.assert_books_are_closed()


def test_only_the_models_that_its_key_may_use_do_the_work(here: Installation) -> None:
    allowed = service.Terms(allowed_models=("llama3.2",))
    item = service.submit_batch(ChatRequest((message("user", "?"),), hints=CLOUD), allowed)
    tick()
    routed = service.batch_result(item).routed
    assert routed is not None
    assert routed.model == "llama3.2"
    assert not here.anthropic.calls
