"""PURE: what the failure of an attempt means for the walk and for the books."""

from http import HTTPStatus

from routing.types import REFUSALS, Outcome, ProviderError

HTTP_OK = HTTPStatus.OK.value


def worth_another_try(error: ProviderError) -> bool:
    """Passing troubles of a server that is there. One that is away or full is left at once."""
    return error.retryable and error.kind not in ("connection", "rate_limited", "overloaded")


def wait_after(error: ProviderError) -> float | None:
    """Seconds until who failed may be asked again, 0 for at once; None where the same would fail again."""
    if error.kind in REFUSALS:
        return None
    return error.retry_after_seconds or (None if error.kind in ("auth", "quota", "not_found") else 0.0)


def was_at_work(error: ProviderError) -> bool:
    """Whether the provider was at work on the request, or may have been, which it has paid then; what it refuses, and
    what evidently no model has answered, costs nothing."""
    if error.unbilled:
        return False
    if error.kind in REFUSALS:  # said beside an answer that is not what was asked for
        return error.status == HTTP_OK
    return error.kind in ("timeout", "cut", "unread", "protocol", "unfit") and (
        error.status is None or error.status < 400
    )


def outcome_of(error: ProviderError) -> Outcome:
    if error.kind == "timeout":
        return "timeout"
    if error.kind == "unread":
        return "cancelled"
    return "cut" if error.kind == "cut" else "error"
