"""Summaries, savings, records and the proof that they agree."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from routing.management.commands.usage import BooksDisagree
from routing.models import UsageRecord, UsageRollup
from routing.money import ledger
from routing.money.ledger_rows import CallRow, UsageRow
from routing.reporting import usage
from routing.rest import usage as usage_api
from ziggie.ids import uuid7

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime(2026, 5, 10, 12, 30, tzinfo=UTC)


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_user("ada", password="x", is_staff=True))
    return client


def record(model: str, source: str, cost: int, *, at: datetime = NOON, duration_ms: int = 100, **columns: Any) -> None:
    async def settle() -> None:
        call_id = uuid7()
        shared: dict[str, Any] = {"created_at": at, "model": model, "provider": "p", "source": source}
        shared |= {"outcome": columns.pop("outcome", "ok"), "cost_microusd": cost}
        call = CallRow(id=call_id, rule="r", **shared, **columns)
        row = UsageRow(
            attempt=1,
            **shared,
            baseline_microusd=1_000,
            saved_microusd=1_000 - cost,
            input_tokens=10,
            output_tokens=5,
            duration_ms=duration_ms,
        )
        assert await ledger.settle(ledger.Hold(call_id), call=call, records=[row], charges={})

    asyncio.run(settle())


def test_a_summary_groups_calls_and_tells_their_cost_and_speed(staff: Client) -> None:
    for duration in (100, 100, 100, 3_000):
        record("gpt", "cloud", 250, duration_ms=duration)
    record("llama", "local", 0)
    body = staff.get("/api/usage/summary?from=2026-05-10&to=2026-05-10").json()
    assert (body["calls"], body["cost_usd"], body["saved_usd"]) == (5, "0.001000", "0.004000")
    gpt, llama = body["groups"]
    assert (gpt["key"], gpt["calls"], gpt["cost_usd"], gpt["input_tokens"], gpt["success"]) == (
        "gpt", 4, "0.001000", 40, 1.0,
    )  # fmt: skip
    assert 80 <= gpt["p50_ms"] <= 125
    assert 2_400 <= gpt["p95_ms"] <= 3_600
    assert (llama["key"], llama["cost_usd"]) == ("llama", "0.000000")


@pytest.mark.parametrize("group_by", list(usage.GROUPS))
def test_every_grouping_adds_up_to_the_whole(staff: Client, group_by: str) -> None:
    for hours in range(5):
        record("gpt", "cloud", 7 + hours, at=NOON + timedelta(hours=9 * hours), task_kind=f"kind{hours % 2}")
    body = staff.get(f"/api/usage/summary?from=2026-05-01&to=2026-05-31&group_by={group_by}").json()
    assert sum(group["calls"] for group in body["groups"]) == body["calls"] == 5
    assert sum(round(float(group["cost_usd"]) * 1e6) for group in body["groups"]) == 45


def test_a_period_ends_before_its_last_hour_and_wrong_ones_are_refused(staff: Client) -> None:
    record("gpt", "cloud", 5, at=NOON)
    count = "/api/usage/summary?from=2026-05-10T{}:00:00Z&to=2026-05-10T{}:00:00Z"
    assert staff.get(count.format("12", "13")).json()["calls"] == 1
    assert staff.get(count.format("11", "12")).json()["calls"] == 0
    for query in ("from=x", "from=2026-05-11&to=2026-05-10T00:00:00Z", "group_by=shoe_size", "to=9999-12-31"):
        assert staff.get(f"/api/usage/summary?{query}").status_code == 400


def test_savings_tell_baseline_cost_and_the_local_share(staff: Client) -> None:
    for model, source, cost in [
        ("gpt", "cloud", 400),
        ("llama", "local", 0),
        ("llama", "local", 0),
        ("llama", "local", 0),
        ("offline", "offline", 0),
    ]:
        record(model, source, cost)
    record("llama", "local", 0, outcome="abandoned")
    body = staff.get("/api/savings?from=2026-05-10&to=2026-05-10").json()
    assert (body["baseline_usd"], body["cost_usd"], body["saved_usd"]) == ("0.006000", "0.000400", "0.005600")
    assert body["local_share"] == 0.75, "of what a model answered"
    assert {source["key"]: source["p50_ms"] for source in body["sources"]} == dict.fromkeys(
        ("cloud", "local", "offline"), 99
    )


def test_records_are_listed_filtered_paged_and_exported(staff: Client) -> None:
    for number in range(5):
        record("gpt" if number % 2 else "llama", "cloud", number, creator="=cmd()")
    page = staff.get("/api/usage/records?page_size=2").json()
    assert len(page["results"]) == 2
    assert page["next"]
    assert len(staff.get("/api/usage/records?model=gpt").json()["results"]) == 2
    for wrong in ("call_id=accept", "api_key=%00", "model=a%00b"):
        assert staff.get(f"/api/usage/records?{wrong}").status_code == 400
    body = b"".join(staff.get("/api/usage/records.csv").streaming_content).decode()  # type: ignore[attr-defined]
    rows = list(csv.DictReader(io.StringIO(body)))
    assert [row["cost_usd"] for row in rows] == [f"0.00000{number}" for number in range(5)]
    assert rows[0]["creator"] == "'=cmd()"


def test_records_of_a_time_are_those_of_that_time_to_the_second(staff: Client) -> None:
    for minute in range(5):
        record("gpt", "cloud", minute, at=NOON + timedelta(minutes=minute))
    found = {
        query: [row["cost_usd"][-1] for row in staff.get(f"/api/usage/records?{query}").json()["results"]]
        for query in (
            "from=2026-05-10T12:31:00Z&to=2026-05-10T14:33:00%2B02:00",
            "from=2026-05-10T12:33:00Z",
            "to=2026-05-10T12:31:00Z",
            "to=2026-12-31",
        )
    }
    assert list(found.values()) == [["2", "1"], ["4", "3"], ["0"], ["4", "3", "2", "1", "0"]]
    for wrong in ("from=2026-05-10&to=2026-05-09", "from=x", "to=9999-12-31"):
        assert staff.get(f"/api/usage/records?{wrong}").status_code == 400
    assert staff.get("/api/usage/summary?to=0001-01-01").status_code == 400


@pytest.mark.parametrize("cursor", ["garbage", "cD0wMTliLi4u", "cD0lMDA="])
def test_a_cursor_that_no_page_gave_is_refused(staff: Client, cursor: str) -> None:
    for path in ("usage/records", "routing/models") if cursor != "cD0wMTliLi4u" else ("usage/records",):
        answer = staff.get(f"/api/{path}?cursor={cursor}")
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Invalid cursor")


def test_a_summary_of_too_many_groups_says_how_many_are_left_out(staff: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(usage, "MAX_GROUPS", 3)
    for number in range(5):
        record(f"model {number}", "cloud", number)
    query = "from=2026-05-10&to=2026-05-10"
    body = staff.get(f"/api/usage/summary?{query}").json()
    assert [group["key"] for group in body["groups"]] == ["model 4", "model 3", "model 2"]
    assert (body["calls"], body["cost_usd"], body["groups_left_out"]) == (5, "0.000010", 2)
    assert "2 more that cost less are not shown" in staff.get(f"/usage/?{query}").content.decode()
    body = staff.get("/api/usage/summary?from=2026-04-10&to=2026-04-10").json()
    assert (body["calls"], body["cost_usd"], body["groups"], body["groups_left_out"]) == (0, "0.000000", [], 0)


def test_an_export_without_a_record_has_its_head(staff: Client, capsys: pytest.CaptureFixture[str]) -> None:
    body = b"".join(staff.get("/api/usage/records.csv?model=none").streaming_content).decode()  # type: ignore[attr-defined]
    call_command("usage", "export")
    assert capsys.readouterr().out == body
    assert body.startswith("id,call_id,attempt,created_at,model")
    assert body.count("\n") == 1


def test_an_export_goes_out_while_it_is_read_and_misses_nothing(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "EXPORT_PAGE", 3)
    monkeypatch.setattr(usage_api, "LINES_AT_ONCE", 2)
    for number in range(9):
        record("gpt", "cloud", number)
    whole = staff.get("/api/usage/records.csv")
    assert b"".join(whole.streaming_content).count(b"\n") == 10  # type: ignore[attr-defined]

    async def first_piece_then_the_rest() -> tuple[bytes, bytes]:
        pieces = aiter(staff_export)
        first = await anext(pieces)
        await sync_to_async(UsageRecord.objects.all().delete)()
        return first, b"".join([piece async for piece in pieces])

    staff_export: Any = staff.get("/api/usage/records.csv")
    first, rest = asyncio.run(first_piece_then_the_rest())
    assert first.count(b"\n") == 2
    assert rest.count(b"\n") == 2  # of the page that had been read


def test_the_command_exports_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("usage", "export", "--json")
    assert json.loads(capsys.readouterr().out) == []
    for number in range(3):
        record("gpt", "cloud", number)
    call_command("usage", "export", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [each["cost_usd"] for each in found] == ["0.000000", "0.000001", "0.000002"]
    assert found[0]["created_at"] == "2026-05-10T12:30:00Z"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *((f"{begins}1+1", f"'{begins}1+1") for begins in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"),
        ("-1.5", "-1.5"),
        ("0.000001", "0.000001"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_no_text_is_a_formula_to_a_spreadsheet(text: str, told: str) -> None:
    assert usage.cell(text) == told


@pytest.mark.parametrize("path", ["usage/records", "usage/records.csv", "usage/summary", "savings"])
@pytest.mark.parametrize(
    "query",
    ["from=0001-01-01", "to=0001-02-10", "to=9999-12-31", "to=9999-12-31T23:30:00", "from=9999-12-31T00:00:00-15:59"],
)
def test_times_at_the_ends_of_time_are_refused(staff: Client, path: str, query: str) -> None:
    answer = staff.get(f"/api/{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")
    assert "too far away" in answer.content.decode() or "is no date" in answer.content.decode()


def test_an_offset_that_the_database_does_not_know_is_a_time_all_the_same(staff: Client) -> None:
    record("gpt", "cloud", 1)
    answer = staff.get("/api/usage/records.csv?from=2026-05-09T00:00:00-23:59")
    assert b"".join(answer.streaming_content).count(b"\n") == 2  # type: ignore[attr-defined]
    assert len(staff.get("/api/usage/records?from=2026-05-09T00:00:00-23:59").json()["results"]) == 1


@pytest.mark.parametrize("query", ["from=0001-01-01", "to=0001-02-10", "day=0001-01-01", "to=9999-12-31T23:30:00"])
def test_receipts_of_the_ends_of_time_are_refused_with_a_word(staff: Client, query: str) -> None:
    assert staff.get(f"/usage/calls/?{query}").status_code in (200, 400)


def test_strangers_see_nothing() -> None:
    for path in ("usage/records", "usage/records.csv", "usage/summary", "savings"):
        assert Client().get(f"/api/{path}").status_code in (401, 403)


def test_the_check_proves_the_books_and_finds_a_single_microdollar(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        record("gpt", "cloud", number)
    call_command("usage", "check")
    assert "agree to the micro-dollar" in capsys.readouterr().out
    UsageRollup.objects.update(cost_microusd=4)
    with pytest.raises(BooksDisagree) as found:
        call_command("usage", "check")
    assert "cost +1" in found.value.details[0]["at"]
    UsageRollup.objects.update(cost_microusd=3)
    UsageRecord.objects.all()[:1].get().delete()
    with pytest.raises(BooksDisagree):
        call_command("usage", "check")
