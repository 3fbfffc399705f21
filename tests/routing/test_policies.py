"""Versions of policies: drafts, publishing, rolling back, editing what is live."""

import threading
from typing import Any

import pytest
from django.db import connection, transaction

from routing.configuration import policies, snapshot
from routing.configuration.shape import PolicyEntry, RuleEntry
from routing.models import ConfigEpoch, RoutedCall, RoutingPolicy
from tests.seeding import seed
from ziggie.errors import Conflict, InvalidInput

pytestmark = pytest.mark.django_db


def entry(*chain: str, slug: str = "default", **rule: Any) -> PolicyEntry:
    return PolicyEntry(slug=slug, rules=[RuleEntry(name="all", chain=list(chain), **rule)])


@pytest.fixture
def live(db: None) -> RoutingPolicy:
    seed()
    return RoutingPolicy.objects.get(state="live")


def test_a_draft_changes_nothing_until_it_is_published(live: RoutingPolicy) -> None:
    draft = policies.create_draft(entry("offline"), by="anna")
    assert (draft.version, draft.state) == (2, "draft")
    assert snapshot.load().policy.version == 1
    policies.publish(draft, by="ben")
    assert [rule.chain for rule in snapshot.load().policy.rules] == [("offline",)]
    draft.refresh_from_db()
    assert (draft.created_by, draft.published_by, draft.state) == ("anna", "ben", "live")
    live.refresh_from_db()
    assert live.state == "retired"
    assert live.rules.exists()


def test_a_draft_that_could_not_serve_is_not_published_and_says_all_that_is_wrong(live: RoutingPolicy) -> None:
    draft = policies.create_draft(
        PolicyEntry(slug="default", rules=[RuleEntry(name="a", chain=["x"]), RuleEntry(name="b")]), by="anna"
    )
    with pytest.raises(InvalidInput) as refused:
        policies.publish(draft, by="anna")
    assert refused.value.details == [
        {"place": "rules[0].chain[0]", "problem": "there is no model 'x'"},
        {"place": "rules[1].chain", "problem": "is empty: name at least one model"},
    ]
    assert RoutingPolicy.objects.get(state="live") == live


def test_rolling_back_publishes_the_old_rules_as_a_new_version(live: RoutingPolicy) -> None:
    rules = list(snapshot.load().policy.rules)
    policies.put_live(entry("offline"), by="anna")
    live.refresh_from_db()
    back = policies.roll_back(live, by="ben")
    assert (back.version, back.notes) == (3, "Rolled back to version 1.")
    now = snapshot.load().policy
    assert [rule.name for rule in now.rules] == [rule.name for rule in rules]
    assert [rule.chain for rule in now.rules] == [rule.chain for rule in rules]


def test_only_drafts_are_published_and_only_retired_versions_rolled_back_to(live: RoutingPolicy) -> None:
    draft = policies.create_draft(entry("offline"), by="anna")
    with pytest.raises(Conflict):
        policies.publish(live, by="anna")
    with pytest.raises(Conflict):
        policies.roll_back(draft, by="anna")
    policies.publish(draft, by="anna")
    with pytest.raises(Conflict):
        policies.replace_draft(draft, entry("phi3"), by="anna")


def test_an_edit_of_the_live_policy_keeps_what_it_was_under_its_old_version(live: RoutingPolicy) -> None:
    before = policies.entry_of(live)
    created_at, published_at = live.created_at, live.published_at
    RoutedCall.objects.create(
        policy="default", policy_version=1, rule="simple", pattern="single", features={}, candidates=[], outcome="ok"
    )
    with transaction.atomic():
        policies.begin_edit(live, by="anna")
        live.rules.filter(name="simple").update(chain=["offline"])
    live.refresh_from_db()
    assert (live.version, live.state, live.published_by) == (2, "live", "anna")
    kept = RoutingPolicy.objects.get(slug="default", version=1)
    assert (kept.state, kept.published_by) == ("retired", "seed")
    assert (kept.created_at, kept.published_at) == (created_at, published_at)
    assert policies.entry_of(kept).rules == before.rules
    assert "simple" in policies.difference(policies.predecessor(live), live)


def test_the_difference_names_the_versions_and_the_rules_that_changed(live: RoutingPolicy) -> None:
    draft = policies.duplicate(live, by="anna")
    assert policies.difference(policies.predecessor(draft), draft) == ""
    draft.rules.filter(name="simple").update(chain=["phi3", "offline"])
    lines = policies.difference(policies.predecessor(draft), draft).splitlines()
    assert lines[:2] == ["--- default v1", "+++ default v2"]
    assert [line for line in lines[2:] if line[0] in "+-"] == [
        "-chain: [llama3.2, claude-haiku-4-5, offline]",
        "+chain: [phi3, offline]",
    ]


def test_rules_are_put_in_order_around_the_one_that_moved(live: RoutingPolicy) -> None:
    names = [rule.name for rule in live.rules.order_by("position")]
    moved = live.rules.get(name=names[0])
    moved.position = 3
    moved.save()
    policies.put_in_order(live, moved=moved, came_from=1)
    assert [rule.name for rule in live.rules.order_by("position")][:4] == [names[1], names[2], names[0], names[3]]
    assert list(live.rules.order_by("position").values_list("position", flat=True)) == list(range(1, len(names) + 1))
    moved.refresh_from_db()
    moved.position = 1
    moved.save()
    policies.put_in_order(live, moved=moved, came_from=3)
    assert [rule.name for rule in live.rules.order_by("position")] == names


@pytest.mark.django_db(transaction=True)
def test_of_two_who_publish_at_once_both_are_versions_and_one_is_live(live: RoutingPolicy) -> None:
    drafts = [policies.create_draft(entry("offline"), by="x") for _ in range(4)]
    epoch = ConfigEpoch.objects.get().epoch

    def publish(draft: RoutingPolicy) -> None:
        try:
            policies.publish(draft, by="x")
        finally:
            connection.close()

    threads = [threading.Thread(target=publish, args=[draft]) for draft in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert RoutingPolicy.objects.filter(state="live").count() == 1
    assert RoutingPolicy.objects.filter(state="retired").count() == 4
    assert ConfigEpoch.objects.get().epoch > epoch
