"""Claude's way out: the anthropic package moves the bytes, on our HTTP client and without its own retries.

The codec still writes the body and reads the answer, so the package never parses anything.
"""

import asyncio
import importlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from routing.adapters.base import WireRequest

if TYPE_CHECKING:
    # Loading the package takes a second and 47 MB: only a process that calls Claude pays for it.
    from anthropic import AsyncAnthropic

_PATH = "/v1/messages"
# parameters that `messages.create` takes by name; the others (temperature, top_p, …) go as extra_body
_NAMED = frozenset(
    {"model", "messages", "max_tokens", "stream", "system", "tools", "tool_choice", "stop_sequences", "thinking"}
    | {"output_config", "metadata", "service_tier", "cache_control", "container", "inference_geo"}
)
_KEPT_CLIENTS = 32

_loaded: dict[str, Any] = {}  # the package, once it is there whole

Clients = OrderedDict[tuple[str, str], "AsyncAnthropic"]


def speaks(sent: WireRequest) -> bool:
    """True for a request that the package has a method for. Without a key it would look for one of its own."""
    return sent.method == "POST" and sent.url.endswith(_PATH) and sent.body is not None and sent.secret != ""


def is_loaded() -> bool:
    return bool(_loaded)


async def load() -> Any:
    """The package. Its first loading takes a second, ten on a busy machine: not on the event loop, where every other
    call would wait for it, and before any time of a call counts (calling.py)."""
    if not _loaded:
        _loaded["anthropic"] = await asyncio.to_thread(importlib.import_module, "anthropic")
    return _loaded["anthropic"]


@asynccontextmanager
async def open_messages(
    sent: WireRequest, http: httpx2.AsyncClient, clients: Clients, limits: httpx2.Timeout
) -> AsyncIterator[httpx2.Response]:
    """The open response to `POST /v1/messages`, whatever its status. Raises httpx2's errors."""
    package = await load()
    body: Mapping[str, Any] = sent.body or {}
    client = _client(sent, http, clients)
    call = client.messages.with_streaming_response.create(
        **{key: value for key, value in body.items() if key in _NAMED},
        extra_body={key: value for key, value in body.items() if key not in _NAMED},
        extra_headers={name: value for name, value in sent.headers.items() if name != "x-api-key"},
        timeout=limits,
    )
    try:
        async with call as response:
            yield response.http_response
            return
    except package.APIStatusError as error:
        failed = error.response
    except package.APIConnectionError as error:
        raise error.__cause__ or httpx2.ConnectError("no connection") from None
    yield failed


def _client(sent: WireRequest, http: httpx2.AsyncClient, clients: Clients) -> "AsyncAnthropic":
    """One client an address and key; the connections are shared by all of them."""
    from anthropic import AsyncAnthropic

    key = (sent.url.removesuffix(_PATH), sent.secret)
    client = clients.get(key)
    if client is None:
        client = AsyncAnthropic(api_key=sent.secret, base_url=key[0], http_client=http, max_retries=0)
        clients[key] = client
        if len(clients) > _KEPT_CLIENTS:
            clients.popitem(last=False)
    clients.move_to_end(key)
    return client
