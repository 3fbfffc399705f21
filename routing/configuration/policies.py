"""Versions of policies: draft -> publish -> roll back. The only writer of policies and rules.

What has been live is never changed: receipts name a policy and its version, and find there the rules
they were judged by. Who published what, and when, stands on the version; what changed is the difference
to the version that was live before. A draft is changed in place: each edit of it is kept, with who made it.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from routing.configuration import rows
from routing.configuration.shape import Placed, PolicyEntry, Problem
from routing.configuration.validation import check, errors
from routing.models import PolicyEdit, RoutingPolicy, RoutingRule
from ziggie.errors import Changed, Conflict, InvalidInput
from ziggie.values import replace

MAX_CHANGES_CHARACTERS = 200_000  # of one edit; what is longer is cut, and says so


def entry_of(policy: RoutingPolicy) -> PolicyEntry:
    """A policy row as the routing file would hold it."""
    return rows.policy_entry(policy)


def create_draft(entry: PolicyEntry, *, by: str) -> RoutingPolicy:
    """A new version of the policy, which nothing uses yet. It need not be valid."""
    with transaction.atomic():
        rows.lock_configuration()
        draft = RoutingPolicy.objects.create(
            slug=entry.slug, version=_next_version(entry.slug), notes=entry.notes, created_by=by
        )
        RoutingRule.objects.bulk_create(rows.policy_rows(draft, entry))
    return draft


def replace_draft(draft: RoutingPolicy, entry: PolicyEntry, *, by: str, seen: str = "") -> None:
    """`seen` is the fingerprint of what the editor has looked at. Raises Conflict if it is no draft by now; Changed
    if it is not what was seen."""
    with transaction.atomic():
        rows.lock_configuration()
        draft = _locked(draft, "draft")
        _check_seen(draft, seen)
        with kept_edit(draft, by=by):
            draft.rules.all().delete()
            RoutingRule.objects.bulk_create(rows.policy_rows(draft, entry))
            RoutingPolicy.objects.filter(pk=draft.pk).update(notes=entry.notes)


@contextmanager
def kept_edit(policy: RoutingPolicy, *, by: str) -> Iterator[None]:
    """keep_edit() for what is done inside."""
    before = entry_of(RoutingPolicy.objects.get(pk=policy.pk))
    yield
    keep_edit(policy, before, by=by)


def keep_edit(policy: RoutingPolicy, before: PolicyEntry, *, by: str) -> None:
    """Keeps what is now otherwise than before, if anything is: of a draft all, of what is live its notes alone, since
    other rules are another version. Must run in the transaction of the edit."""
    row = RoutingPolicy.objects.get(pk=policy.pk)
    after = entry_of(row)
    lines = _changes(before, after) if row.state == "draft" else []
    if before.notes != after.notes:
        gone = [f"-notes: {line}" for line in before.notes.splitlines()]
        lines = [*gone, *(f"+notes: {line}" for line in after.notes.splitlines()), *lines]
    if lines:
        changes = "\n".join(lines)
        if len(changes) > MAX_CHANGES_CHARACTERS:
            changes = changes[:MAX_CHANGES_CHARACTERS] + "\n@@ and more @@"
        PolicyEdit.objects.create(policy=row, edited_by=by, changes=changes)


def duplicate(policy: RoutingPolicy, *, by: str) -> RoutingPolicy:
    """A draft with the same rules."""
    entry = entry_of(policy).model_copy(update={"notes": f"From version {policy.version}."})
    return create_draft(entry, by=by)


def problems_if_live(entry: PolicyEntry) -> list[Problem]:
    """What would be wrong, or unwise, with these rules as the live policy. Paths start at the policy."""
    whole = rows.load()
    live = Placed((), entry.model_copy(update={"live": True}))
    found = check(replace(whole, policies=[live]), api_keys=rows.api_key_names())
    own = {placed.path[:1] for section in (whole.providers, whole.models, whole.budgets) for placed in section or ()}
    return [problem for problem in found if problem.path[:1] not in own and problem.path[:1] != ("settings",)]


def fingerprint(policy: RoutingPolicy) -> str:
    """Tells whether the policy's rules, or which policy is live, have changed since somebody looked at both."""
    live = RoutingPolicy.objects.filter(state="live").values_list("slug", "version").first()
    known = json.dumps([live, policy.pk, rows.plain(entry_of(policy))], sort_keys=True, default=str)
    return hashlib.blake2b(known.encode(), digest_size=16).hexdigest()


def publish(draft: RoutingPolicy, *, by: str, seen: str = "") -> RoutingPolicy:
    """Makes a draft the live policy; the one that was live is kept as retired.

    `seen` is the fingerprint of what the publisher has looked at. Raises InvalidInput with every mistake;
    Conflict if it is no draft by now; Changed if it is not what was seen.
    """
    with transaction.atomic():
        rows.lock_configuration()
        draft = _locked(draft, "draft")
        _check_seen(draft, seen)
        refuse_errors(problems_if_live(entry_of(draft)), f"{draft.slug} version {draft.version} cannot be published")
        _go_live(draft, by)
    return draft


def roll_back(policy: RoutingPolicy, *, by: str, seen: str = "") -> RoutingPolicy:
    """Publishes the rules of an earlier version as a new one. Raises what publish() does."""
    with transaction.atomic():
        rows.lock_configuration()
        policy = _locked(policy, "retired")
        _check_seen(policy, seen)
        draft = create_draft(
            entry_of(policy).model_copy(update={"notes": f"Rolled back to version {policy.version}."}), by=by
        )
        return publish(draft, by=by)


def put_live(entry: PolicyEntry, *, by: str) -> RoutingPolicy:
    """Publishes these rules as a new version. The caller has checked them."""
    with transaction.atomic():
        draft = create_draft(entry, by=by)
        _go_live(draft, by)
    return draft


def begin_edit(policy: RoutingPolicy, *, by: str) -> None:
    """Before the live policy's rules are edited in place: keeps what they are now as a retired version and
    makes the policy a new version. For a draft this does nothing.

    Must run in the transaction of the edit. Raises Conflict for a retired policy.
    """
    rows.lock_configuration()
    policy.refresh_from_db()
    if policy.state == "retired":
        raise Conflict("a retired version is never changed; duplicate it as a draft")
    if policy.state == "draft":
        return
    kept_rules = list(policy.rules.all())
    kept = RoutingPolicy.objects.get(pk=policy.pk)
    policy.version = _next_version(policy.slug)
    policy.created_by = policy.published_by = by
    policy.created_at = policy.published_at = timezone.now()
    policy.save()
    created_at, kept.pk, kept.state = kept.created_at, None, "retired"
    kept.save(force_insert=True)
    RoutingPolicy.objects.filter(pk=kept.pk).update(created_at=created_at)
    for rule in kept_rules:
        rule.pk, rule.policy = None, kept
    RoutingRule.objects.bulk_create(kept_rules)


def put_in_order(policy: RoutingPolicy, *, moved: RoutingRule | None = None, came_from: int | None = None) -> None:
    """Numbers the rules from 1. The moved rule keeps its number, and the one it meets makes room."""

    def place(rule: RoutingRule) -> tuple[int, int]:
        if moved is None or rule.pk != moved.pk:
            return rule.position, 0
        moved_down = came_from is not None and came_from < rule.position
        return rule.position, 1 if moved_down else -1

    for number, rule in enumerate(sorted(policy.rules.all(), key=place), start=1):
        if rule.position != number:
            RoutingRule.objects.filter(pk=rule.pk).update(position=number)


def predecessor(policy: RoutingPolicy) -> RoutingPolicy | None:
    """The version that was live before this one; for a draft the one that is live."""
    published = RoutingPolicy.objects.exclude(pk=policy.pk).filter(published_at__isnull=False)
    if policy.published_at is not None:
        published = published.filter(published_at__lt=policy.published_at)
    return published.order_by("-published_at", "-version").first()


def difference(old: RoutingPolicy | None, new: RoutingPolicy) -> str:
    """The rules that differ, one after the other, each as a diff of the routing file's YAML; "" if none does."""
    lines = _changes(None if old is None else entry_of(old), entry_of(new))
    if not lines:
        return ""
    name = f"{old.slug} v{old.version}" if old else "nothing"
    return "\n".join([f"--- {name}", f"+++ {new.slug} v{new.version}", *lines])


def refuse_errors(problems: list[Problem], message: str) -> None:
    """Raises InvalidInput with every error among the problems."""
    if found := errors(problems):
        raise InvalidInput(message, details=[{"place": p.place, "problem": p.message} for p in found])


def _changes(old: PolicyEntry | None, new: PolicyEntry) -> list[str]:
    before, after = _rules_as_lines(old), _rules_as_lines(new)
    lines = [line for name in after | before for line in _rule_difference(name, before.get(name), after.get(name))]
    if [name for name in before if name in after] != [name for name in after if name in before]:
        lines.append("@@ the rules stand in another order @@")
    return lines


def _rules_as_lines(policy: PolicyEntry | None) -> dict[str, list[str]]:
    """By the rule's name, in the order of the rules."""
    return {} if policy is None else {rule.name: _as_lines(rows.plain(rule)) for rule in policy.rules}


def _as_lines(rule: dict[str, object]) -> list[str]:
    return yaml.safe_dump(rule, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None).splitlines()


def _rule_difference(name: str, before: list[str] | None, after: list[str] | None) -> list[str]:
    if before == after:
        return []
    changed = list(difflib.unified_diff(before or [], after or [], lineterm="", n=0))
    return [f"@@ {name} @@", *(line for line in changed[2:] if not line.startswith("@@"))]


def _go_live(draft: RoutingPolicy, by: str) -> None:
    RoutingPolicy.objects.filter(state="live").update(state="retired")
    draft.state, draft.published_by, draft.published_at = "live", by, timezone.now()
    draft.save(update_fields=["state", "published_by", "published_at"])


def _locked(policy: RoutingPolicy, state: str) -> RoutingPolicy:
    locked = RoutingPolicy.objects.select_for_update().get(pk=policy.pk)
    if locked.state != state:
        raise Conflict(f"{locked} is {locked.state} by now, not {state}")
    return locked


def _check_seen(policy: RoutingPolicy, seen: str) -> None:
    if seen and seen != fingerprint(policy):
        raise Changed("these rules, or the policy that is live, have changed since you looked: look at them again")


def _next_version(slug: str) -> int:
    newest: int | None = RoutingPolicy.objects.filter(slug=slug).aggregate(newest=Max("version"))["newest"]
    return (newest or 0) + 1
