"""What an error body says, in any known shape: JSON of many kinds, HTML, plain text, and one quoted in another."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from routing.adapters.reading.waiting import bounded, exhausted_reset, parse_duration
from routing.adapters.reading.wire import Json, get_number, loads
from routing.types import ProviderError

_DEEPEST = 4  # errors quoted in errors
_MOST_UNESCAPED = 4_000  # characters; Python reads no number of more than 4,300 digits, not even in &#…;

_INNER = ("error", "errors", "detail")
_MESSAGES = ("message", "msg", "error_msg", "error_description", "Message")
_STATUSES = ("code", "status", "status_code", "http_code", "statusCode", "StatusCode")
_CODES = ("type", "code", "status", "reason", "error_type")
_WAITS = ("retry_after_seconds", "retry_after", "resets_in_seconds", "estimated_time")

# MiniMax answers 200 whatever happens, and numbers what did
_MINIMAX = {
    1001: "timeout_error",
    1002: "rate_limit_error",
    1004: "authentication_error",
    1008: "insufficient_balance",
    1026: "content_filter",
    1027: "content_filter",
    1039: "context_length_exceeded",
    1041: "rate_limit_error",  # of connections
    2013: "invalid_request_error",
    2045: "rate_limit_error",  # of how fast they become more
    2049: "authentication_error",
    2056: "insufficient_quota",
}


@dataclass(frozen=True, slots=True)
class Detail:
    """What an error body says. `codes` are its types, codes and statuses, lower-case."""

    message: str
    codes: frozenset[str] = frozenset()
    status: int | None = None
    retry_seconds: float | None = None


_NOTHING = Detail("")


def read_detail(body: bytes) -> Detail:
    """Reads an error body: JSON in any of the known shapes, HTML, or plain text."""
    try:
        value = loads(body)
    except ProviderError:
        text = _plain_text(body)
        return _quoted(text, 0) or Detail(text)
    return detail_of(value)


def detail_of(value: Any, depth: int = 0) -> Detail:
    """{"error": "…"}, {"error": {…}}, [{…}], {"detail": …}, {"message": …}, {"errors": […]}, "…"."""
    if isinstance(value, str):
        return _quoted(value, depth) or Detail(value)
    if isinstance(value, list) and value and depth < _DEEPEST:
        return detail_of(value[0], depth + 1)
    if not isinstance(value, dict):
        return _NOTHING
    below = _below(value, depth)
    message = next((value[key] for key in _MESSAGES if isinstance(value.get(key), str)), "")
    if not below.message and (quoted := _quoted(message, depth)):
        below = quoted
    status = next((value[key] for key in _STATUSES if _is_status(value.get(key))), None)
    return Detail(
        below.message or message,
        below.codes | _codes(value),
        below.status or (int(status) if status is not None else None),
        below.retry_seconds or _wait(value),
    )


def holds_error(answer: Json) -> bool:
    """True for the body of a 200 without an answer that says what went wrong instead."""
    says_something = any(answer.get(key) for key in ("error", "detail", "message", "msg", "error_msg"))
    return says_something or _failure_of_minimax(answer) is not None


def _below(value: Json, depth: int) -> Detail:
    """What the errors within an error say."""
    if depth >= _DEEPEST:
        return _NOTHING
    inner = next((value[key] for key in _INNER if value.get(key)), None)
    if inner is None and isinstance(value.get("message"), dict):
        inner = value["message"]
    if isinstance(inner, str) and isinstance(value.get("message"), str):  # a title, and then what it is about
        inner = f"{inner}: {value['message']}"
    if inner is not None:
        return detail_of(inner, depth + 1)
    return _failure_of_minimax(value) or _metadata(value, depth)


def _metadata(value: Json, depth: int) -> Detail:
    """What OpenRouter adds: its own name of the error, and what the provider behind it said."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return _NOTHING
    raw = detail_of(metadata.get("raw"), depth + 1)
    codes = {code.lower() for key in ("error_type", "provider_code") if isinstance(code := metadata.get(key), str)}
    if any(metadata.get(key) for key in ("flagged_input", "reasons", "patterns")):
        codes.add("content_filter")
    headers = metadata.get("headers")
    told = {str(name).lower(): str(text) for name, text in headers.items()} if isinstance(headers, dict) else {}
    wait = raw.retry_seconds or _wait(metadata) or exhausted_reset(told)
    return Detail(raw.message, raw.codes | codes, retry_seconds=wait)


def _failure_of_minimax(value: Json) -> Detail | None:
    told = value.get("base_resp")
    number = told.get("status_code") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(number, int) or number == 0:
        return None
    return Detail(str(told.get("status_msg") or ""), frozenset({_MINIMAX.get(number, "server_error")}))


def _quoted(text: str, depth: int) -> Detail | None:
    """What another server's error body says that is quoted as a text, as Ollama and proxies do; None for words."""
    start = text.find("{")
    if start < 0 or depth >= _DEEPEST:
        return None
    try:
        value = loads(text[start:].encode("utf-8", "replace"))
    except ProviderError:
        return None
    found = detail_of(value, depth + 1)
    return found if found.message else None


def _codes(value: Json) -> frozenset[str]:
    found = [value.get(key) for key in _CODES]
    if isinstance(inner := value.get("innererror"), dict):  # Azure's
        found.append(inner.get("code"))
    if isinstance(told := value.get("details"), dict):  # Anthropic's
        found.append(told.get("error_code"))
    for item in _details(value):
        found.append(item.get("reason"))
        violations = item.get("violations")
        found += [v.get("quotaId") for v in violations if isinstance(v, dict)] if isinstance(violations, list) else []
    return frozenset(code.lower() for code in found if isinstance(code, str))


def _details(value: Json) -> Iterator[Json]:
    """Google's: [{"@type": "…", …}, …]."""
    details = value.get("details")
    return (item for item in (details if isinstance(details, list) else ()) if isinstance(item, dict))


def _is_status(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 400 <= int(value) < 600
    except (TypeError, ValueError, OverflowError):
        return False


def _wait(value: Json) -> float | None:
    """Seconds to wait. Google's RetryInfo is {"details": [{"@type": "…RetryInfo", "retryDelay": "48s"}]}."""
    for item in _details(value):
        if isinstance(item.get("retryDelay"), str):
            return parse_duration(item["retryDelay"])
    told = next((number for key in _WAITS if (number := get_number(value, key)) is not None), None)
    return None if told is None else bounded(told)


def _plain_text(body: bytes) -> str:
    text = body[:20_000].decode("utf-8", "replace")
    if "<" in text:
        title = re.search(r"<title[^<>]*>([^<]*)</title>", text, re.IGNORECASE)
        text = title.group(1) if title else re.sub(r"<[^<>]*>", " ", text)
        text = html.unescape(text[:_MOST_UNESCAPED])
    return " ".join(text.split())
