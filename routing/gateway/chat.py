"""One chat call through the gateway: decode, open, walk, answer in the client's own API, settle.

The answer goes out as soon as it is there; the books are closed beside it. Should the process die in
between, the hold is still there and the sweep settles it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol
from uuid import UUID

from routing import envelopes, receipts, service
from routing.adapters.assembly import deltas_of
from routing.attempts import Answer
from routing.collecting import prompt_tokens
from routing.gateway import (
    anthropic_answers,
    anthropic_wire,
    openai_answers,
    openai_wire,
    responses_answers,
    responses_events,
    responses_wire,
)
from routing.gateway.asking import Preparation, asker
from routing.gateway.feed import feed
from routing.gateway.http import JSON_TYPE, ClientGone, Headers, Http, header_text
from routing.gateway.keys import Key
from routing.gateway.limits import Admission, Standing, limits
from routing.gateway.outlet import outlet
from routing.gateway.rates import anthropic_headers, openai_headers
from routing.gateway.reading import Incoming, Json, parse
from routing.gateway.streams import streams
from routing.pricing import usd
from routing.types import Candidate, ChatRequest, ChatResult, Delta, StopReason, Usage
from ziggie.errors import Forbidden, RoutingError, Unavailable, ZiggieError
from ziggie.ids import id_text
from ziggie.values import replace, value

logger = logging.getLogger(__name__)

UNBOUNDED_OUTPUT_TOKENS = 1_000  # what a call that names no limit is taken to write, until it has ended
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class StreamEncoder(Protocol):
    def deltas(self, deltas: list[Delta]) -> bytes: ...

    def end(self, stop_reason: StopReason, usage: Usage) -> bytes: ...

    def failure(self, error: ZiggieError) -> bytes: ...


@value
class Dialect:
    """One wire API."""

    decode: Callable[[Json, Mapping[str, str], str], Incoming]
    encode: Callable[[ChatResult, str, str, Incoming], bytes]
    streaming: Callable[[str, str, Incoming, int], StreamEncoder]
    error: Callable[[ZiggieError, int, str], bytes]
    request_id_header: bytes
    rates: Callable[[Standing], Headers]

    def request_id(self, request_id: str) -> Headers:
        """The id under our name and under the one that the API's clients look for."""
        encoded = request_id.encode()
        return [(b"x-ziggie-request-id", encoded), (self.request_id_header, encoded)]


OPENAI = Dialect(
    lambda body, hints, key_id: openai_wire.decode_chat(body, hints, api_key_id=key_id),
    lambda result, call_id, model, _: openai_answers.encode_result(result, call_id=call_id, model=model),
    lambda call_id, model, incoming, _: openai_answers.StreamEncoder(
        call_id=call_id, model=model, include_usage=incoming.include_usage
    ),
    openai_answers.encode_error,
    b"x-request-id",
    openai_headers,
)
RESPONSES = Dialect(
    lambda body, hints, key_id: responses_wire.decode_response(body, hints, api_key_id=key_id),
    lambda result, call_id, model, incoming: responses_answers.encode_result(
        result, call_id=call_id, model=model, incoming=incoming
    ),
    lambda call_id, model, incoming, _: responses_events.StreamEncoder(call_id=call_id, model=model, incoming=incoming),
    openai_answers.encode_error,
    b"x-request-id",
    openai_headers,
)
ANTHROPIC = Dialect(
    lambda body, hints, key_id: anthropic_wire.decode_messages(body, hints, api_key_id=key_id),
    lambda result, call_id, model, _: anthropic_answers.encode_result(result, call_id=call_id, model=model),
    lambda call_id, model, _, prompt: anthropic_answers.StreamEncoder(
        call_id=call_id, model=model, input_tokens=prompt
    ),
    anthropic_answers.encode_error,
    b"request-id",
    anthropic_headers,
)

_settling: set[asyncio.Future[Any]] = set()


async def chat(http: Http, dialect: Dialect, key: Key) -> None:
    """Answers one request. Raises ZiggieError only while nothing has been sent."""
    incoming = dialect.decode(parse(await http.body()), http.hints, key.id)
    check_model(incoming.request.model, key)
    windows = limits()
    admission = windows.at_once(key) or await windows.admit(key, _estimate(incoming.request, key))
    if admission.standing is not None:
        http.rates = dialect.rates(admission.standing)
    try:
        if incoming.request.run_id is not None:
            incoming = await _drawing(incoming, incoming.request.run_id, key)
        if not incoming.stream:
            await _answer_whole(http, dialect, key, incoming, admission)
        else:
            async with streams().one_of(key):
                await _answer_streaming(http, dialect, key, incoming, admission)
    finally:
        windows.correct(key, admission)


def _estimate(request: ChatRequest, key: Key) -> int:
    """Tokens to count until it is known what the call used: looked for only where a limit needs it."""
    if key.tokens_per_minute is None:
        return 0
    return prompt_tokens(request) + (request.max_output_tokens or UNBOUNDED_OUTPUT_TOKENS)


async def _drawing(incoming: Incoming, run_id: str, key: Key) -> Incoming:
    """The request of a run, which draws on what the run holds."""
    envelope_id = await envelope_of(run_id, key)
    return replace(incoming, request=replace(incoming.request, envelope_id=envelope_id))


def check_model(name: str, key: Key) -> None:
    """Raises Forbidden for a model asked for by a slug that the key may not use."""
    if key.allowed_models and name not in ("", "auto") and name not in key.allowed_models:
        raise Forbidden("this API key may not use that model")


async def envelope_of(run_id: str, key: Key) -> UUID | None:
    """The envelope that a run of this key holds; None for a run without one, whose calls the budgets pay.
    Raises Forbidden for a run of somebody else."""
    try:
        envelope = await envelopes.look(UUID(run_id))
    except ValueError:  # any word may name a run
        return None
    if envelope is None:
        return None
    if envelope.api_key_id != key.id:
        raise Forbidden("this API key may not draw on that run's budget")
    return envelope.id


async def _answer_whole(http: Http, dialect: Dialect, key: Key, incoming: Incoming, admission: Admission) -> None:
    preparation = Preparation(incoming.request, whole=True)
    call = await service.open_call(
        incoming.request,
        caller=asker(preparation=preparation),
        whole=preparation.ask_whole,
        meanwhile=preparation.prepare,
        by_package=False,
        allowed_models=key.allowed_models,
    )
    answer = await _walked(http, call, admission)
    try:
        name = id_text(call.id)
        body = dialect.encode(answer.result, name, answer.candidate.model.slug, incoming)
        cost = usd(sum([attempt.cost_microusd for attempt in call.walk.attempts])).encode()
        headers = call_headers(call, name, answer.candidate, dialect)
        await http.respond(200, body, [JSON_TYPE, *headers, (b"x-ziggie-cost-usd", cost)])
    finally:
        outlet().then(partial(_close, call, answer, None))


async def _answer_streaming(http: Http, dialect: Dialect, key: Key, incoming: Incoming, admission: Admission) -> None:
    stream = _Stream(http, dialect, incoming)
    preparation = Preparation(incoming.request, whole=False)
    call = await service.open_call(
        incoming.request,
        caller=asker(stream.take, preparation),
        meanwhile=preparation.prepare,
        by_package=False,
        allowed_models=key.allowed_models,
    )
    stream.call = call
    call.walk.kept_waiting = lambda: http.kept_waiting
    try:
        answer = await _walked(http, call, admission)
        try:
            await stream.end(answer)
        finally:
            outlet().then(partial(_close, call, answer, None))
    except ZiggieError as error:
        if not http.started:
            raise
        await stream.fail(error)
    finally:
        del stream.call  # it asks by this stream: the two would keep all that was said until the collector comes


class _Stream:
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


async def _walked(http: Http, call: service.OpenCall, admission: Admission) -> Answer:
    """Walks to an answer. Raises the reason why there is none once the books are closed. A client that goes away ends
    the walk.

    No error is kept in a variable beyond its clause: it refers to the frames that it went through, and they would
    refer to it, so that the whole call stayed in memory until the collector comes.
    """
    http.watch()
    try:
        answer = await service.answer(call)
    except asyncio.CancelledError as error:
        _close(call, None, error)
        if not http.gone:
            raise
        http.let_task_go_on()
        raise ClientGone from None
    except Exception as error:  # whatever ended the walk, the money is settled
        _close(call, None, error)
        raise _explained(error, call) from None
    finally:
        http.stop_watching()
        if admission.counts_tokens:
            admission.used = _used(call)
    if answer is None:
        raise _unanswered(call)
    return answer


def _unanswered(call: service.OpenCall) -> RoutingError:
    """Why a walk that is over has no answer, once its books are closed."""
    why = service.why_no_answer(call)
    _close(call, None, why)
    return why


def _used(call: service.OpenCall) -> int:
    """Tokens, in all attempts."""
    return sum([(a.usage.input_tokens or 0) + (a.usage.output_tokens or 0) for a in call.walk.attempts])


def _close(call: service.OpenCall, answer: Answer | None, failure: BaseException | None) -> None:
    """Closes the books and has them written beside the answer: nobody waits for them."""
    try:
        books = service.close_books(call, answer, failure)
        settling = service.settle_soon(call, books)
    except Exception:  # the event loop would log the call with all that was said in it
        logger.exception("the books of call %s could not be closed; the sweep will settle it", call.id)
    else:
        _settling.add(settling)
        settling.add_done_callback(partial(_tell, receipts.outline(books)))


def _tell(call: receipts.Outline, settling: asyncio.Future[bool]) -> None:
    """Nobody waits for a settlement: the log is where its failure is seen."""
    _settling.discard(settling)
    error = None if settling.cancelled() else settling.exception()
    if isinstance(error, Unavailable):
        logger.warning("call %s could not be settled now; the sweep will settle it", call.call_id)
    elif error is not None:
        logger.error("call %s could not be settled; the sweep will settle it", call.call_id, exc_info=error)
    elif not settling.cancelled() and settling.result():
        feed().tell(call)


def beside(work: Coroutine[Any, Any, None]) -> None:
    """Lets work run to its end beside the caller."""
    task = asyncio.get_running_loop().create_task(work)
    _settling.add(task)
    task.add_done_callback(_settling.discard)


async def settled() -> None:
    """Returns once every call that has ended is settled: for a server that stops."""
    await asyncio.sleep(0)  # the books of the last answer are closed after it
    while _settling:
        await asyncio.wait(_settling)


def _explained(failure: Exception, call: service.OpenCall) -> ZiggieError:
    if isinstance(failure, ZiggieError):
        return service.name_call(failure, call) if isinstance(failure, RoutingError) else failure
    logger.error("call %s failed unexpectedly", call.id, exc_info=failure)
    error = RoutingError("the gateway failed")
    error.http_status, error.code = 500, "internal"
    return service.name_call(error, call)


def call_headers(call: service.OpenCall, name: str, candidate: Candidate, dialect: Dialect) -> Headers:
    """`name` is the call's id."""
    model = candidate.model
    attempts = max(len(call.walk.attempts), 1)
    return [
        *dialect.request_id(name),
        *route_headers(model.slug, model.provider.slug, str(model.source), call.plan.rule),
        (b"x-ziggie-attempts", b"%d" % attempts),
        (b"x-ziggie-cache", call.turn.state.encode()),
    ]


@lru_cache(maxsize=4096)
def route_headers(model: str, provider: str, source: str, rule: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-ziggie-model", header_text(model)),
        (b"x-ziggie-provider", header_text(provider)),
        (b"x-ziggie-source", header_text(source)),
        (b"x-ziggie-rule", header_text(rule)),
    )
