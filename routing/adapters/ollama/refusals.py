"""What Ollama reports, and whom it concerns. A server of one's own passes some models on to Ollama's cloud, where a
sign-in, a plan or a place may be missing: that says nothing of the models that it serves itself."""

from urllib.parse import urlsplit

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.errors import error_from_event, error_from_response, make_error
from routing.adapters.reading.wire import Json
from routing.types import ProviderError, Usage

_PASSED_ON = (":cloud", "-cloud")
_CLOUD = "ollama.com"


def refused(response: WireResponse, sent: WireRequest) -> ProviderError:
    """The error that a non-2xx answer means."""
    error = error_from_response(response, sent)
    if response.status == 401 and b"signin_url" in response.body:
        error = make_error("auth", f"{error.message}: run `ollama signin` where this server runs", sent, status=401)
    return _of_whom(error, sent)


def reported(answer: Json, sent: WireRequest, usage: Usage | None = None) -> ProviderError:
    """The error that a 200 holds."""
    return _of_whom(error_from_event(answer, sent, usage=usage), sent)


def _of_whom(error: ProviderError, sent: WireRequest) -> ProviderError:
    name, host = str((sent.body or {}).get("model", "")), urlsplit(sent.url).hostname or ""
    if name.endswith(_PASSED_ON) and host != _CLOUD and not host.endswith(f".{_CLOUD}"):
        error.one_model = True
    return error
