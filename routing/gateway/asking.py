"""How the gateway reaches providers: codecs over its own connections, an answer whole or piece by piece."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from routing import calling
from routing.adapters.answers.assembly import deltas_of
from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import refuse_other_content
from routing.adapters.sending.delivery import counted
from routing.adapters.sending.wording import Wording, worded
from routing.adapters.transport import codec_for
from routing.gateway.providers.upstream import Exchange, Ready, expect, fetch
from routing.types import Candidate, ChatRequest, ChatResult, Delta, Plan, ProviderError
from routing.walk.attempts import first_hurries
from routing.walk.reaching import Caller
from ziggie.values import replace

logger = logging.getLogger(__name__)

Sink = Callable[[Candidate, list[Delta]], Awaitable[None]]


class Preparation:
    """What the first candidate of a call is to be sent, made ready while the database holds the money. A connection is
    opened for it, too; nothing is sent before the money is held."""

    def __init__(self, request: ChatRequest, *, whole: bool) -> None:
        self._request = request
        self._whole = whole
        self._prepared: tuple[Candidate, bool, WireRequest, Ready] | None = None
        self._left = request.choices  # times that it is taken

    def prepare(self, plan: Plan) -> None:
        """Never raises: what is wrong is found when the candidate is asked."""
        candidate = plan.candidates[0]
        if plan.pattern != "single" or candidate.model.provider.kind == "offline":
            return
        streamed = not self._whole or first_hurries(plan)
        try:
            sent = _encoded(candidate, worded(self._request, candidate.model), streamed=streamed)
            ready = Ready.of(sent)
            self._prepared = candidate, streamed, sent, ready
            expect(ready.address)
        except Exception:  # whatever it is, it is met again when the candidate is asked, where it is dealt with
            logger.debug("a request could not be made ready", exc_info=True)

    def take(self, candidate: Candidate, request: ChatRequest, *, streamed: bool) -> tuple[WireRequest, Ready] | None:
        """What was made ready for this very request, once for each answer that it asks for."""
        prepared = self._prepared
        self._left -= 1
        if self._left <= 0:
            self._prepared = None
        if prepared is None or prepared[0] is not candidate or prepared[1] != streamed or request is not self._request:
            return None
        return prepared[2], prepared[3] if self._left <= 0 else replace(prepared[3])

    def ask_whole(self, candidate: Candidate, request: ChatRequest, *, until: float | None) -> Awaitable[ChatResult]:
        return ask_whole(candidate, request, until=until, prepared=self.take(candidate, request, streamed=False))


def asker(sink: Sink | None = None, preparation: Preparation | None = None) -> Caller:
    """Asks candidates for one call. With a `sink` every piece goes there as soon as it comes."""
    return partial(_ask, sink, preparation)


async def _ask(
    sink: Sink | None,
    preparation: Preparation | None,
    candidate: Candidate,
    request: ChatRequest,
    *,
    first_token_seconds: float | None,
) -> AsyncGenerator[list[Delta], None]:
    if candidate.model.provider.kind == "offline":
        async for deltas in calling.ask(candidate, request, first_token_seconds=first_token_seconds):
            if sink is not None:
                await sink(candidate, deltas)
            yield deltas
        return
    wording, began = Wording(request, candidate.model, streamed=True), False
    prepared = preparation.take(candidate, request, streamed=True) if preparation is not None else None
    while True:
        asked = wording.request
        stream = _streamed(candidate, asked, prepared) if wording.streamed else _in_one_piece(candidate, asked)
        prepared = None
        try:
            async with aclosing(stream):
                async for deltas in stream:
                    began = True
                    if sink is not None:
                        await sink(candidate, deltas)
                    yield deltas
        except ProviderError as error:
            if not wording.finds_another(error, began=began):
                raise
        else:
            wording.was_taken()
            return


def _encoded(candidate: Candidate, request: ChatRequest, *, streamed: bool) -> WireRequest:
    model = candidate.model
    return codec_for(model.provider).encode_chat(
        request, model, max_output_tokens=candidate.max_output_tokens, stream=streamed
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
    codec, wording = codec_for(model.provider), Wording(request, model, streamed=False)
    while True:
        sent, ready = prepared or (_encoded(candidate, wording.request, streamed=False), None)
        prepared = None
        try:
            response = await fetch(sent, idle_seconds=model.provider.timeout_seconds, until=until, ready=ready)
            answer = codec.decode_chat(response, sent)
        except ProviderError as error:
            if not wording.finds_another(error):
                raise
        else:
            wording.was_taken()
            return answer


async def _in_one_piece(candidate: Candidate, request: ChatRequest) -> AsyncGenerator[list[Delta], None]:
    yield deltas_of(await ask_whole(candidate, request, until=None))


async def _streamed(
    candidate: Candidate, request: ChatRequest, prepared: tuple[WireRequest, Ready] | None
) -> AsyncGenerator[list[Delta], None]:
    provider = candidate.model.provider
    codec = codec_for(provider)
    sent, ready = prepared or (_encoded(candidate, request, streamed=True), None)
    async with Exchange(sent, idle_seconds=provider.timeout_seconds, ready=ready) as exchange:
        if not 200 <= exchange.status < 300:
            raise codec.decode_error(await exchange.read(), sent)
        refuse_other_content(exchange.headers, sent)
        decoder = codec.chat_stream(sent)
        try:
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
        finally:
            counted(decoder.usage)
        await exchange.linger()
