"""Every error that Ziggie raises on purpose.

    ZiggieError                     code, http_status, exit_code
    |- InvalidInput                 the caller's words are wrong              400, exit 2
    |  '- TooLarge                  more than a stated limit                  413, exit 2
    |- NotFound                     no such thing                             404, exit 2
    |- Conflict                     the thing is in another state by now      409
    |  '- Changed                   it is not what the caller has seen        412
    |- Forbidden                    known caller, missing scope               403
    |- Unauthorized                 unknown caller                            401
    |- RateLimited                  too many requests                         429, retry_after
    |- ConfigurationError           the installation is wrong                 500
    |- Unavailable                  a part of Ziggie does not answer          503
    '- RoutingError                 a routed call that gave no answer
       |- UnknownModel              404
       |- Unsupported               no provider of the chain can do it        400
       |- BudgetExceeded            402
       |- NoRoute                   every candidate was dropped               503
       |- AllProvidersFailed        every attempt failed                      502
       '- DeadlineExceeded          504

Services raise these; only the web layer turns them into HTTP and only commands into exit codes.
Their text is shown to callers: it never holds a secret.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.views.decorators.csrf import csrf_exempt


class ZiggieError(Exception):
    """An error with a stable `code`, the HTTP status and the exit code that belong to it."""

    code = "error"
    http_status = 500
    exit_code = 1

    def __init__(self, message: str, *, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or []


class InvalidInput(ZiggieError):
    code, http_status, exit_code = "invalid_input", 400, 2


class TooLarge(InvalidInput):
    code, http_status = "too_large", 413


class NotFound(ZiggieError):
    code, http_status, exit_code = "not_found", 404, 2


class Conflict(ZiggieError):
    code, http_status = "conflict", 409


class Changed(Conflict):
    code, http_status = "changed", 412


class Unauthorized(ZiggieError):
    code, http_status = "unauthorized", 401


class Forbidden(ZiggieError):
    code, http_status = "forbidden", 403


class RateLimited(ZiggieError):
    code, http_status = "rate_limited", 429

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(ZiggieError):
    code, http_status = "configuration", 500


class Unavailable(ZiggieError):
    code, http_status = "unavailable", 503


class RoutingError(ZiggieError):
    """A routed call that gave no answer. `call_id` names its receipt once there is one. `told` is what its caller hears
    of the way it was to go, as far as that is known: model, provider, source, rule, attempts, cache, cost. Before
    `retry_after_seconds` the same call would end the same way; None: nobody knows."""

    code, http_status = "routing", 502
    call_id: str | None = None
    told: Mapping[str, str] = MappingProxyType({"attempts": "0", "cache": "off"})
    retry_after_seconds: float | None = None


class UnknownModel(RoutingError):
    code, http_status, exit_code = "unknown_model", 404, 2


class Unsupported(RoutingError):
    code, http_status, exit_code = "unsupported", 400, 2


class BudgetExceeded(RoutingError):
    code, http_status = "budget_exceeded", 402


class NoRoute(RoutingError):
    code, http_status = "no_route", 503


class AllProvidersFailed(RoutingError):
    code, http_status = "all_providers_failed", 502


class DeadlineExceeded(RoutingError):
    code, http_status = "deadline", 504


def error_body(error: ZiggieError) -> dict[str, Any]:
    """The JSON body of an error on every endpoint but the gateway's."""
    body: dict[str, Any] = {"error": {"code": error.code, "message": error.message}}
    if error.details:
        body["error"]["details"] = error.details
    return body


@csrf_exempt
def no_such_endpoint(request: Any, rest: str) -> Any:
    """What every address below /api/ answers that is none: a program cannot read a page."""
    from django.http import JsonResponse

    error = NotFound("there is no such endpoint")
    return JsonResponse(error_body(error), status=error.http_status)


def is_storable(text: str) -> bool:
    """True for text that PostgreSQL can hold: no NUL, no lone surrogates."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def rest_exception_handler(exception: Exception, context: dict[str, Any]) -> Any:
    """The one place where errors become REST answers, all of one shape."""
    from rest_framework.exceptions import APIException
    from rest_framework.response import Response
    from rest_framework.views import exception_handler

    exception = _as_domain_error(exception)
    if isinstance(exception, ZiggieError):
        headers = {}
        if isinstance(exception, RateLimited):
            headers["Retry-After"] = str(max(1, round(exception.retry_after_seconds)))
        return Response(error_body(exception), status=exception.http_status, headers=headers)
    response = exception_handler(exception, context)
    if response is not None and isinstance(exception, APIException):
        code = exception.default_code
        response.data = {"error": {"code": code, "message": _flatten(exception.detail)}}
    return response


def _as_domain_error(exception: Exception) -> Exception:
    """What Django raises before or below our own code, in our own words."""
    from django.core.exceptions import RequestDataTooBig
    from django.db import DataError, InterfaceError, OperationalError
    from django.http import Http404

    if isinstance(exception, Http404):
        return NotFound("there is no such object")
    if isinstance(exception, RequestDataTooBig):
        return TooLarge("the body is too large")
    if isinstance(exception, DataError | RecursionError):
        return InvalidInput("the request holds a value that cannot be used")
    if isinstance(exception, OperationalError | InterfaceError):
        return Unavailable("the database does not answer just now; try again")
    return exception


def _flatten(detail: Any) -> str:
    if isinstance(detail, dict):
        return "; ".join(f"{field}: {_flatten(value)}" for field, value in detail.items())
    if isinstance(detail, list):
        return ", ".join(_flatten(item) for item in detail)
    return str(detail)
