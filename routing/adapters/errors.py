"""What a provider's failure means: status, headers and body in any known shape -> one ProviderError."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.waiting import parse_duration, retry_after
from routing.adapters.wire import loads
from routing.types import ErrorKind, ProviderError, Usage

MAX_MESSAGE_CHARACTERS = 300

_NOT_JSON = ("text/html", "text/css", "image/", "audio/", "video/", "application/xml", "application/pdf")
# protocol and cut: a proxy's hiccup or a dropped connection; the same request may well work next time.
# unfit: a model may do better the next time
_RETRYABLE: frozenset[ErrorKind] = frozenset(
    {"connection", "timeout", "rate_limited", "overloaded", "server", "protocol", "unfit", "cut"}
)


@dataclass(frozen=True, slots=True)
class Detail:
    """What an error body says. `codes` are its types, codes and statuses, lower-case."""

    message: str
    codes: frozenset[str] = frozenset()
    status: int | None = None
    retry_seconds: float | None = None


def error_from_response(response: WireResponse, sent: WireRequest) -> ProviderError:
    """The error that a non-2xx answer means."""
    if 300 <= response.status < 400:
        where = "another address" if response.headers.get("location") else "nowhere"
        return make_error(
            "protocol",
            f"the server redirects to {where}; that is not followed",
            sent,
            retryable=False,
            status=response.status,
            unbilled=True,
        )
    detail = read_detail(response.body)
    kind = classify(response.status, detail)
    return make_error(
        kind,
        detail.message or f"HTTP {response.status} without a message",
        sent,
        status=response.status,
        retry_after_seconds=retry_after(kind, response.headers, told=detail.retry_seconds, message=detail.message),
    )


def error_from_event(error: Any, sent: WireRequest, *, usage: Usage | None = None) -> ProviderError:
    """The error that an error object inside a 200 answer or stream means."""
    detail = detail_of(error)
    kind = classify(detail.status or 200, detail)
    return make_error(
        kind,
        detail.message or "the provider reported an error without a message",
        sent,
        status=detail.status,
        retry_after_seconds=detail.retry_seconds,
        usage=usage,
    )


def make_error(
    kind: ErrorKind,
    message: str,
    sent: WireRequest,
    *,
    retryable: bool | None = None,
    status: int | None = None,
    retry_after_seconds: float | None = None,
    usage: Usage | None = None,
    unbilled: bool = False,
) -> ProviderError:
    """A ProviderError whose message is short and shows no key."""
    return ProviderError(
        kind,
        redact(message, sent.secret),
        retryable=kind in _RETRYABLE if retryable is None else retryable,
        retry_after_seconds=retry_after_seconds,
        status=status,
        usage=usage,
        unbilled=unbilled,
    )


def refuse_other_content(headers: Mapping[str, str], sent: WireRequest) -> None:
    """Raises ProviderError for the head of a 2xx answer that no model gives, say a proxy's page."""
    content_type = headers.get("content-type", "").lower()
    if content_type.startswith(_NOT_JSON):
        raise make_error("protocol", f"the answer is {content_type.split(';')[0]}, not JSON", sent, unbilled=True)


def redact(message: str, secret: str) -> str:
    """One line of at most 300 characters without the key."""
    line = " ".join(message.split())
    if secret:
        line = line.replace(secret, "[key]")
    return line[:MAX_MESSAGE_CHARACTERS]


# --- the body --------------------------------------------------------------------------------------


def read_detail(body: bytes) -> Detail:
    """Reads an error body: JSON in any of the known shapes, HTML, or plain text."""
    try:
        value = loads(body)
    except ProviderError:
        return Detail(_plain_text(body))
    return detail_of(value)


def detail_of(value: Any, depth: int = 0) -> Detail:
    """{"error": "…"}, {"error": {…}}, [{…}], {"detail": …}, {"message": …}, {"errors": […]}, "…"."""
    if isinstance(value, str):
        return _quoted(value, depth) or Detail(value)
    if isinstance(value, list) and value and depth < 4:
        return detail_of(value[0], depth + 1)
    if not isinstance(value, dict):
        return Detail("")
    inner = next((value[key] for key in ("error", "errors", "detail") if value.get(key)), None)
    if inner is None and isinstance(value.get("message"), dict):
        inner = value["message"]
    below = detail_of(inner, depth + 1) if inner is not None and depth < 4 else Detail("")
    message = next((value[k] for k in ("message", "msg", "error_description") if isinstance(value.get(k), str)), "")
    if not below.message and (quoted := _quoted(message, depth)):
        below = quoted
    status = next((value[k] for k in ("code", "status", "status_code", "http_code") if _is_status(value.get(k))), None)
    return Detail(
        below.message or message,
        below.codes | _codes(value),
        below.status or (int(status) if status is not None else None),
        below.retry_seconds or _retry_info(value),
    )


def _quoted(text: str, depth: int) -> Detail | None:
    """What another server's error body says that is quoted as a text, as Ollama and proxies do; None for words."""
    start = text.find("{")
    if start < 0 or depth >= 4:
        return None
    try:
        value = loads(text[start:].encode("utf-8", "replace"))
    except ProviderError:
        return None
    found = detail_of(value, depth + 1)
    return found if found.message else None


def _codes(value: dict[str, Any]) -> frozenset[str]:
    found = [value.get(key) for key in ("type", "code", "status", "reason", "param")]
    details = value.get("details")
    for item in details if isinstance(details, list) else []:
        if isinstance(item, dict):
            found.append(item.get("reason"))
            violations = item.get("violations")
            found += (
                [v.get("quotaId") for v in violations if isinstance(v, dict)] if isinstance(violations, list) else []
            )
    return frozenset(code.lower() for code in found if isinstance(code, str))


def _is_status(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 400 <= int(value) < 600
    except (TypeError, ValueError, OverflowError):
        return False


def _retry_info(value: dict[str, Any]) -> float | None:
    """Google's RetryInfo: {"details": [{"@type": "…RetryInfo", "retryDelay": "48s"}]}."""
    details = value.get("details")
    for item in details if isinstance(details, list) else []:
        if isinstance(item, dict) and isinstance(item.get("retryDelay"), str):
            return parse_duration(item["retryDelay"])
    return None


def _plain_text(body: bytes) -> str:
    text = body[:20_000].decode("utf-8", "replace")
    if "<" in text:
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = title.group(1) if title else re.sub(r"<[^>]*>", " ", text)
        text = html.unescape(text)
    return " ".join(text.split())


# --- the kind --------------------------------------------------------------------------------------

_OVERFLOW = re.compile(
    r"maximum context|context[ _]length|context[ _]window|context[ _]size|prompt is too long|prompt too long|"
    r"exceeded model token limit|input token count|input is too long|too many (?:input )?tokens|"
    r"input length (?:and|exceeds)|reduce the length|exceeds? the (?:available|model'?s?) context|"
    r"longer than the maximum|token limit exceeded|maximum prompt length|exceeds the maximum allowed length|"
    r"tokens \+ `?max_new_tokens|contextwindowexceeded|request too large for model|too large to process",
    re.IGNORECASE,
)
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
_QUOTA = re.compile(
    r"credit balance|(?:doesn't|does not) have any credits|insufficient (?:balance|quota|credits?|funds)|"
    r"out of credits|used all available credits|"
    r"spending limit|specified api usage limits|billing|payment required|quota has been (?:used|exhausted)|suspended|"
    r"(?:hourly|session|daily|weekly|monthly) usage limit",
    re.IGNORECASE,
)
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_error", "billing_not_active", "insufficient_balance"}
    | {"exceeded_current_quota_error", "quota_exceeded", "payment_required"}
)
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "content_filter_error", "responsibleaipolicyviolation"}
)
_FILTER = re.compile(r"input was flagged|requires moderation", re.IGNORECASE)
_AUTH = re.compile(r"(?:incorrect|invalid|missing|malformed) api key|api key not valid|no api key", re.IGNORECASE)
_AUTH_CODES = frozenset({"invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication_error"})
_MISSING_CODES = frozenset(
    {"model_not_found", "not_found_error", "not_found", "resource_not_found_error", "unknown_model", "invalid_model"}
)
_MISSING = re.compile(
    r"model .{0,120}(?:not found|does not exist)|no such model|unknown model|model not exist", re.IGNORECASE
)

# llama-cpp-python, llama.cpp and Ollama answer a request that they find wrong with 500, LM Studio one that broke it
# with 400
_INVALID = re.compile(
    r"validation errors?:.*'loc': \('body'|input is not supported|requires --jinja|invalid JSON schema in format",
    re.DOTALL,
)
_CRASHED = re.compile(r"model has crashed|model (?:was |is )?unloaded|failed to load (?:the )?model", re.IGNORECASE)

# codes that say more than the HTTP status they came with
_BY_CODE: dict[str, ErrorKind] = {
    "overloaded_error": "overloaded",
    "engine_overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "unavailable": "overloaded",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_reached_error": "rate_limited",
    "resource_exhausted": "rate_limited",
    "permission_error": "auth",
    "permission_denied": "auth",
    "unauthenticated": "auth",
    "invalid_request_error": "bad_request",
    "invalid_argument": "bad_request",
    "badrequesterror": "bad_request",
    "failed_precondition": "bad_request",
    "api_error": "server",
    "server_error": "server",
    "internal": "server",
    "internal_server_error": "server",
    "timeout_error": "timeout",
    "deadline_exceeded": "timeout",
}
_BY_STATUS: dict[int, ErrorKind] = {
    401: "auth",
    402: "quota",
    403: "auth",
    404: "not_found",
    408: "timeout",
    425: "overloaded",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}


def classify(status: int, detail: Detail) -> ErrorKind:
    """The kind of an error, by its codes and words first where a status alone would mislead."""
    codes, message = detail.codes, detail.message
    status = _meant(status, message)
    if _is_quota(status, codes, message):
        return "quota"
    if status not in (401, 403, 404, 429) and (codes & _OVERFLOW_CODES or _OVERFLOW.search(message)):
        return "context_overflow"
    return _by_words(status, codes, message) or _by_code_or_status(status, codes)


def _meant(status: int, message: str) -> int:
    """The status that servers would have sent that confuse a wrong request and a broken server."""
    if status >= 500 and _INVALID.search(message):
        return 400
    return 500 if status == 400 and _CRASHED.search(message) else status


def _by_words(status: int, codes: frozenset[str], message: str) -> ErrorKind | None:
    if status >= 500:
        return None
    if codes & _FILTER_CODES or (status == 403 and _FILTER.search(message)):
        return "content_filter"
    if codes & _AUTH_CODES or (status != 429 and _AUTH.search(message)):
        return "auth"
    if status in (200, 400) and (codes & _MISSING_CODES or _MISSING.search(message)):
        return "not_found"
    return None


def _is_quota(status: int, codes: frozenset[str], message: str) -> bool:
    if codes & _QUOTA_CODES or any("perday" in code for code in codes):
        return True
    # Google says "check your plan and billing details" for a limit that is over in a minute
    return status in (400, 402, 403, 429) and "resource_exhausted" not in codes and bool(_QUOTA.search(message))


def _by_code_or_status(status: int, codes: frozenset[str]) -> ErrorKind:
    if "overloaded_error" in codes or "engine_overloaded_error" in codes:
        return "overloaded"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 200 <= status < 300:
        # an error inside a 200: only its codes say what it is; one without codes is the server's own
        return next((_BY_CODE[code] for code in sorted(codes) if code in _BY_CODE), "server")
    return "server" if status >= 500 else "bad_request"
