"""Moves the bytes between codecs and providers: a pooled HTTP client for each event loop, deadlines, size limits.

Nothing is retried here and no redirect is followed (it would carry the key elsewhere).
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from weakref import WeakKeyDictionary

import httpx2

from routing.adapters import CODECS
from routing.adapters.answers.assembly import deltas_of
from routing.adapters.answers.decoding import MAX_BODY_BYTES
from routing.adapters.anthropic import claude
from routing.adapters.base import Codec, ProviderStatus, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.errors import redact, refuse_other_content
from routing.adapters.reading.wire import dumps
from routing.adapters.sending.deadlines import Deadlines, Timeouts
from routing.adapters.sending.delivery import Delivery, counted, under_way
from routing.adapters.sending.failures import translated
from routing.adapters.sending.names import give_threads_to_names
from routing.adapters.sending.trust import ssl_context
from routing.adapters.sending.wording import Wording
from routing.types import (
    ChatRequest,
    Delta,
    ModelSpec,
    ProviderError,
    ProviderSpec,
    UnsupportedByProvider,
)

MAX_ERROR_BYTES = 256 * 1024
MAX_STREAM_BYTES = 256 * 1024 * 1024
CONNECT_SECONDS = 3.0
STATUS_SECONDS = 5.0
# shorter than any server's own (uvicorn: 5 s), so that a request seldom meets a connection being closed
_KEEPALIVE_SECONDS = 4.0
_LINGER_SECONDS = 0.1


@cache
def _made(codec: type[Codec]) -> Codec:
    return codec()


def codec_for(provider: ProviderSpec) -> Codec:
    """Raises UnsupportedByProvider for a kind that has no codec."""
    codec = CODECS.get(provider.kind)
    if codec is None:
        raise UnsupportedByProvider(f"{provider.kind!r} is not a kind of provider")
    return _made(codec)


async def stream(
    provider: ProviderSpec,
    model: ModelSpec,
    request: ChatRequest,
    *,
    max_output_tokens: int | None,
    timeouts: Timeouts,
) -> AsyncGenerator[Delta, None]:
    """The pieces of one answer as they come. Wrap it in `contextlib.aclosing` where you may leave it early: closing
    it closes the connection, which is how a provider learns to stop.

    Raises ProviderError or UnsupportedByProvider; a ProviderError bears the usage known so far.
    """
    wording, began = Wording(request, model, streamed=True), False
    ask = partial(_ask, provider, model, max_output_tokens=max_output_tokens, timeouts=timeouts)
    while True:
        try:
            async with contextlib.aclosing(ask(wording.request, streamed=wording.streamed)) as pieces:
                async for delta in pieces:
                    began = True
                    yield delta
        except ProviderError as error:
            if not wording.finds_another(error, began=began):
                raise
        else:
            wording.was_taken()
            return


async def _ask(
    provider: ProviderSpec,
    model: ModelSpec,
    request: ChatRequest,
    *,
    streamed: bool,
    max_output_tokens: int | None,
    timeouts: Timeouts,
) -> AsyncGenerator[Delta, None]:
    codec = codec_for(provider)
    sent = codec.encode_chat(request, model, max_output_tokens=max_output_tokens, stream=streamed)
    if not streamed:
        response = await fetch(provider, sent, timeouts)
        with _redacted(sent):
            answer = codec.decode_chat(response, sent)
        for delta in deltas_of(answer):
            yield delta
        return
    deadlines = Deadlines(provider, sent, timeouts, streamed=True)
    with _redacted(sent):
        async with AsyncExitStack() as stack:
            exchange = await deadlines.wait(stack.enter_async_context(_open(provider, sent, timeouts)))
            if not exchange.ok:
                body = await _read(exchange, deadlines, MAX_ERROR_BYTES)
                raise codec.decode_error(exchange.response(body), sent)
            async for delta in _deltas(codec.chat_stream(sent), exchange, deadlines):
                yield delta


async def status(provider: ProviderSpec) -> ProviderStatus:
    """A cheap check that the provider serves, within 5 seconds. Raises ProviderError if it does not."""
    codec = codec_for(provider)
    timeouts = Timeouts(total_seconds=min(STATUS_SECONDS, provider.timeout_seconds), connect_seconds=2.0)
    responses: list[WireResponse | None] = []
    for sent in codec.encode_status(provider):
        with _redacted(sent):
            try:
                response = await fetch(provider, sent, timeouts)
                if not 200 <= response.status < 300:
                    raise codec.decode_error(response, sent)
                responses.append(response)
            except ProviderError:
                if not responses:
                    raise
                responses.append(None)
    return codec.decode_status(tuple(responses))


# --- the client --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pool:
    http: httpx2.AsyncClient
    claude_clients: claude.Clients = field(default_factory=claude.Clients)


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, _Pool]] = WeakKeyDictionary()
_TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _pool(url: str) -> _Pool:
    """That of https, or the other one: certificates that cannot be read are no concern of a server that has none.
    Raises ProviderError."""
    tls = url.lower().startswith("https:")
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    pool = pools.get(tls)
    if pool is None or pool.http.is_closed:
        give_threads_to_names()
        client = httpx2.AsyncClient(
            verify=ssl_context() if tls else _TRUSTS_NOBODY,
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(max_keepalive_connections=200, keepalive_expiry=_KEEPALIVE_SECONDS),
            headers={"user-agent": "ziggie", "accept-encoding": "identity"},
            event_hooks={"request": [_watch]},
        )
        pool = pools[tls] = _Pool(client)
    return pool


async def _watch(request: httpx2.Request) -> None:
    """The client says when it has a connection and begins to write to it."""
    delivery = under_way()
    if delivery is not None:
        request.extensions["trace"] = partial(_mark, delivery)


async def _mark(delivery: Delivery, event: str, _: Mapping[str, object]) -> None:
    if event.endswith("send_request_headers.started"):
        delivery.has_begun = True


def http_client(url: str) -> httpx2.AsyncClient:
    """This event loop's client for such a URL, for a package that speaks to a provider in its own way."""
    return _pool(url).http


async def close() -> None:
    """Closes this event loop's connections; the next call opens new ones."""
    for pool in _pools.pop(asyncio.get_running_loop(), {}).values():
        await pool.http.aclose()


# --- one exchange ------------------------------------------------------------------------------------


class _Exchange:
    """An open response."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self.ok = response.is_success

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.aiter_bytes()

    def response(self, body: bytes) -> WireResponse:
        return WireResponse(self.status, self.headers, body)


@asynccontextmanager
async def _open(provider: ProviderSpec, sent: WireRequest, timeouts: Timeouts) -> AsyncIterator[_Exchange]:
    """Sends the request and gives the response once its head is there. Raises ProviderError."""
    pool = _pool(sent.url)
    # reading is bounded by Deadlines, which know what is being waited for
    patience = timeouts.connect_seconds or CONNECT_SECONDS
    limits = httpx2.Timeout(None, connect=patience, pool=patience)
    opened: AbstractAsyncContextManager[httpx2.Response]
    if provider.kind == "anthropic" and claude.speaks(sent):
        opened = claude.open_messages(sent, pool.http, pool.claude_clients, limits)
    else:
        opened = pool.http.stream(
            sent.method,
            sent.url,
            headers={**sent.headers, "content-type": "application/json"} if sent.body is not None else sent.headers,
            content=dumps(sent.body) if sent.body is not None else None,
            timeout=limits,
        )
    began = False
    try:
        async with opened as response:
            began = True
            yield _Exchange(response)
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
        raise translated(error, sent, began=began) from None


async def fetch(provider: ProviderSpec, sent: WireRequest, timeouts: Timeouts) -> WireResponse:
    """A complete response, within the total deadline and the size limit."""
    deadlines = Deadlines(provider, sent, timeouts, streamed=False)
    async with AsyncExitStack() as stack:
        exchange = await deadlines.wait(stack.enter_async_context(_open(provider, sent, timeouts)))
        if exchange.ok:
            refuse_other_content(exchange.headers, sent)
        return exchange.response(await _read(exchange, deadlines, MAX_BODY_BYTES if exchange.ok else MAX_ERROR_BYTES))


async def _read(exchange: _Exchange, deadlines: Deadlines, limit: int) -> bytes:
    """The body. Of an error only the beginning is read; an answer longer than the limit is refused."""
    body = bytearray()
    chunks = exchange.chunks()
    while True:
        try:
            chunk = await deadlines.wait(anext(chunks, None))
        except httpx2.HTTPError:
            if exchange.ok:
                raise
            break  # the status says enough
        if chunk is None:
            break
        body += chunk
        if len(body) > limit:
            if not exchange.ok:
                break
            raise ProviderError("protocol", f"the answer is longer than {limit} bytes", retryable=False)
    return bytes(body[:limit])


async def _deltas(decoder: StreamDecoder, exchange: _Exchange, deadlines: Deadlines) -> AsyncIterator[Delta]:
    refuse_other_content(exchange.headers, deadlines.sent)
    chunks = exchange.chunks()
    size = 0
    try:
        while not decoder.done:
            try:
                chunk = await deadlines.wait(anext(chunks, None))
            except httpx2.TransportError as error:
                # what had come is the best that is known of what the call has cost
                broken = translated(error, deadlines.sent, began=True)
                broken.usage = decoder.usage
                raise broken from None
            if chunk is None:
                break
            size += len(chunk)
            if size > MAX_STREAM_BYTES:
                raise ProviderError(
                    "protocol", "the stream is longer than 256 MB", retryable=False, usage=decoder.usage
                )
            for delta in decoder.feed(chunk):
                if delta.is_written:
                    deadlines.output_began()
                yield delta
            deadlines.usage = decoder.usage
        for delta in decoder.finish():
            yield delta
    finally:
        counted(decoder.usage)
    await _linger(chunks)


async def _linger(chunks: AsyncIterator[bytes]) -> None:
    """Reads the few bytes after the end of an answer, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, httpx2.TransportError):
        async with asyncio.timeout(_LINGER_SECONDS):
            await anext(chunks, None)


@contextlib.contextmanager
def _redacted(sent: WireRequest) -> Iterator[None]:
    """No error leaves with the key in its text, whoever wrote that text."""
    try:
        yield
    except ProviderError as error:
        error.message = redact(error.message, sent)
        error.args = (error.message,)
        raise
