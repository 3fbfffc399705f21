"""PURE: providers' exports of what they were used for, read into days and models. All or nothing, within limits.

Known are, as their documentation describes them: Anthropic's usage and cost reports (JSON of the Admin API, CSV of
the console), OpenAI's usage and costs (JSON of the API, CSV of the dashboard), and a plain table of any origin.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from ziggie.errors import InvalidInput

MAX_BYTES = 20 * 1024 * 1024
MAX_ROWS = 200_000
MAX_LINES = 20_000  # days and models together
MAX_PROBLEMS = 20
MAX_TOKENS = 10**15
MAX_USD = Decimal(10**9)
MAX_CELL = 10_000
CENT = Decimal("0.01")
YEARS = range(2015, 2101)

Row = Mapping[str, Any]


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


@dataclass(slots=True)
class Export:
    """`lines` by day (in UTC) and the provider's name of the model, which is "" for what is no model's."""

    form: str
    lines: dict[tuple[date, str], Figures] = field(default_factory=dict)
    days: set[date] = field(default_factory=set)
    rows: int = 0


class _Wrong(ValueError):
    """What is wrong with a value; the place is added where it is known."""


Item = tuple[date, str, Figures]
Reader = Callable[[Row], Item | None]


def read(content: bytes) -> Export:
    """Raises InvalidInput with every mistake (at most 20) and its place."""
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"the file is larger than {MAX_BYTES // 1024 // 1024} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line}: the file is not UTF-8 text") from None
    if not text.strip():
        raise InvalidInput("the file is empty")
    export = _read_json(text) if text.lstrip()[0] in "[{" else _read_csv(text)
    if not export.lines:
        raise InvalidInput("the file tells of no use at all")
    return export


def _gather(form: str, places: Iterable[tuple[str, Row]], reader: Reader) -> Export:
    export, problems = Export(form), []
    for place, row in places:
        export.rows += 1
        if export.rows > MAX_ROWS:
            raise InvalidInput(f"{place}: the file has more than {MAX_ROWS:,} rows")
        try:
            item = reader(row)
        except _Wrong as wrong:
            problems.append({"place": place, "problem": str(wrong)})
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        if item is not None:
            _put(export, *item)
    if problems:
        first = f"{problems[0]['place']}: {problems[0]['problem']}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidInput(f"nothing was loaded: {first}{more}", details=problems)
    return export


def _put(export: Export, day: date, model: str, figures: Figures) -> None:
    export.days.add(day)
    if figures == Figures():
        return  # a day on which nothing happened
    if (day, model) not in export.lines and len(export.lines) >= MAX_LINES:
        raise InvalidInput(f"the file has more than {MAX_LINES:,} days and models")
    export.lines.setdefault((day, model), Figures()).add(figures)


# --- values ---------------------------------------------------------------------------------------


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


def _tokens(row: Row, *names: str) -> int | None:
    total = None
    for name in names:
        value = row.get(name)
        if value is None or value == "":
            continue
        text = str(value).strip().removesuffix(".0")
        if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text[:17]) > MAX_TOKENS:
            raise _Wrong(f"{name} {str(value)[:40]!r} is no number of tokens")
        total = _sum(total, int(text[:17]))
    return total


def _usd(row: Row, name: str, *, unit: Decimal = Decimal(1)) -> Decimal | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        amount = Decimal(str(value).strip().removeprefix("$")[:60]) * unit
        if isinstance(value, bool) or not amount.is_finite() or abs(amount) > MAX_USD:
            raise InvalidOperation
    except InvalidOperation:
        raise _Wrong(f"{name} {str(value)[:40]!r} is no amount of dollars") from None
    return amount


def _day(row: Row, *names: str) -> date:
    value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if value is None:
        raise _Wrong(f"{names[0]} is missing")
    text = str(value).strip()
    try:
        if text.isascii() and text.isdigit() and len(text) <= 11:
            day = datetime.fromtimestamp(int(text), UTC).date()
        elif len(text) == len("2026-01-31"):
            day = date.fromisoformat(text)
        else:
            moment = datetime.fromisoformat(text[:40])
            day = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()
    except (ValueError, OverflowError, OSError):
        raise _Wrong(f"{names[0]} {text[:40]!r} is no date") from None
    if day.year not in YEARS:
        raise _Wrong(f"{names[0]} {text[:40]!r} is too far away")
    return day


def _model(row: Row, name: str) -> str:
    model = row.get(name)
    if model is None:
        return ""
    text = str(model).strip()
    if not isinstance(model, str) or len(text) > 150 or not text.isprintable():
        raise _Wrong(f"{name} {str(model)[:40]!r} is no name of a model")
    return text


def _dollars(row: Row, name: str) -> None:
    currency = row.get(name)
    if currency not in (None, "") and str(currency).lower() != "usd":
        raise _Wrong(f"amounts in {str(currency)[:10]!r}: only US dollars can be compared")


# --- what a row of each form says -----------------------------------------------------------------


def _plain(row: Row) -> Item:
    figures = Figures(_tokens(row, "input_tokens"), _tokens(row, "output_tokens"), _usd(row, "cost_usd"))
    return _day(row, "date"), _model(row, "model"), figures


def _anthropic_usage(row: Row) -> Item:
    written = row.get("cache_creation") or {}
    if not isinstance(written, Mapping):
        raise _Wrong("cache_creation should be an object")
    read = [_tokens(row, "uncached_input_tokens", "cache_read_input_tokens"), _tokens(written, *written)]
    figures = Figures(_sum(*read), _tokens(row, "output_tokens"))
    return _day(row, "starting_at"), _model(row, "model"), figures


def _anthropic_cost(row: Row) -> Item:
    """Amounts are in cents."""
    _dollars(row, "currency")
    return _day(row, "starting_at"), _model(row, "model"), Figures(cost_usd=_usd(row, "amount", unit=CENT))


def _anthropic_usage_csv(row: Row) -> Item:
    read = [name for name in row if name.startswith("usage_input_tokens")]
    figures = Figures(_tokens(row, *read), _tokens(row, "usage_output_tokens"))
    return _day(row, "usage_date_utc"), _model(row, "model_version" if "model_version" in row else "model"), figures


def _anthropic_cost_csv(row: Row) -> Item:
    return _day(row, "usage_date_utc"), _model(row, "model"), Figures(cost_usd=_usd(row, "cost_usd"))


def _openai_usage(row: Row) -> Item:
    figures = Figures(_tokens(row, "input_tokens"), _tokens(row, "output_tokens"))
    return _day(row, "start_time", "start_time_iso"), _model(row, "model"), figures


def _openai_costs(row: Row) -> Item:
    amount = row.get("amount")
    if amount is not None and not isinstance(amount, Mapping):
        raise _Wrong("amount should be an object")
    flat = {"amount_value": (amount or {}).get("value"), "amount_currency": (amount or {}).get("currency")}
    return _openai_costs_csv({**row, **flat})


def _openai_costs_csv(row: Row) -> Item:
    """A line item is "gpt-4o-2024-08-06, input"; without line items a cost is of the whole day."""
    _dollars(row, "amount_currency")
    model = _model(row, "line_item").partition(",")[0].strip()
    return _day(row, "start_time", "start_time_iso"), model, Figures(cost_usd=_usd(row, "amount_value"))


# --- CSV ------------------------------------------------------------------------------------------

# The first form whose columns are all there. An alternative is written with a bar.
CSV_FORMS: tuple[tuple[str, tuple[str, ...], Reader], ...] = (
    ("Anthropic usage (CSV)", ("usage_date_utc", "usage_output_tokens"), _anthropic_usage_csv),
    ("Anthropic cost (CSV)", ("usage_date_utc", "cost_usd"), _anthropic_cost_csv),
    ("OpenAI costs (CSV)", ("start_time|start_time_iso", "amount_value"), _openai_costs_csv),
    ("OpenAI usage (CSV)", ("start_time|start_time_iso", "input_tokens"), _openai_usage),
    ("plain table (CSV)", ("date", "model", "input_tokens|output_tokens|cost_usd"), _plain),
)
KNOWN = "date,model,input_tokens,output_tokens,cost_usd, or an export of Anthropic or OpenAI"


def _read_csv(text: str) -> Export:
    head_line = text.splitlines()[0]
    delimiter = max(",;\t", key=head_line.count)
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        head = [name.strip().lower() for name in next(reader)]
    except (csv.Error, StopIteration) as error:
        raise InvalidInput(f"line 1: {error}") from None
    for form, columns, read_row in CSV_FORMS:
        if all(any(name in head for name in column.split("|")) for column in columns):
            return _gather(form, _csv_rows(reader, head), read_row)
    raise InvalidInput(f"line 1: the columns {', '.join(head)[:200]!r} are those of no known export; wanted: {KNOWN}")


def _csv_rows(reader: Any, head: list[str]) -> Iterator[tuple[str, Row]]:
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"nothing was loaded: line {reader.line_num}: {error}") from None
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(head):
            problem = f"has {len(cells)} cells, and the head has {len(head)}"
            raise InvalidInput(f"nothing was loaded: line {reader.line_num}: {problem}")
        yield f"line {reader.line_num}", dict(zip(head, cells, strict=True))


# --- JSON -----------------------------------------------------------------------------------------

# By what stands in the first result.
JSON_FORMS: tuple[tuple[str, Callable[[Row], bool], Reader], ...] = (
    ("OpenAI costs", lambda row: row.get("object") == "organization.costs.result", _openai_costs),
    ("OpenAI usage", lambda row: str(row.get("object", "")).startswith("organization.usage."), _openai_usage),
    ("Anthropic usage", lambda row: "uncached_input_tokens" in row, _anthropic_usage),
    ("Anthropic cost", lambda row: "amount" in row and "currency" in row, _anthropic_cost),
    ("plain table", lambda row: "date" in row and "model" in row, _plain),
)


def _read_json(text: str) -> Export:
    try:
        document = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except (ValueError, RecursionError):
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
            return _day(row, "starting_at", "start_time"), "", Figures()
        raise _Wrong(f"is not like the first result, which is of the form {form}")

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


def stripped(model: str) -> str:
    """A model's name as names are compared: without its date, in small letters."""
    name = re.sub(r"[ ._]", "-", model.strip().lower())
    return re.sub(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$", "", name)
