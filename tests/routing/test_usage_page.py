"""The usage page: what it sums, what it leads to, who may see it, and what it costs the database."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from routing.models import Budget, RoutedCall, RoutingSettings
from routing.reporting import chart, usage
from routing.reporting.chart import Amounts
from tests.routing.books import NOON, book
from ziggie.models import create_api_key

MAY = "from=2026-05-10&to=2026-05-10"
books = pytest.mark.django_db(transaction=True)


def text_of(client: Client, query: str = MAY) -> str:
    response = client.get(f"/usage/?{query}")
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.content.decode())


def figure(page: str, name: str) -> str:
    found = re.search(rf"<dt>{re.escape(name)}</dt><dd[^>]*>(.*?)</dd>", page)
    assert found, name
    return found[1]


@books
def test_the_totals_of_a_period_are_those_of_its_calls(admin_client: Client) -> None:
    book(*({"duration_ms": ms} for ms in (100, 100, 100, 3_000)))
    book({"model": "llama", "provider": "ollama", "source": "local", "cost_microusd": 0},
         {"outcome": "all_providers_failed", "cost_microusd": 0},
         {"model": "offline", "provider": "offline", "source": "offline", "cost_microusd": 0})  # fmt: skip
    book(at=NOON + timedelta(days=1))
    page = text_of(admin_client)
    assert figure(page, "Cost") == "$0.0010"
    assert figure(page, "Saved").startswith("$0.0060")
    assert figure(page, "Calls").startswith("7<small>7 attempts")
    assert figure(page, "Answered") == "85.7 %"
    assert figure(page, "Local").startswith("20 %")
    assert "1 more offline" in figure(page, "Local")
    assert figure(page, "Tokens in / out") == "70 / 35"
    assert re.fullmatch(r"0\.1\d\d / [23]\.\d", figure(page, "Seconds, half / 95 %"))


@books
@pytest.mark.parametrize("group", ["model", "provider", "source", "rule", "task_kind", "creator", "api_key", "day"])
def test_groups_lead_to_their_receipts(admin_client: Client, group: str) -> None:
    key, _ = create_api_key("the key & co")
    book({}, {}, rule="a rule", task_kind="analysis", creator="<i>insta</i>", api_key_id=str(key.pk))
    book(at=NOON + timedelta(days=2), model="other", provider="other", source="local", rule="other")
    page = text_of(admin_client, f"{MAY}&group={group}")
    names = {"rule": "a rule", "task_kind": "analysis", "creator": "&lt;i&gt;insta&lt;/i&gt;", "day": "2026-05-10",
             "api_key": "the key &amp; co", "model": "gpt", "provider": "openai", "source": "cloud"}  # fmt: skip
    found = re.search(r'<th scope="row" class="name"><a href="([^"]*)">([^<]*)</a>', page)
    assert found
    assert found[2] == names[group]
    listed = admin_client.get(found[1].replace("&amp;", "&")).content.decode()
    assert listed.count("/usage/calls/0") == 2


@books
def test_days_are_the_staffs(admin_client: Client) -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "Asia/Kolkata"})
    midnight = datetime(2026, 5, 9, 18, 30, tzinfo=UTC)
    book({"at": midnight - timedelta(seconds=1)}, {"at": midnight}, {"at": midnight + timedelta(hours=24, seconds=-1)})
    page = text_of(admin_client)
    assert figure(page, "Calls").startswith("2<")
    assert "midnight in Asia/Kolkata" in page


@books
def test_without_calls_it_says_what_to_do(admin_client: Client) -> None:
    page = text_of(admin_client)
    assert "No model was called on these days" in page
    assert "No budget is set" in page
    assert "<svg" not in page


@books
@pytest.mark.parametrize("query", ["from=x", "from=2026-05-11&to=2026-05-10", "group=shoe_size", "to=0001-01-01"])
def test_what_cannot_be_understood_is_said_and_the_usual_is_shown(admin_client: Client, query: str) -> None:
    page = text_of(admin_client, query)
    assert "The last seven days are shown" in page
    assert admin_client.get(f"/usage/groups.csv?{query}").status_code == 400


@books
def test_the_chart_is_drawn_by_the_server_with_a_bar_for_each_amount(admin_client: Client) -> None:
    book({}, {"at": NOON + timedelta(days=2), "baseline_microusd": 0})
    page = text_of(admin_client, "from=2026-05-09&to=2026-05-12")
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert re.findall(r'<rect class="(\w+)"', drawing) == ["cost", "saved", "cost", "lost"]
    assert "2026-05-12: lost $0.000250" in drawing
    assert "://" not in drawing


@books
def test_groups_are_exported_as_a_table_that_no_spreadsheet_runs(admin_client: Client) -> None:
    book(creator="=cmd()")
    response = admin_client.get(f"/usage/groups.csv?{MAY}&group=creator")
    assert response["Content-Disposition"] == 'attachment; filename="usage-by-creator-2026-05-10-2026-05-10.csv"'
    (row,) = csv.DictReader(io.StringIO(response.content.decode()))
    assert (row["creator"], row["calls"], row["cost_usd"], row["p50_ms"]) == ("'=cmd()", "1", "0.000250", row["p50_ms"])


@books
def test_the_exported_table_tells_keys_by_name_days_in_order_and_leaves_no_group_out(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = create_api_key("nightly job")
    monkeypatch.setattr(usage, "MAX_GROUPS", 1)
    book({"api_key_id": str(key.pk)}, {"at": NOON + timedelta(days=1), "cost_microusd": 1})
    for group, told in (("api_key", ["nightly job", ""]), ("day", ["2026-05-11", "2026-05-10"])):
        answer = admin_client.get(f"/usage/groups.csv?from=2026-05-10&to=2026-05-11&group={group}")
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert [row[group] for row in rows] == told


@books
def test_receipts_of_a_day_of_the_staff_say_that_their_times_are_of_utc(admin_client: Client) -> None:
    RoutingSettings.objects.update_or_create(pk=1, defaults={"time_zone": "Asia/Tokyo"})
    book(at=datetime(2026, 5, 9, 20, 30, tzinfo=UTC))
    page = admin_client.get("/usage/calls/?day=2026-05-10").content.decode()
    assert "9 May 20:30:00 UTC" in page
    assert "Day in Asia/Tokyo" in page


@books
def test_budgets_show_what_is_held_settled_and_left(admin_client: Client) -> None:
    Budget.objects.create(slug="monthly", limit_microusd=10_000_000)
    Budget.objects.create(slug="grant", period="total", limit_microusd=1_000_000)
    shown = text_of(admin_client)
    assert "$0.0000 settled, $0.0000 held, $10.00 left of $10.00" in shown
    assert "monthly, this month" in shown
    assert "grant, in all" in shown


@books
def test_the_database_is_asked_no_more_for_many_calls_than_for_one(admin_client: Client) -> None:
    book()
    text_of(admin_client)
    with CaptureQueriesContext(
        connection,
    ) as few:
        text_of(admin_client)
    book(*({"rule": f"rule {n}"} for n in range(60)))
    with CaptureQueriesContext(connection) as many:
        text_of(admin_client)
    assert len(many) == len(few) <= 25
    assert not any("usagerecord" in query["sql"] for query in many.captured_queries)


@books
def test_the_database_is_asked_no_more_for_many_keys_than_for_one(admin_client: Client) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            text_of(admin_client, f"{MAY}&group=api_key")
        return len(queries)

    book(api_key_id=str(create_api_key("first")[0].pk))
    asked()  # what is looked up once in a process is known from here on
    one = asked()
    for number in range(5):
        book(api_key_id=str(create_api_key(f"key {number}")[0].pk))
    assert asked() == one


@books
def test_the_figures_alone_are_served_for_a_page_that_sits_open(admin_client: Client) -> None:
    book()
    page = text_of(admin_client)
    assert 'data-live-topics="usage"' in page
    found = re.search(r'data-live-refresh-url="([^"]*)" data-live-refresh-on="usage"', page)
    assert found
    figures = admin_client.get(found[1].replace("&amp;", "&")).content.decode()
    assert "<html" not in figures
    assert figure(re.sub(r"\s+", " ", figures), "Cost") == "$0.000250"


@books
def test_receipts_are_paged_and_each_opens(admin_client: Client) -> None:
    book(*({"at": datetime.now(UTC)} for _ in range(60)))
    first = admin_client.get("/usage/calls/").content.decode()
    found = re.search(r'href="\?([^"]*)" rel="next"', first)
    assert found
    second = admin_client.get(f"/usage/calls/?{found[1].replace('&amp;', '&')}").content.decode()
    shown = [re.findall(r"/usage/calls/([0-9a-f-]{36})/", page) for page in (first, second)]
    assert [len(ids) for ids in shown] == [50, 10]
    assert {*shown[0], *shown[1]} == {str(pk) for pk in RoutedCall.objects.values_list("pk", flat=True)}
    page = admin_client.get(f"/usage/calls/{shown[0][0]}/").content.decode()
    assert "1. gpt" in page
    assert "Not stored." in page
    assert admin_client.get("/usage/calls/?before=x").status_code == 200
    assert admin_client.get("/usage/calls/00000000-0000-7000-8000-000000000000/").status_code == 404


@books
def test_only_staff_see_any_of_it(client: Client, django_user_model: Any) -> None:
    pages = ("", "figures/", "groups.csv", "calls/", "prices/", "statements/")
    for user, refusal in ((None, 302), (django_user_model.objects.create_user("eve", password="x"), 403)):
        if user:
            client.force_login(user)
        for page in pages:
            assert client.get(f"/usage/{page}").status_code == refusal


def test_bars_stand_on_the_zero_line_and_losses_hang_below_it() -> None:
    drawn = chart.draw([Amounts("a", 3_000_000, 5_000_000), Amounts("b", 1_000_000, -2_000_000), Amounts("c", 0, 0)])
    assert drawn is not None
    cost, saved, _, lost = drawn.bars
    assert cost.y + cost.height == pytest.approx(drawn.zero, abs=0.1)
    assert lost.y == pytest.approx(drawn.zero, abs=0.1)
    assert saved.height / cost.height == pytest.approx(5 / 3, rel=0.01)
    assert all(0 <= bar.y <= bar.y + bar.height <= drawn.height for bar in drawn.bars)
    assert [line.label for line in drawn.lines] == ["$-2.00", "$0.00", "$2.00", "$4.00", "$6.00"]


def test_nothing_draws_nothing_and_many_days_keep_few_labels() -> None:
    assert chart.draw([Amounts("a", 0, 0)]) is None
    drawn = chart.draw([Amounts(str(day), 1, 10**15) for day in range(92)])
    assert drawn is not None
    assert len(drawn.labels) <= chart.MAX_LABELS
    assert len(drawn.lines) <= 12
