"""How the gateway reaches providers: codecs over its own connections, one answer at a time."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from routing import calling
from routing.adapters.assembly import deltas_of
from routing.adapters.errors import make_error
from routing.adapters.rewording import again
from routing.adapters.transport import codec_for
from routing.gateway.upstream import Exchange
from routing.types import Candidate, ChatRequest, ChatResult, Delta, ProviderError

Sink = Callable[[Candidate, list[Delta]], Awaitable[None]]


class Asker:
    """Asks candidates for one call. With a `sink` every piece goes there as soon as it comes; without one
    an answer is fetched whole, unless somebody waits for its first token."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink

    async def __call__(
        self, candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[Delta | ChatResult, None]:
        provider = candidate.model.provider
        if self._sink is None and first_token_seconds is None and provider.kind != "offline":
            yield await _whole_in_some_way(candidate, request)
            return
        async for deltas in _pieces(candidate, request, first_token_seconds):
            if self._sink is not None:
                await self._sink(candidate, deltas)
            for delta in deltas:
                yield delta


async def _whole_in_some_way(candidate: Candidate, request: ChatRequest) -> ChatResult:
    while True:
        try:
            return await _whole(candidate, request)
        except ProviderError as error:
            other = again(request, error, candidate.model.provider, streamed=False)
            if other is None:
                raise
            request = other[0]


async def _pieces(
    candidate: Candidate, request: ChatRequest, first_token_seconds: float | None
) -> AsyncGenerator[list[Delta], None]:
    provider = candidate.model.provider
    if provider.kind == "offline":
        async for delta in calling.ask(candidate, request, first_token_seconds=first_token_seconds):
            yield [delta]
        return
    asked, streamed, began = request, True, False
    while True:
        try:
            async for deltas in _streamed(candidate, asked) if streamed else _in_one_piece(candidate, asked):
                began = True
                yield deltas
            return
        except ProviderError as error:
            other = None if began else again(asked, error, provider, streamed=streamed)
            if other is None:
                raise
            asked, streamed = other


async def _in_one_piece(candidate: Candidate, request: ChatRequest) -> AsyncGenerator[list[Delta], None]:
    yield deltas_of(await _whole(candidate, request))


async def _whole(candidate: Candidate, request: ChatRequest) -> ChatResult:
    model = candidate.model
    codec = codec_for(model.provider)
    sent = codec.encode_chat(request, model, max_output_tokens=candidate.max_output_tokens, stream=False)
    async with Exchange(sent, streaming=False, idle_seconds=model.provider.timeout_seconds) as exchange:
        response = await exchange.read()
    return codec.decode_chat(response, sent)


async def _streamed(candidate: Candidate, request: ChatRequest) -> AsyncGenerator[list[Delta], None]:
    model = candidate.model
    codec = codec_for(model.provider)
    sent = codec.encode_chat(request, model, max_output_tokens=candidate.max_output_tokens, stream=True)
    async with Exchange(sent, streaming=True, idle_seconds=model.provider.timeout_seconds) as exchange:
        if not 200 <= exchange.status < 300:
            raise codec.decode_error(await exchange.read(), sent)
        kind = exchange.headers.get("content-type", "")
        if kind.startswith("text/html"):
            raise make_error("protocol", "the answer is text/html, not JSON", sent)
        decoder = codec.chat_stream(sent)
        while not decoder.done:
            chunk = await exchange.next_chunk(usage=decoder.usage)
            if not chunk:
                break
            deltas = decoder.feed(chunk)
            if deltas:
                yield deltas
        ending = decoder.finish()
        if ending:
            yield ending
        await exchange.linger()
