"""PURE: the single values of providers' exports: tokens, dollars, days, names. What is not clear is refused."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_TOKENS = 10**15
MAX_USD = Decimal(10**9)
CENT = Decimal("0.01")
YEARS = range(2015, 2101)

Row = Mapping[str, Any]

_SIGN = r"(?P<sign>[-+]?)"
_AMOUNT = re.compile(
    rf"{_SIGN}\s*(?:US\$|\$|USD)?\s*(?P<inner>[-+]?[\d.,'\s]*\d(?:e[-+]?\d+)?)\s*(?:US\$|\$|USD)?", re.IGNORECASE
)
_GROUPED = re.compile(r"\d{1,3}(?:[.,]\d{3})+")


class Wrong(ValueError):
    """What is wrong with a value; the place is added where it is known."""


def tokens(row: Row, *names: str) -> int | None:
    """The sum of these columns; None where none of them tells."""
    total = None
    for name in names:
        value = row.get(name)
        if value is None or value == "":
            continue
        text = _digits(str(value).strip().removesuffix(".0"))
        if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text[:17]) > MAX_TOKENS:
            raise Wrong(f"{name} {str(value)[:40]!r} is no number of tokens")
        total = int(text[:17]) + (total or 0)
    return total


def _digits(text: str) -> str:
    """A whole number without what sets its thousands apart: several points, or commas, spaces and apostrophes."""
    text = re.sub(r"(?<=\d)[\s'](?=\d{3})", "", text)
    if (
        _GROUPED.fullmatch(text)
        and (text.count(".") > 1 or "." not in text)
        and not (text.count(",") and text.count("."))
    ):
        return re.sub("[.,]", "", text)
    return text


def usd(row: Row, name: str, *, unit: Decimal = Decimal(1)) -> Decimal | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        amount = Decimal(_plain(str(value).strip()[:60], name)) * unit
        if isinstance(value, bool) or not amount.is_finite() or abs(amount) > MAX_USD:
            raise InvalidOperation
    except ArithmeticError:  # no number, or one with an exponent beyond all bounds
        raise Wrong(f"{name} {str(value)[:40]!r} is no amount of dollars") from None
    return amount


def _plain(text: str, name: str) -> str:
    """An amount as Decimal reads it: without the dollars' sign, with a point for the fraction. Raises Wrong for an
    amount of other money, or one that may mean two."""
    is_debit = text.startswith("(") and text.endswith(")")
    match = _AMOUNT.fullmatch(text[1:-1].strip() if is_debit else text)
    if match is None:
        if sign := re.search(r"[€£¥]|\b(?:EUR|GBP|JPY|CNY|RMB|CHF)\b", text, re.IGNORECASE):
            raise Wrong(f"{name}: amounts in {sign[0]!r}: only US dollars can be compared")
        return text
    number = re.sub(r"[\s']", "", match["inner"])
    return ("-" if is_debit else "") + match["sign"] + _with_point(number, text, name)


def _with_point(number: str, text: str, name: str) -> str:
    """The last of commas and points is the fraction's, if it is there once; the others set thousands apart."""
    last = max(number.rfind(","), number.rfind("."))
    mark = number[last] if last >= 0 else ""
    whole, fraction = number[:last], number[last + 1 :]
    if not mark or (mark == "." and not {",", "."} & set(whole)):
        return number
    if mark in whole:  # 1,234,567
        if _GROUPED.fullmatch(number.lstrip("-+")) and len(set(number) & {",", "."}) == 1:
            return number.replace(mark, "")
        raise InvalidOperation
    if {",", "."} & set(whole):  # 1,234.50
        if not _GROUPED.fullmatch(whole.lstrip("-+")):
            raise InvalidOperation
        return re.sub("[.,]", "", whole) + "." + fraction
    if len(fraction) == 3 and whole.lstrip("-+") not in ("", "0"):
        raise Wrong(
            f"{name} {text[:40]!r} may mean {whole}.{fraction} or {whole}{fraction} dollars; write it with a point"
        )
    return f"{whole}.{fraction}"


def day(row: Row, *names: str) -> date:
    """The day in UTC of the first of these columns that tells."""
    value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if value is None:
        raise Wrong(f"{names[0]} is missing")
    text = str(value).strip()
    try:
        found = _read_day(text)
    except (ValueError, OverflowError, OSError):
        raise Wrong(f"{names[0]} {text[:40]!r} is no date; wanted: 2026-01-31 or an ISO 8601 time") from None
    if found.year not in YEARS:
        raise Wrong(f"{names[0]} {text[:40]!r} is too far away")
    return found


def _read_day(text: str) -> date:
    if re.fullmatch(r"20\d{6}", text):
        return date.fromisoformat(text)
    if text.isascii() and text.isdigit() and len(text) <= 13:
        return datetime.fromtimestamp(int(text) / (1000 if len(text) > 11 else 1), UTC).date()
    if len(text) == len("2026-01-31"):
        return date.fromisoformat(text)
    moment = datetime.fromisoformat(re.sub(r" ?(?:UTC|GMT)$", "+00:00", text[:40]))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()


def model_name(row: Row, name: str) -> str:
    model = row.get(name)
    if model is None:
        return ""
    text = str(model).strip()
    if not isinstance(model, str) or len(text) > 150 or not text.isprintable():
        raise Wrong(f"{name} {str(model)[:40]!r} is no name of a model")
    return text


def stripped(model: str) -> str:
    """A model's name as names are compared: without its date, in small letters."""
    name = re.sub(r"[ ._]", "-", model.strip().lower())
    return re.sub(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$", "", name)


def need_dollars(row: Row, name: str) -> None:
    currency = row.get(name)
    if currency not in (None, "") and str(currency).strip().lower() != "usd":
        raise Wrong(f"amounts in {str(currency)[:10]!r}: only US dollars can be compared")
