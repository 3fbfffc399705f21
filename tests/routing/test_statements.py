"""Providers' exports: every documented form is read, mistakes are told with their place, and the comparison adds up."""

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.test import Client

from routing.models import LanguageModel, Provider, Statement, StatementLine
from routing.reporting import statement_files, statement_google, statements
from routing.reporting.statement_files import read
from tests.routing.books import book
from ziggie.errors import Conflict, InvalidInput

DAY = date(2026, 5, 10)
PLAIN = "date,model,input_tokens,output_tokens,cost_usd\n"
ANTHROPIC_USAGE = {
    "data": [
        {
            "starting_at": "2026-05-10T00:00:00Z", "ending_at": "2026-05-11T00:00:00Z",
            "results": [
                {"uncached_input_tokens": 1500, "cache_creation": {"ephemeral_1h_input_tokens": 1000,
                 "ephemeral_5m_input_tokens": 500}, "cache_read_input_tokens": 200, "output_tokens": 500,
                 "server_tool_use": {"web_search_requests": 10}, "api_key_id": None, "workspace_id": None,
                 "model": "claude-sonnet-4-5-20250929", "service_tier": "standard", "context_window": "0-200k"},
                {"uncached_input_tokens": 1, "cache_creation": None, "cache_read_input_tokens": 0, "output_tokens": 2,
                 "model": "claude-sonnet-4-5-20250929", "service_tier": "batch"},
            ],
        },
        {"starting_at": "2026-05-11T00:00:00Z", "ending_at": "2026-05-12T00:00:00Z", "results": []},
    ],
    "has_more": False, "next_page": None,
}  # fmt: skip
ANTHROPIC_COST = {
    "data": [{"starting_at": "2026-05-10T00:00:00Z", "ending_at": "2026-05-11T00:00:00Z", "results": [
        {"currency": "USD", "amount": "123.78912", "workspace_id": None, "description": "Input",
         "cost_type": "tokens", "model": "claude-sonnet-4-5-20250929", "token_type": "uncached_input_tokens"},
        {"currency": "USD", "amount": "6.21088", "cost_type": "tokens", "model": "claude-sonnet-4-5-20250929"},
        {"currency": "USD", "amount": "10", "cost_type": "web_search", "model": None},
    ]}],
    "has_more": False, "next_page": None,
}  # fmt: skip
OPENAI_USAGE = {
    "object": "page", "has_more": False, "next_page": None,
    "data": [{"object": "bucket", "start_time": 1778371200, "end_time": 1778457600, "results": [
        {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 500,
         "input_cached_tokens": 800, "num_model_requests": 5, "model": "gpt-4o-2024-08-06", "batch": None},
    ]}],
}  # fmt: skip
OPENAI_COSTS = {
    "object": "page", "has_more": False, "next_page": None,
    "data": [{"object": "bucket", "start_time": 1778371200, "end_time": 1778457600, "results": [
        {"object": "organization.costs.result", "amount": {"value": 0.06, "currency": "usd"},
         "line_item": "gpt-4o-2024-08-06, input", "project_id": None},
        {"object": "organization.costs.result", "amount": {"value": 0.04, "currency": "usd"},
         "line_item": "gpt-4o-2024-08-06, output", "project_id": None},
    ]}],
}  # fmt: skip
FORMS: dict[str, tuple[str, str, tuple[int | None, int | None, str | None]]] = {
    "Anthropic usage": (json.dumps(ANTHROPIC_USAGE), "claude-sonnet-4-5-20250929", (3201, 502, None)),
    "Anthropic cost": (json.dumps(ANTHROPIC_COST), "claude-sonnet-4-5-20250929", (None, None, "1.3")),
    "OpenAI usage": (json.dumps(OPENAI_USAGE), "gpt-4o-2024-08-06", (1000, 500, None)),
    "OpenAI costs": (json.dumps(OPENAI_COSTS), "gpt-4o-2024-08-06", (None, None, "0.10")),
    "plain table": (json.dumps([{"date": "2026-05-10", "model": "m", "input_tokens": 3, "cost_usd": 0.5}]), "m",
                    (3, None, "0.5")),
    "plain table (CSV)": (PLAIN + "2026-05-10,m,1,2,0.5\n2026-05-10,m,1,,0.25\n\n", "m", (2, 2, "0.75")),
    "Anthropic usage (CSV)": (
        "usage_date_utc,model_version,api_key,workspace,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
        "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count\n"
        "2026-05-10 15:04,claude-sonnet-4-5-20250929,k,Default,10,20,30,40,5,0\n",
        "claude-sonnet-4-5-20250929", (100, 5, None)),
    "Anthropic cost (CSV)": (
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,cost_type\n"
        "2026-05-10,Claude Sonnet 4.5,Default,k,message,0-200k,input_no_cache,0.90,token\n"
        "2026-05-10,Claude Sonnet 4.5,Default,k,message,0-200k,output,0.10,token\n",
        "Claude Sonnet 4.5", (None, None, "1.00")),
    "OpenAI costs (CSV)": (
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
        "1778371200,1778457600,2026-05-10T00:00:00+00:00,x,0.8958740000000000,usd,\"gpt-4o-2024-08-06, input\",\n"
        "1778457600,1778544000,2026-05-11T00:00:00+00:00,x,,,,\n",
        "gpt-4o-2024-08-06", (None, None, "0.895874")),
    "OpenAI usage (CSV)": (
        "start_time\tend_time\tstart_time_iso\tmodel\tinput_tokens\toutput_tokens\tinput_cached_tokens\n"
        "1778371200\t1778457600\t2026-05-10T00:00:00+00:00\tgpt-4o-2024-08-06\t7\t8\t3\n",
        "gpt-4o-2024-08-06", (7, 8, None)),
    "Google cost table (CSV)": (
        "Date,Service description,SKU description,Usage amount,Usage unit,List cost ($),"
        "Unrounded subtotal ($),Subtotal ($)\n"
        "2026-05-10,Gemini API,Generate content output token count gemini 2.5 flash short input text,"
        '"622,403",count,2,1.55,1.6\n'
        "2026-05-10,Gemini API,Generate_content_cached_input_token_count_gemini_2.5_flash_short_text,"
        "40,count,2,0.05,0.1\n"
        "2026-05-10,Gemini API,Generate content input token count Gemini 2.5 Flash input image,2,count,2,0.40,0.4\n"
        "2026-05-10,Gemini API,Grounding with Google Search for Gemini 2.5 Flash,9,count,2,1,1\n"
        "2026-05-10,Compute Engine,N2 Instance Core,6.5,hour,7,7,7\n"
        ",,,,,18,17,17.1\n",
        "gemini-2.5-flash", (42, 622_403, "3.00")),
    "OpenRouter activity (CSV)": (
        "Date,Slug,Usage,BYOK Usage,Requests,Prompt Tokens,Completion Tokens,Reasoning Tokens\n"
        "2026-05-10 00:00:00,openai/gpt-oss-120b,0.0123,0,2,10389,137,0\n",
        "openai/gpt-oss-120b", (10_389, 137, "0.0123")),
    "OpenRouter activity": (
        json.dumps({"data": [
            {"date": "2026-05-10", "model": "openai/gpt-4.1", "model_permaslug": "openai/gpt-4.1-2025-04-14",
             "endpoint_id": "550e8400-e29b-41d4-a716-446655440000", "provider_name": name, "usage": cost,
             "byok_usage_inference": 0.012, "requests": 5, "prompt_tokens": 50, "completion_tokens": 125,
             "reasoning_tokens": 25} for name, cost in (("OpenAI", 0.015), ("Azure", 0.01))]}),
        "openai/gpt-4.1", (100, 250, "0.025")),
}  # fmt: skip


@pytest.mark.parametrize("form", list(FORMS))
def test_every_known_form_is_read(form: str) -> None:
    text, model, (tokens_in, tokens_out, cost) = FORMS[form]
    export = read(text.encode("utf-8-sig" if "CSV" in form else "utf-8"))
    figures = export.lines[DAY, model]
    assert export.form == form
    assert (figures.input_tokens, figures.output_tokens) == (tokens_in, tokens_out)
    assert figures.cost_usd == (None if cost is None else Decimal(cost))
    assert min(export.days) == DAY


GOOGLE_INVOICE = (
    "Invoice number,12345,\nInvoice date,2026-05-31,\nCurrency,USD,\nTotal amount due,$5.72,\n"
    "Project ID,Service description,SKU description,Credit type,Cost type,Usage start date,Usage end date,Usage amount,"
    "Usage unit,Unrounded Cost ($),Cost ($)\n"
    "p,Gemini API,Generate content input token count Gemini 3.1 flash lite text,,Usage,2026-05-01,2026-05-31,"
    '"6,282,708",count,1.005,1.01\n'
    "p,Gemini API,Generate content input token count Gemini 3.1 flash lite text,Promotional credit,Usage,2026-05-02,"
    "2026-05-31,6282708,count,-0.005,-0.01\n"
    ",,,,Rounding error,,,,,-0.003,-0.00\n,,,,Total,,,,,1,1\n"
)


@pytest.mark.parametrize(
    ("content", "model", "figures"),
    [
        (GOOGLE_INVOICE, "gemini-3.1-flash-lite", (6_282_708, None, "1.000")),
        (
            "date,until,model,cost_usd\n2026-05-01,2026-05-31,kimi-k2,12.5\n2026-05-08,,kimi-k2,1\n",
            "kimi-k2",
            (None, None, "13.5"),
        ),
    ],
)
def test_an_invoice_tells_of_many_days_in_one(
    content: str, model: str, figures: tuple[int | None, int | None, str]
) -> None:
    export = read(content.encode())
    assert export.form.endswith(", one period")
    assert list(export.lines) == [(date(2026, 5, 1), model)]
    (told,) = export.lines.values()
    assert (told.input_tokens, told.output_tokens, str(told.cost_usd)) == figures
    assert (min(export.days), max(export.days)) == (date(2026, 5, 1), date(2026, 5, 31))


@pytest.mark.parametrize(
    ("sku", "model"),
    [
        ("Generate content output token count Gemini 2.5 Pro short output text", "gemini-2.5-pro"),
        (
            "Generate_content image output token count for Gemini 2.5 Flash Native Image Generation",
            "gemini-2.5-flash-image",
        ),
        ("Gemini 2.5 Pro Thinking Text Output - Predictions", "gemini-2.5-pro"),
        ("EmbedContent input token count for gemini-embedding-2 text", "gemini-embedding-2"),
        ("Veo 3.1 video generation", "Veo 3.1 video generation"),
    ],
)
def test_a_model_of_google_is_known_by_the_words_of_its_sku(sku: str, model: str) -> None:
    assert statement_google.model(sku) == model


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("utc_date,model,wallet_type,cost,currency", "20260510,m,Paid,0.5,USD"),
        (
            "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,model_permaslug",
            "g,2026-05-10 03:46:57.7,0.5,,,m",
        ),
        ("timestamp,model,prompt_tokens,completion_tokens,cost", "2026-05-10T12:00:00Z,m,,,0.5"),
    ],
)
def test_a_plain_table_may_call_its_columns_as_providers_do(columns: str, row: str) -> None:
    assert read(f"{columns}\n{row}\n".encode()).lines[DAY, "m"].cost_usd == Decimal("0.5")


SEMICOLONS = "date;model;input_tokens;output_tokens;cost_usd\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeff" + PLAIN + "2026-05-10,m,10,5,0.09\r\n", (10, 5, "0.09")),
        (SEMICOLONS + "2026-05-10;m;10;5;0,09\n", (10, 5, "0.09")),
        (SEMICOLONS + "2026-05-10;m;1.234.567;5;1.234,50\n", (1_234_567, 5, "1234.50")),
        (SEMICOLONS + "2026-05-10;m;10;5;1,234\n", (10, 5, "1.234")),
        ("sep=;\r\n" + SEMICOLONS + "2026-05-10;m;10;5;$ 0,5\n", (10, 5, "0.5")),
        (PLAIN + '2026-05-10,m,"1,234,567","12,345","$1,234.50"\n', (1_234_567, 12_345, "1234.50")),
        (PLAIN + '2026-05-10,m,1 234,5,"1,234,567"\n', (1_234, 5, "1234567")),
        (PLAIN + '2026-05-10,m,10,5,"0,090"\n', (10, 5, "0.090")),
        (PLAIN + "2026-05-10,m,10,5,USD 1.50\n2026-05-10,m,,,0.5 usd\n2026-05-10,m,,,US$2\n", (10, 5, "4.00")),
        (PLAIN + "2026-05-10,m,10,5,3\n2026-05-10,m,,,-$1.25\n2026-05-10,m,,,($0.75)\n", (10, 5, "1.00")),
        (PLAIN + "2026-05-09T23:30:00-05:00,m,1,2,3\n", (1, 2, "3")),
        (PLAIN + "2026-05-10 23:59:59 UTC,m,1,2,3\n1778371200000,m,1,2,3\n", (2, 4, "6")),
        (PLAIN + "2026-05-10,m,1,2,1e-7\n", (1, 2, "1E-7")),
    ],
)
def test_numbers_and_times_are_read_as_people_and_programs_write_them(
    content: str, expected: tuple[int, int, str]
) -> None:
    for encoding in ("utf-8", "utf-16"):
        figures = read(content.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding)).lines[DAY, "m"]
        assert (figures.input_tokens, figures.output_tokens) == expected[:2]
        assert figures.cost_usd == Decimal(expected[2])


def test_several_pages_are_one_export_and_an_unfinished_one_is_refused() -> None:
    unfinished = OPENAI_USAGE | {"has_more": True}
    assert read(json.dumps([unfinished, OPENAI_USAGE]).encode()).lines[DAY, "gpt-4o-2024-08-06"].input_tokens == 2000
    with pytest.raises(InvalidInput, match="has_more"):
        read(json.dumps(unfinished).encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "the file is empty"),
        (PLAIN, "tells of no use"),
        ("a,b\n1,2\n", "line 1: the columns 'a, b' are those of no known export"),
        (PLAIN + "2026-05-10,m,1,2,3\n2026-05-10,m,x,2,3\n", "line 3: input_tokens 'x' is no number"),
        (PLAIN + "2026-05-10,m,-1,2,3\n", "line 2: input_tokens '-1'"),
        (GOOGLE_INVOICE.replace(",USD", ",AUD"), "amounts in 'AUD': only US dollars"),
        (GOOGLE_INVOICE.replace("Cost ($)", "Cost (€)"), "line 6: has no cost in US dollars"),
        (GOOGLE_INVOICE.replace("05-31,6282708,", "04-31,6282708,"), "line 7: usage_end_date '2026-04-31' is no date"),
        ("date,until,model,cost_usd\n2026-05-10,2026-05-09,m,1\n", "line 2: until is before date"),
        (PLAIN + "yesterday,m,1,2,3\n", "line 2: date 'yesterday' is no date"),
        (PLAIN + "0001-01-01,m,1,2,3\n", "line 2: date '0001-01-01' is too far away"),
        (PLAIN + "99999999999,m,1,2,3\n", "line 2: date '99999999999'"),
        (PLAIN + "2026-05-10,m,1,2,nan\n", "line 2: cost_usd 'nan'"),
        (PLAIN + "2026-05-10,m,1,2,1e400\n", "line 2: cost_usd '1e400'"),
        (PLAIN + "2026-05-10,m,1,2,1e4008740000000000\n", "line 2: cost_usd '1e4008740000000000' is no amount"),
        ('[{"date": "2026-05-10", "model": "m", "cost_usd": 1e40000000000000000000}]', "numbers that are too long"),
        (PLAIN + '2026-05-10,m,1,2,"1,234"\n', "line 2: cost_usd '1,234' may mean 1.234 or 1234 dollars"),
        (PLAIN + '2026-05-10,m,1,2,"1,23,456"\n', "line 2: cost_usd '1,23,456' is no amount"),
        (PLAIN + "2026-05-10,m,1,2,1.234.56\n", "line 2: cost_usd '1.234.56' is no amount"),
        (PLAIN + "2026-05-10,m,1.234,2,3\n", "line 2: input_tokens '1.234' is no number of tokens"),
        (PLAIN + "2026-05-10,m,1,2,€1.50\n", "line 2: cost_usd: amounts in '€': only US dollars"),
        (PLAIN + "2026-05-10,m,1,2,1.50 eur\n", "line 2: cost_usd: amounts in 'eur': only US dollars"),
        (PLAIN + "05/10/2026,m,1,2,3\n", "line 2: date '05/10/2026' is no date; wanted: 2026-01-31"),
        ("date,model,cost_usd,cost_usd\n2026-05-10,m,1,2\n", "line 1: the column 'cost_usd' is there twice"),
        (PLAIN + "2026-05-10,m,1,2\n", "line 2: has 4 cells, and the head has 5"),
        (PLAIN + '2026-05-10,"m,1,2,3\n', "line 2: unexpected end of data"),
        (PLAIN + "2026-05-10,m\x07,1,2,3\n", r"line 2: model 'm\x07' is no name"),
        (PLAIN + f"2026-05-10,m,{'9' * 400},2,3\n", "line 2: input_tokens '999"),
        (PLAIN + "2026-05-10,m,x,2,3\n" * 3, "(and 2 more)"),
        (PLAIN + "2026-05-10,m,x,2,3\n" * 100, "(and 19 more, where reading stopped)"),
        ("start_time,amount_value,amount_currency\n1778371200,5,eur\n", "line 2: amounts in 'eur'"),
        ('{"data": [', "line 1, column 11: no JSON"),
        ('[\n{"date": "2026-05-10",\n}]', "line 3, column 1: no JSON"),
        ("[" * 100_000, "no JSON|nested too deeply"),
        ("[1]", "[0] should be an object"),
        ('{"data": [3]}', "data[0] should be an object with results"),
        ('{"data": [{"starting_at": "2026-05-10T00:00:00Z", "results": []}]}', "tells of no use"),
        ('{"hello": 1}', "no known export"),
        ('[{"date": "2026-05-10", "model": "m", "cost_usd": {}}]', "[0]: cost_usd '{}' is no amount"),
        ('[{"date": "2026-05-10", "model": 3}]', "[0]: model '3' is no name"),
        (json.dumps([{"date": "2026-05-10", "model": "m"}, {"x": 1}]), "[1]: is not like the first"),
    ],
)
def test_a_bad_file_is_told_with_its_place(content: str, told: str) -> None:
    with pytest.raises(InvalidInput) as found:
        read(content.encode())
    assert any(part in found.value.message for part in told.split("|"))


def test_files_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, told in (("MAX_BYTES", 10, "larger than"), ("MAX_ROWS", 2, "line 4: the file has more than 2"),
                              ("MAX_LINES", 2, "more than 2 days and models")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(statement_files, name, value)
            with pytest.raises(InvalidInput, match=told):
                read((PLAIN + "".join(f"2026-05-1{n},m,1,1,1\n" for n in range(5))).encode())
    with pytest.raises(InvalidInput, match="line 2: the file is not UTF-8"):
        read(b"date\n\xff\xfe")


# --- comparing ------------------------------------------------------------------------------------


@pytest.fixture
def providers(transactional_db: None) -> None:
    shared = {"location": "cloud", "base_url": "https://llm.example"}
    anthropic = Provider.objects.create(slug="anthropic", kind="anthropic", **shared)
    names: dict[str, Any] = {"name": "claude-sonnet-4-5", "aliases": ["claude-sonnet-4-5-latest"]}
    LanguageModel.objects.create(slug="sonnet", provider=anthropic, context_window=999, **names)
    Provider.objects.create(slug="openai", kind="openai", **shared)


def ours(model: str, cost: int, *, days: int = 0, **columns: Any) -> None:
    at = datetime(2026, 5, 10, 23, 59, tzinfo=UTC) + timedelta(days=days)
    book(provider="anthropic", model=model, cost_microusd=cost, at=at, **columns)


def load(text: str, provider: str = "anthropic", **options: Any) -> Statement:
    return statements.load(text.encode(), file_name="may.csv", provider=provider, by="ada", **options)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_days_and_models_are_matched_missing_or_unexplained_and_the_sums_add_up() -> None:
    ours("sonnet", 500_000)
    ours("sonnet", 500_004)
    ours("sonnet", 70_000, days=1)
    ours("haiku", 30_000, days=2)
    ours("sonnet", 99, days=3)
    book(provider="openai", model="gpt", cost_microusd=77, at=datetime(2026, 5, 10, tzinfo=UTC))
    report = statements.compare(load(
        "date,model,cost_usd\n"
        "2026-05-10,claude-sonnet-4-5-20250929,0.60\n2026-05-10,Claude Sonnet 4.5,0.40\n"
        "2026-05-11,claude-sonnet-4-5-latest,0.09\n2026-05-12,claude-opus-4,1.25\n"
    ))  # fmt: skip
    assert [(line.day.day, line.model, line.state, line.difference("cost_microusd")) for line in report.lines] == [
        (10, "sonnet", "matched", -4),
        (11, "sonnet", "differs", 20_000),
        (12, "claude-opus-4", "only theirs", 1_250_000),
        (12, "haiku", "only ours", -30_000),
    ]
    assert report.told == ["cost_microusd"]
    assert report.unexplained("cost_microusd") == 20_000 + 1_250_000 - 30_000 - 4
    told = statements.as_json(report)
    assert told["counts"] == {"matched": 1, "differs": 1, "only theirs": 1, "only ours": 1}
    assert (told["theirs"], told["ours"]) == ({"cost_usd": "2.340000"}, {"cost_usd": "1.100004"})
    assert told["unexplained"] == {"cost_usd": "1.239996"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_fractions_of_a_micro_dollar_are_summed_before_they_are_rounded() -> None:
    """OpenAI tells sixteen decimals, and what a few tokens cost is less than a micro-dollar."""
    rows = "".join(f"2026-05-{day:02},m,1,,0.0000004\n" for day in range(1, 26)) + "2026-05-26,m,1,,0.2849885\n"
    report = statements.compare(load(PLAIN + rows))
    assert report.total("theirs", "cost_microusd") == 10 + 284_989  # half a micro-dollar is rounded up
    assert {line.theirs.cost_microusd for line in report.lines[:-1] if line.theirs} == {0, 1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_what_rounding_leaves_over_goes_to_no_day_that_tells_whole_micro_dollars() -> None:
    for sign in ("", "-"):
        told = [f"{sign}0.0000005", "0", "0.0001", f"{sign}0.0000005"]
        rows = [f"2026-05-{day},m,1,,{cost}\n" for day, cost in enumerate(told, start=10)]
        report = statements.compare(load(PLAIN + "".join(rows)))
        one = int(f"{sign}1")
        assert [line.theirs.cost_microusd for line in report.lines if line.theirs] == [one, 0, 100, 0]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_tokens_are_compared_one_by_one() -> None:
    ours("sonnet", 5, input_tokens=3201, output_tokens=502)
    report = statements.compare(load(json.dumps(ANTHROPIC_USAGE)))
    assert [line.state for line in report.lines] == ["matched"]
    assert (report.statement.first_day, report.statement.last_day) == (DAY, DAY + timedelta(days=1))
    ours("sonnet", 5, input_tokens=1, output_tokens=0)
    report = statements.compare(report.statement)
    assert [line.state for line in report.lines] == ["differs"], "a kept statement sees what came later"
    assert (report.unexplained("input_tokens"), report.unexplained("output_tokens")) == (-1, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_an_invoice_is_compared_with_all_its_days_at_once() -> None:
    ours("sonnet", 500_000)
    ours("sonnet", 400_000, days=3)
    ours("haiku", 30_000, days=21)
    ours("sonnet", 7, days=22)
    statement = load("date,until,model,cost_usd\n2026-05-01,2026-05-31,Claude Sonnet 4.5,1.00\n")
    report = statements.compare(statement)
    assert [(line.day.day, line.model, line.state, line.difference("cost_microusd")) for line in report.lines] == [
        (1, "haiku", "only ours", -30_000),
        (1, "sonnet", "differs", 100_000),
    ]
    assert (statement.form, report.unexplained("cost_microusd")) == ("plain table (CSV), one period", 70_000)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_a_statement_without_models_is_compared_by_day() -> None:
    ours("sonnet", 40_000)
    ours("haiku", 60_000)
    report = statements.compare(load("start_time,amount_value,amount_currency,line_item\n1778371200,0.1,usd,\n"))
    assert [(line.model, line.state) for line in report.lines] == [("", "matched")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_the_same_file_is_refused_unless_it_is_to_replace_itself() -> None:
    first = load(PLAIN + "2026-05-10,m,1,2,3\n")
    with pytest.raises(Conflict, match=r"loaded before, on .* by ada; nothing was changed"):
        load(PLAIN + "2026-05-10,m,1,2,3\n")
    second = load(PLAIN + "2026-05-10,m,1,2,3\n", replace=True)
    assert second.pk != first.pk
    assert Statement.objects.count() == StatementLine.objects.count() == 1
    load(PLAIN + "2026-05-10,m,1,2,3\n", provider="openai")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_nothing_is_half_loaded() -> None:
    for text, provider in ((PLAIN + "2026-05-10,m,1,2,3\n2026-05-11,m,1,2,x\n", "anthropic"), (PLAIN, "nobody")):
        with pytest.raises(InvalidInput):
            load(text, provider)
    assert not Statement.objects.exists()
    assert not StatementLine.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_the_command_tells_people_and_programs(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ours("sonnet", 90_000)
    file = tmp_path / "may.csv"
    file.write_text(PLAIN + "2026-05-10,claude-sonnet-4-5,10,5,0.10\n")
    call_command("usage", "reconcile", str(file), "--provider", "anthropic")
    said = capsys.readouterr().out
    assert "0 matched, 1 differs, 0 only theirs, 0 only ours." in said
    assert "cost_usd: theirs 0.100000, ours 0.090000, unexplained 0.010000" in said
    call_command("usage", "reconcile", str(file), "--provider", "anthropic", "--replace", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["unexplained"] == {"input_tokens": 0, "output_tokens": 0, "cost_usd": "0.010000"}
    assert told["loaded_by"] == "the command line"
    with pytest.raises(InvalidInput, match="cannot be read"):
        call_command("usage", "reconcile", str(tmp_path / "none.csv"), "--provider", "anthropic")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("providers")
def test_staff_with_the_permission_load_and_look_on_pages(client: Client, django_user_model: Any) -> None:
    user = django_user_model.objects.create_user("grace", password="x", is_staff=True)
    client.force_login(user)
    assert client.get("/usage/statements/").status_code == 403
    user.user_permissions.add(*Permission.objects.filter(codename__in=["view_statement", "add_statement"]))
    assert "No statement has been loaded yet" in client.get("/usage/statements/").content.decode()

    def send(text: str) -> str:
        file = io.BytesIO(text.encode())
        file.name = "<may>.csv"
        sent: Any = {"provider": "anthropic", "file": file}
        return client.post("/usage/statements/", sent, follow=True).content.decode()

    ours("sonnet", 90_000)
    page = send(PLAIN + "2026-05-10,claude-sonnet-4-5,10,5,0.10\n")
    assert "loaded by grace" in page
    assert "<strong>$0.010000</strong>" in page
    assert "&lt;may&gt;.csv" in page
    assert "nothing was changed" in send(PLAIN + "2026-05-10,claude-sonnet-4-5,10,5,0.10\n")
    for figure in ("Unexplained", "Cost: theirs / ours", "Cost: difference"):
        assert f'<td data-label="{figure}"' in page  # on a phone each figure stands under its name
    refused = send(PLAIN + "2026-05-10,m,x,5,0.10\n")
    assert "line 2: input_tokens &#x27;x&#x27; is no number" in refused
    assert "<option selected>anthropic</option>" in refused
    assert "choose a file first" in client.post("/usage/statements/", {"provider": "x"}, follow=True).content.decode()
    assert Statement.objects.count() == 1
    user.user_permissions.remove(Permission.objects.get(codename="add_statement"))
    assert client.post("/usage/statements/", {}).status_code == 403


@pytest.mark.parametrize("row", ["999999999,1,1", "-999999999,1,1", "1,1000000000000000,1", "1,1,1000000000000000"])
def test_rows_that_add_up_to_more_than_can_be_kept_are_refused(row: str) -> None:
    content = "date,model,cost_usd,input_tokens,output_tokens\n" + f"2026-11-22,gpt,{row}\n" * 10
    with pytest.raises(InvalidInput, match="add up to more than"):
        statement_files.read(content.encode())
