"""What a key may do, as its owner sees it: limits that hold over all processes, and guesses that do not pay."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.test import Client

from routing import database
from routing.configuration import snapshot
from routing.gateway.access.keys import Key, KeyBook
from routing.gateway.access.limits import GRANT_SECONDS, MINUTE_SECONDS, Admission, Limits
from routing.models import LanguageModel, RateBucket, RoutedCall
from routing.reporting.retention import forget_old_seconds
from tests.gateway.conftest import Gateway
from tests.gateway.conftest import wait_until as happens
from tests.gateway.test_calls import CHAT, code, post
from tests.servers.script import Reply
from tests.ziggie.live_process import database_url
from ziggie import guesses
from ziggie.auth import authenticate_key
from ziggie.errors import RateLimited, ZiggieError
from ziggie.guesses import GUESSES, WINDOW_SECONDS, caller_address, gate
from ziggie.models import MOST_FORMER_SECRETS, ApiKey, FormerSecret, create_api_key, rotate


def models(gateway: Gateway, key: str = "", **headers: str) -> httpx2.Response:
    return httpx2.get(f"{gateway.url}/v1/models", headers={"x-api-key": key or gateway.key, **headers})


# --- guessing ------------------------------------------------------------------------------------


def test_guessing_keys_is_slowed_down_and_keys_in_use_still_work(gateway: Gateway) -> None:
    assert models(gateway).status_code == 200
    answers = [models(gateway, f"zg_guess{n}") for n in range(GUESSES + 2)]
    assert [answer.status_code for answer in answers] == [401] * GUESSES + [429] * 2
    assert int(answers[-1].headers["retry-after"]) > 0
    assert models(gateway).status_code == 200
    gate.forget()  # as another process, which has seen none of them
    assert models(gateway).status_code == 200
    assert models(gateway, "zg_another").status_code == 429
    assert models(gateway).status_code == 200


def test_who_names_no_key_guesses_none(gateway: Gateway) -> None:
    refused = [httpx2.get(f"{gateway.url}/v1/models") for _ in range(GUESSES + 2)]
    assert [answer.status_code for answer in refused] == [401] * len(refused)
    assert "needed" in refused[0].json()["error"]["message"]
    assert models(gateway, create_api_key("new")[1]).status_code == 200
    assert not RateBucket.objects.exists()


def test_a_right_guess_is_not_told_from_a_wrong_one_faster_than_guesses_are_allowed(gateway: Gateway) -> None:
    _, guessed = create_api_key("guessed")
    for n in range(GUESSES):
        models(gateway, f"zg_guess{n}")
    wrong, right = models(gateway, "zg_wrong"), models(gateway, guessed)
    assert (wrong.status_code, right.status_code) == (429, 429)
    assert wrong.json()["error"]["message"] == right.json()["error"]["message"]
    assert wrong.headers.keys() == right.headers.keys()
    assert "retry-after" in right.headers
    assert models(gateway, guessed, **{"x-forwarded-for": "203.0.113.1"}).status_code == 429
    RateBucket.objects.all().delete()  # as when the minute is over
    gate.forget()
    assert models(gateway, guessed).status_code == 200


def test_a_key_that_is_new_to_an_address_counts_as_a_guess_where_others_were_wrong(gateway: Gateway) -> None:
    secrets = [create_api_key(f"k{n}")[1] for n in range(3)]
    for n in range(GUESSES - 1):
        models(gateway, f"zg_guess{n}")
    assert [models(gateway, secret).status_code for secret in secrets] == [200, 429, 429]
    assert models(gateway, secrets[0]).status_code == 200


def test_guesses_at_rest_and_at_the_gateway_are_counted_together(gateway: Gateway, client: Client) -> None:
    def budgets(key: str) -> Any:
        return client.get("/api/budgets", headers={"x-api-key": key})

    _, used = create_api_key("used", scopes=["coordinator"])
    _, guessed = create_api_key("guessed", scopes=["coordinator"])
    assert budgets(used).status_code == 200
    half = GUESSES // 2
    assert [budgets(f"zg_guess{n}").status_code for n in range(half)] == [401] * half
    assert [models(gateway, f"zg_wrong{n}").status_code for n in range(half)] == [401] * half
    refused = budgets(guessed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW_SECONDS
    assert ApiKey.objects.get(name="guessed").last_used_at is None
    assert budgets("zg_wrong").status_code == 429
    assert models(gateway, guessed).status_code == 429
    assert budgets(used).status_code == 200


def test_keys_that_another_process_served_there_are_no_guesses_here(gateway: Gateway) -> None:
    key, served_elsewhere = create_api_key("served elsewhere")
    assert models(gateway).status_code == 200
    for n in range(GUESSES):
        models(gateway, f"zg_guess{n}")
    assert models(gateway, served_elsewhere).status_code == 429
    with connection.cursor() as cursor:
        cursor.execute(guesses.TELL, [f"127.0.0.1 {key.pk}\nno pair"])
    happens(lambda: gate.has_seen("127.0.0.1", str(key.pk)))
    assert models(gateway, served_elsewhere).status_code == 200


def test_the_other_processes_are_told_which_key_was_used_from_where(gateway: Gateway, client: Client) -> None:
    key, at_rest = create_api_key("at rest", scopes=["coordinator"])
    with psycopg.connect(database_url(connection.settings_dict), autocommit=True) as other:
        other.execute(f"LISTEN {guesses.SEEN_CHANNEL}")
        assert models(gateway).status_code == 200
        assert client.get("/api/budgets", headers={"x-api-key": at_rest}).status_code == 200
        wanted = {f"127.0.0.1 {gateway.key_id}", f"127.0.0.1 {key.pk}"}
        for heard in other.notifies(timeout=60):
            wanted -= set(heard.payload.splitlines())
            if not wanted:
                return
    pytest.fail(f"not told: {wanted}")


def test_what_cannot_be_told_keeps_nobody_out(transactional_db: None) -> None:
    _, raw_key = create_api_key("known")

    async def work() -> Key:
        book = KeyBook()
        book.tell_others("x" * 9_000)  # more than one message may hold
        await book.look()
        book.tell_others("y" * 9_000)
        return await book.authenticate(raw_key)

    assert asyncio.run(work()).name == "known"


def test_a_process_remembers_a_bounded_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MAX_ADDRESSES", 3)
    monkeypatch.setattr(guesses, "MAX_SEEN", 3)
    small = guesses.Gate()
    for n in range(5):
        small.saw("192.0.2.1", f"key {n}")
        small.shut_out_for(f"192.0.2.{n}")
    assert [small.has_seen("192.0.2.1", f"key {n}") for n in range(5)] == [False, False, True, True, True]
    assert [small.is_suspect(f"192.0.2.{n}") for n in range(5)] == [False, False, True, True, True]


def test_a_minute_is_as_long_for_guesses_as_for_limits() -> None:
    assert WINDOW_SECONDS == MINUTE_SECONDS + GRANT_SECONDS


def test_an_address_is_believed_only_of_a_proxy_of_ours(gateway: Gateway, settings: pytest.FixtureRequest) -> None:
    for n in range(GUESSES):
        models(gateway, "zg_wrong", **{"x-forwarded-for": f"203.0.113.{n}"})
    assert models(gateway, "zg_wrong", **{"x-forwarded-for": "203.0.113.99"}).status_code == 429
    settings.TRUSTED_PROXIES = ["127.0.0.0/8"]  # type: ignore[attr-defined]
    assert models(gateway, "zg_wrong", **{"x-forwarded-for": "203.0.113.99"}).status_code == 401


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("198.51.100.7", "1.2.3.4", "198.51.100.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),  # what stands before is the client's own word
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", "6.6.6.6:1, 1.2.3.4:4321, 10.0.0.2:80", "1.2.3.4"),  # with ports, as some proxies tell them
        ("10.0.0.1", "[2001:db8::7]:4321", "2001:db8::/64"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::/64"),
        ("2001:db8::1", "", "2001:db8::/64"),
        ("10.0.0.1", "2001:db8::%any text that says nothing", "2001:db8::/64"),
        ("10.0.0.1", "2001:db8::7%eth0", "2001:db8::/64"),
        ("::ffff:198.51.100.7", "", "198.51.100.7"),
        ("::ffff:10.0.0.1", "6.6.6.6, 1.2.3.4, ::ffff:10.0.0.2", "1.2.3.4"),  # to a server that listens on ::
        ("", "", ""),
    ],
)
def test_a_guess_is_counted_for_the_one_who_made_it(
    settings: pytest.FixtureRequest, peer: str, forwarded: str, found: str
) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]  # type: ignore[attr-defined]
    assert caller_address(peer, forwarded) == found


def test_counts_that_no_window_sees_any_more_are_dropped(db: None) -> None:
    now, key_id = int(time.time()), uuid.uuid4()
    for second in (now, now - 30, now - 3600):
        RateBucket.objects.create(api_key_id=key_id, second=second, requests=1)
    forget_old_seconds()
    kept = RateBucket.objects.filter(api_key_id=key_id)
    assert sorted(kept.values_list("second", flat=True)) == [now - 30, now]


# --- requests a minute ---------------------------------------------------------------------------


def limited_key(requests: int) -> Key:
    return Key(str(uuid.uuid4()), "limited", frozenset(), frozenset(), requests, None, 1, None)


@pytest.mark.parametrize(("limit", "at_once"), [(1_000, 3), (40, 1), (20, 0)])
def test_the_next_few_requests_of_a_slow_client_need_no_database_where_plenty_is_left(
    transactional_db: None, limit: int, at_once: int
) -> None:
    key = limited_key(limit)

    async def work(limits: Limits) -> list[Admission | None]:
        assert limits.at_once(key) is None
        await limits.admit(key)
        return [limits.at_once(key) for _ in range(5)]

    assert len([admission for admission in on_processes(1, work) if admission]) == at_once


def test_processes_that_take_a_few_pass_no_limit_together(transactional_db: None) -> None:
    key = limited_key(70)

    async def work(limits: Limits) -> list[Admission | None]:
        admitted: list[Admission | None] = []
        with contextlib.suppress(RateLimited):
            for _ in range(70):
                admitted.append(limits.at_once(key) or await limits.admit(key))
        return admitted

    assert 60 <= len(on_processes(3, work)) <= 70


# --- tokens a minute -----------------------------------------------------------------------------


def on_processes(count: int, work: Callable[[Limits], Awaitable[list[Admission | None]]]) -> list[Admission | None]:
    """Does `work` on `count` event loops that share nothing but the database, as processes do."""
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(lambda _: asyncio.run(work(Limits())), range(count)))
    return [admission for part in parts for admission in part]


def counted(key_id: Any) -> int:
    """The tokens of one key: corrections of an earlier test's keys may still come."""
    return sum(RateBucket.objects.filter(api_key_id=key_id).values_list("tokens", flat=True))


def small_key(tokens: int) -> Key:
    return Key(str(uuid.uuid4()), "small", frozenset(), frozenset(), None, tokens, 1, None)


def test_calls_that_run_at_once_in_all_processes_pass_a_limit_of_tokens_by_one_call_at_most(
    transactional_db: None,
) -> None:
    key = small_key(1_000)

    async def work(limits: Limits) -> list[Admission | None]:
        async def one() -> Admission | None:
            try:
                return await limits.admit(key, 90)
            except RateLimited:
                return None

        return await asyncio.gather(*(one() for _ in range(20)))

    admitted = [admission for admission in on_processes(3, work) if admission]
    assert len(admitted) == 12  # 11 * 90 = 990 leave something; the twelfth uses it up
    assert counted(key.id) == 1_080


def test_what_was_held_and_not_used_is_given_back(transactional_db: None) -> None:
    key = small_key(1_000)

    async def work(limits: Limits) -> list[Admission | None]:
        admission = await limits.admit(key, 5_000)
        with pytest.raises(RateLimited, match="1000 tokens"):
            await limits.admit(key, 1)
        admission.used = 100
        limits.correct(key, admission)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                return [await limits.admit(key, 1)]
            except RateLimited:
                await asyncio.sleep(0.05)
        return [None]

    assert on_processes(1, work) != [None]
    assert counted(key.id) == 101


def test_a_burst_through_the_gateway_stays_within_the_limit_of_tokens(gateway: Gateway) -> None:
    gateway.openai.default = Reply("x", input_tokens=10, output_tokens=50, latency=0.3)
    _, key = create_api_key("small", tokens_per_minute=200)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: post(gateway, key=key, max_tokens=50), range(20)))
    served = [answer for answer in answers if answer.status_code == 200]
    assert 3 <= len(served) <= 4  # 60 tokens each, of which 50 and the prompt are held
    assert {code(answer) for answer in answers if answer.status_code != 200} == {"rate_limited"}


def test_a_refused_call_gives_its_tokens_back(gateway: Gateway) -> None:
    made, key = create_api_key("small", tokens_per_minute=100)
    assert post(gateway, key=key, model="nobody", max_tokens=4_000).status_code == 404
    until = time.monotonic() + 60
    while counted(made.pk) and time.monotonic() < until:
        time.sleep(0.05)
    assert post(gateway, key=key).status_code == 200


# --- the rest of a key's life --------------------------------------------------------------------

LIVES = (1.5, 10.0, 40.0)  # in seconds; the next one where the machine was too slow to see a key that lives


def wait_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()) + 0.1)


def test_an_expired_key_is_refused_at_its_moment(gateway: Gateway) -> None:
    for seconds in LIVES:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        _, key = create_api_key(f"for {seconds} s", expires_at=until)
        if models(gateway, key).status_code == 200 or datetime.now(UTC) < until:
            break
    assert datetime.now(UTC) < until
    wait_until(until)
    assert models(gateway, key).status_code == 401


def test_a_renewed_secret_works_and_the_old_one_stops(gateway: Gateway) -> None:
    key = ApiKey.objects.get(pk=gateway.key_id)
    fresh = rotate(key, grace=timedelta())
    assert models(gateway, fresh).status_code == 200
    assert models(gateway).status_code == 401


def test_the_last_use_of_a_key_is_written_down_when_it_is_its_only_one(gateway: Gateway) -> None:
    assert ApiKey.objects.get(pk=gateway.key_id).last_used_at is None
    assert models(gateway).status_code == 200
    happens(lambda: was_used(gateway), seconds=60)


def test_a_key_that_somebody_is_changing_keeps_up_nobody(gateway: Gateway) -> None:
    waits = create_api_key("waits")[1]
    with psycopg.connect(**database.connection_parameters()) as staff:
        staff.execute("SELECT FROM ziggie_apikey WHERE name <> 'waits' FOR UPDATE")
        began, answers = time.monotonic(), []
        while time.monotonic() - began < 3:  # longer than anybody is served from memory
            answers += [models(gateway).status_code, models(gateway, waits).status_code]
        assert set(answers) == {200}
        assert time.monotonic() - began < 10
        staff.rollback()
    happens(lambda: models(gateway).is_success and was_used(gateway), seconds=60)


def was_used(gateway: Gateway) -> bool:
    return ApiKey.objects.get(pk=gateway.key_id).last_used_at is not None


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/embeddings", "/v1/messages/count_tokens"])
def test_no_endpoint_serves_a_model_that_the_key_may_not_ask_for(gateway: Gateway, path: str) -> None:
    _, key = create_api_key("local only", allowed_models=["llama"])
    for name in ("gpt", "gpt-4o-mini"):
        answer = post(gateway, path, key=key, model=name, **({"input": "x"} if "embed" in path else {}))
        assert answer.status_code in (400, 403)
    assert not gateway.openai.calls


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"])
def test_a_model_that_the_key_may_ask_for_serves_by_its_wire_name_and_aliases_too(gateway: Gateway, path: str) -> None:
    LanguageModel.objects.filter(slug="gpt").update(aliases=["gpt-latest"])
    snapshot.forget()
    _, key = create_api_key("one", allowed_models=["gpt"])
    for name in ("gpt", "gpt-4o-mini", "gpt-latest"):
        answer = post(gateway, path, key=key, model=name, **asked_by(path))
        assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "gpt")
    assert models(gateway, key).json()["data"][1]["id"] == "gpt"


def asked_by(path: str) -> dict[str, Any]:
    return {"input": "Hi.", "messages": None, "max_tokens": None} if "responses" in path else {}


def test_of_models_with_one_wire_name_the_one_that_the_key_may_ask_for_serves(gateway: Gateway) -> None:
    LanguageModel.objects.filter(slug="thinker").update(name="gpt-4o-mini")
    snapshot.forget()
    _, key = create_api_key("one", allowed_models=["thinker"])
    for path in (CHAT, "/v1/messages/count_tokens"):
        answer = post(gateway, path, key=key, model="gpt-4o-mini")
        assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "thinker")


def test_a_receipt_says_of_a_model_that_the_key_may_not_use_that_it_may_not(gateway: Gateway) -> None:
    _, key = create_api_key("one", allowed_models=["llama"])
    answer = post(gateway, CHAT, key=key, model="auto")
    assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "llama")
    written = RoutedCall.objects.filter(pk=answer.headers["x-ziggie-request-id"])
    happens(written.exists)
    others = [each for each in written.get().candidates if each["state"] == "dropped"]
    assert {each["reason"] for each in others} == {"this API key may not use it"}
    assert all(each["provider"] for each in others)


def test_a_key_asks_for_its_embedder_by_its_wire_name(gateway: Gateway) -> None:
    _, key = create_api_key("one", allowed_models=["embedder"])
    body = {"model": "text-embedding-3-small", "input": "x"}
    answer = httpx2.post(f"{gateway.url}/v1/embeddings", json=body, headers={"x-api-key": key})
    assert (answer.status_code, answer.headers["x-ziggie-model"]) == (200, "embedder")


# --- rotation ------------------------------------------------------------------------------------


def works(gateway: Gateway, secret: str) -> bool:
    """Whether the secret opens the gateway; REST and the live socket must agree."""
    known = authenticate_key(secret) is not None
    assert (models(gateway, secret).status_code == 200) is known
    return known


def test_a_rotated_key_opens_with_both_secrets_until_the_grace_ends(gateway: Gateway) -> None:
    key = ApiKey.objects.get(pk=gateway.key_id)
    fresh = rotate(key, grace=timedelta(hours=1))
    assert works(gateway, gateway.key)
    assert works(gateway, fresh)
    assert authenticate_key(gateway.key) == authenticate_key(fresh)
    until = datetime.now(UTC) + timedelta(seconds=0.5)
    FormerSecret.objects.update(valid_until=until)
    wait_until(until)
    assert not works(gateway, gateway.key)
    assert works(gateway, fresh)


def test_each_secret_keeps_the_grace_that_it_was_given(gateway: Gateway) -> None:
    key = ApiKey.objects.get(pk=gateway.key_id)
    second = rotate(key)
    third = rotate(key, grace=timedelta(hours=1))
    assert all(works(gateway, secret) for secret in (gateway.key, second, third))
    FormerSecret.objects.get(prefix=gateway.key[:10]).delete()
    assert [works(gateway, secret) for secret in (gateway.key, second, third)] == [False, True, True]
    fourth = rotate(key, grace=timedelta())
    assert [works(gateway, secret) for secret in (second, third, fourth)] == [False, False, True]
    assert not FormerSecret.objects.exists()


def test_a_former_secret_opens_no_more_than_its_key(gateway: Gateway) -> None:
    key = ApiKey.objects.get(pk=gateway.key_id)
    rotate(key)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert not works(gateway, gateway.key)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=None, enabled=False)
    assert not works(gateway, gateway.key)


def test_rotating_without_end_is_refused(db: None) -> None:
    key, _ = create_api_key("busy")
    for _ in range(MOST_FORMER_SECRETS):
        rotate(key)
    with pytest.raises(ValidationError, match="rotate without grace"):
        rotate(key)
    FormerSecret.objects.update(valid_until=datetime.now(UTC))
    rotate(key)
    assert FormerSecret.objects.count() == 1


def test_the_command_rotates_a_key(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("apikey", "rotate", "tests", "--json")
    fresh = json.loads(capsys.readouterr().out)["key"]
    assert works(gateway, gateway.key)
    call_command("apikey", "rotate", "tests", "--grace", "0")
    printed = capsys.readouterr().out
    assert "The old one stopped working." in printed
    assert [works(gateway, secret) for secret in (gateway.key, fresh, printed.split()[0])] == [False, False, True]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["rotate", "nobody"], "no API key named 'nobody'"),
        (["rotate", "tests", "--grace=soon"], "'soon' is no time"),
        (["rotate", "tests", "--grace=-1h"], "'-1h' is no time"),
        (["rotate", "tests", "--grace=91d"], "from 0 to 90 days"),
        (["rotate", "tests", "--grace=99999999d"], "at most 36500 days"),
        (["create", "tests"], "already exists"),
        (["create", "x", "--expires", "1"], "--expires: '1' is no time"),
        (["create", "x", "--budget-usd", "1e30"], "--budget-usd"),
        (["create", "x", "--budget-usd", "0.0000004"], "--budget-usd: at most six decimal places"),
        (["create", "x", "--expires", "0d"], "--expires: a key that ends at once"),
        (["create", ""], "name: This field cannot be blank"),
    ],
)
def test_wrong_words_change_no_key(gateway: Gateway, words: list[str], complaint: str) -> None:
    before = list(ApiKey.objects.values_list())
    with pytest.raises(ZiggieError, match=complaint) as refused:
        call_command("apikey", *words)
    assert refused.value.exit_code == 2
    assert list(ApiKey.objects.values_list()) == before


def test_a_key_may_be_made_to_expire(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("apikey", "create", "short", "--expires", "90d")
    left = ApiKey.objects.get(name="short").expires_at - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left < timedelta(days=90)
