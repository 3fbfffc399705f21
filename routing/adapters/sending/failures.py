"""What it means when the HTTP client fails: no connection, a broken one, an address or key that cannot be used."""

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


def translated(error: Exception, sent: WireRequest, *, began: bool) -> ProviderError:
    """Our error for one of the HTTP client's; `began`: the head of the answer had come."""
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
