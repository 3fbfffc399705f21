"""What a failure means: kind, whether trying again helps, when, and a message without secrets."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_response
from routing.adapters.reading.waiting import parse_duration
from routing.types import ProviderError
from tests.routing.adapters_support import KEY

SENT = WireRequest("POST", "https://api.example/v1/chat/completions", secret=KEY)


def error(status: int, body: Any = b"", **headers: str) -> ProviderError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_from_response(WireResponse(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw), SENT)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "bad_request", False),
        (401, "auth", False),
        (402, "quota", False),
        (403, "auth", False),
        (404, "not_found", False),
        (408, "timeout", True),
        (413, "bad_request", False),
        (422, "bad_request", False),
        (429, "rate_limited", True),
        (500, "server", True),
        (502, "server", True),
        (503, "overloaded", True),
        (504, "server", True),
        (529, "overloaded", True),
        (599, "server", True),
        (302, "protocol", False),
    ],
)
def test_a_status_alone_has_a_kind(status: int, kind: str, retryable: bool) -> None:
    found = error(status)
    assert (found.kind, found.retryable) == (kind, retryable)
    assert found.message


@pytest.mark.parametrize(
    "body",
    [
        {"error": "it broke"},
        {"error": {"message": "it broke"}},
        {"error": {"error": {"message": "it broke"}}},
        [{"error": {"code": 500, "message": "it broke", "status": "INTERNAL"}}],
        {"detail": "it broke"},
        {"detail": [{"loc": ["body"], "msg": "it broke", "type": "missing"}]},
        {"object": "error", "message": {"detail": [{"loc": ["body", "user"], "msg": "it broke"}]}, "type": "x"},
        {"error": '{"error": {"message": "it broke", "type": "server_error"}}'},
        {"error": {"message": 'upstream said: {"error": {"message": "it broke"}}'}},
        {"message": "it broke"},
        {"errors": [{"message": "it broke"}]},
        {"errors": ["it broke"]},
        {"object": "error", "message": "it broke", "code": 500},
        {"error": {"type": "x", "message": "it broke"}, "request_id": "r"},
        "it broke",
        b"it broke",
        b"<html><head><title>it broke</title></head><body><h1>502</h1></body></html>",
        b"<p>it <b>broke</b></p>",
    ],
)
def test_the_message_is_found_in_every_shape(body: Any) -> None:
    assert error(500, body).message == "it broke"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"[[[[[[[[[[[]]]]]]]]]]]", b"null", b"7", {"error": 7}, {"error": {"message": 7}}, b"[" * 9000],
)
def test_no_body_is_too_odd(body: Any) -> None:
    assert error(500, body).kind == "server"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # the prompt is too long
        (400, {"error": {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192"}},
         "context_overflow"),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size",
                         "type": "exceed_context_size_error", "n_ctx": 512}}, "context_overflow"),
        (400, {"type": "error", "error": {"type": "invalid_request_error",
                                          "message": "prompt is too long: 208310 tokens > 200000 maximum"}},
         "context_overflow"),
        (400, {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192",
                         "type": "invalid_request_error"}}, "context_overflow"),
        (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT",
                         "message": "The input token count (1200000) exceeds the maximum number of tokens allowed"}},
         "context_overflow"),
        (500, {"error": {"message": "Requested tokens (600) exceed context window of 512", "type": "server_error"}},
         "context_overflow"),
        (429, {"error": {"message": "Request too large: Limit 30000 tokens per min, reduce the length",
                         "code": "rate_limit_exceeded"}}, "rate_limited"),
        (413, {"error": {"message": "Request too large for model `llama-3.1-8b-instant` on tokens per minute (TPM)",
                         "type": "tokens", "code": "rate_limit_exceeded"}}, "context_overflow"),
        (400, {"code": "Client specified an invalid argument",
               "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
         "context_overflow"),
        (400, {"object": "error", "message": "Input length (9000 tokens) exceeds the maximum allowed length (8187)"},
         "context_overflow"),
        (500, {"error": {"message": "input (3002 tokens) is too large to process. increase the physical batch size",
                         "type": "server_error"}}, "context_overflow"),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
               "error_type": "validation"}, "context_overflow"),
        (400, {"error": {"message": "litellm.ContextWindowExceededError: OpenAIException - Error code: 400"}},
         "context_overflow"),
        (400, {"error": {"message": "prompt token count of 70000 exceeds the limit of 64000",
                         "code": "model_max_prompt_tokens_exceeded"}}, "context_overflow"),
        (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, "context_overflow"),
        (400, {"message": "Please reduce the length of the messages or completion. Current length is 10015 while limit "
               "is 8192", "type": "invalid_request_error", "code": "context_length_exceeded"}, "context_overflow"),
        (400, {"message": "too many tokens: size limit exceeded by 280 tokens", "id": "i"}, "context_overflow"),
        (503, {"message": "Too many tokens, please wait before trying again."}, "overloaded"),
        (403, {"error": {"message": "Your prompt exceeds the context window of this model"}}, "context_overflow"),
        (403, {"error": {"message": "You do not have access to the 1M context window"}}, "auth"),
        (200, {"error": {"type": "permission_error", "message": "Context length of 1M tokens is not enabled for you"}},
         "auth"),
        # money
        (403, {"code": "permission-denied", "error": "Your newly created team doesn't have any credits yet."}, "quota"),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "quota"),
        (429, {"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}, "quota"),
        (400, {"type": "error", "error": {"type": "invalid_request_error",
                                          "message": "Your credit balance is too low to access the Anthropic API."}},
         "quota"),
        (403, {"code": "permission-denied", "error": "Your team has either used all available credits or reached its"},
         "quota"),
        (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota, check billing", "details": [
            {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}, "quota"),
        # who are you
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided: sk***"}, "auth"),
        (400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                         "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}, "auth"),
        # no such model
        (400, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}, "not_found"),
        (404, {"error": 'model "nope:1b" not found, try pulling it first'}, "not_found"),
        (400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}, "not_found"),
        (400, {"object": "error", "message": "Invalid model: foo", "type": "invalid_model", "code": "1500"},
         "not_found"),
        # the request was wrong, or the server, whatever the status says
        (500, {"error": {"message": "2 validation errors:\n  {'type': 'x', 'loc': ('body', 'messages')}"}},
         "bad_request"),
        (500, {"error": {"message": "image input is not supported - hint: provide the mmproj"}}, "bad_request"),
        (500, {"error": {"message": "tools param requires --jinja flag", "type": "server_error"}}, "bad_request"),
        (500, {"error": "invalid JSON schema in format"}, "bad_request"),
        (500, {"error": "Failed to create new sequence: failed to process inputs: image: unknown format"},
         "bad_request"),
        (200, {"error": "Failed to create new sequence: failed to process inputs: this model is missing data required"},
         "bad_request"),
        (500, {"error": "decode WebP image: riff: missing RIFF chunk header"}, "bad_request"),
        (400, {"error": 'do embedding request: Post "http://127.0.0.1:33967/embedding": EOF'}, "server"),
        (400, {"error": "unexpected server status: llm server not responding"}, "server"),
        (400, {"error": "The model has crashed without additional information. (Exit code: 1844)"}, "server"),
        (400, {"error": {"message": "Failed to load model \"qwen\". Error: insufficient resources"}}, "server"),
        (403, {"error": {"message": "requires moderation. Your input was flagged", "code": 403}}, "content_filter"),
        (400, {"error": {"message": "Your prompt violates our content policy"}}, "content_filter"),
        (400, {"error": {"message": "This is a violation of the provider's Acceptable Use Policy."}}, "content_filter"),
        (400, {"error": {"message": "The content may violate our guidelines."}}, "content_filter"),
        (400, {"error": {"message": "Your tool schema violates the JSON policy"}}, "bad_request"),
        (400, {"error": {"message": "temperature violates model guidelines"}}, "bad_request"),
        # others
        (429, {"error": {"message": "overloaded, try again later", "type": "engine_overloaded_error"}}, "overloaded"),
        (500, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded"),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "overloaded"),
        (500, {"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"}, "server"),
        (400, {"error": "registry.ollama.ai/library/phi3:latest does not support tools"}, "bad_request"),
        (400, {"error": {"message": "flagged", "code": "content_policy_violation"}}, "content_filter"),
        (400, {"error": {"message": "The request was rejected because it was considered high risk",
                         "type": "content_filter"}}, "content_filter"),
    ],
)  # fmt: skip
def test_words_and_codes_say_more_than_the_status(status: int, body: Any, kind: str) -> None:
    assert error(status, body).kind == kind


def test_the_key_is_never_repeated() -> None:
    found = error(401, {"error": f"Incorrect API key provided: {KEY}."})
    assert KEY not in found.message
    assert KEY not in repr(found)
    assert "[key]" in found.message
    assert KEY not in repr(SENT)


def test_what_other_headers_say_is_not_repeated_either() -> None:
    said = {"x-team": "games", "cookie": "session=abc123def; a=b", "authorization": "Bearer of-the-proxy-0123"}
    sent = WireRequest("POST", "http://127.0.0.1:9/v1", {**said, "anthropic-version": "2023-06-01"}, {}, KEY)
    body = {"error": "games refused: abc123def, of-the-proxy-0123; version 2023-06-01"}
    found = error_from_response(WireResponse(403, {}, json.dumps(body).encode()), sent)
    assert found.message == "games refused: [key], [key]; version 2023-06-01"


def test_a_long_message_is_shortened_to_one_line() -> None:
    message = error(500, {"error": "a\n" * 4000}).message
    assert len(message) == 300
    assert "\n" not in message


HOSTILE = [
    "violat",
    "violating ",
    "model ",
    "validation error:",
    "token count ",
    "try again in 1",
    "1a",
    "<",
    "<title>",
    "9",
]


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("start", ["", "Please try again in ", "<title", "<p>&#"])
def test_no_message_keeps_the_event_loop_busy(words: str, start: str) -> None:
    message = start + words * (900_000 // len(words))
    began = time.process_time()
    for status in (400, 429, 500):
        for body in (message.encode(), {"error": {"message": message}}):
            assert error(status, body).message
    assert time.process_time() - began < 10  # what grows with the square of the length takes minutes


def test_times_of_any_length_and_number_are_read_at_once() -> None:
    headers = {f"x-ratelimit-reset-{number}": "5" for number in range(9_000)} | {"date": "x " * 400_000}
    began = time.process_time()
    found = error(429, {"error": {"message": "slow", "metadata": {"headers": headers}}})
    assert found.retry_after_seconds == 5
    assert time.process_time() - began < 10


def test_a_number_beyond_all_others_is_none() -> None:
    assert error(429, b'{"error": {"message": "slow", "retry_after": 1' + b"0" * 400 + b"}}").kind == "rate_limited"


NOW = 1_790_000_000


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry_after": "7"}, b"", 7),
        ({"retry_after": "0.5"}, b"", 0.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, b"", 1.5),
        ({"retry_after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW, usegmt=True)}, b"", 30),
        ({"retry_after": formatdate(NOW - 30, usegmt=True), "date": formatdate(NOW, usegmt=True)}, b"", 0),
        ({"retry_after": "1e400"}, b"", None),
        ({"retry_after": "nan"}, b"", None),
        ({"retry_after": "-3"}, b"", 0),
        ({"retry_after": "9999999"}, b"", 86400),
        ({"retry_after": "next week"}, b"", None),
        ({"retry_after": "Mon, 99 Foo 2026 99:99:99"}, b"", None),
        ({"x_ratelimit_reset_requests": "6m0s", "x_ratelimit_remaining_requests": "0",
          "x_ratelimit_reset_tokens": "1h", "x_ratelimit_remaining_tokens": "500"}, b"", 360),
        ({"x_ratelimit_reset_requests": "20ms"}, b"", 0.02),
        ({"x_ratelimit_reset": str((NOW + 12) * 1000), "date": formatdate(NOW, usegmt=True)}, b"", 12),
        ({"x_ratelimit_reset": str(NOW + 12), "date": formatdate(NOW, usegmt=True)}, b"", 12),
        ({"x_ratelimit_reset": "12"}, b"", 12),
        ({"anthropic_ratelimit_tokens_reset": "2026-09-21T14:13:50Z", "anthropic_ratelimit_tokens_remaining": "0",
          "date": formatdate(NOW, usegmt=True)}, b"", 30),
        ({}, {"error": {"message": "m", "details": [{"@type": "RetryInfo", "retryDelay": "48.5s"}]}}, 48.5),
        ({}, {"error": {"message": "Rate limit reached. Please try again in 6m1.5s. Visit …"}}, 361.5),
        ({}, {"error": {"message": "max RPM: 3, please try again after 1 seconds"}}, 1),
        ({}, {"error": {"message": "Please try again in 5 Minutes."}}, 300),
        ({}, {"error": {"message": "Please try again in 1 month."}}, 86400),
        ({}, {"error": {"message": "Please try again in 3 steps."}}, None),
        ({}, {"error": {"message": "slow down"}}, None),
    ],
)  # fmt: skip
def test_the_time_to_wait_is_read_wherever_it_stands(headers: dict[str, str], body: Any, seconds: float | None) -> None:
    assert error(429, body, **headers).retry_after_seconds == seconds


def test_overload_may_name_its_time_too() -> None:
    assert error(529, b"", retry_after="3").retry_after_seconds == 3
    assert error(401, b"Please try again in 20s").retry_after_seconds is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("20ms", 0.02), ("1 seconds", 1), ("1h2m3.5s", 3723.5), ("2 hrs", 7200), ("x", None), ("", None)],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
