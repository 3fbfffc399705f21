"""When a provider that refused wants to be asked again: headers, bodies and words in any known form -> seconds."""

import math
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from routing.types import ErrorKind

MAX_RETRY_AFTER_SECONDS = 86_400.0
_LONGEST_TIME = 100  # characters of a date or a number; an error's body may tell headers of any length
_MOST_SEARCHED = 5_000  # characters of a message


def retry_after(kind: ErrorKind, headers: Mapping[str, str], *, told: float | None, message: str) -> float | None:
    """Seconds that the provider asks us to wait; None if it does not say. `told` is what its error body states."""
    candidates: tuple[float | None, ...] = (
        _milliseconds(headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms", "")),
        _retry_after_header(headers.get("retry-after", ""), headers.get("date", "")),
        told,
        exhausted_reset(headers) if kind == "rate_limited" else None,
        _in_one_field(headers.get("ratelimit", "")),
        _in_words(message) if kind in ("rate_limited", "overloaded", "quota") else None,
    )
    return next((seconds for seconds in candidates if seconds is not None), None)


def bounded(seconds: float) -> float | None:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


def _milliseconds(text: str) -> float | None:
    try:
        return bounded(float(text) / 1000)
    except ValueError:
        return None


def _retry_after_header(text: str, date: str) -> float | None:
    """RFC 9110: seconds, or an HTTP date, which is read against the server's own clock if it shows it."""
    try:
        return bounded(float(text))
    except ValueError:
        pass
    until = _http_date(text)
    if until is None:
        return None
    return bounded(until - (_http_date(date) or time.time()))


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text[:_LONGEST_TIME])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def exhausted_reset(headers: Mapping[str, str]) -> float | None:
    """The longest of the reset times whose own limit has nothing left (x-ratelimit-reset-tokens: 6m0s,
    anthropic-ratelimit-tokens-reset: 2026-08-19T14:34:16Z, x-ratelimit-reset: 1741305600000)."""
    waits = [
        wait
        for name, value in headers.items()
        if "ratelimit" in name and "reset" in name
        if headers.get(name.replace("reset", "remaining"), "0").strip() == "0"
        if (wait := _reset_seconds(value[:_LONGEST_TIME], headers.get("date", ""))) is not None
    ]
    return max(waits, default=None)


# RFC draft, as Hugging Face has it: "api";r=0;t=55
_IN_ONE_FIELD = re.compile(r"\br=0\b[^,]{0,100}?\bt=(\d{1,9})\b")


def _in_one_field(text: str) -> float | None:
    """Seconds until a limit that has nothing left begins anew."""
    waits = [bounded(float(seconds)) for seconds in _IN_ONE_FIELD.findall(text[:500])]
    return max((wait for wait in waits if wait is not None), default=None)


def _reset_seconds(text: str, date: str) -> float | None:
    now = _http_date(date) or time.time()
    try:
        number = float(text)
    except ValueError:
        return parse_duration(text) if "T" not in text else _iso_wait(text, now)
    if number > 1e11:
        return bounded(number / 1000 - now)
    return bounded(number - now if number > 1e9 else number)


def _iso_wait(text: str, now: float) -> float | None:
    try:
        return bounded(datetime.fromisoformat(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


_WORDS = re.compile(
    r"(?:(?:try again|retry)(?: again)? (?:in|after)|please wait) (?:about )?((?:[0-9][0-9.]*\s*[a-z]+\s*)+)",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_UNITS = (
    ("ms msec msecs millis millisecond milliseconds", 0.001),
    ("s sec secs second seconds", 1.0),
    ("m min mins minute minutes", 60.0),
    ("h hr hrs hour hours", 3_600.0),
    ("d day days", 86_400.0),
    ("w week weeks", 604_800.0),
    ("month months", 2_592_000.0),
)
_UNIT_SECONDS = {name: seconds for names, seconds in _UNITS for name in names.split()}


def _in_words(message: str) -> float | None:
    """ "Please try again in 20s", "Please retry in 48.94s.", "try again after 1 seconds", "Please wait 5 minutes"."""
    found = _WORDS.search(message[:_MOST_SEARCHED])
    return parse_duration(found.group(1)) if found else None


def parse_duration(text: str) -> float | None:
    """ "6m0s", "20ms", "48.9s", "1 seconds" -> seconds."""
    parts: Iterable[tuple[str, str]] = _AMOUNT.findall(text[:40].lower())
    seconds = [float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts if unit in _UNIT_SECONDS]
    return bounded(sum(seconds)) if seconds else None
