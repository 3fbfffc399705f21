"""PURE: what a key has left of its limits, in the headers of the two APIs."""

from datetime import UTC, datetime, timedelta

from routing.gateway.access.limits import Standing
from routing.gateway.exchange.http import Headers


def openai_headers(standing: Standing) -> Headers:
    """`reset` is how long it takes until all is free again, as Go writes durations."""
    minutes, seconds = divmod(standing.reset_seconds, 60)
    reset = (b"%dm%ds" % (minutes, seconds)) if minutes else b"%ds" % seconds
    return _headers(b"x-ratelimit-limit-%b", b"x-ratelimit-remaining-%b", b"x-ratelimit-reset-%b", standing, reset)


def anthropic_headers(standing: Standing) -> Headers:
    """`reset` is when all is free again (RFC 3339)."""
    at = datetime.now(UTC) + timedelta(seconds=standing.reset_seconds)
    reset = at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    prefix = b"anthropic-ratelimit-%b-"
    return _headers(prefix + b"limit", prefix + b"remaining", prefix + b"reset", standing, reset)


def _headers(limit: bytes, remaining: bytes, until: bytes, standing: Standing, reset: bytes) -> Headers:
    headers: Headers = []
    for kind, most, left in (
        (b"requests", standing.requests, standing.requests_left),
        (b"tokens", standing.tokens, standing.tokens_left),
    ):
        if most is not None:
            headers += [(limit % kind, b"%d" % most), (remaining % kind, b"%d" % left), (until % kind, reset)]
    return headers
