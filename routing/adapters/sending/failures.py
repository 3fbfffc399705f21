"""What it means when the HTTP client fails: no connection, a broken one, an address or key that cannot be used."""

import errno

import httpx2

from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import make_error
from routing.adapters.sending.trust import NOT_TRUSTED
from routing.types import ErrorKind, ProviderError

# The client's texts may quote a header, so ours stand for them. The first row that fits counts.
_FAILURES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], ErrorKind, str, bool], ...] = (
    (httpx2.ConnectTimeout, "connection", "nobody answered in time", True),
    (httpx2.ConnectError, "connection", "no connection to the provider", True),
    (httpx2.PoolTimeout, "overloaded", "too many connections are open already", True),
    (httpx2.TimeoutException, "timeout", "the provider stopped reading or answering", True),
    ((httpx2.UnsupportedProtocol, httpx2.InvalidURL), "connection", "the address is not a usable URL", False),
    ((httpx2.LocalProtocolError, UnicodeError), "auth", "the key or a header holds characters HTTP forbids", False),
    (httpx2.DecodingError, "protocol", "the answer is compressed wrongly", True),
)

_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_RETRY_SECONDS = 1.0
NO_FILE_LEFT = "too many files and connections are open here for another one"


def is_out_of_files(error: BaseException | None) -> bool:
    """Whether this machine had no file left for a connection, which is no fault of who was to be reached."""
    left, seen = [error], set[int]()
    while left:
        error = left.pop()
        if error is None or id(error) in seen:  # they may lead in a circle
            continue
        if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
            return True
        seen.add(id(error))
        left.append(error.__cause__ or error.__context__)  # the client hides what its errors come from
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
    return False


def out_of_files(sent: WireRequest) -> ProviderError:
    """Nobody was asked."""
    return make_error("busy", NO_FILE_LEFT, sent, retryable=True, retry_after_seconds=_RETRY_SECONDS)


def translated(error: Exception, sent: WireRequest, *, began: bool) -> ProviderError:
    """Our error for one of the HTTP client's; `began`: the head of the answer had come."""
    if isinstance(error, httpx2.ConnectError) and is_out_of_files(error):
        return out_of_files(sent)
    for types, kind, text, retryable in _FAILURES:
        if isinstance(error, types):
            reason = f": {error}" if isinstance(error, httpx2.ConnectError) and str(error) else ""
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                reason += f"; {NOT_TRUSTED}"
            return make_error(kind, text + reason, sent, retryable=retryable)
    if began:
        return make_error("cut", "the connection broke before the answer ended", sent)
    if isinstance(error, httpx2.RemoteProtocolError) and "disconnected" not in str(error):
        return make_error("protocol", "the answer is not HTTP", sent, unbilled="status line" in str(error))
    return make_error("connection", "the connection broke before an answer came", sent)
