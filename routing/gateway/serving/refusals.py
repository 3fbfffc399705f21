"""What is said to who sends no request, or not all of one: in the words of the API that was called, as far as that is
known, and with the end of the connection."""

from http import HTTPStatus

import orjson

from routing.gateway.dialects import ANTHROPIC, OPENAI
from routing.gateway.exchange.http import END_CONNECTION, JSON_TYPE, RequestTimeout
from routing.gateway.paths import origin_form
from ziggie.errors import InvalidInput, Unavailable, ZiggieError, error_body
from ziggie.ids import uuid7


class HeadTooLarge(InvalidInput):
    code, http_status = "head_too_large", 431


class UnknownVersion(InvalidInput):
    code, http_status = "unknown_version", 505


class Crowded(Unavailable):
    """All places are taken."""

    code, http_status = "too_many_connections", 503


RETRY_SECONDS = 1
UNREAD: dict[int, ZiggieError] = {
    400: InvalidInput("this is no HTTP request that can be read, or only a part of one"),
    408: RequestTimeout("the request did not arrive in time"),
    431: HeadTooLarge("the head of the request is too long"),
    503: Crowded("too many connections are open: try again soon"),
    505: UnknownVersion("only HTTP/1.1 and HTTP/1.0 are spoken here"),
}


def refusal(error: ZiggieError, path: bytes) -> bytes:
    """A whole answer that ends the connection. `path` may be empty."""
    path = origin_form(path)
    status, request_id = error.http_status, str(uuid7())
    body, headers = orjson.dumps(error_body(error)), []
    if not path or path.startswith(b"/v1/"):
        dialect = ANTHROPIC if path.startswith(b"/v1/messages") else OPENAI
        body, headers = dialect.error(error, status, request_id), dialect.request_id(request_id)
    if isinstance(error, Unavailable):
        headers = [*headers, (b"retry-after", b"%d" % RETRY_SECONDS)]
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(body)}\r\n".encode()
    return head + b"".join(b"%b: %b\r\n" % line for line in (JSON_TYPE, END_CONNECTION, *headers)) + b"\r\n" + body
