"""Several answers to one request of OpenAI's API (`n`): one call, held, paid and told as what it is."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from routing.configuration import snapshot
from routing.models import Budget, BudgetPeriod, Provider, RoutedCall, RoutingRule, StoredBody, UsageRecord
from routing.walk import choices
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.test_calls import ASKED, CHAT, asked_and_left, code, post
from tests.gateway.test_clients import MODELS, OPENAI_TOOL, QUESTION, WEATHER, openai_client, servers, set_reply
from tests.gateway.test_matrix import in_every_way
from tests.servers.base import ProviderServer
from tests.servers.script import Call, Reply
from ziggie.models import create_api_key
from ziggie.values import replace

LIMIT = "from 1 to 16"
FAILS = Reply(status=500, error="it fell over")
REPLY = Reply("The answer.", input_tokens=10, output_tokens=5)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one answer fails, the others have the time that they need on a busy machine."""
    monkeypatch.setattr(choices, "LINGER_SECONDS", 30.0)


def serving(gateway: Gateway, model: str) -> ProviderServer:
    return dict(zip(MODELS, servers(gateway), strict=True))[model]


def chunks(answer: httpx2.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def texts(answer: httpx2.Response) -> list[str]:
    """The choices' texts of an answer, whole or streamed, in the order of their indexes."""
    said: dict[int, str] = {}
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return [choice["message"]["content"] for choice in answer.json()["choices"]]
    for chunk in chunks(answer):
        for choice in chunk["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return [said[index] for index in sorted(said)]


def change_rule(**columns: Any) -> None:
    RoutingRule.objects.update(**columns)
    snapshot.forget()


# --- what clients get ----------------------------------------------------------------------------


@in_every_way
def test_openais_client_gets_several_answers_of_every_provider(gateway: Gateway, model: str, stream: bool) -> None:
    server = serving(gateway, model)
    words = ("One.", "Two.", "Three.")
    server.queue(*[Reply(word, input_tokens=10, output_tokens=5) for word in words])
    asked_before = len(server.calls)
    if stream:
        said, finished, used = _streamed(gateway, model=model, n=3)
    else:
        answer = openai_client(gateway).chat.completions.create(model=model, messages=QUESTION, n=3)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        said = [choice.message.content or "" for choice in answer.choices]
        finished = [choice.finish_reason for choice in answer.choices]
        used = answer.usage
    assert sorted(said) == sorted(words)
    assert finished == ["stop"] * 3
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (30, 15, 45)
    assert len(server.calls) - asked_before == 3
    assert all("n" not in received.json for received in server.calls)


def _streamed(gateway: Gateway, **asked: Any) -> tuple[list[str], list[str | None], Any]:
    """Texts and ends by choice, and the usage."""
    n = asked["n"]
    said, finished, roles, used = [""] * n, [None] * n, [0] * n, []
    for chunk in openai_client(gateway).chat.completions.create(
        messages=QUESTION, stream=True, stream_options={"include_usage": True}, **asked
    ):
        if chunk.usage:
            assert not chunk.choices
            used.append(chunk.usage)
        for choice in chunk.choices:
            roles[choice.index] += choice.delta.role == "assistant"
            said[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished[choice.index]
    assert roles == [1] * n
    assert len(used) == 1
    return said, finished, used[0]


@in_every_way
def test_each_answer_calls_tools_of_its_own(gateway: Gateway, model: str, stream: bool) -> None:
    calls = (Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"}))
    set_reply(gateway, Reply("", calls=calls))
    answer = post(gateway, model=model, n=2, stream=stream, tools=[OPENAI_TOOL])
    if not stream:
        for choice in answer.json()["choices"]:
            told = [json.loads(call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]
            assert (choice["finish_reason"], told) == ("tool_calls", [{"city": "Oslo"}, {"city": "Rome"}])
        return
    found: dict[tuple[int, int], str] = {}
    for chunk in chunks(answer):
        for choice in chunk["choices"]:
            for piece in choice["delta"].get("tool_calls", ()):
                place = (choice["index"], piece["index"])
                found[place] = found.get(place, "") + piece["function"]["arguments"]
    assert {place: json.loads(arguments)["city"] for place, arguments in found.items()} == {
        (choice, call): city for choice in (0, 1) for call, city in enumerate(("Oslo", "Rome"))
    }


@in_every_way
def test_each_answer_fits_the_schema_that_all_are_asked_for(gateway: Gateway, model: str) -> None:
    set_reply(gateway, Reply('{"city": "Oslo"}'))
    serving(gateway, model).queue(Reply('{"city": "Oslo"}'), Reply('{"town": 1}'))
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER}}
    answer = post(gateway, model=model, n=2, response_format=form)
    assert [json.loads(text) for text in texts(answer)] == [{"city": "Oslo"}] * 2
    assert answer.headers["x-ziggie-attempts"] == "3"  # one was sent back


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_has_log_probabilities_of_its_own(gateway: Gateway, stream: bool) -> None:
    gateway.openai.queue(Reply("One."), Reply("Two."))
    answer = post(gateway, n=2, stream=stream, logprobs=True)
    told = [""] * 2
    for chunk in chunks(answer) if stream else [answer.json()]:
        for choice in chunk["choices"]:
            told[choice["index"]] += "".join(one["token"] for one in (choice["logprobs"] or {}).get("content", ()))
    assert sorted(told) == ["One.", "Two."]


def test_pieces_of_one_answer_come_while_another_has_not_begun(gateway: Gateway) -> None:
    writes_on = threading.Event()
    gateway.openai.queue(Reply("First.", piece=6), Reply("Second.", after=writes_on))
    body = {**ASKED, "n": 2, "stream": True}
    seen = ""
    with httpx2.stream("POST", gateway.url + CHAT, json=body, headers=gateway.headers, timeout=60) as answer:
        for line in answer.iter_lines():
            seen += line
            if "First." in seen:
                writes_on.set()
    assert "[DONE]" in seen


def test_answers_of_a_stream_begin_in_their_order_whichever_is_written_first(gateway: Gateway) -> None:
    writes_on = threading.Event()
    gateway.openai.queue(Reply("First.", after=writes_on), Reply("Second."), Reply("Third."))
    asked = {"model": "gpt", "messages": QUESTION, "n": 3}
    with openai_client(gateway).chat.completions.stream(**asked) as stream:
        seen: list[int] = []
        for event in stream:
            if event.type == "chunk":
                seen += [choice.index for choice in event.chunk.choices if choice.index not in seen]
                writes_on.set()
        answer = stream.get_final_completion()
    assert seen == [0, 1, 2]
    assert sorted(choice.message.content or "" for choice in answer.choices) == ["First.", "Second.", "Third."]


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_come_beside_django_as_they_do_alone(mounted: Gateway, stream: bool) -> None:
    mounted.openai.default = REPLY
    assert texts(post(mounted, n=3, stream=stream)) == ["The answer."] * 3
    (receipt,) = mounted.settled(1)
    assert receipt.cost_microusd == 105


def test_openais_helper_for_streams_puts_every_answer_together(gateway: Gateway) -> None:
    set_reply(gateway, Reply("", calls=(Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"}))))
    for model in MODELS:
        with openai_client(gateway).chat.completions.stream(
            model=model, messages=QUESTION, n=3, tools=[OPENAI_TOOL]
        ) as stream:
            answer = stream.get_final_completion()
        for choice in answer.choices:
            told = [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls or ()]
            assert (choice.finish_reason, told) == ("tool_calls", ["Oslo", "Rome"])
        assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_seeds_follow_each_other_so_that_answers_differ(gateway: Gateway) -> None:
    post(gateway, n=3, seed=7)
    assert sorted(received.json["seed"] for received in gateway.openai.calls) == [7, 8, 9]
    post(gateway, n=2, seed=2**63 - 1)
    assert sorted(received.json["seed"] for received in gateway.openai.calls[3:]) == [2**63 - 2, 2**63 - 1]


def test_no_answer_is_asked_for_with_a_seed_that_is_too_large_where_the_first_is_not(gateway: Gateway) -> None:
    largest = 2**31 - 1
    gateway.gemini.default = REPLY
    assert len(texts(post(gateway, model="flash", n=4, seed=largest - 1))) == 4
    asked = sorted(received.json["generationConfig"]["seed"] for received in gateway.gemini.calls)
    assert asked == [largest - 4, largest - 3, largest - 1, largest]


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, 17, 10**30, "2", True, 2.0, [2]], ids=repr)
def test_a_number_of_answers_that_there_cannot_be_is_refused_and_the_limit_named(gateway: Gateway, wrong: Any) -> None:
    answer = post(gateway, n=wrong)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "n")
    assert LIMIT in error["message"]
    assert not gateway.openai.requests
    assert not RoutedCall.objects.exists()


@pytest.mark.parametrize("one", [1, None])
def test_one_answer_is_what_no_number_asks_for(gateway: Gateway, one: Any) -> None:
    for model in MODELS:
        answer = post(gateway, model=model, n=one)
        assert len(answer.json()["choices"]) == 1
    assert len(gateway.openai.calls) == 1


def test_sixteen_answers_come_at_once(gateway: Gateway) -> None:
    gateway.openai.default = replace(REPLY, latency=0.05)
    assert texts(post(gateway, n=16)) == ["The answer."] * 16
    (receipt,) = gateway.settled(1)
    assert (len(receipt.attempts), receipt.cost_microusd) == (16, 16 * 35)


def test_a_large_request_goes_out_only_so_often(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "x" * 6_000_000}]
    answer = post(gateway, n=16, messages=messages)
    assert (answer.status_code, "n: 16 answers" in answer.json()["error"]["message"]) == (413, True)
    assert not gateway.openai.requests


def test_a_pattern_that_a_caller_names_and_several_answers_do_not_go_together(gateway: Gateway) -> None:
    answer = post(gateway, model="auto", n=2, metadata={"pattern": "ensemble"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


def test_a_rules_pattern_gives_way_to_several_answers_of_one_model(gateway: Gateway) -> None:
    change_rule(pattern="verify", roles={"verifier": "llama"}, options={"cache_ttl_seconds": 60})
    gateway.openai.queue(Reply("One."), Reply("Two."))
    answer = post(gateway, model="auto", temperature=0, n=2)
    assert sorted(texts(answer)) == ["One.", "Two."]
    assert answer.headers["x-ziggie-cache"] == "off"
    assert not gateway.ollama.calls
    (receipt,) = gateway.settled(1)
    assert receipt.pattern == "single"
    assert [attempt["role"] for attempt in sorted(receipt.attempts, key=lambda a: a["role"])] == ["answer", "choice"]


def test_several_answers_neither_take_nor_leave_anything_in_the_cache(gateway: Gateway) -> None:
    change_rule(options={"cache_ttl_seconds": 60})
    gateway.openai.default = REPLY
    states = []
    for n in (2, 1, 2, 1):
        answer = post(gateway, model="auto", temperature=0, n=n)
        assert len(texts(answer)) == n
        states.append(answer.headers["x-ziggie-cache"])
        gateway.settled(len(states))
    assert states == ["off", "miss", "off", "hit"]


def test_anthropics_api_knows_no_such_number(gateway: Gateway) -> None:
    for model in MODELS:
        assert post(gateway, "/v1/messages", model=model, n=2).status_code == 400


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_is_held_and_paid_with_its_prompt_and_has_a_record(gateway: Gateway, stream: bool) -> None:
    gateway.openai.default = REPLY
    post(gateway)
    (alone,) = gateway.settled(1)
    answer = post(gateway, n=3, stream=stream)
    receipt = gateway.settled(2)[-1]
    assert receipt.reserved_microusd == 3 * alone.reserved_microusd
    assert (receipt.cost_microusd, receipt.saved_microusd) == (3 * alone.cost_microusd, 3 * alone.saved_microusd)
    records = UsageRecord.objects.filter(call_id=receipt.pk).order_by("attempt")
    assert [(row.role, row.input_tokens, row.output_tokens, row.cost_microusd) for row in records] == [
        (role, 10, 5, 35) for role in ("answer", "choice", "choice")
    ]
    assert all(attempt["served"] for attempt in receipt.attempts)
    if not stream:
        assert answer.headers["x-ziggie-cost-usd"] == "0.000105"
        assert answer.headers["x-ziggie-attempts"] == "3"


def test_a_budget_that_fits_two_of_three_answers_admits_none_or_makes_them_shorter(gateway: Gateway) -> None:
    gateway.openai.default = REPLY
    post(gateway, max_tokens=1_000)
    held = gateway.settled(1)[0].reserved_microusd
    Budget.objects.update(limit_microusd=35 + 3 * held - 1)
    snapshot.forget()
    refused = post(gateway, max_tokens=1_000, n=3)
    assert (refused.status_code, code(refused)) == (402, "budget_exceeded")
    assert len(gateway.openai.calls) == 1
    assert post(gateway, max_tokens=1_000, n=3, metadata={"budget_fit": "clamp"}).status_code == 200
    assert {received.json["max_tokens"] for received in gateway.openai.calls[1:]} == {999}
    receipt = gateway.settled(2)[-1]
    assert 3 * held - 15 <= receipt.reserved_microusd < 3 * held
    Budget.objects.update(limit_microusd=35 + 105 + 2 * held)
    assert post(gateway, max_tokens=1_000, n=2).status_code == 200


def test_many_calls_at_once_never_pass_a_budget_that_fits_some(gateway: Gateway) -> None:
    Budget.objects.update(limit_microusd=9_000)
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=50, latency=0.05)
    with ThreadPoolExecutor(24) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: post(gateway, n=3), range(48))]
    assert set(statuses) == {200, 402}
    gateway.settled(statuses.count(200))
    period = BudgetPeriod.objects.get()
    assert period.settled_microusd == 3 * 260 * statuses.count(200) <= 9_000


def test_tokens_of_all_answers_count_for_the_keys_limit(gateway: Gateway) -> None:
    _, key = create_api_key("few tokens", tokens_per_minute=200)
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=60)
    assert post(gateway, key=key, n=3).status_code == 200
    assert post(gateway, key=key).status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_has_all_answers_cut_and_pays_for_each(gateway: Gateway, stream: bool) -> None:
    gateway.openai.default = Reply("word " * 200, input_tokens=10, per_piece=0.02 if stream else 0, fault_after=8,
                                   after=None if stream else threading.Event())  # fmt: skip
    asked_and_left(gateway, stream=stream, n=3)
    (receipt,) = gateway.settled(1)
    assert receipt.outcome == "cancelled"
    sent = [attempt for attempt in receipt.attempts if attempt["sent"]]
    assert len(receipt.attempts) == 3
    assert {attempt["outcome"] for attempt in receipt.attempts} == {"cancelled"}
    assert 0 < receipt.cost_microusd == sum(attempt["cost_microusd"] for attempt in sent) <= receipt.reserved_microusd


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure", [FAILS, Reply(status=429, error="slow down", headers={"retry-after": "1"})], ids=["500", "429"]
)
def test_one_that_fails_in_passing_is_asked_again_of_the_same_model(
    gateway: Gateway, stream: bool, failure: Reply
) -> None:
    gateway.openai.queue(REPLY, failure)
    gateway.openai.default = REPLY
    answer = post(gateway, n=3, stream=stream)
    assert texts(answer) == ["The answer."] * 3
    (receipt,) = gateway.settled(1)
    assert sorted(attempt["outcome"] for attempt in receipt.attempts) == ["error", "ok", "ok", "ok"]
    assert (receipt.cost_microusd, receipt.model) == (105, "gpt")


def test_one_that_cannot_be_had_has_all_asked_of_the_next_model(gateway: Gateway) -> None:
    gateway.openai.queue(REPLY, FAILS, FAILS, FAILS)
    gateway.ollama.default = Reply("By another.")
    answer = post(gateway, model="auto", n=2)
    assert texts(answer) == ["By another."] * 2
    assert answer.json()["model"] == answer.headers["x-ziggie-model"] == "llama"
    (receipt,) = gateway.settled(1)
    assert [(a["model"], a["outcome"], a["served"]) for a in receipt.attempts] == [
        ("gpt", "ok", False),
        *[("gpt", "error", False)] * 3,
        *[("llama", "ok", True)] * 2,
    ]
    assert receipt.cost_microusd == 35  # what was answered in vain is paid


def test_where_no_other_model_may_serve_the_call_fails_and_what_was_answered_is_paid(gateway: Gateway) -> None:
    gateway.openai.queue(REPLY, FAILS, FAILS, FAILS)
    answer = post(gateway, n=2)
    assert (answer.status_code, code(answer)) == (502, "all_providers_failed")
    assert len(answer.json()["error"]["details"]) == 4
    (receipt,) = gateway.settled(1)
    assert (receipt.outcome, receipt.cost_microusd) == ("all_providers_failed", 35)


def test_a_stream_of_which_one_answer_breaks_off_ends_with_an_error_event(gateway: Gateway) -> None:
    gateway.openai.queue(Reply("First answer."), Reply("Second answer.", fault="cut", fault_after=3))
    answer = post(gateway, n=2, stream=True)
    assert answer.status_code == 200
    assert chunks(answer)[-1]["error"]["code"] == "all_providers_failed"
    assert "[DONE]" not in answer.text
    (receipt,) = gateway.settled(1)
    assert sorted(attempt["outcome"] for attempt in receipt.attempts) == ["cut", "ok"]
    assert receipt.cost_microusd > 0


def test_a_request_that_the_model_refuses_is_the_callers_to_mend(gateway: Gateway) -> None:
    gateway.openai.default = Reply(status=400, error="no such parameter", error_type="invalid_request_error")
    answer = post(gateway, n=3)
    assert (answer.status_code, code(answer)) == (400, "unsupported")
    (receipt,) = gateway.settled(1)
    assert receipt.cost_microusd == 0


def test_where_another_model_is_left_one_that_fails_for_good_ends_a_streams_others_after_a_while(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "LINGER_SECONDS", 0.2)
    change_rule(options={"first_token_seconds": None})
    gateway.openai.queue(Reply(status=400, error="no such parameter"))
    gateway.openai.default = Reply("Never.", fault="hang")
    assert len(texts(post(gateway, model="auto", n=2, stream=True))) == 2
    (receipt,) = gateway.settled(1)
    assert [a["outcome"] for a in receipt.attempts if a["model"] == "gpt"] == ["error", "cancelled"]
    assert receipt.model == "llama"


def test_of_a_model_that_is_left_where_it_is_slow_only_one_answer_is_asked_first(gateway: Gateway) -> None:
    change_rule(options={"first_token_seconds": 1})
    gateway.openai.default = Reply("Too late.", latency=30)
    gateway.ollama.default = Reply("In time.")
    assert texts(post(gateway, model="auto", n=4)) == ["In time."] * 4
    assert len(gateway.openai.calls) == 1


def test_a_provider_with_one_slot_answers_one_after_the_other(gateway: Gateway) -> None:
    change_rule(options={"first_token_seconds": 5})
    Provider.objects.filter(slug="openai").update(max_concurrency=1)
    snapshot.forget()
    gateway.openai.default = Reply("The answer.", per_piece=0.35)  # the last waits longer than a first token may
    assert texts(post(gateway, model="auto", n=4)) == ["The answer."] * 4
    assert gateway.openai.most_at_once == 1
    assert not gateway.ollama.calls


def test_time_is_over_for_all_answers_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.calls.LONGEST_CALL_SECONDS", 3.0)
    gateway.openai.queue(REPLY, Reply("Never.", fault="hang"), Reply("Never.", fault="hang"))
    answer = post(gateway, n=3)
    assert (answer.status_code, code(answer)) == (504, "deadline")
    (receipt,) = gateway.settled(1)
    assert len(receipt.attempts) == 3
    assert 35 < receipt.cost_microusd <= receipt.reserved_microusd


def test_what_is_kept_of_a_call_holds_all_its_answers(gateway: Gateway) -> None:
    change_rule(options={"store_bodies": True})
    gateway.openai.queue(Reply("One."), Reply("Two."))
    post(gateway, model="auto", n=2)
    gateway.settled(1)
    wait_until(StoredBody.objects.exists)
    kept = StoredBody.objects.get()
    assert kept.request["choices"] == 2
    (other,) = kept.answer["others"]
    assert sorted([kept.answer["parts"][0]["text"], other["parts"][0]["text"]]) == ["One.", "Two."]
