"""What documents may cost is held before they are sent, and they count as what they are: by tokens, in what is kept."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from django.db import connection

from routing.models import (
    Budget,
    LanguageModel,
    Provider,
    Reservation,
    RoutedCall,
    RoutingRule,
    RoutingSettings,
    StoredBody,
    UsageRecord,
)
from routing.planning.pdfs import PAGE_TOKENS_LIKELY, UNSEEN_PAGES
from tests.gateway.conftest import Gateway, wait_until
from tests.gateway.pdf_files import encoded, pdf
from tests.gateway.test_bodies import store, stored
from tests.gateway.test_calls import CHAT, MESSAGES
from tests.gateway.test_clients import anthropic_client, openai_client, set_reply
from tests.gateway.test_matrix import ask
from tests.gateway.test_pdfs import DATA, block, by_address, document, gateway_forgets, heard, part, turn
from tests.servers.script import Reply
from ziggie.models import create_api_key

WINDOW = 128_000
# model -> what a prompt that fills its context is billed at most, and the prices of a token in and out
DEAREST = {
    "claude": (WINDOW, 3, 15),
    "flash": (WINDOW, 2, 10),
    "thinker": (WINDOW * 7 // 4, 1, 5),  # of which a page's picture is billed at 1.62 times its tokens
    "gpt": (WINDOW * 34, 1, 5),  # at 33.3 times
}


def limit(microusd: int) -> None:
    Budget.objects.update(limit_microusd=microusd)
    gateway_forgets()


@pytest.mark.parametrize("model", DEAREST)
def test_the_whole_context_is_held_and_not_a_micro_dollar_less(gateway: Gateway, model: str) -> None:
    tokens, price_in, price_out = DEAREST[model]
    worst = tokens * price_in + 60 * price_out
    limit(worst - 1)
    refused = {"model": model, "max_tokens": 60, "messages": document("openai")}
    answer = httpx2.post(gateway.url + CHAT, json=refused, headers=gateway.headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_exceeded")
    limit(worst)
    set_reply(gateway, Reply("Green.", input_tokens=tokens, output_tokens=60))
    ask(gateway, "openai", model, messages=document("openai"), max_tokens=60)
    receipt = gateway.settled(1)[-1]
    assert (receipt.reserved_microusd, receipt.cost_microusd) == (worst, worst)


def test_what_a_document_did_not_cost_comes_back(gateway: Gateway) -> None:
    go_on = threading.Event()
    set_reply(gateway, Reply("Green.", input_tokens=2_300, output_tokens=5, after=go_on))
    asked = {"model": "claude", "max_tokens": 60, "messages": document("anthropic")}
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            httpx2.post(gateway.url + MESSAGES, json=asked, headers=gateway.headers, timeout=60)
        )
    )
    asking.start()
    wait_until(lambda: bool(gateway.anthropic.calls))
    held = Reservation.objects.get()
    assert held.amounts_microusd == [WINDOW * 3 + 60 * 15]
    go_on.set()
    asking.join(60)
    assert answers[0].status_code == 200
    (receipt,) = gateway.settled(1)
    assert receipt.cost_microusd == 2_300 * 3 + 5 * 15


def test_a_small_file_full_of_packed_text_is_held_like_any_other(gateway: Gateway) -> None:
    """Of ten kilobytes a provider may make a hundred thousand tokens."""
    small = encoded(pdf("spam " * 20, packed=True))
    set_reply(gateway, Reply("Spam.", input_tokens=127_900, output_tokens=60))
    for api in ("openai", "anthropic"):
        ask(gateway, api, "claude", messages=document(api, data=small), max_tokens=60)
    for receipt in gateway.settled(2):
        assert receipt.cost_microusd <= receipt.reserved_microusd


def test_a_call_that_names_no_length_gets_a_shorter_answer_where_money_is_short(gateway: Gateway) -> None:
    limit(WINDOW * 3 + 1_000 * 15 + 1)
    openai_client(gateway).chat.completions.create(model="claude", messages=document("openai"))
    assert heard(gateway, "claude")["max_tokens"] == 1_000


def leave(gateway: Gateway, model: str, pieces: int = 2, **fields: Any) -> None:
    """Asks for a stream about seven pages, and goes away once it has begun."""
    asked = {"model": model, "max_tokens": 60, "stream": True, "messages": turn(part(encoded(pdf(pages=7)))), **fields}
    with httpx2.stream("POST", gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=60) as answer:
        assert answer.status_code == 200
        for _, _ in zip(range(pieces), answer.iter_raw(), strict=False):
            pass


def uncounted(gateway: Gateway, calls: int = 1) -> tuple[RoutedCall, UsageRecord]:
    """The last call, and its record: pages are told, and what is charged is the most that they may come to."""
    receipt = gateway.settled(calls)[-1]
    record = UsageRecord.objects.get(call_id=receipt.pk)
    assert set(record.estimated) >= {"input_tokens", "cost"}
    assert 7 * PAGE_TOKENS_LIKELY <= (record.input_tokens or 0) <= 7 * PAGE_TOKENS_LIKELY + 100
    assert receipt.cost_microusd == record.cost_microusd <= receipt.reserved_microusd
    return receipt, record


def test_a_document_that_nobody_counted_is_paid_as_what_was_held(gateway: Gateway) -> None:
    """The count stands at the end of a stream: who leaves before it has paid the full context."""
    set_reply(gateway, Reply("It is green, " * 200, input_tokens=127_000, output_tokens=600, per_piece=0.01))
    limit(10_000_000)
    for calls, model in enumerate(("thinker", "gpt"), start=1):
        leave(gateway, model)
        tokens, price_in, price_out = DEAREST[model]
        receipt, record = uncounted(gateway, calls)
        assert receipt.cost_microusd == tokens * price_in + (record.output_tokens or 0) * price_out


def test_leaving_early_again_and_again_uses_a_budget_up(gateway: Gateway) -> None:
    set_reply(gateway, Reply("It is green, " * 200, input_tokens=127_000, output_tokens=600, per_piece=0.01))
    limit(500_000)
    for calls in (1, 2):
        leave(gateway, "thinker")
        gateway.settled(calls)
    asked = {"model": "thinker", "max_tokens": 60, "messages": document("openai")}
    assert httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=30).status_code == 402


def test_so_is_one_whose_stream_breaks_off_or_whose_server_counts_nothing(gateway: Gateway) -> None:
    limit(10_000_000)
    said = document("openai", data=encoded(pdf(pages=7)))
    set_reply(gateway, Reply("It is green, or so they say.", fault="cut", fault_after=2, usage=False))
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        list(openai_client(gateway).chat.completions.create(model="thinker", messages=said, stream=True))
    cut, _ = uncounted(gateway)
    set_reply(gateway, Reply("Green.", usage=False))
    for calls, stream in enumerate((False, True), start=2):
        ask(gateway, "openai", "thinker", stream=stream, messages=said, max_tokens=60)
        receipt, record = uncounted(gateway, calls)
        assert receipt.cost_microusd == WINDOW * 7 // 4 + (record.output_tokens or 0) * 5
    assert WINDOW * 7 // 4 <= cut.cost_microusd <= WINDOW * 7 // 4 + 60


def test_an_answer_in_one_piece_that_nobody_saw_costs_all_that_was_held(gateway: Gateway) -> None:
    Provider.objects.update(timeout_seconds=1)
    gateway_forgets()
    set_reply(gateway, Reply(fault="hang"))
    said = document("openai", data=encoded(pdf(pages=7)))
    asked = {"model": "thinker", "max_tokens": 60, "messages": said}
    assert httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=60).status_code >= 500
    receipt, _ = uncounted(gateway)
    assert receipt.cost_microusd == receipt.reserved_microusd == WINDOW * 7 // 4 + 60 * 5


@pytest.mark.parametrize("model", ["claude", "flash"])
def test_a_document_that_was_counted_before_its_reader_left_is_paid_by_its_count(gateway: Gateway, model: str) -> None:
    """Claude counts the prompt first, Gemini in every piece."""
    set_reply(gateway, Reply("It is green, " * 200, input_tokens=9_000, output_tokens=2_600, per_piece=0.01))
    leave(gateway, model)
    record = UsageRecord.objects.get(call_id=gateway.settled(1)[-1].pk)
    assert (record.input_tokens, "cost" in record.estimated, record.outcome) == (9_000, False, "cancelled")


def test_what_was_refused_or_never_sent_costs_nothing(gateway: Gateway) -> None:
    set_reply(gateway, Reply(status=400, error="this PDF is encrypted"))
    asked = {"model": "thinker", "max_tokens": 60, "messages": document("openai")}
    assert httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=30).status_code == 400
    assert gateway.settled(1)[-1].cost_microusd == 0


# --- counted by tokens ----------------------------------------------------------------------------


def test_a_model_whose_context_is_too_small_for_its_pages_is_passed_over(gateway: Gateway) -> None:
    RoutingRule.objects.update(chain=["flash", "claude"])
    LanguageModel.objects.filter(slug="flash").update(context_window=20_000)
    gateway_forgets()
    for pages, model in ((12, "flash"), (14, "claude")):
        said = document("openai", data=encoded(pdf(pages=pages)))
        answer = openai_client(gateway).chat.completions.with_raw_response.create(model="auto", messages=said)
        assert answer.headers["x-ziggie-model"] == model
    receipt = gateway.settled(2)[-1]
    assert 0 <= receipt.features["context_tokens"] - 14 * PAGE_TOKENS_LIKELY < 20
    (reason,) = [row["reason"] for row in receipt.candidates if row["state"] == "dropped"]
    assert reason.startswith("context of 20000 tokens is too small for about 210")


def test_pages_count_towards_the_tokens_of_a_minute(gateway: Gateway) -> None:
    _, gateway.key = create_api_key("small", tokens_per_minute=50_000)
    set_reply(gateway, Reply("Green.", input_tokens=45_000, output_tokens=10))
    said = document("openai", data=encoded(pdf(pages=20)))
    asked = {"model": "claude", "max_tokens": 60, "messages": said}
    first = httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=30)
    assert first.status_code == 200
    assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 50_000 - 20 * PAGE_TOKENS_LIKELY
    second = httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=30)
    third = httpx2.post(gateway.url + CHAT, json=asked, headers=gateway.headers, timeout=30)
    assert (second.status_code, third.status_code) == (200, 429)


def is_over_its_limit(gateway: Gateway) -> bool:
    """Whether the key has no tokens left; asking costs none."""
    asked = {"model": "llama", "messages": [{"role": "user", "content": "Hi."}]}
    answer = httpx2.post(gateway.url + MESSAGES + "/count_tokens", json=asked, headers=gateway.headers, timeout=30)
    assert answer.status_code in (200, 429)
    return answer.status_code == 429


def test_what_documents_came_to_counts_once_it_is_known(gateway: Gateway) -> None:
    """Several at once, each of one page that a hundred thousand tokens are packed into."""
    limit(50_000_000)
    _, gateway.key = create_api_key("small", tokens_per_minute=50_000)
    go_on = threading.Event()
    set_reply(gateway, Reply("Spam.", input_tokens=127_000, output_tokens=6, after=go_on))
    asked = {"model": "claude", "max_tokens": 60, "messages": document("anthropic", data=encoded(pdf()))}

    def one(_: int) -> int:
        return httpx2.post(gateway.url + MESSAGES, json=asked, headers=gateway.headers, timeout=60).status_code

    with ThreadPoolExecutor(4) as several:
        answers = several.map(one, range(4))
        wait_until(lambda: len(gateway.anthropic.calls) == 4)
        assert not is_over_its_limit(gateway)
        go_on.set()
        assert list(answers) == [200] * 4
    wait_until(lambda: is_over_its_limit(gateway))
    assert one(0) == 429


def test_what_nobody_counted_counts_as_a_full_context(gateway: Gateway) -> None:
    limit(10_000_000)
    _, gateway.key = create_api_key("small", tokens_per_minute=WINDOW * 7 // 4)
    set_reply(gateway, Reply("It is green, " * 200, input_tokens=127_000, output_tokens=600, per_piece=0.01))
    leave(gateway, "thinker")
    wait_until(lambda: is_over_its_limit(gateway))


@pytest.mark.parametrize(("model", "how"), [("claude", "reported"), ("flash", "reported"), ("thinker", "estimated")])
def test_tokens_are_counted_with_the_document(gateway: Gateway, model: str, how: str) -> None:
    said = turn(block(encoded(pdf(pages=3))))
    raw = anthropic_client(gateway).messages.with_raw_response.count_tokens(model=model, messages=said)
    assert raw.headers["x-ziggie-count"] == how
    if how == "reported":
        asked = {"claude": gateway.anthropic, "flash": gateway.gemini}[model].calls[-1]
        assert "count" in asked.path
        assert encoded(pdf(pages=3)) in asked.body.decode()
    else:
        assert 3 * PAGE_TOKENS_LIKELY < raw.parse().input_tokens < 3 * PAGE_TOKENS_LIKELY + 100


def test_of_a_document_elsewhere_some_pages_are_assumed(gateway: Gateway) -> None:
    said = turn(by_address())
    count = anthropic_client(gateway).messages.count_tokens(model="thinker", messages=said).input_tokens
    assert UNSEEN_PAGES * PAGE_TOKENS_LIKELY < count < UNSEEN_PAGES * PAGE_TOKENS_LIKELY + 100


# --- what is kept ---------------------------------------------------------------------------------


def everything_kept() -> str:
    """All that the database has in its tables, as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE 'routing%'")
        tables = [name for (name,) in cursor.fetchall()]
        found = []
        for table in tables:
            cursor.execute(f"SELECT count(*), string_agg(t::text, ' ') FROM \"{table}\" t")
            found.append(str(cursor.fetchone()))
    return "\n".join(found)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_where_no_rule_says_so_nothing_of_a_document_is_kept(gateway: Gateway, api: str) -> None:
    limit(20_000_000)
    fields = {"name": "secret.pdf"} if api == "openai" else {"title": "secret.pdf"}
    for stream in (False, True):
        ask(gateway, api, "auto", stream=stream, messages=document(api, data=encoded(pdf()), **fields), max_tokens=9)
    gateway.settled(2)
    assert not StoredBody.objects.exists()
    kept = everything_kept()
    assert str(RoutedCall.objects.first().pk) in kept
    assert encoded(pdf())[8:60] not in kept
    assert "secret.pdf" not in kept


def test_where_a_rule_keeps_bodies_documents_are_told_by_their_size(gateway: Gateway) -> None:
    limit(10_000_000)
    store(gateway)
    RoutingRule.objects.update(chain=["claude"])
    gateway_forgets()
    about = {"title": "ada@example.com.pdf", "context": "Of ada@example.com"}
    called = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    turns: Any = [
        *turn(block(**about)),
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [block()]}]},
    ]
    ask(gateway, "anthropic", "auto", messages=turns)
    (body,) = stored()
    size = len(DATA) * 3 // 4
    asked = body.request["messages"]
    assert asked[0]["parts"][0] == {
        "kind": "pdf", "title": "[mail address]", "context": "Of [mail address]", "bytes": size,
    }  # fmt: skip
    assert asked[2]["parts"][1] == {"kind": "pdf", "bytes": size}
    assert DATA[8:60] not in json.dumps(body.request)


def test_equal_documents_share_an_answer_and_others_do_not(gateway: Gateway) -> None:
    RoutingRule.objects.update(options={"cache_ttl_seconds": 600}, chain=["claude"])
    RoutingSettings.objects.update()
    gateway_forgets()
    states = []
    for made in (part(), part(), part(encoded(pdf("The sky is red."))), part(name="other.pdf")):
        raw = openai_client(gateway).chat.completions.with_raw_response.create(
            model="auto", messages=turn(made), temperature=0
        )
        gateway_settles(gateway)
        states.append(raw.headers["x-ziggie-cache"])
    assert states == ["miss", "hit", "miss", "miss"]
    assert len(gateway.anthropic.calls) == 3


def gateway_settles(gateway: Gateway) -> None:
    wait_until(lambda: not Reservation.objects.exists() and RoutedCall.objects.exists())
