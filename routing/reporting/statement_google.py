"""PURE: what a row of Google's billing exports says of a model: its name, and whether tokens went in or came out.

Google's rows name an SKU in words: "Generate content output token count gemini 2.5 flash short input text".
"""

import re
from datetime import date
from decimal import Decimal

from routing.reporting.statement_values import Row, Wrong, day, tokens, usd

# The dearest is the truest: what was rounded comes last. Other money has another sign in the column's name.
COST_COLUMNS = ("unrounded_subtotal_($)", "unrounded_cost_($)", "subtotal_($)", "cost_($)")
_SERVICE = re.compile(r"gemini|generative language|vertex ai|ai platform", re.IGNORECASE)
_MODEL = re.compile(r"gemini (\d+(?:\.\d+)?) (pro|flash|ultra|nano)( lite)?")
_EMBEDDING = re.compile(r"gemini embedding(?: (\d+))?")
_COUNTED = re.compile(r"^(?:count|tokens?|)$", re.IGNORECASE)

Bill = tuple[date, str, int | None, int | None, Decimal | None, date]


def bill(row: Row) -> Bill | None:
    """First day, model, tokens in, tokens out, dollars and last day; None for a sum or for what is no model's work.
    Raises Wrong."""
    sku = str(row.get("sku_description") or "").strip()
    if not sku or not _SERVICE.search(f"{row.get('service_description', '')}"):
        return None
    column = next((name for name in COST_COLUMNS if name in row), None)
    if column is None:
        raise Wrong("has no cost in US dollars; wanted: a column like Cost ($)")
    first = day(row, "date", "usage_start_date")
    last = first if row.get("usage_end_date") in (None, "") else day(row, "usage_end_date")
    written, read = _tokens(row, sku)
    return first, model(sku), read, written, usd(row, column), last


def _tokens(row: Row, sku: str) -> tuple[int | None, int | None]:
    """Out and in. A credit tells the same tokens again."""
    words = f" {_words(sku)} "
    is_counted = _COUNTED.match(str(row.get("usage_unit") or "").strip()) and not row.get("credit_type")
    if not is_counted or not re.search(r" (?:input|output|cached|caching) ", words):
        return None, None
    counted = tokens(row, "usage_amount")
    is_output = " output token" in words or (" output " in words and " input token" not in words)
    return (counted, None) if is_output else (None, counted)


def model(sku: str) -> str:
    """The model's name on the wire, as far as the SKU tells; else the SKU."""
    words = _words(sku)
    if found := _MODEL.search(words):
        version, kind, lite = found.groups()
        name = f"gemini-{version}-{kind}{'-lite' if lite else ''}"
        return f"{name}-image" if " image output token" in f" {words}" or "image generation" in words else name
    if found := _EMBEDDING.search(words):
        return f"gemini-embedding-{found[1] or '001'}"
    return sku[:150]


def _words(sku: str) -> str:
    return re.sub(r"[\s_-]+", " ", sku).lower()
