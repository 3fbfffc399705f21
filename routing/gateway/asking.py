"""How the gateway reaches providers: codecs over its own connections, an answer whole or piece by piece."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from routing import calling
from routing.adapters.assembly import deltas_of
from routing.adapters.base import WireRequest
from routing.adapters.errors import make_error
from routing.adapters.rewording import again
from routing.adapters.transport import codec_for
from routing.gateway.upstream import Exchange, Ready, fetch
from routing.reaching import Caller
from routing.types import Candidate, ChatRequest, ChatResult, Delta, ProviderError

logger = logging.getLogger(__name__)

Sink = Callable[[Candidate, list[Delta]], Awaitable[None]]


def asker(sink: Sink | None = None) -> Caller:
    """Asks candidates for one call. With a `sink` every piece goes there as soon as it comes."""

    async def ask(
        candidate: Candidate, request: ChatRequest, *, first_token_seconds: float | None
    ) -> AsyncGenerator[list[Delta], None]:
        if candidate.model.provider.kind == "offline":
            async for deltas in calling.ask(candidate, request, first_token_seconds=first_token_seconds):
                if sink is not None:
                    await sink(candidate, deltas)
                yield deltas
            return
        asked, streamed, began = request, True, False
        while True:
            stream = _streamed(candidate, asked) if streamed else _in_one_piece(candidate, asked)
            try:
                async with aclosing(stream):
                    async for deltas in stream:
                        began = True
                        if sink is not None:
                            await sink(candidate, deltas)
                        yield deltas
                return
            except ProviderError as error:
                another = again(asked, error, candidate.model.provider, streamed=streamed, began=began)
                if another is None:
                    raise
                asked, streamed = another

    return ask


ask_quietly = asker()


class WholeAsker:
    """Asks for whole answers of one call. What the first candidate is to be sent can be made ready beforehand."""

    def __init__(self) -> None:
        self._prepared: tuple[Candidate, ChatRequest, WireRequest, Ready] | None = None

    def prepare(self, candidate: Candidate, request: ChatRequest) -> None:
        """Never raises: what is wrong is found when the candidate is asked."""
        if candidate.model.provider.kind == "offline":
            return
        try:
            sent = _encoded(candidate, request)
            self._prepared = candidate, request, sent, Ready.of(sent)
        except Exception:  # whatever it is, it is met again when the candidate is asked, where it is dealt with
            logger.debug("a request could not be made ready", exc_info=True)

    def __call__(self, candidate: Candidate, request: ChatRequest, *, until: float | None) -> Awaitable[ChatResult]:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is candidate and prepared[1] is request:
            return ask_whole(candidate, request, until=until, prepared=prepared[2:])
        return ask_whole(candidate, request, until=until)


def _encoded(candidate: Candidate, request: ChatRequest) -> WireRequest:
    model = candidate.model
    return codec_for(model.provider).encode_chat(
        request, model, max_output_tokens=candidate.max_output_tokens, stream=False
    )


async def ask_whole(
    candidate: Candidate,
    request: ChatRequest,
    *,
    until: float | None,
    prepared: tuple[WireRequest, Ready] | None = None,
) -> ChatResult:
    """The answer in one piece, of a candidate that is no offline model, by `until` (time.monotonic's). Raises
    ProviderError."""
    model = candidate.model
    codec = codec_for(model.provider)
    while True:
        sent, ready = prepared or (_encoded(candidate, request), None)
        prepared = None
        try:
            response = await fetch(sent, idle_seconds=model.provider.timeout_seconds, until=until, ready=ready)
            return codec.decode_chat(response, sent)
        except ProviderError as error:
            another = again(request, error, model.provider, streamed=False)
            if another is None:
                raise
            request, _ = another


async def _in_one_piece(candidate: Candidate, request: ChatRequest) -> AsyncGenerator[list[Delta], None]:
    yield deltas_of(await ask_whole(candidate, request, until=None))


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
