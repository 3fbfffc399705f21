"""What providers refuse a request with, in their own words: what is used up, too long, not to be read, or not there."""

# ruff: noqa: E501 - tables of what servers say

import json
from typing import Any

import pytest

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_event, error_from_response
from routing.types import ProviderError


def _told(status: int, body: Any, headers: dict[str, str] | None = None) -> ProviderError:
    sent = WireRequest("POST", "https://api.example/v1/chat/completions", body={})
    return error_from_response(WireResponse(status, headers or {}, json.dumps(body).encode()), sent)


def _openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


PACED: dict[str, tuple[Any, float]] = {
    "openai: a minute's requests, and where to pay for more": (
        _openai("Rate limit reached on requests per min. Please try again in 20s. Please add a payment method to your "
                "account: https://platform.openai.com/account/billing", "rate_limit_exceeded", "requests"), 20.0,
    ),
    "a proxy: a minute's requests, and where to pay for more, without its https": (
        _openai("Rate limit reached. Please try again in 20s, or see platform.openai.com/account/billing"), 20.0,
    ),
    "groq: a day's tokens, and where to pay for more": (
        _openai("Rate limit reached on tokens per day (TPD): Limit 100, Used 90. Please try again in 3m42.5s. Need more? "
                "https://console.groq.com/settings/billing", "rate_limit_exceeded", "tokens"), 222.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "seconds"), PACED.values(), ids=PACED)
def test_a_limit_of_a_while_is_no_spent_money_because_of_an_address(body: Any, seconds: float) -> None:
    error = _told(429, body)
    assert (error.kind, error.retryable, error.retry_after_seconds) == ("rate_limited", True, seconds)


# status, body, kind
REFUSALS: dict[str, tuple[int, Any, str]] = {
    # used up
    "zhipu: the week's": (429, {"error": {"code": "1310", "message": "Weekly/Monthly Limit Exhausted. Resets at 2026-12-01 10:00:00"}}, "quota"),
    "zhipu: the week's, in chinese": (429, {"error": {"code": "1310", "message": "您已达到每周/每月使用上限"}}, "quota"),
    "kimi: the period's": (403, {"error": {"type": "access_terminated_error", "message": "You've reached your usage limit for this period."}}, "quota"),
    "openrouter: the key's": (403, {"error": {"message": "Key limit exceeded (total limit). See the settings.", "code": 403}}, "quota"),
    "ark: the plan's": (429, {"error": {"code": "AccountQuotaExceeded", "message": "You have exceeded the 5-hour usage quota."}}, "quota"),
    "alibaba: what was free": (403, _openai("The free tier of the model has been exhausted.", "AllocationQuota.FreeTierOnly", "FreeTier"), "quota"),
    "one-api: the user's": (403, _openai("用户额度不足", "insufficient_user_quota", "new_api_error"), "quota"),
    "one-api: the token's": (403, _openai("token quota is not enough", "pre_consume_token_quota_failed", "new_api_error"), "quota"),
    "a proxy: the account's": (403, {"code": "NO", "message": "Insufficient account balance"}, "quota"),
    "anthropic: a workspace's": (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
        "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."}}, "quota"),
    "novita: the account's": (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "no money", "metadata": {}}, "quota"),
    "mistral: no subscription": (401, {"message": "Inactive subscription or usage limit reached"}, "quota"),
    "google: a key that is locked": (403, {"error": {"code": 403, "message": "Consumer 'api_key:x' has been suspended.",
        "status": "PERMISSION_DENIED"}}, "auth"),
    "openai: the account's": (429, _openai("You have none left.", "credit_balance_exhausted", "requests"), "quota"),
    "litellm: the key's": (400, {"error": {"message": "Max budget: 1.0", "type": "budget_exceeded", "code": "400"}}, "quota"),
    # too long
    "bedrock: too long for the model": (400, _openai("prompt tokens (330) exceed model maximum (270) for base model m", "invalid_prompt"), "context_overflow"),
    "bedrock: too long for the context": (400, {"message": "The payload size has exceed context limit."}, "context_overflow"),
    "baidu: too long": (400, {"error": {"code": "tokens_too_long", "message": "Prompt tokens too long"}}, "context_overflow"),
    "watsonx: too long": (400, {"errors": [{"code": "invalid_input_argument", "message": "the number of input tokens 50 cannot exceed the "
        "total tokens limit 40 for this model"}], "status_code": 400}, "context_overflow"),
    "tensorrt: too long": (400, {"object": "error", "message": "The sum of prompt length (90.0), query length (0) should not exceed "
        "max_num_tokens (80)", "type": "BadRequestError", "code": 400}, "context_overflow"),
    "tabby: too long": (400, {"detail": "Prompt length 50 is greater than max_seq_len 40"}, "context_overflow"),
    "a proxy: too long, in chinese": (400, _openai("上下文长度超出模型最大限制"), "context_overflow"),
    "a proxy: no more than late": (400, _openai("请求上下文超时"), "bad_request"),
    # not to be read
    "deepseek": (400, _openai("Content Exists Risk", "invalid_request_error"), "content_filter"),
    "azure, without a code": (400, _openai("The response was filtered due to Azure OpenAI's content management policy."), "content_filter"),
    "ark: an image": (400, {"error": {"code": "InputImageSensitiveContentDetected.PrivacyInformation", "message": "No.", "type": "BadRequest"}},
        "content_filter"),
    "ark: a risk": (400, {"error": {"code": "InputTextRiskDetection", "message": "No.", "type": "BadRequest"}}, "content_filter"),
    "minimax": (422, {"type": "error", "error": {"type": "unprocessable_entity_error", "message": "input new_sensitive (1026)"}}, "content_filter"),
    "minimax, as if it had failed": (500, {"type": "error", "error": {"type": "api_error", "message": "output new_sensitive (1027)"}},
        "content_filter"),
    "openai: how to break in": (400, _openai("This content was flagged for possible cybersecurity risk."), "content_filter"),
    "anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "The request contains prohibited content"}},
        "content_filter"),
    "sensenova": (400, {"error": {"code": 18, "message": "Output data may contain inappropriate content."}}, "content_filter"),
    "one-api: words": (400, _openai("no", "sensitive_words_detected", "new_api_error"), "content_filter"),
    "openrouter: the house's terms": (403, {"error": {"message": "Prohibited due to a violation of provider Terms Of Service.", "code": 403}},
        "content_filter"),
    "openrouter: the model would not": (400, {"error": {"code": 400, "message": "No.", "metadata": {"error_type": "refusal"}}}, "content_filter"),
    "a proxy: moderation": (403, {"type": "error", "error": {"type": "content_moderation_error", "message": "No."}}, "content_filter"),
    "a proxy: policy": (400, _openai("The request was rejected due to content policy"), "content_filter"),
    "a proxy: words, in chinese": (422, {"error": "包含敏感词"}, "content_filter"),
    # not there, and not for this request
    "cohere: a longer answer than the model gives": (400, {"message": "too many tokens: max tokens must be less than 40"}, "bad_request"),
    "bedrock: no such model": (400, _openai("The provided model identifier is invalid.", "validation_error"), "not_found"),
    "openrouter: no such model": (404, {"error": {"message": "No endpoints found for a/b.", "code": 404}}, "not_found"),
    "siliconflow: a model that is off": (403, {"code": 30003, "message": "Model disabled.", "data": None}, "not_found"),
    "openrouter: no images": (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}, "bad_request"),
    "openrouter: no tools": (404, {"error": {"message": "No endpoints found that support tool use.", "code": 404}}, "bad_request"),
    "openrouter: none that takes it": (404, {"error": {"message": "No endpoints found that can handle the requested parameters.", "code": 404}},
        "bad_request"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_of_the_kind_that_its_words_say(status: int, body: Any, kind: str) -> None:
    error = _told(status, body)
    assert (error.kind, error.retryable, error.status) == (kind, False, status)


def test_what_a_day_has_room_for_of_one_model_says_nothing_of_the_others() -> None:
    error = _told(429, {"errors": {"message": "You have exceeded today's quota for model a/b, try again tomorrow."}})
    assert (error.kind, error.one_model) == ("quota", True)


ECHO = ("[{'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, When using `tool_choice`, `tools` must be set.', 'input': "
    "{'messages': [{'role': 'user', 'content': \"Why is my account suspended? 'Payment required', 'incorrect api key'\"}]}, 'ctx': {}}]")  # fmt: skip
# what the caller named, or said, in the words of a refusal: a provider that is taken for spent or locked is shut for everybody
CALLERS_WORDS: dict[str, Any] = {
    "openai: a tool": _openai("Invalid schema for function 'get_billing': In context=(), 'additionalProperties' is required to be supplied "
        "and to be false.", "invalid_function_parameters"),
    "openai: a tool of one word": _openai("Tool choice 'billing' not found in 'tools' parameter."),
    "openai: a field of a tool": _openai("Invalid schema for function 'f': In context=('properties', 'suspended'), schema must have a 'type' key."),
    "openai: a call": _openai("The following tool_call_ids did not have response messages: billing-1, call_billing"),
    "gemini: a field": {"error": {"code": 400, "message": "* GenerateContentRequest.tools[0].function_declarations[0].parameters"
        ".properties[billing].items: missing field.", "status": "INVALID_ARGUMENT"}},
    "anthropic: a field": {"type": "error", "error": {"type": "invalid_request_error", "message":
        "tools.0.custom.input_schema.properties.billing.type: Input should be a string"}},
    "vllm: the whole request": {"object": "error", "message": ECHO, "type": "BadRequestError", "param": None, "code": 400},
    "vllm: the value": {"error": {"message": "1 validation error for Request\n  Field required [type=missing, input_value={'content': 'out of "
        "credits'}, input_type=dict]", "type": "BadRequestError", "code": 400}},
    "openai: a value": _openai("Invalid value: 'payment required'. Supported values are: 'auto' and 'flex'.", "invalid_value"),
    "openai: a parameter": {"error": {"message": "Unknown parameter: 'budget_exceeded'.", "type": "invalid_request_error",
        "param": "budget_exceeded", "code": "unknown_parameter"}},
    "a server: a parameter": {"error": {"message": "Unrecognized: overloaded", "type": "invalid_request_error", "param": "overloaded"}},
    "openai: a long description": _openai("Invalid 'tools[0].function.description': string too long. Expected a string with maximum length "
        "1024, but got a string with length 2000 instead.", "string_above_max_length"),
    "openai: a long id": _openai("Invalid 'messages[2].tool_calls[0].id': string too long.", "string_above_max_length"),
}  # fmt: skip


@pytest.mark.parametrize("body", CALLERS_WORDS.values(), ids=CALLERS_WORDS)
def test_what_a_caller_named_or_said_makes_no_other_refusal_of_it(body: Any) -> None:
    assert _told(400, body).kind == "bad_request"


@pytest.mark.parametrize("which", ["vllm: the whole request", "vllm: the value"])
def test_what_a_server_repeats_of_a_prompt_is_in_no_error_that_is_kept(which: str) -> None:
    message = _told(400, CALLERS_WORDS[which]).message
    assert message.endswith("…")
    assert "suspended" not in message
    assert "credits" not in message


def test_what_a_caller_said_is_none_of_llama_cpps_refusal_either() -> None:
    assert _told(500, {"error": {"message": f"1 validation errors:\n  {ECHO[1:-1]}"}}).kind == "bad_request"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Your credit balance is too low. Please go to Plans & Billing to upgrade or purchase credits.", "quota"),
        (400, "Billing hard limit has been reached", "quota"),
        (403, "This API method requires billing to be enabled.", "quota"),
        (429, "Your account is suspended, please check your plan and billing details.", "quota"),
        (403, "请访问https://example.com/pay充值，余额不足", "quota"),
    ],
)
def test_money_is_told_in_the_words_of_the_house_itself(status: int, message: str, kind: str) -> None:
    assert _told(status, _openai(message)).kind == kind


@pytest.mark.parametrize("field", ["messages[1].content", "messages[1].content[0].text", "input", "input[2]"])
def test_a_text_too_long_for_openai_is_too_long(field: str) -> None:
    message = f"Invalid '{field}': string too long. Expected a string with maximum length 10485760."
    assert _told(400, _openai(message, "string_above_max_length")).kind == "context_overflow"


# Anthropic says what a refusal is about beside its type
DETAILED = {
    "enforced_spend_limit_reached": (429, "rate_limit_error", "quota"),
    "contract_spend_limit_reached": (429, "rate_limit_error", "quota"),
    "ramp_limit_exceeded": (429, "rate_limit_error", "rate_limited"),
    "linked_organization_billing_unavailable": (402, "billing_error", "quota"),
    "organization_on_hold": (400, "invalid_request_error", "auth"),
    "cmek_key_disabled": (400, "invalid_request_error", "auth"),
    "claude_code_version_too_old": (400, "invalid_request_error", "bad_request"),
}


@pytest.mark.parametrize(("code", "told"), DETAILED.items(), ids=DETAILED)
def test_a_refusal_of_claude_is_of_the_kind_that_its_details_say(code: str, told: tuple[int, str, str]) -> None:
    status, name, kind = told
    body = {"type": "error", "error": {"type": name, "message": "No.", "details": {"error_code": code}}}
    assert _told(status, body).kind == kind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "project_spend_limit_exceeded", "quota"),
        (429, "organization_spend_limit_exceeded", "quota"),
        (429, "organization_usage_limit_exceeded", "quota"),
        (400, "cyber_policy", "content_filter"),
        (400, "bio_policy", "content_filter"),
        (400, "image_content_policy_violation", "content_filter"),
        (400, "misalignment_policy_violation", "content_filter"),
        (503, "server_overloaded", "overloaded"),
        (429, "rate_limit_exceeded", "rate_limited"),
    ],
)
def test_openais_codes_say_more_than_its_statuses(status: int, code: str, kind: str) -> None:
    assert _told(status, _openai("No.", code, "requests")).kind == kind


@pytest.mark.parametrize(
    ("said", "alone"),
    [
        ({"message": "You don't have access to the model with the specified model ID."}, True),
        ({"error": {"code": "no_access", "message": "No access to model: m"}}, True),
        ({"error": {"type": "permission_error", "message": "You do not have access to model m"}}, True),
        ({"message": "The user is not authorized to access model m or it does not exist"}, True),
        ({"error": {"message": "该令牌无权访问模型 m", "type": "new_api_error"}}, True),
        ({"error": {"type": "permission_error", "message": "The key is locked."}}, False),
    ],
)
def test_a_key_that_may_not_use_one_model_may_use_the_others(said: Any, alone: bool) -> None:
    error = _told(403, said)
    assert (error.kind, error.retryable, error.one_model) == ("auth", False, alone)


def test_an_overload_is_told_by_its_code_within_a_stream_too() -> None:
    told = {"error": {"type": "service_unavailable_error", "code": "server_is_overloaded", "message": "Later."}}
    assert error_from_event(told, WireRequest("POST", "x", body={})).kind == "overloaded"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "500", "x-ms-retry-after-ms": "1500", "retry-after": "2"}, 0.5),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=3;t=55, "pages";r=0;t=7'}, 7.0),
        ({"ratelimit": '"api";r=3;t=55'}, None),
    ],
)
def test_a_wait_is_read_from_the_headers_of_azure_and_of_the_draft(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert _told(429, {"error": "Too many."}, headers).retry_after_seconds == seconds
