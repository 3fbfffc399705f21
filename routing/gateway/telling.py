"""A chat's answer on its way to a client that wants it in pieces."""

import asyncio
from functools import partial
from typing import cast

from routing import service
from routing.adapters.answers.assembly import deltas_of
from routing.gateway.asking import Preparation, asker
from routing.gateway.dialects import Dialect, StreamEncoder, call_headers
from routing.gateway.exchange.http import Http
from routing.gateway.wire import openai_answers
from routing.gateway.wire.reading import Incoming
from routing.types import Candidate, Delta
from routing.walk.attempts import Answer
from routing.walk.choices import Several
from ziggie.errors import ZiggieError

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Stream:
    """The answer on its way to the client. Headers go with the first piece: until then another model may serve.
    An answer of several calls, or one that was kept, goes out when it is whole."""

    def __init__(self, http: Http, dialect: Dialect, incoming: Incoming) -> None:
        self.call: service.OpenCall
        self._http = http
        self._dialect = dialect
        self._incoming = incoming
        self._encoder: StreamEncoder | None = None
        self._candidate: Candidate | None = None

    async def take(self, candidate: Candidate, deltas: list[Delta]) -> None:
        if service.is_live(self.call):
            await self._send(candidate, deltas)

    async def _send(self, candidate: Candidate, deltas: list[Delta]) -> None:
        encoder = self._encoder_for(candidate)
        piece = encoder.deltas(deltas)
        if piece:
            await self._begin(candidate)
            await self._http.send_piece(piece)

    async def end(self, answer: Answer) -> None:
        if not self._http.started:
            await self._send(answer.candidate, deltas_of(answer.result))
        encoder = self._encoder_for(answer.candidate)
        await self._begin(answer.candidate)
        await self._http.send_piece(encoder.end(answer.result.stop_reason, answer.result.usage), last=True)

    async def fail(self, error: ZiggieError) -> None:
        assert self._encoder is not None
        await self._http.send_piece(self._encoder.failure(error), last=True)

    def _encoder_for(self, candidate: Candidate) -> StreamEncoder:
        if self._encoder is None or candidate is not self._candidate:
            self._candidate = candidate
            self._encoder = self._dialect.streaming(
                str(self.call.id), candidate.model.slug, self._incoming, self.call.demand.input_likely
            )
        return self._encoder

    async def _begin(self, candidate: Candidate) -> None:
        if not self._http.started:
            self.call.walk.committed = True
            headers = call_headers(self.call, str(self.call.id), candidate, self._dialect)
            await self._http.start_stream([*STREAM_HEADERS, *headers])


class SeveralStream(Stream):
    """Several answers, of OpenAI's API: pieces of each go out as they come, under its index."""

    _encoders: tuple[openai_answers.StreamEncoder, ...] = ()
    _choices_of: Candidate | None = None

    def __init__(self, http: Http, dialect: Dialect, incoming: Incoming) -> None:
        super().__init__(http, dialect, incoming)
        self._sending = asyncio.Lock()  # a client that reads slowly is waited for by one of them at a time

    def listen(self, walk: Several, preparation: Preparation) -> None:
        """Neither callers nor choices know each other: they would keep all that is said until the collector comes."""
        callers = [asker(partial(self._take_choice, index), preparation) for index in range(len(walk.choices))]
        walk.listen(callers, lambda: self._http.kept_waiting)

    async def _take_choice(self, index: int, candidate: Candidate, deltas: list[Delta]) -> None:
        choice = cast("Several", self.call.walk).choices[index]
        if choice.signs.given_up and not self.call.walk.committed:
            return  # another answer cannot be had of it: while nothing has gone out, another model may serve
        encoders = self._encoders_for(candidate)
        piece = encoders[index].deltas(deltas)
        if piece:
            choice.committed = True
            # All begin with the first of them, in their order: there are clients that count them as they come.
            before, after = [other.open() for other in encoders[:index]], [other.open() for other in encoders[index:]]
            piece = b"".join([*before, piece, *after])
            async with self._sending:
                await self._begin(candidate)
                await self._http.send_piece(piece)

    async def end(self, answer: Answer) -> None:
        encoders, answers, pieces = self._encoders_for(answer.candidate), (answer, *answer.others), []
        told = [choice.committed for choice in cast("Several", self.call.walk).choices]
        pieces += [encoder.open() for encoder in encoders]
        for encoder, one, is_told in zip(encoders, answers, told, strict=True):
            if not is_told:
                pieces.append(encoder.deltas(deltas_of(one.result)))
            pieces.append(encoder.last(one.result.stop_reason))
        await self._begin(answer.candidate)
        closing = encoders[0].close(openai_answers.usage_of([one.result for one in answers]))
        await self._http.send_piece(b"".join([*pieces, closing]), last=True)

    async def fail(self, error: ZiggieError) -> None:
        await self._http.send_piece(self._encoders[0].failure(error), last=True)

    def _encoders_for(self, candidate: Candidate) -> tuple[openai_answers.StreamEncoder, ...]:
        if candidate is not self._choices_of:
            self._choices_of = candidate
            call_id, model = str(self.call.id), candidate.model.slug
            self._encoders = tuple(
                openai_answers.StreamEncoder(
                    call_id=call_id, model=model, include_usage=self._incoming.include_usage, index=index
                )
                for index in range(self.call.request.choices)
            )
        return self._encoders
