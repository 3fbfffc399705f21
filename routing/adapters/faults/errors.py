"""What a provider's failure means: status, headers and body in any known shape -> one ProviderError."""

import re
from collections.abc import Mapping
from typing import Any

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.echoes import without_echo
from routing.adapters.faults.error_bodies import Detail, detail_of, read_detail
from routing.adapters.reading.waiting import retry_after
from routing.types import ErrorKind, ProviderError, Usage

MAX_MESSAGE_CHARACTERS = 300
_MOST_SEARCHED = 5_000  # characters of a message in which we look for words; what follows is an echo of the request

_NO_SECRETS = frozenset({"accept", "anthropic-beta", "anthropic-version", "user-agent"})
_PARTS = re.compile(r"[^\s;,=]{6,}")  # of a header's value: `Bearer …`, `name=…; name=…`
_NOT_JSON = ("text/html", "text/css", "image/", "audio/", "video/", "application/xml", "application/pdf")
# protocol and cut: a proxy's hiccup or a dropped connection; the same request may well work next time.
# unfit: a model may do better the next time
_RETRYABLE: frozenset[ErrorKind] = frozenset(
    {"connection", "timeout", "rate_limited", "overloaded", "server", "protocol", "unfit", "cut"}
)


def error_from_response(response: WireResponse, sent: WireRequest) -> ProviderError:
    """The error that a non-2xx answer means."""
    if 300 <= response.status < 400:
        return make_error(
            "protocol",
            _redirect(response, sent),
            sent,
            retryable=False,
            status=response.status,
            unbilled=True,
        )
    detail = read_detail(response.body)
    kind = classify(response.status, detail)
    return make_error(
        kind,
        _kept(detail, sent) or f"HTTP {response.status} without a message",
        sent,
        status=response.status,
        retry_after_seconds=retry_after(kind, response.headers, told=detail.retry_seconds, message=detail.message),
        one_model=_is_of_one_model(kind, detail),
    )


def _kept(detail: Detail, sent: WireRequest) -> str:
    """What is told and kept of an error's words: none of the caller's."""
    line = " ".join(_ECHO.sub("…", detail.message).split())
    return without_echo(line[: 2 * MAX_MESSAGE_CHARACTERS], sent.body)


def _redirect(response: WireResponse, sent: WireRequest) -> str:
    """What a redirect says, as far as it helps to mend it. Its address is the server's word, and is not repeated."""
    location = response.headers.get("location", "").lower()
    if location.startswith("https://") and sent.url.lower().startswith("http://"):
        return "the server redirects to https, which is not followed: its address has to begin with https://"
    return f"the server redirects to {'another address' if location else 'nowhere'}; that is not followed"


def error_from_event(error: Any, sent: WireRequest, *, usage: Usage | None = None) -> ProviderError:
    """The error that an error object inside a 200 answer or stream means."""
    detail = detail_of(error)
    kind = classify(detail.status or 200, detail)
    return make_error(
        kind,
        _kept(detail, sent) or "the provider reported an error without a message",
        sent,
        status=detail.status,
        retry_after_seconds=retry_after(kind, {}, told=detail.retry_seconds, message=detail.message),
        usage=usage,
        one_model=_is_of_one_model(kind, detail),
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
    one_model: bool = False,
) -> ProviderError:
    """A ProviderError whose message is short and shows no key."""
    return ProviderError(
        kind,
        redact(message, sent),
        retryable=kind in _RETRYABLE if retryable is None else retryable,
        retry_after_seconds=retry_after_seconds,
        status=status,
        usage=usage,
        unbilled=unbilled,
        one_model=one_model,
    )


def refuse_other_content(headers: Mapping[str, str], sent: WireRequest) -> None:
    """Raises ProviderError for the head of a 2xx answer that no model gives, say a proxy's page."""
    content_type = headers.get("content-type", "").lower()
    if content_type.startswith(_NOT_JSON):
        raise make_error("protocol", f"the answer is {content_type.split(';')[0]}, not JSON", sent, unbilled=True)


# What vLLM and llama-cpp-python found wrong, in the caller's words: they may speak of money or keys, and are not kept.
_ECHO = re.compile(r"'input': .*|\binput_value=.*", re.DOTALL)


def redact(message: str, sent: WireRequest) -> str:
    """One line of at most 300 characters without the key, and without what the other headers say (a proxy's key, or who
    pays)."""
    line = " ".join(message.split())
    said = [part for name, value in sent.headers.items() if name not in _NO_SECRETS for part in _PARTS.findall(value)]
    for secret in sorted({sent.secret, *said}, key=len, reverse=True):
        if secret:
            line = line.replace(secret, "[key]")
    return line[:MAX_MESSAGE_CHARACTERS]


# --- the kind --------------------------------------------------------------------------------------

# what an address is called says nothing: limits of a minute are told beside where to pay for more of them
_ADDRESS = re.compile(r"https?://[!-~]+")

_OVERFLOW = re.compile(
    r"maximum context|context[ _]length|context[ _]window|context[ _]size|prompt is too long|prompt too long|"
    r"exceeded model token limit|input token count|input is too long|"
    r"too many (?:input )?tokens(?!, please wait|: max tokens)|input length (?:and|exceeds)|reduce the length|"
    r"exceeds? the (?:available|model'?s?) context|"
    r"longer than the maximum|token limit exceeded|maximum prompt length|exceeds the maximum allowed length|"
    r"tokens \+ `?max_new_tokens|contextwindowexceeded|request too large for model|too large to process|"
    r"range of input length should be|prompt exceeds|prompt 超长|token count .{0,40}exceeds|more than max tokens|"
    r"less than max_seq_len|inputs` must have less than|exceed max message tokens|input length \d{1,9} exceeds|"
    r"greater than max_seq_len|exceed max_num_tokens|exceed the total tokens limit|exceed model maximum|"
    r"exceed context limit|tokens too long|上下文.{0,8}(?:过长|超(?!时))|超出.{0,4}上下文",
    re.IGNORECASE,
)
# a tool's description or a name, which OpenAI calls too long in the same code
_OF_ANOTHER_FIELD = re.compile(r"invalid '(?!input\b[^.']*'|\S*(?:content|text)\b)\S+': string too long", re.IGNORECASE)
# which Anthropic says with 429; other words about length in a 429 speak of what a minute has room for
_NOT_SO_LONG = re.compile(r"required for long context", re.IGNORECASE)
# a refusal may also name the context that a key may not use; only what is exceeded is too long
_EXCEEDED = re.compile(
    r"exceed|too (?:long|large|many)|(?:longer|more) than|must be <|reduce the length", re.IGNORECASE
)
_DENIED_CODES = frozenset({"permission_error", "permission_denied", "permission-denied"})
_OVERFLOW_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "string_too_long"}
    | {"tokens_limit_reached", "token_limit_exceeded", "tokens_too_long"}
)
# "billing" may be in the name of a tool, an id or a field that is refused, as in 'get_billing' or properties[billing]
_QUOTA = re.compile(
    r"(?<![-\w./\['\"`])(?:billing|(?<!has been )suspended)(?![-\w\]'\"`])|"
    r"credit balance|(?:doesn't|does not) have any credits|insufficient (?:account )?(?:balance|quota|credits?|funds)|"
    r"out of credits|used all available credits|"
    r"spending limit|specified (?:workspace )?api usage limits|payment required|"
    r"(?:hourly|session|daily|weekly|monthly) usage limit|usage limit reached|balance is insufficient|余额不足|"
    r"overdue balance|set inference limit|daily free allocation|api calls / month|too many tokens per day|"
    r"(?:daily|weekly|monthly) limit (?:exhausted|reached)|reached your usage limit|5-hour usage quota|"
    r"key limit exceeded|today's quota|(?:quota|free tier).{0,30} (?:has been (?:used|exhausted)|is not enough)|"
    r"inactive subscription|requires a subscription|额度不足|(?:使用|用量)上限",
    re.IGNORECASE,
)
# ByteDance's limit of one model, the calls of a day that Google and ModelScope count for each, and what Ollama's plans
# leave out
_QUOTA_OF_ONE_MODEL = re.compile(
    r"set inference limit for the .{1,200} model|quota for model|model requires a subscription", re.IGNORECASE
)
# Google says "check your plan and billing details" for a limit that is over in a minute, but this of spent money
_SPENT = re.compile(r"spending cap|credits? (?:is|are) depleted", re.IGNORECASE)
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_error", "billing_not_active", "insufficient_balance"}
    | {"exceeded_current_quota_error", "quota_exceeded", "payment_required", "arrearage", "not_enough_balance"}
    | {"usage_limit_reached", "accountoverdueerror", "accountquotaexceeded", "allocationquota.freetieronly"}
    | {"insufficient_user_quota", "pre_consume_token_quota_failed", "credit_balance_exhausted", "budget_exceeded"}
    | {"enforced_spend_limit_reached", "contract_spend_limit_reached", "linked_organization_spend_limit_reached"}
    | {"project_spend_limit_exceeded", "organization_spend_limit_exceeded"}
    | {"organization_usage_limit_exceeded", "usage_limit_exceeded"}
)
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "content_filter_error", "responsibleaipolicyviolation"}
    | {"data_inspection_failed", "datainspectionfailed", "moderation_blocked", "censorship_blocked"}
    | {"sensitive_words_detected", "content_moderation_error", "refusal", "cyber_policy", "bio_policy"}
    | {"misalignment_policy_violation", "image_content_policy_violation"}
)
# ByteDance's say what was read, and may say what was found: OutputTextSensitiveContentDetected.SevereViolation
_FILTER_CODE = re.compile(r"sensitivecontentdetected|riskdetection")
_FILTER = re.compile(
    r"input was flagged|requires moderation|content filtering policy|content management policy|content exists risk|"
    r"flagged for possible|prohibited content|inappropriate content|violation of provider terms|new_sensitive|"
    r"rejected due to content policy|敏感词|违规|"
    r"content .{0,20}violat\w{1,5} .{0,40}(?:guideline|polic)|"
    r"violat\w{1,5} .{0,40}\b(?:content|usage|acceptable use|safety|moderation|community)\b.{0,40}(?:guideline|polic)|"
    r"result of our safety system|unsafe or sensitive content|不安全或敏感内容",
    re.IGNORECASE,
)
_AUTH = re.compile(
    r"(?:incorrect|invalid|missing|malformed|expired) api key|api key (?:not valid|expired)|no api key|"
    r"organization has been (?:disabled|restricted)|location is not supported",
    re.IGNORECASE,
)
# a key that may not use the one model
_AUTH_FOR_ONE_MODEL = re.compile(
    r"access (?:to )?(?:the |this )?model|无权访问模型|model .{1,200} is gated", re.IGNORECASE
)
_AUTH_CODES = frozenset(
    {"invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication_error"}
    | {"organization_on_hold", "cmek_key_disabled", "cmek_key_network_blocked"}
)
_MISSING_CODES = frozenset(
    {"model_not_found", "not_found_error", "not_found", "resource_not_found_error", "unknown_model", "invalid_model"}
    | {"model_decommissioned", "model_not_available", "model_not_supported"}
)
# of a model that is there for others: Groq's has terms to accept, or is closed to a project
_CLOSED_CODES = frozenset(
    {"model_not_found", "model_terms_required", "model_permission_blocked_org", "model_permission_blocked_project"}
)
_MISSING = re.compile(
    r"model .{0,120}(?:not found|does not exist)|no such model|unknown model|model not exist|"
    r"not a valid model|invalid model (?:id|name)|model identifier is invalid|model .{0,120}decommissioned|"
    r"no models loaded|模型不存在",
    re.IGNORECASE,
)
_CLOSED = re.compile(r"model .{1,200}requires terms acceptance|model disabled", re.IGNORECASE)
_OVERLOADED_CODES = frozenset(
    {"overloaded_error", "engine_overloaded_error", "overloaded", "provider_overloaded"}
    | {"capacity_exceeded", "service_tier_capacity_exceeded", "server_is_overloaded", "server_overloaded"}
)

# llama-cpp-python, llama.cpp and Ollama answer a request that they find wrong with 500, say an image that they cannot
# read (before 0.12 within a 200), MiniMax one that it will not read, LM Studio one that broke it with 400
_INVALID = re.compile(
    r"validation errors?:.*'loc': \('body'|input is not supported|requires --jinja|invalid JSON schema in format|"
    r"failed to process inputs|decode WebP image|new_sensitive",
    re.DOTALL,
)
# which mlx-lm says with 404, and OpenRouter of a model that it has, for what the request wants of it
_NOT_TAKEN = re.compile(r"content type is supported|no endpoints found that (?:support|can handle)", re.IGNORECASE)
# Groq says 498 of a full tier, Cohere of a word that it does not allow
_FULL = re.compile(r"capacity|flex", re.IGNORECASE)
# Ollama, too, says 400 of embeddings that it got none of from the process that makes them
_CRASHED = re.compile(
    r"model has crashed|model (?:was |is )?unloaded|failed to load (?:the )?model|"
    r"do embedding request|error reading embed response|unexpected server status",
    re.IGNORECASE,
)

# of a parameter: the words beside them repeat what the caller wrote
_CODES_OF_A_PARAMETER = frozenset(
    {"invalid_value", "invalid_type", "unknown_parameter", "unsupported_parameter", "unsupported_value"}
    | {"missing_required_parameter", "invalid_function_parameters"}
)

# codes that say more than the HTTP status they came with
_BY_CODE: dict[str, ErrorKind] = {
    "overloaded_error": "overloaded",
    "engine_overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "provider_overloaded": "overloaded",
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
    409: "server",  # somebody else holds what it needs
    410: "not_found",
    424: "server",
    425: "overloaded",
    429: "rate_limited",
    499: "server",
    501: "bad_request",
    503: "overloaded",
    529: "overloaded",
}
# what an error inside a 200 says that has no code
_BY_WORDS: tuple[tuple[re.Pattern[str], ErrorKind], ...] = (
    (re.compile(r"rate[- ]limit|too many requests", re.IGNORECASE), "rate_limited"),
    (re.compile(r"overloaded|(?:over|at) capacity|high demand", re.IGNORECASE), "overloaded"),
    (re.compile(r"timed? ?out", re.IGNORECASE), "timeout"),
)


def classify(status: int, detail: Detail) -> ErrorKind:
    """The kind of an error, by its codes and words first where a status alone would mislead."""
    codes, message = detail.codes, _ECHO.sub("", _ADDRESS.sub("", detail.message[:_MOST_SEARCHED]))
    status = _meant(status, message)
    if status == 400 and codes & _CODES_OF_A_PARAMETER:
        return "bad_request"
    if _is_quota(status, codes, message):
        return "quota"
    if _is_overflow(status, codes, message):
        return "context_overflow"
    return _by_words(status, codes, message) or _by_code_or_status(status, codes, message)


def _is_overflow(status: int, codes: frozenset[str], message: str) -> bool:
    if status in (401, 404, 429):
        return bool(_NOT_SO_LONG.search(message))
    if codes & _OVERFLOW_CODES:
        return _OF_ANOTHER_FIELD.search(message) is None
    is_denied = status == 403 or bool(codes & _DENIED_CODES)
    return bool(_OVERFLOW.search(message) and (not is_denied or _EXCEEDED.search(message)))


def _meant(status: int, message: str) -> int:
    """The status that servers would have sent that confuse a wrong request and a broken server."""
    if (status == 200 or status >= 500) and _INVALID.search(message):
        return 400
    if status == 404 and _NOT_TAKEN.search(message):
        return 400
    if status == 498 and _FULL.search(message):
        return 503
    return 500 if status == 400 and _CRASHED.search(message) else status


def _by_words(status: int, codes: frozenset[str], message: str) -> ErrorKind | None:
    if status >= 500:
        return None
    if (
        codes & _FILTER_CODES
        or any(map(_FILTER_CODE.search, codes))
        or (status in (200, 400, 403, 422) and _FILTER.search(message))
    ):
        return "content_filter"
    if codes & _AUTH_CODES or (status != 429 and _AUTH.search(message)):
        return "auth"
    if status in (200, 400, 422) and (codes & _MISSING_CODES or _MISSING.search(message)):
        return "not_found"
    return "not_found" if status in (200, 400, 403) and (codes & _CLOSED_CODES or _CLOSED.search(message)) else None


def _is_quota(status: int, codes: frozenset[str], message: str) -> bool:
    if codes & _QUOTA_CODES or any("perday" in code for code in codes):
        return True
    if status not in (200, 400, 401, 402, 403, 412, 429):
        return False
    return bool(_SPENT.search(message) or ("resource_exhausted" not in codes and _QUOTA.search(message)))


def _is_of_one_model(kind: ErrorKind, detail: Detail) -> bool:
    """True for what is spent, or closed to the key, of one model alone."""
    message = detail.message[:_MOST_SEARCHED]
    if kind == "auth":
        return _AUTH_FOR_ONE_MODEL.search(message) is not None
    if kind != "quota":
        return False
    by_code = any("perday" in code and "permodel" in code for code in detail.codes)
    return by_code or _QUOTA_OF_ONE_MODEL.search(message) is not None


def _by_code_or_status(status: int, codes: frozenset[str], message: str) -> ErrorKind:
    if codes & _OVERLOADED_CODES:
        return "overloaded"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 200 <= status < 300:
        # an error inside a 200: its codes say what it is, or its words; one that tells nothing is the server's own
        told = [_BY_CODE[code] for code in sorted(codes) if code in _BY_CODE]
        told += [kind for words, kind in _BY_WORDS if words.search(message)]
        return told[0] if told else "server"
    return "server" if status >= 500 else "bad_request"
