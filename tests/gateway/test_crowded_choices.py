"""Several answers to one request of which some fail: what that costs, and what others notice of it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from routing.configuration import snapshot
from routing.gateway.asking import Preparation
from routing.models import Circuit, Provider, ProviderDay, RoutedCall
from routing.walk import choices
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_calls import code, post
from tests.gateway.test_choices import FAILS, REPLY, change_rule, texts
from tests.gateway.test_clients import WEATHER
from tests.servers.script import Reply
from ziggie.models import create_api_key

SLOW_DOWN = Reply(status=429, error="slow down")
WHOLE_AND_STREAMED = pytest.mark.parametrize("stream", [False, True])


def limit_openai(**columns: int) -> None:
    Provider.objects.filter(slug="openai").update(**columns)
    snapshot.forget()


def by_another_key(gateway: Gateway) -> int:
    _, key = create_api_key("another")
    return post(gateway, key=key).status_code


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("failure", [FAILS, SLOW_DOWN], ids=["500", "429"])
def test_answers_that_fail_together_count_as_one_failure(gateway: Gateway, failure: Reply, stream: bool) -> None:
    gateway.openai.queue(*[failure] * 3)
    gateway.openai.default = REPLY
    assert post(gateway, n=3, stream=stream).status_code in (502, 429)
    assert list(Circuit.objects.values_list("failures", "state")) == [(1, "closed")]
    assert by_another_key(gateway) == 200


@WHOLE_AND_STREAMED
@pytest.mark.parametrize(("n", "at_once"), [(4, 2), (8, 4), (16, 4), (5, 1)])
def test_a_provider_that_takes_fewer_at_once_gives_all_and_is_called_by_others(
    gateway: Gateway, n: int, at_once: int, stream: bool
) -> None:
    gateway.openai.at_most = at_once
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5, first_token=0.3)
    answer = post(gateway, n=n, stream=stream)
    assert texts(answer) == ["The answer."] * n
    assert by_another_key(gateway) == 200
    assert not Circuit.objects.exclude(state="closed", failures=0).exists()
    costs = {receipt.cost_microusd for receipt in gateway.settled(2)}
    assert costs == {35, 35 * n}  # none was answered in vain


def test_a_provider_that_has_enough_for_now_is_not_asked_without_end(gateway: Gateway) -> None:
    gateway.openai.queue(REPLY, REPLY)
    gateway.openai.default = SLOW_DOWN
    assert post(gateway, n=8).status_code in (429, 502)
    assert len(gateway.openai.calls) <= 8 + 2 + 2 * choices.AGAIN
    (receipt,) = gateway.settled(1)
    assert receipt.cost_microusd == 70


@WHOLE_AND_STREAMED
def test_where_no_other_model_is_left_the_others_end_by_themselves_and_are_paid_as_counted(
    gateway: Gateway, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "LINGER_SECONDS", 0.01)
    gateway.openai.queue(Reply(status=400, error="no such parameter", latency=0.3))
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5, first_token=1.0)
    post(gateway, n=3, stream=stream)
    (receipt,) = gateway.settled(1)
    assert sorted(attempt["outcome"] for attempt in receipt.attempts) == ["error", "ok", "ok"]
    assert receipt.cost_microusd == 70


def test_an_answer_that_comes_whole_ends_by_itself_also_where_another_model_is_left(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "LINGER_SECONDS", 0.01)
    gateway.openai.queue(Reply(status=400, error="no such parameter", latency=0.3))
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5, first_token=1.0)
    gateway.ollama.default = Reply("By another.")
    change_rule(options={"first_token_seconds": None})
    assert texts(post(gateway, model="auto", n=2)) == ["By another."] * 2
    (receipt,) = gateway.settled(1)
    assert receipt.cost_microusd == 35


def test_what_begins_after_one_cannot_be_had_is_not_told_so_that_the_next_model_serves(gateway: Gateway) -> None:
    change_rule(options={"first_token_seconds": None})
    gateway.openai.queue(Reply(status=400, error="no such parameter"))
    gateway.openai.default = Reply("Too late.", first_token=0.5)
    gateway.ollama.default = Reply("By another.")
    assert texts(post(gateway, model="auto", n=2, stream=True)) == ["By another."] * 2


def test_a_stream_of_which_one_answer_cannot_be_had_is_refused_where_nothing_has_begun(gateway: Gateway) -> None:
    gateway.openai.queue(Reply(status=400, error="no such parameter"))
    gateway.openai.default = Reply("Too late.", first_token=0.5)
    answer = post(gateway, n=2, stream=True)
    assert (answer.status_code, code(answer)) == (502, "all_providers_failed")


@WHOLE_AND_STREAMED
def test_no_pause_is_waited_for_once_one_cannot_be_had(gateway: Gateway, stream: bool) -> None:
    change_rule(options={"first_token_seconds": None})
    gateway.openai.queue(Reply("", usage=False), Reply(status=429, error="slow down", headers={"retry-after": "9"}))
    gateway.openai.default = Reply(status=400, error="no such parameter", latency=0.5)
    gateway.ollama.default = Reply("By another.")
    began = time.monotonic()
    assert texts(post(gateway, model="auto", n=3, stream=stream)) == ["By another."] * 3
    assert time.monotonic() - began < 9


def test_a_schema_that_refers_to_what_is_none_asks_for_nothing_that_could_be_checked(gateway: Gateway) -> None:
    gateway.openai.default = Reply('{"city": "Oslo"}')
    town = {"description": "a town", "$ref": "#/properties/city/description"}
    schema = {"type": "object", "properties": {"city": town}}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    for n in (1, 2):
        assert texts(post(gateway, n=n, response_format=form)) == ['{"city": "Oslo"}'] * n


def test_once_one_does_not_fit_the_schema_no_further_answer_is_asked_for(gateway: Gateway) -> None:
    limit_openai(max_concurrency=1)
    gateway.openai.default = Reply('{"town": 1}')
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER}}
    assert post(gateway, n=4, response_format=form).status_code == 502
    assert len(gateway.openai.calls) < 8  # four answers and their repairs


def test_a_pause_beyond_the_deadline_is_not_waited_for(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.calls.LONGEST_CALL_SECONDS", 6.0)
    gateway.openai.queue(REPLY, Reply(status=429, error="slow down", headers={"retry-after": "9"}))
    gateway.openai.default = REPLY
    answer = post(gateway, n=2)
    assert (answer.status_code, code(answer)) == (502, "all_providers_failed")  # and not 504: there was time left


def test_more_answers_than_are_left_of_a_providers_day_are_not_begun(gateway: Gateway) -> None:
    limit_openai(max_requests_per_day=2)
    gateway.openai.default = REPLY
    refused = post(gateway, n=4)
    assert refused.status_code == 503
    assert "only 2 of its 2 requests of today left" in refused.text
    assert not gateway.openai.calls
    assert texts(post(gateway, n=2)) == ["The answer."] * 2


@pytest.mark.parametrize(("seed", "times"), [(None, 1), (7, 3)])
def test_answers_of_the_same_bytes_have_them_made_ready_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, seed: int | None, times: int
) -> None:
    made = []
    take = Preparation.take

    def taken(*args: object, **kwargs: object) -> object:
        made.append(found := take(*args, **kwargs))  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(Preparation, "take", taken)
    post(gateway, n=3, seed=seed)
    assert [found is None for found in made].count(False) == (3 if times == 1 else 1)
    assert len({received.body for received in gateway.openai.calls}) == times


@WHOLE_AND_STREAMED
def test_calls_that_race_for_the_last_requests_of_a_day_have_all_of_their_answers_or_none(
    gateway: Gateway, stream: bool
) -> None:
    limit_openai(max_requests_per_day=14)
    gateway.openai.default = Reply("The answer.", input_tokens=10, output_tokens=5, first_token=0.2)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: post(gateway, n=4, stream=stream), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
    assert len(gateway.openai.calls) == 12
    receipts = RoutedCall.objects.filter(outcome="ok")
    wait_until(lambda: receipts.count() == 3)
    assert {receipt.cost_microusd for receipt in receipts} == {140}
    assert not RoutedCall.objects.exclude(outcome="ok").exclude(cost_microusd=0).exists()
    assert ProviderDay.objects.get().requests == 12


def test_of_a_day_those_that_waited_for_their_slot_in_vain_do_not_count(gateway: Gateway) -> None:
    limit_openai(max_requests_per_day=10, max_concurrency=1)
    gateway.openai.default = Reply(status=400, error="no such parameter", latency=0.2)
    assert post(gateway, n=8).status_code == 400
    assert len(gateway.openai.calls) == 1
    wait_until(lambda: ProviderDay.objects.get().requests == 1)


def test_of_a_day_only_what_was_asked_for_counts_in_the_end(gateway: Gateway) -> None:
    limit_openai(max_requests_per_day=10)
    change_rule(options={"first_token_seconds": 60})  # so that the first is asked for alone
    gateway.openai.default = Reply(status=400, error="no such parameter")
    gateway.ollama.default = Reply("By another.")
    assert texts(post(gateway, model="auto", n=4)) == ["By another."] * 4
    assert len(gateway.openai.calls) == 1
    wait_until(lambda: ProviderDay.objects.get().requests == 1)
