"""What must hold over several web processes and workers: changes arrive, whole, and losses reach no client."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from routing.world import slots
from tests.flows.changes import CHANGED_WITHIN_SECONDS, CHANGES, seconds_until_in_force
from tests.flows.jobs import assert_nothing_is_held
from tests.flows.replicas import MODELS, Load, Replicas, Told, call, replicas
from tests.flows.system import until

pytestmark = [pytest.mark.flow, pytest.mark.timeout(900), pytest.mark.xdist_group("replicas")]
CLIENTS = 50


@pytest.fixture(scope="module")
def running_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with replicas(tmp_path_factory.mktemp("replicas")) as made:
        yield made


@pytest.fixture
def here(running_replicas: Replicas) -> Replicas:
    running_replicas.renew(latency=0.1, input_tokens=1000, output_tokens=1000)
    return running_replicas


# --- a change in the admin ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_in_the_admin_reaches_every_web_process_and_worker_within_two_seconds(
    here: Replicas, what: str
) -> None:
    late = seconds_until_in_force(here, what)
    print(f"\na changed {what} was in force after", late)
    assert len(late) == len(here.doors) + 2
    assert max(late.values()) <= CHANGED_WITHIN_SECONDS


# --- no half of a change -------------------------------------------------------------------------------

# Two configurations that share no model, price or policy: a mixture of them cannot hide.
PAIR = {
    "first": {"model": "alpha", "other": "beta", "price": "1", "other_price": "100"},
    "second": {"model": "beta", "other": "alpha", "price": "2", "other_price": "200"},
}
VARIANT = """
models:
  - {{slug: {model}, provider: {provider}, name: {model}, context_window: 32768,
      input_usd_per_mtok: "{price}", output_usd_per_mtok: "{price}"}}
  - {{slug: {other}, provider: {other_provider}, name: {other}, context_window: 32768,
      input_usd_per_mtok: "{other_price}", output_usd_per_mtok: "{other_price}"}}
policies:
  - slug: {name}
    live: true
    rules:
      - {{name: {name} for validation, when: {{task_kinds: [validation]}}, chain: [{other}]}}
      - {{name: {name}, pattern: verify, chain: [{model}], roles: {{verifier: {model}}}}}
settings: {{baseline_model: {model}}}
"""


def test_no_request_sees_half_of_a_change_under_load(here: Replicas) -> None:
    review = '{"verdict": "right", "problems": []}'
    for upstream in (here.north, here.south):
        upstream.play(text=review, latency=0.05, input_tokens=1000, output_tokens=1000)
    variants = {
        name: VARIANT.format(name=name, provider=MODELS[v["model"]], other_provider=MODELS[v["other"]], **v)
        for name, v in PAIR.items()
    }
    clients = [(door, False) for door in here.doors for _ in range(4)]
    here.apply(variants["first"])
    time.sleep(2.5)  # every process has seen it
    with Load(here, clients, max_tokens=200) as load:
        for name in ("second", "first", "second", "first", "second"):
            here.apply(variants[name])
            load.wait_for(len(load.told) + 60)
    assert [one.problem for one in load.told if one.problem] == []
    ids = [one.headers["x-ziggie-request-id"] for one in load.told]
    receipts = (
        "SELECT policy, rule, cost_microusd, array(SELECT DISTINCT a->>'model' FROM json_array_elements(attempts) a),"
        " json_array_length(attempts) FROM routing_routedcall WHERE id = ANY(%s::uuid[])"
    )
    until(lambda: len(here.system.rows(receipts, ids)) == len(ids), 60)  # their books are written beside the answers
    rows = here.system.rows(receipts, ids)
    seen = {tuple(map(str, row)) for row in rows}
    # Two calls of 2,000 tokens in all at $1, or at $2, a million.
    whole = {("first", "first", "4000", "['alpha']", "2"), ("second", "second", "8000", "['beta']", "2")}
    assert seen == whole


# --- a provider is lost --------------------------------------------------------------------------------


def killed(here: Replicas) -> None:
    here.north.kill()


def frozen(here: Replicas) -> None:
    here.north.freeze()


def resets(here: Replicas) -> None:
    here.north.play(fault="reset")


def cut_before_the_first_piece(here: Replicas) -> None:
    here.north.play(fault="cut", fault_after=0)


def ends_in_mid_answer(here: Replicas) -> None:
    here.north.play(fault="cut", fault_after=1, text="half of the truth", piece=4)


def sends_garbage(here: Replicas) -> None:
    here.north.play(fault="garbage", fault_after=0)


@pytest.mark.parametrize("lose", [killed, frozen, resets, cut_before_the_first_piece, sends_garbage])
def test_the_loss_of_the_first_provider_under_load_reaches_no_client(
    here: Replicas, lose: Callable[[Replicas], None]
) -> None:
    for upstream in (here.north, here.south):
        upstream.play(text=f"from {upstream.script.stem}", piece=100, latency=0.1, first_token=0.1)
    doors = list(here.doors)
    clients = [(doors[number % len(doors)], number % 2 == 0) for number in range(CLIENTS)]
    with Load(here, clients) as load:
        load.wait_for(CLIENTS)
        lose(here)
        lost_at = time.time()
        load.wait_for(len(load.told) + 4 * CLIENTS)
        load.wait_for_sent_after(lost_at + 1, CLIENTS)
    failed = [one for one in load.told if one.problem and not one.began]
    assert failed == []
    # A stream of which a piece was out when its provider died cannot be taken over by anybody.
    broken = [one for one in load.told if one.problem]
    assert len(broken) <= CLIENTS // 2
    assert all(one.sent_at < lost_at for one in broken)
    after = {one.text for one in load.told if one.sent_at > lost_at + 1 and not one.problem}
    assert after == {"from south"}
    assert_nothing_is_held(here.system)


def test_an_answer_cut_in_its_middle_is_made_whole_by_the_next_provider(here: Replicas) -> None:
    ends_in_mid_answer(here)

    async def ask() -> list[Any]:
        async with httpx2.AsyncClient(timeout=30) as client:
            return await asyncio.gather(*(call(client, here, door) for door in here.doors for _ in range(8)))

    told = asyncio.run(ask())
    assert [one.problem for one in told if one.problem] == []
    assert {one.text for one in told} == {"from south"}


# --- overflow ------------------------------------------------------------------------------------------

OVERFLOWING = """
providers: [{slug: home, kind: openai, location: local, max_concurrency: 1}]
policies:
  - slug: replicas
    live: true
    rules:
      - {name: overflow, when: {local_queue: {above: 3}}, chain: [alpha]}
      - {name: at home, chain: [gamma]}
"""


def test_a_long_local_queue_of_one_process_sends_the_next_task_of_another_to_the_cloud(here: Replicas) -> None:
    here.apply(OVERFLOWING)
    time.sleep(2.5)  # every process has seen it

    async def ask() -> tuple[list[Told], list[Told], Told]:
        async with httpx2.AsyncClient(timeout=60) as client:
            crowd = [asyncio.create_task(call(client, here, "web 1")) for _ in range(8)]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
            await asyncio.to_thread(until, lambda: here.system.rows(waiting, slots.WAITING)[0][0] > 3, 60)
            await asyncio.sleep(2.5)  # so have those that look now and then
            next_ones = [await call(client, here, door) for door in ("web 2", "gateway")]
            here.south.thaw()
            crowded = await asyncio.gather(*crowd)
            await asyncio.sleep(2.5)
            return next_ones, crowded, await call(client, here, "web 2")

    here.south.freeze()
    next_ones, crowded, afterwards = asyncio.run(ask())
    assert [one.problem for one in (*next_ones, *crowded, afterwards) if one.problem] == []
    assert [(one.headers["x-ziggie-rule"], one.model) for one in next_ones] == [("overflow", "alpha")] * 2
    assert {one.model for one in crowded} == {"gamma"}
    assert afterwards.headers["x-ziggie-rule"] == "at home"
