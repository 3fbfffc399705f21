"""Changes made in the admin, and how long each process goes on as before."""

import re
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

import httpx2

from tests.flows.jobs import change_in_admin
from tests.flows.replicas import Load, Replicas, Runs, Told
from tests.flows.system import until

CHANGED_WITHIN_SECONDS = 2.0
BEFORE = ("alpha", 2000)  # model and cost in micro-dollars of calls that are decided before a change

Seen = tuple[float, str, int]  # when asked, model, cost in micro-dollars


def form_of(here: Replicas, table: str, **columns: str) -> str:
    """The address of a row's form in the admin."""
    where = " AND ".join(f"{name} = %s" for name in columns)
    [(pk,)] = here.system.rows(f"SELECT id FROM routing_{table} WHERE {where}", *columns.values())
    return f"/admin/routing/{table}/{pk}/change/"


def save(staff: httpx2.Client, path: str, **changes: str | None) -> float:
    """When it was saved: the moment in which the form's answer came, before its next page was fetched."""
    answer = change_in_admin(staff, path, **changes)
    refused = re.findall(r'(?s)class="[^"]*error[^"]*".{0,300}', answer.text)
    assert str(answer.url.path) != path, refused[:5]
    return time.time() - answer.elapsed.total_seconds()


def change_rule(here: Replicas, staff: httpx2.Client) -> float:
    [(policy,)] = here.system.rows("SELECT id FROM routing_routingpolicy WHERE state = 'live'")
    path = form_of(here, "routingrule", policy_id=str(policy), name="everything")
    return save(staff, path, chain="beta, alpha, gamma")


def change_price(here: Replicas, staff: httpx2.Client) -> float:
    columns = {"input_usd_per_mtok": "2", "output_usd_per_mtok": "2", "origin": "invoice"}
    now = datetime.now(UTC)
    columns |= {"effective_from_0": f"{now:%Y-%m-%d}", "effective_from_1": f"{now:%H:%M:%S}"}
    form = {"prices-TOTAL_FORMS": "1", "prices-INITIAL_FORMS": "0", "prices-MIN_NUM_FORMS": "0"}
    form |= {f"prices-0-{name}": value for name, value in columns.items()}
    return save(staff, form_of(here, "languagemodel", slug="alpha"), **form)


def change_provider(here: Replicas, staff: httpx2.Client) -> float:
    return save(staff, form_of(here, "provider", slug="north"), enabled=None)


def change_budget(here: Replicas, staff: httpx2.Client) -> float:
    return save(staff, form_of(here, "budget", slug="monthly-cloud"), limit_usd="0")


# What is changed, and what calls decided after it have: model and cost in micro-dollars.
CHANGES: dict[str, tuple[Callable[[Replicas, httpx2.Client], float], tuple[str, int]]] = {
    "rule": (change_rule, ("beta", 2000)),
    "price": (change_price, ("alpha", 4000)),
    "provider": (change_provider, ("beta", 2000)),
    "budget": (change_budget, ("gamma", 0)),
}


def seconds_until_in_force(here: Replicas, what: str) -> dict[str, float]:
    """Makes the change under load; by process (each door and each worker) how many seconds later it still decided a
    call as before, 0 if it did not. Fails if any call was decided in a third way."""
    change, after = CHANGES[what]
    clients = [(door, False) for door in here.doors]
    with here.system.staff_client() as staff, Runs(here) as runs, Load(here, clients, pause=0.02) as load:

        def seen() -> dict[str, list[Seen]]:
            return _by_door(load.told) | runs.seen()

        until(lambda: len(seen()) == len(here.doors) + 2, 60, lambda: str(seen()))
        changed_at = change(here, staff)
        later = changed_at + CHANGED_WITHIN_SECONDS
        until(lambda: all(sum(at > later for at, *_ in rows) >= 3 for rows in seen().values()), 60)
        rows = seen()
    assert {one[1:] for each in rows.values() for one in each} <= {BEFORE, after}
    late = {name: [at - changed_at for at, *made in each if tuple(made) != after] for name, each in rows.items()}
    return {name: round(max([0.0, *seconds]), 2) for name, seconds in late.items()}


def _by_door(told: list[Told]) -> dict[str, list[Seen]]:
    found: defaultdict[str, list[Seen]] = defaultdict(list)
    for one in list(told):
        cost = float(one.headers.get("x-ziggie-cost-usd", "0"))
        found[one.door].append((one.sent_at, one.model or one.problem, round(cost * 1_000_000)))
    return dict(found)
