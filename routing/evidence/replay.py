"""Recorded traffic through a policy that is not live: who would move, what it would cost, what nothing would serve.

    replay(target, days=)     receipts of the last days, one after another, in bounded memory
    check(days=)              the same receipts through their own policy version: every decision must come out again

Nobody is called and nothing is changed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.db import connection, transaction

from routing.configuration import snapshot
from routing.configuration.reading import read
from routing.configuration.routing_file import apply
from routing.configuration.text import parse
from routing.evidence.replay_report import Balance, BudgetPaths, Tally
from routing.evidence.simulation import Receipt, as_planned, as_recorded
from routing.models import RoutingPolicy, UsageRollup
from routing.money import balances
from routing.planning import rules
from routing.planning.demand import from_json
from routing.planning.pricing import microusd
from routing.planning.rerun import keys_seen, snapshot_of, with_keys, world_of
from routing.records import receipts
from routing.types import PolicySpec, Snapshot
from ziggie.errors import DeadlineExceeded, InvalidInput, NotFound, ZiggieError
from ziggie.values import replace

DEFAULT_DAYS = 7
MAX_DAYS = 400
MAX_CALLS = 1_000_000
CHUNK = 500
MAX_DIFFERENCES = 20
MAX_DIGITS = 10
# Oldest first, as the replay spends in their order; of more than the limit the newest.
RECEIPTS = """
SELECT id::text, created_at, policy, policy_version, rule, pattern, model, cache, candidates::text, request::text,
       outcome, CASE WHEN %(with_attempts)s THEN attempts::text ELSE '[]' END, features::text
FROM routing_routedcall WHERE created_at >= %(since)s AND created_at > coalesce((
    SELECT created_at FROM routing_routedcall WHERE created_at >= %(since)s
    ORDER BY created_at DESC OFFSET %(limit)s LIMIT 1), '-infinity')
ORDER BY created_at
"""


def replay(
    target: "Target", *, days: int = DEFAULT_DAYS, max_calls: int = MAX_CALLS, now: datetime | None = None
) -> dict[str, Any]:
    """The report of docs/routing.md, JSON-like with datetimes. Raises InvalidInput for an impossible span."""
    started = time.monotonic()
    now, since = _span(days, now)
    answered = _answered(since)
    configuration = with_keys(target.snapshot, dict.fromkeys(answered, True))
    tally = Tally(BudgetPaths(configuration.budgets, configuration.models, configuration.settings.time_zone))
    for row in _receipts(since, max_calls, with_attempts=True):
        _replay_one(row, configuration, tally)
    span_days = min(days, max(1.0, (now - (tally.first_at or now)) / timedelta(days=1)))
    return {
        "policy": configuration.policy.slug,
        "version": target.version,
        "from": since,
        "until": now,
        "days": days,
        "days_of_traffic": round(span_days, 2),
        "keys_assumed": sorted(answered & _without_key(target.snapshot)),
        **tally.as_json(),
        "budgets": tally.paths.as_json(_balances(), now=now, days=span_days),
        "seconds": round(time.monotonic() - started, 3),
    }


def _answered(since: datetime) -> set[str]:
    """The providers that have answered calls: whoever made these has their keys, if not this process."""
    found = UsageRollup.objects.filter(hour__gte=since - timedelta(hours=1), succeeded__gt=0)
    return set(found.values_list("provider", flat=True).distinct())


def _without_key(configuration: Snapshot) -> set[str]:
    providers = (model.provider for model in configuration.models.values())
    return {provider.slug for provider in providers if provider.needs_api_key and not provider.api_key}


def _replay_one(row: tuple[Any, ...], configuration: Snapshot, tally: Tally) -> None:
    receipt = _receipt(row)
    if receipt is None:
        tally.not_replayable += 1
        return
    before = as_recorded(receipt, configuration.models)
    kept = receipt.circumstances
    world = world_of(kept, receipt.at)
    world = replace(world, budgets={**world.budgets, **tally.paths.states(kept, receipt.at)})
    try:
        plan = rules.decide(receipt.demand, snapshot_of(kept, configuration), world)
    except ZiggieError as error:
        tally.refused(receipt, before, error)
    else:
        tally.served(plan.rule, receipt, before, as_planned(receipt, plan, configuration.models))


def check(*, days: int = DEFAULT_DAYS, max_calls: int = MAX_CALLS, now: datetime | None = None) -> dict[str, Any]:
    """Makes every decision again from its receipt.

    `same` came out as recorded. `changed` did not, and the configuration has changed since: prices, models,
    budgets and settings are today's. `different` did not though nothing has changed, which must never be.
    """
    _, since = _span(days, now)
    configuration = snapshot.current()
    versions: dict[tuple[str, int], PolicySpec | None] = {}
    counts = {"calls": 0, "same": 0, "changed": 0, "different": 0, "not_replayable": 0}
    differences: list[dict[str, Any]] = []
    for row in _receipts(since, max_calls, with_attempts=False):
        named = (row[2], row[3])
        if named not in versions:
            versions[named] = snapshot.policy(*named)
        policy, receipt = versions[named], _receipt(row)
        counts["calls"] += 1
        if policy is None or receipt is None or "epoch" not in receipt.circumstances:
            counts["not_replayable"] += 1
            continue
        found = _differences(row, receipt, replace(configuration, policy=policy))
        if found:
            then = with_keys(configuration, keys_seen(orjson.loads(row[8])))
            found = found if then is configuration else _differences(row, receipt, replace(then, policy=policy))
        kind = "same" if not found else "different"
        if found and receipt.circumstances["epoch"] != configuration.epoch:
            kind = "changed"
        counts[kind] += 1
        if kind == "different" and len(differences) < MAX_DIFFERENCES:
            differences.append({"call_id": receipt.id, "differs": found})
    return {**counts, "differences": differences}


def _differences(row: tuple[Any, ...], receipt: Receipt, configuration: Snapshot) -> list[str]:
    """The parts of the recorded decision that do not come out again."""
    kept = receipt.circumstances
    world = world_of(kept, receipt.at)
    try:
        plan = rules.decide(receipt.demand, snapshot_of(kept, configuration), world)
    except ZiggieError as error:
        return [f"it would be refused: {error.message[:300]}"]
    again = {
        "rule": plan.rule,
        "pattern": plan.pattern,
        "candidates": receipts.candidates_json(plan),
        "features": receipts.features_json(plan.features),
    }
    recorded = {
        "rule": receipt.rule,
        "pattern": receipt.pattern,
        # What was found busy when its turn came was no part of the decision.
        "candidates": [each for each in orjson.loads(row[8]) if each["state"] != "skipped"],
        "features": orjson.loads(row[12]),
    }
    return [name for name, value in again.items() if orjson.loads(orjson.dumps(value)) != recorded[name]]


# --- which policy --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """The configuration to replay through. `version` is None for a file's policy, which has none yet."""

    snapshot: Snapshot
    version: int | None


def target(name: str) -> Target:
    """`slug` (its newest draft, else its newest version) or `slug@version`. Raises NotFound, InvalidInput."""
    slug, _, version = name.partition("@")
    if version and not (version.isdecimal() and len(version) < MAX_DIGITS):
        raise InvalidInput(f"the version of {slug!r} should be a whole number, as in {slug}@2")
    found = RoutingPolicy.objects.filter(slug=slug).order_by("-version")
    if version:
        policy = found.filter(version=int(version)).first()
    else:
        policy = found.filter(state="draft").first() or found.first()
    if policy is None:
        raise NotFound(f"there is no policy {name!r}")
    return target_of(policy)


def target_of(policy: RoutingPolicy) -> Target:
    spec = snapshot.policy(policy.slug, policy.version)
    if spec is None:
        raise NotFound(f"there is no version {policy.version} of the policy {policy.slug!r}")
    return Target(replace(snapshot.load(), policy=spec), policy.version)


def target_of_file(text: str, *, name: str) -> Target:
    """The configuration as it would be with this routing file applied. It is applied, read and taken back.

    Of several policies in the file the live one counts. Raises InvalidInput with every mistake.
    """
    with transaction.atomic():
        apply(text, by="replay", name=name)
        configuration = snapshot.load()
        entries = [placed.entry for placed in read(parse(text).data)[0].policies or ()]
        if len(entries) > 1:
            entries = [entry for entry in entries if entry.live]
        if entries:
            state = "live" if entries[0].live else "draft"
            row = RoutingPolicy.objects.filter(slug=entries[0].slug, state=state).order_by("-version").first()
            assert row is not None  # it was written a moment ago
            configuration = replace(configuration, policy=target_of(row).snapshot.policy)
        transaction.set_rollback(True)
    return Target(configuration, None)


# --- receipts ------------------------------------------------------------------------------------


def _span(days: int, now: datetime | None) -> tuple[datetime, datetime]:
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput(f"days should be between 1 and {MAX_DAYS}, not {days}")
    now = now or datetime.now(UTC)
    return now, now - timedelta(days=days)


def _receipts(since: datetime, max_calls: int, *, with_attempts: bool) -> Iterator[tuple[Any, ...]]:
    """Read by a cursor on the server: the client never holds more than a chunk."""
    parameters: dict[str, Any] = {
        "since": since,
        "limit": min(max(max_calls, 1), MAX_CALLS),
        "with_attempts": with_attempts,
    }
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(RECEIPTS, parameters)
        while chunk := cursor.fetchmany(CHUNK):
            yield from chunk


def _receipt(row: tuple[Any, ...]) -> Receipt | None:
    """None for a receipt that does not say what the decision needs: of a call that was given up, or an old one."""
    call_id, at, _, _, rule, pattern, model, cache, candidates, request, outcome, attempts, _ = row
    kept = orjson.loads(request)
    try:
        demand = from_json(kept)
    except TypeError:
        return None
    looked_at, tried = orjson.loads(candidates), orjson.loads(attempts)
    chosen = looked_at[0]["model"] if looked_at else ""
    return Receipt(
        id=call_id,
        at=at,
        rule=rule,
        pattern=pattern,
        model=model or _given_up(tried, chosen),
        chosen=chosen,
        from_cache=cache == "hit",
        is_late=outcome == DeadlineExceeded.code,
        demand=demand,
        circumstances=kept.get("circumstances", {}),
        attempts=tried,
    )


def _given_up(attempts: list[dict[str, Any]], chosen: str) -> str:
    """Who would have served a call that its client did not wait for; "" if every model that was asked failed."""
    if not attempts:
        return chosen
    return str(attempts[-1]["model"]) if attempts[-1]["outcome"] == "cancelled" else ""


def _balances() -> dict[str, Balance]:
    return {row["slug"]: Balance(microusd(row["left_usd"]), row["period_end"]) for row in balances.balances()}


def as_text(report: dict[str, Any]) -> str:
    """For people."""
    cost, share = report["cost"], report["local_share"]
    version = f"version {report['version']}" if report["version"] else "from the file"
    lines = [
        f"{report['policy']} {version}: {report['calls']} calls of {report['days']} days, {report['moved']} would move",
        f"  cost ${cost['before_usd']} -> ${cost['after_usd']} ({_signed(cost['difference_usd'])}),"
        f" local {_percent(share['before'])} -> {_percent(share['after'])}",
    ]
    if report["keys_assumed"]:
        names = ", ".join(report["keys_assumed"])
        lines.append(f"  no API key here for {names}, which answered recorded calls: taken to have one")
    for rule in report["rules"]:
        lines.append(f"  {rule['rule']}: {rule['calls']} calls, {_signed(rule['cost']['difference_usd'])}")
        lines += [f"    {move['calls']:6} {move['from']} -> {move['to']}" for move in rule["moves"]]
    for budget in report["budgets"]:
        lines.append(f"  budget {budget['slug']}: ${budget['left_usd']} left, {_lasts(budget)}")
    unserved = report["unserved"]
    lines.append(f"  calls that nothing would serve: {unserved['calls']}")
    lines += [f"    {r['calls']:6} {r['recorded_rule']}: {r.get('reason', r['code'])}" for r in unserved["reasons"]]
    for name, text in NOTES.items():
        if report[name]:
            lines.append(f"  {report[name]} {text}")
    return "\n".join(lines)


def check_as_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['calls']} decisions: {report['same']} come out again, {report['changed']} differ as the configuration"
        f" has changed since, {report['different']} differ without a reason, {report['not_replayable']} say too little"
    ]
    return "\n".join(
        lines + [f"  {found['call_id']}: {', '.join(found['differs'])}" for found in report["differences"]]
    )


NOTES = {
    "failed_again": "calls would get no answer, as every model that the policy gives them failed them then",
    "without_tokens": "calls have no tokens on record; what they would cost is left out",
    "not_replayable": "receipts do not say enough to be replayed",
}


def _signed(dollars: str) -> str:
    return f"-${dollars[1:]}" if dollars.startswith("-") else f"+${dollars}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _lasts(budget: dict[str, Any]) -> str:
    ends = []
    for name in ("before", "after"):
        used_up = budget[name]["used_up_at"]
        ends.append(f"used up {used_up:%Y-%m-%d}" if used_up else "lasts")
    return f"{ends[0]} at the recorded pace, {ends[1]} at the replayed one"
