"""The dashboard's figures: those of the receipts, at the price of the rollups."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import Count, Q, Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from monitoring import kpis
from routing.evidence import preview, replay
from routing.models import RoutedCall
from routing.reporting import usage
from tests.routing.books import book
from tests.routing.pages_support import seen, staff_client
from tests.seeding import seed
from ziggie.errors import InvalidInput

pytestmark = pytest.mark.django_db(transaction=True)


def made() -> None:
    """Calls of three weeks and of three months ago."""
    now = timezone.now()
    for ago in (0, 10, 20, 90):
        at = now - timedelta(days=ago)
        book({}, {"model": "llama", "provider": "ollama", "source": "local", "cost_microusd": 0}, at=at)
        book({"source": "local", "cost_microusd": 0, "baseline_microusd": 0}, at=at)
        book({"outcome": "all_providers_failed", "source": "", "model": "", "provider": "", "cost_microusd": 7}, at=at)
        book({"model": "offline", "provider": "offline", "source": "offline", "cost_microusd": 0}, at=at)


def test_the_figures_are_those_of_the_receipts() -> None:
    made()
    answered = Q(outcome="ok")
    receipts = RoutedCall.objects.filter(created_at__gte=timezone.now() - timedelta(days=30)).aggregate(
        calls=Count("id"),
        failed=Count("id", filter=~answered),
        cost_microusd=Sum("cost_microusd"),
        saved_microusd=Sum("saved_microusd"),
        local=Count("id", filter=answered & Q(source="local")),
        offline=Count("id", filter=answered & Q(source="offline")),
    )
    local, models = receipts.pop("local"), receipts["calls"] - receipts["failed"] - receipts["offline"]
    assert kpis.totals(usage.last_days(30)) == kpis.Totals(**receipts, local_share=100 * local / models)
    assert (receipts["calls"], receipts["failed"], local) == (15, 3, 6)


def test_without_calls_there_is_no_local_share() -> None:
    assert kpis.totals(usage.last_days(30)) == kpis.Totals(0, 0, 0, 0, None, 0)


def test_the_dashboard_reads_no_receipt() -> None:
    seed()
    made()
    client = staff_client()
    with CaptureQueriesContext(connection) as queries:
        page = seen(client.get("/dashboard/figures/"))
    assert "15 3 without an answer" in page
    assert not [query["sql"] for query in queries if "routing_routedcall" in query["sql"]]


def test_what_a_policy_is_tried_on_is_said_beside_all_that_there_was() -> None:
    made()

    def nowhere() -> replay.Target:
        raise InvalidInput("there is no such policy")

    assert [preview.replayed(nowhere, days=days, calls=2_000).recorded for days in preview.DAYS] == [5, 5, 15]
