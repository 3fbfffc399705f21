"""PURE: providers' exports of what they were used for, read into days and models. All or nothing, within limits.

Known are, as their documentation describes them: Anthropic's usage and cost reports (JSON of the Admin API, CSV of
the console), OpenAI's usage and costs (JSON of the API, CSV of the dashboard), OpenRouter's activity (both), Google's
reports and cost tables (CSV), and a plain table of any origin.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from routing.reporting import statement_google
from routing.reporting.statement_values import (
    CENT,
    MAX_TOKENS,
    MAX_USD,
    Row,
    Wrong,
    day,
    model_name,
    need_dollars,
    tokens,
    usd,
)
from ziggie.errors import InvalidInput

MAX_BYTES = 20 * 1024 * 1024
MAX_ROWS = 200_000
MAX_LINES = 20_000  # days and models together
MAX_PROBLEMS = 20
MAX_CELL = 10_000
MAX_PREAMBLE = 30  # lines before a table's head
WHOLE = ", one period"  # ends the form of an export whose rows tell of several days at once


@dataclass(slots=True)
class Figures:
    """Tokens and dollars. None: the export does not tell. Input holds the cached and cache-written tokens."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None

    def add(self, other: "Figures") -> None:
        self.input_tokens = _sum(self.input_tokens, other.input_tokens)
        self.output_tokens = _sum(self.output_tokens, other.output_tokens)
        self.cost_usd = _sum(self.cost_usd, other.cost_usd)
        if max(self.input_tokens or 0, self.output_tokens or 0) > MAX_TOKENS or abs(self.cost_usd or 0) > MAX_USD:
            raise InvalidInput(f"the rows of a model on one day add up to more than {MAX_TOKENS} tokens or ${MAX_USD}")


@dataclass(slots=True)
class Export:
    """`lines` by day (in UTC) and the provider's name of the model, which is "" for what is no model's. Where rows tell
    of several days at once (`spans`), as invoices do, all lines are of the first day, and the form ends with WHOLE."""

    form: str
    lines: dict[tuple[date, str], Figures] = field(default_factory=dict)
    days: set[date] = field(default_factory=set)
    rows: int = 0
    spans: bool = False


Item = tuple[date, str, Figures] | tuple[date, str, Figures, date]  # the last one: until which day
Reader = Callable[[Row], Item | None]


def read(content: bytes) -> Export:
    """Raises InvalidInput with every mistake (at most 20) and its place."""
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"the file is larger than {MAX_BYTES // 1024 // 1024} MB")
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line}: the file is not UTF-8 text") from None
    if not text.strip():
        raise InvalidInput("the file is empty")
    export = _read_json(text) if text.lstrip()[0] in "[{" else _read_csv(text)
    if not export.lines:
        raise InvalidInput("the file tells of no use at all")
    return _as_one_period(export) if export.spans else export


def _as_one_period(export: Export) -> Export:
    whole = Export(export.form + WHOLE, days=export.days, rows=export.rows, spans=True)
    first = min(export.days)
    for (_, model), figures in export.lines.items():
        whole.lines.setdefault((first, model), Figures()).add(figures)
    return whole


def _gather(form: str, places: Iterable[tuple[str, Row]], reader: Reader) -> Export:
    export, problems = Export(form), []
    for place, row in places:
        export.rows += 1
        if export.rows > MAX_ROWS:
            raise InvalidInput(f"{place}: the file has more than {MAX_ROWS:,} rows")
        try:
            item = reader(row)
        except Wrong as wrong:
            problems.append({"place": place, "problem": str(wrong)})
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        if item is not None:
            _put(export, *item)
    if problems:
        first = f"{problems[0]['place']}: {problems[0]['problem']}"
        stop = ", where reading stopped" if len(problems) == MAX_PROBLEMS else ""
        more = f" (and {len(problems) - 1} more{stop})" if len(problems) > 1 else ""
        raise InvalidInput(f"nothing was loaded: {first}{more}", details=problems)
    return export


def _put(export: Export, day: date, model: str, figures: Figures, until: date | None = None) -> None:
    export.days.add(day)
    if until is not None and until != day:
        export.days.add(until)
        export.spans = True
    if figures == Figures():
        return  # a day on which nothing happened
    if (day, model) not in export.lines and len(export.lines) >= MAX_LINES:
        raise InvalidInput(f"the file has more than {MAX_LINES:,} days and models")
    export.lines.setdefault((day, model), Figures()).add(figures)


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


# --- what a row of each form says -----------------------------------------------------------------


# What a plain table may call its columns: the first that is there counts.
PLAIN = {
    "day": ("date", "day", "utc_date", "usage_date", "created_at", "timestamp"),
    "until": ("end_date", "until"),
    "model": ("model", "model_permaslug", "slug", "model_name"),
    "input": ("input_tokens", "prompt_tokens", "tokens_prompt"),
    "output": ("output_tokens", "completion_tokens", "tokens_completion"),
    "cost": ("cost_usd", "cost", "cost_total"),
}


def _plain(row: Row) -> Item:
    named = {what: next((name for name in names if name in row), names[0]) for what, names in PLAIN.items()}
    need_dollars(row, "currency")
    figures = Figures(tokens(row, named["input"]), tokens(row, named["output"]), usd(row, named["cost"]))
    first, model = day(row, named["day"]), model_name(row, named["model"])
    if row.get(named["until"]) in (None, ""):
        return first, model, figures
    last = day(row, named["until"])
    if last < first:
        raise Wrong(f"{named['until']} is before {named['day']}")
    return first, model, figures, last


def _openrouter(row: Row) -> Item:
    """One credit is one dollar."""
    return _plain({**row, "cost_usd": row["usage"]})


def _google(row: Row) -> Item | None:
    found = statement_google.bill(row)
    if found is None:
        return None
    first, model, read, written, cost, last = found
    return first, model, Figures(read, written, cost), last


def _anthropic_usage(row: Row) -> Item:
    written = row.get("cache_creation") or {}
    if not isinstance(written, Mapping):
        raise Wrong("cache_creation should be an object")
    read = [tokens(row, "uncached_input_tokens", "cache_read_input_tokens"), tokens(written, *written)]
    figures = Figures(_sum(*read), tokens(row, "output_tokens"))
    return day(row, "starting_at"), model_name(row, "model"), figures


def _anthropic_cost(row: Row) -> Item:
    """Amounts are in cents."""
    need_dollars(row, "currency")
    return day(row, "starting_at"), model_name(row, "model"), Figures(cost_usd=usd(row, "amount", unit=CENT))


def _anthropic_usage_csv(row: Row) -> Item:
    read = [name for name in row if name.startswith("usage_input_tokens")]
    figures = Figures(tokens(row, *read), tokens(row, "usage_output_tokens"))
    return day(row, "usage_date_utc"), model_name(row, "model_version" if "model_version" in row else "model"), figures


def _anthropic_cost_csv(row: Row) -> Item:
    return day(row, "usage_date_utc"), model_name(row, "model"), Figures(cost_usd=usd(row, "cost_usd"))


def _openai_usage(row: Row) -> Item:
    figures = Figures(tokens(row, "input_tokens"), tokens(row, "output_tokens"))
    return day(row, "start_time", "start_time_iso"), model_name(row, "model"), figures


def _openai_costs(row: Row) -> Item:
    amount = row.get("amount")
    if amount is not None and not isinstance(amount, Mapping):
        raise Wrong("amount should be an object")
    flat = {"amount_value": (amount or {}).get("value"), "amount_currency": (amount or {}).get("currency")}
    return _openai_costs_csv({**row, **flat})


def _openai_costs_csv(row: Row) -> Item:
    """A line item is "gpt-4o-2024-08-06, input"; without line items a cost is of the whole day."""
    need_dollars(row, "amount_currency")
    model = model_name(row, "line_item").partition(",")[0].strip()
    return day(row, "start_time", "start_time_iso"), model, Figures(cost_usd=usd(row, "amount_value"))


# --- CSV ------------------------------------------------------------------------------------------

# The first form whose columns are all there. An alternative is written with a bar.
CSV_FORMS: tuple[tuple[str, tuple[str, ...], Reader], ...] = (
    ("Anthropic usage (CSV)", ("usage_date_utc", "usage_output_tokens"), _anthropic_usage_csv),
    ("Anthropic cost (CSV)", ("usage_date_utc", "cost_usd"), _anthropic_cost_csv),
    ("OpenAI costs (CSV)", ("start_time|start_time_iso", "amount_value"), _openai_costs_csv),
    ("OpenAI usage (CSV)", ("start_time|start_time_iso", "input_tokens"), _openai_usage),
    ("Google cost table (CSV)", ("sku_description", "service_description", "date|usage_start_date"), _google),
    ("OpenRouter activity (CSV)", ("date", "slug", "usage", "prompt_tokens"), _openrouter),
    (
        "plain table (CSV)",
        (
            "|".join(PLAIN["day"]),
            "|".join(PLAIN["model"]),
            "|".join([*PLAIN["input"], *PLAIN["output"], *PLAIN["cost"]]),
        ),
        _plain,
    ),
)
KNOWN = "date,model,input_tokens,output_tokens,cost_usd, or an export of Anthropic, OpenAI, OpenRouter or Google"


def _read_csv(text: str) -> Export:
    text = re.sub(r"\Asep=.\r?\n", "", text, flags=re.IGNORECASE)  # a spreadsheet's word to itself
    csv.field_size_limit(MAX_CELL)
    before, (delimiter, head, found) = _find_table(text)
    if twice := [name for name in dict.fromkeys(head) if name and head.count(name) > 1]:
        raise InvalidInput(f"line {before + 1}: the column {twice[0][:40]!r} is there twice")
    if found is None:
        raise InvalidInput(
            f"line 1: the columns {', '.join(head)[:200]!r} are those of no known export; wanted: {KNOWN}"
        )
    form, read_row = found
    lines = io.StringIO(text, newline="")
    for _ in range(before + 1):
        _look_at_preamble(next(lines))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = _csv_rows(reader, head, before=before + 1, has_decimal_commas=delimiter == ";")
    return _gather(form, rows, read_row)


Table = tuple[str, list[str], tuple[str, Reader] | None]  # what stands between cells, the head, what reads its rows


def _find_table(text: str) -> tuple[int, Table]:
    """How many lines stand before the table's head, and the table; the first line's, if none is known."""
    first: Table | None = None
    for place, line in zip(range(MAX_PREAMBLE), io.StringIO(text, newline=""), strict=False):
        table = _table(line, is_first=place == 0)
        if table[2] is not None:
            return place, table
        first = first or table
    assert first is not None  # the text has a line
    return 0, first


def _table(line: str, *, is_first: bool) -> Table:
    delimiter = max(",;\t", key=line.count)
    try:
        cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if is_first:
            raise InvalidInput(f"line 1: {error}") from None
        return delimiter, [], None
    head = [re.sub(r"[ -]+", "_", cell.strip().lower()) for cell in cells]
    for form, columns, read_row in CSV_FORMS:
        if all(any(name in head for name in column.split("|")) for column in columns):
            return delimiter, head, (form, read_row)
    return delimiter, head, None


def _look_at_preamble(line: str) -> None:
    """Google says before the table which money it counts in."""
    match = re.match(r"\s*currency[,;\t]\s*([a-z]{3})\b", line, re.IGNORECASE)
    if match and match[1].lower() != "usd":
        raise InvalidInput(f"nothing was loaded: amounts in {match[1]!r}: only US dollars can be compared")


_DECIMAL_COMMA = re.compile(r"([^\d,.]{0,6}\d+),(\d+[^\d,.]{0,6})")


def _csv_rows(reader: Any, head: list[str], *, before: int, has_decimal_commas: bool) -> Iterator[tuple[str, Row]]:
    """`before` lines have been read. `has_decimal_commas`: semicolons stand between cells where commas stand within
    numbers."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"nothing was loaded: line {before + reader.line_num}: {error}") from None
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(head):
            problem = f"has {len(cells)} cells, and the head has {len(head)}"
            raise InvalidInput(f"nothing was loaded: line {before + reader.line_num}: {problem}")
        if has_decimal_commas:
            cells = [_DECIMAL_COMMA.sub(r"\1.\2", cell) if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
        yield f"line {before + reader.line_num}", dict(zip(head, cells, strict=True))


# --- JSON -----------------------------------------------------------------------------------------

# By what stands in the first result.
JSON_FORMS: tuple[tuple[str, Callable[[Row], bool], Reader], ...] = (
    ("OpenAI costs", lambda row: row.get("object") == "organization.costs.result", _openai_costs),
    ("OpenAI usage", lambda row: str(row.get("object", "")).startswith("organization.usage."), _openai_usage),
    ("Anthropic usage", lambda row: "uncached_input_tokens" in row, _anthropic_usage),
    ("Anthropic cost", lambda row: "amount" in row and "currency" in row, _anthropic_cost),
    ("OpenRouter activity", lambda row: {"date", "model", "usage", "prompt_tokens"} <= row.keys(), _openrouter),
    ("plain table", lambda row: all(set(PLAIN[what]) & row.keys() for what in ("day", "model")), _plain),
)


def _read_json(text: str) -> Export:
    try:
        document = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except (ValueError, ArithmeticError, RecursionError):
        raise InvalidInput("the file is nested too deeply or holds numbers that are too long") from None
    found = list(_json_rows(document))
    rows = [row for _, row in found if row.keys() - {"starting_at", "start_time"}]
    for form, fits, read_row in JSON_FORMS:
        if rows and fits(rows[0]):
            return _gather(form, found, _like_the_first(form, fits, read_row))
    if found and not rows:
        raise InvalidInput("the file tells of no use at all")
    raise InvalidInput(f"the JSON is that of no known export; wanted: a list of {KNOWN}")


def _like_the_first(form: str, fits: Callable[[Row], bool], read_row: Reader) -> Reader:
    def read_one(row: Row) -> Item | None:
        if fits(row):
            return read_row(row)
        if row.keys() <= {"starting_at", "start_time"}:  # a bucket without results: nothing happened on its day
            return day(row, "starting_at", "start_time"), "", Figures()
        raise Wrong(f"is not like the first result, which is of the form {form}")

    return read_one


def _json_rows(document: Any) -> Iterator[tuple[str, Row]]:
    """Every result with its place and the beginning of its bucket: of one page, of several, or a plain list."""
    pages = document if isinstance(document, list) else [document]
    for number, page in enumerate(pages):
        place = f"[{number}]" if isinstance(document, list) else ""
        if isinstance(page, dict) and isinstance(page.get("data"), list):
            if page.get("has_more") and number == len(pages) - 1:
                raise InvalidInput("the export goes on after its last page (has_more): load all pages as one JSON list")
            yield from _buckets(page["data"], f"{place}.data".lstrip("."))
        elif isinstance(page, dict) and isinstance(page.get("results"), list):
            yield from _buckets([page], place)
        elif isinstance(page, dict):
            yield place or "the document", page
        else:
            raise InvalidInput(f"{place or 'the document'} should be an object")


def _buckets(buckets: list[Any], place: str) -> Iterator[tuple[str, Row]]:
    for number, bucket in enumerate(buckets):
        here = f"{place}[{number}]"
        if isinstance(bucket, dict) and "date" in bucket:  # OpenRouter's, which needs none: a row of its own
            yield here, bucket
            continue
        results = bucket.get("results") if isinstance(bucket, dict) else None
        if not isinstance(results, list):
            raise InvalidInput(f"{here} should be an object with results")
        begins = {name: bucket[name] for name in ("starting_at", "start_time") if name in bucket}
        if not results:
            yield here, begins
        for index, result in enumerate(results):
            if not isinstance(result, dict):
                raise InvalidInput(f"{here}.results[{index}] should be an object")
            yield f"{here}.results[{index}]", {**begins, **result}
