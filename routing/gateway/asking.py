"""How the gateway reaches providers: codecs over its own connections, an answer whole or piece by piece."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from routing import calling
from routing.adapters.errors import make_error
from routing.adapters.transport import codec_for
from routing.attempts import Caller
from routing.gateway.upstream import Exchange, fetch
from routing.types import Candidate, ChatRequest, ChatResult, Delta

Sink = Callable[[Candidate, list[Delta]], Awaitable[None]]


def asker(sink: Sink | None = None) -> Caller:
    """Asks candidates for one call. With a `sink` every piece goes there as soon as it comes."""

    async def ask(
        candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[list[Delta], None]:
        is_offline = candidate.model.provider.kind == "offline"
        stream = (
            calling.ask(candidate, request, first_token_seconds=first_token_seconds)
            if is_offline
            else _streamed(candidate, request)
        )
        async with aclosing(stream):
            async for deltas in stream:
                if sink is not None:
                    await sink(candidate, deltas)
                yield deltas

    return ask


ask_quietly = asker()


async def ask_whole(candidate: Candidate, request: ChatRequest, *, within_seconds: float | None) -> ChatResult:
    """The answer in one piece, of a candidate that is no offline model. Raises ProviderError."""
    model = candidate.model
    codec = codec_for(model.provider)
    sent = codec.encode_chat(request, model, max_output_tokens=candidate.max_output_tokens, stream=False)
    response = await fetch(sent, idle_seconds=model.provider.timeout_seconds, within_seconds=within_seconds)
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
