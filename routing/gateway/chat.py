"""One chat call through the gateway: decode, open, walk, answer in the client's own API, settle.

The answer goes out as soon as it is there; the books are closed beside it. Should the process die in
between, the hold is still there and the sweep settles it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, cast
from uuid import UUID

from routing import service
from routing.configuration import snapshot
from routing.gateway.access.crowd import crowd
from routing.gateway.access.keys import Key
from routing.gateway.access.limits import Admission, limits
from routing.gateway.access.sharing import AT_ONCE, Sharing
from routing.gateway.access.streams import streams
from routing.gateway.asking import Preparation, asker
from routing.gateway.dialects import Dialect, call_headers
from routing.gateway.exchange.http import JSON_TYPE, MAX_BODY_BYTES, ClientGone, Http
from routing.gateway.exchange.outlet import outlet
from routing.gateway.feed import feed
from routing.gateway.telling import SeveralStream, Stream
from routing.gateway.wire.reading import Incoming, parse
from routing.money import envelopes
from routing.planning.pricing import usd
from routing.records import receipts
from routing.types import ChatRequest
from routing.walk.attempts import Answer
from routing.walk.choices import Several
from routing.walk.collecting import most_read, prompt_tokens
from ziggie.errors import BudgetExceeded, Forbidden, RoutingError, TooLarge, Unavailable, ZiggieError
from ziggie.ids import id_text
from ziggie.values import replace

logger = logging.getLogger(__name__)

UNBOUNDED_OUTPUT_TOKENS = 1_000  # what a call that names no limit is taken to write, until it has ended
MAX_SENT_BYTES = 4 * MAX_BODY_BYTES  # of one request, which goes to its provider once for each answer

_settling: set[asyncio.Future[Any]] = set()


async def chat(http: Http, dialect: Dialect, key: Key) -> None:
    """Answers one request. Raises ZiggieError only while nothing has been sent."""
    body = await http.body()
    incoming = dialect.decode(parse(body), http.hints, key.id)
    if incoming.request.choices != 1:
        _check_copies(incoming.request.choices, len(body))
    del body  # it may be large, and the call long
    await check_model(incoming.request.model, key)
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


def _check_copies(choices: int, size: int) -> None:
    """Raises TooLarge for a request that would go out too often for its size."""
    if choices * size > MAX_SENT_BYTES:
        millions = MAX_SENT_BYTES // 2**20
        raise TooLarge(f"n: {choices} answers to a body of {size} bytes are more than {millions} MB to send")


def _estimate(request: ChatRequest, key: Key) -> int:
    """Tokens to count until it is known what the call used: looked for only where a limit needs it."""
    if key.tokens_per_minute is None:
        return 0
    each = prompt_tokens(request) + (request.max_output_tokens or UNBOUNDED_OUTPUT_TOKENS)
    return each * request.choices


async def _drawing(incoming: Incoming, run_id: str, key: Key) -> Incoming:
    """The request of a run, which draws on what the run holds."""
    envelope_id = await envelope_of(run_id, key)
    return replace(incoming, request=replace(incoming.request, envelope_id=envelope_id))


async def check_model(name: str, key: Key) -> None:
    """Raises Forbidden where the key may use no model of that name: a slug, a wire name or an alias."""
    if not key.allowed_models or name in ("", "auto") or name in key.allowed_models:
        return
    configuration = await snapshot.acurrent()
    named = () if name in configuration.models else configuration.by_name.get(name, ())
    if not any(model.slug in key.allowed_models for model in named):
        raise Forbidden("this API key may not use that model")


async def envelope_of(run_id: str, key: Key) -> UUID | None:
    """The envelope that a run of this key holds; None for a run without one, or that has not begun, whose calls the
    budgets pay. Raises Forbidden for a run of somebody else, BudgetExceeded for one that is over."""
    try:
        envelope = await envelopes.look(UUID(run_id))
    except ValueError:  # any word may name a run
        return None
    if envelope is None:
        return None
    if envelope.api_key_id != key.id:
        raise Forbidden("this API key may not draw on that run's budget")
    if envelope.is_to_come:
        return None
    if not envelope.is_open:
        raise BudgetExceeded(f"the budget {envelope.name} is closed")
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
        body = dialect.encode(answer, name, answer.candidate.model.slug, incoming)
        cost = usd(sum([attempt.cost_microusd for attempt in call.walk.attempts])).encode()
        headers = call_headers(call, name, answer.candidate, dialect)
        await http.respond(200, body, [JSON_TYPE, *headers, (b"x-ziggie-cost-usd", cost)])
    finally:
        outlet().then(partial(_close, call, answer, None))


async def _answer_streaming(http: Http, dialect: Dialect, key: Key, incoming: Incoming, admission: Admission) -> None:
    kind = Stream if incoming.request.choices == 1 else SeveralStream
    stream = kind(http, dialect, incoming)
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
    if isinstance(stream, SeveralStream):
        stream.listen(cast("Several", call.walk), preparation)
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


async def _walked(http: Http, call: service.OpenCall, admission: Admission) -> Answer:
    """Walks to an answer. Raises the reason why there is none once the books are closed. A client that goes away ends
    the walk.

    No error is kept in a variable beyond its clause: it refers to the frames that it went through, and they would
    refer to it, so that the whole call stayed in memory until the collector comes.
    """
    http.watch()
    if call.request.choices != 1 or call.plan.pattern in AT_ONCE:
        call.walk.observer = Sharing(call.walk.observer, crowd(), http.address)
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
    """Tokens, in all attempts: the most that documents may have come to where nobody has counted them."""
    models = call.snapshot.models
    read = [most_read(attempt.usage, call.request, models[attempt.model]) for attempt in call.walk.attempts]
    return sum(read) + sum([attempt.usage.output_tokens or 0 for attempt in call.walk.attempts])


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
