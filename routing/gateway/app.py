"""The gateway: a small ASGI application for /v1/ with OpenAI's and Anthropic's APIs.

No Django request, middleware, ORM object or thread is on its path. It is mounted beside Django, and
served alone by `manage.py gateway`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from math import ceil

from routing.configuration import snapshot
from routing.gateway import embedding, other
from routing.gateway.access.guesses import authenticated
from routing.gateway.access.keys import Key, book
from routing.gateway.access.limits import OverLimit
from routing.gateway.chat import chat, settled
from routing.gateway.dialects import ANTHROPIC, OPENAI, RESPONSES
from routing.gateway.exchange.http import (
    END_CONNECTION,
    JSON_TYPE,
    UNDER_WAY,
    AsgiHttp,
    ClientGone,
    Headers,
    Http,
    Receive,
    Scope,
    Send,
    header_text,
)
from routing.gateway.fresh import looks
from routing.gateway.providers.upstream import close as close_connections
from routing.gateway.sweeping import sweep_now_and_then
from routing.money import ledger
from ziggie.errors import NotFound, RateLimited, RoutingError, Unavailable, ZiggieError
from ziggie.ids import uuid7

logger = logging.getLogger(__name__)

Endpoint = Callable[[Http, Key], Awaitable[None]]

ANY = ""  # method: no other is refused
ENDPOINTS: dict[str, tuple[str, Endpoint]] = {
    "/v1/chat/completions": ("POST", lambda http, key: chat(http, OPENAI, key)),
    "/v1/responses": ("POST", lambda http, key: chat(http, RESPONSES, key)),
    "/v1/responses/input_tokens": ("POST", other.count_input_tokens),
    "/v1/messages": ("POST", lambda http, key: chat(http, ANTHROPIC, key)),
    "/v1/messages/count_tokens": ("POST", other.count_tokens),
    "/v1/embeddings": ("POST", embedding.embeddings),
    "/v1/models": ("GET", other.models),
}
BELOW: dict[str, tuple[str, Endpoint]] = {
    other.MODEL_PATH: ("GET", other.model),
    other.ANSWER_PATH: (ANY, other.stored_answer),
}
CLOSING = frozenset({408, 413})  # the rest of the request is not read
SERVER_ERROR = 500  # below, the same request would be refused again
RETRY_SECONDS = 1
SETTLE_SECONDS = 10.0  # for the books of calls that a stop has cut


class MethodNotAllowed(ZiggieError):
    code, http_status = "method_not_allowed", 405

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this endpoint takes {allowed}")
        self.allowed = allowed


class Stopping(Unavailable):
    code, http_status = "stopping", 503


class Internal(ZiggieError):
    code, http_status = "internal", 500


def is_meant(scope: Scope) -> bool:
    """Whether a request is the gateway's; also one of a client that was given an address without `/v1`, so that it is
    told so in the words of its API."""
    path: str = scope["path"]
    return path.startswith("/v1/") or (scope["method"] == "POST" and f"/v1{path.rstrip('/')}" in ENDPOINTS)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI 3."""
    if scope["type"] == "http":
        await serve(AsgiHttp(scope, receive, send))
    elif scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    try:
        await snapshot.acurrent()  # the first request finds a warm cache, and a broken set-up is seen at once
    except Unavailable as error:  # a database that restarts; a worker that did not begin would take all others with it
        logger.warning("requests will look for the configuration again: %s", error.message)
    await send({"type": "lifespan.startup.complete"})
    sweeping = asyncio.get_running_loop().create_task(sweep_now_and_then())
    await receive()
    sweeping.cancel()
    await wind_up(scope.get("state", {}).get(UNDER_WAY, ()))
    await send({"type": "lifespan.shutdown.complete"})


async def wind_up(tasks: Collection[asyncio.Task[None]], *, seconds: float = SETTLE_SECONDS) -> None:
    """Before the process ends: closes the books of these calls and of those that have ended, as far as the ledger
    answers in that time."""
    try:
        async with asyncio.timeout(seconds):
            await _wound_up(tasks)
    except Unavailable as error:
        logger.warning("not all could be written before the end: %s", error.message)
    except TimeoutError:
        logger.warning("the ledger did not answer within %g s: the sweep will settle what was left", seconds)
    close_connections()


async def _wound_up(tasks: Collection[asyncio.Task[None]]) -> None:
    """Returns once every call is settled. Tasks that outlasted the server's grace have been cancelled, and still have
    to give back what they hold, and to close their books."""
    while tasks:
        await asyncio.wait(list(tasks))
    await settled()
    await ledger.drain()
    await book().flush()


async def serve(http: Http) -> None:
    """Answers one request, whatever it is."""
    try:
        if http.path == "/healthz":
            await http.respond(200, b'{"status":"ok"}', [JSON_TYPE])
        else:
            endpoint = _endpoint(http)
            key = await authenticated(http)
            looks().go_on()
            await endpoint(http, key)
    except ClientGone:
        pass
    except asyncio.CancelledError:
        if not http.gone:  # the process is about to end
            await _refuse(http, Stopping("the gateway stops: try again soon"))
        raise
    except ZiggieError as error:
        await _refuse(http, error)
    except Exception:  # the server must go on whatever one request did
        logger.exception("%s %s failed", http.method, http.path)
        await _refuse(http, Internal("the gateway failed"))


def _endpoint(http: Http) -> Endpoint:
    """Raises NotFound, MethodNotAllowed."""
    found = ENDPOINTS.get(http.path.rstrip("/")) or _below(http.path)
    if found is None:
        raise NotFound(_unknown(http.path))
    method, endpoint = found
    if method and http.method != method:
        raise MethodNotAllowed(method)
    return endpoint


def _below(path: str) -> tuple[str, Endpoint] | None:
    return next((found for start, found in BELOW.items() if path.startswith(start)), None)


def _unknown(path: str) -> str:
    """Also which one was meant, where a client was given an address with one `/v1` too many or too few."""
    meant = f"/v1/{path.rpartition('/v1/')[2].strip('/')}"
    hint = f": the address to ask is that of {meant}" if meant in ENDPOINTS else ""
    return f"there is no endpoint {path[:100]!r}{hint}"


async def _refuse(http: Http, error: ZiggieError) -> None:
    """The error in the shape of the API that was called."""
    if http.started:
        return
    status = error.http_status
    is_anthropic = http.path.startswith("/v1/messages") or http.speaks_anthropic
    dialect = ANTHROPIC if is_anthropic else OPENAI
    call_id = error.call_id if isinstance(error, RoutingError) else None
    request_id = call_id or str(uuid7())
    body = dialect.error(error, status, request_id)
    headers: Headers = [JSON_TYPE, *dialect.request_id(request_id)]
    if isinstance(error, RoutingError):
        headers += [(b"x-ziggie-" + name.encode(), header_text(said)) for name, said in error.told.items()]
        if error.retry_after_seconds is not None and status >= SERVER_ERROR:
            headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_seconds))))
    if isinstance(error, RateLimited):
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))))
    if isinstance(error, Stopping):
        headers += [(b"retry-after", b"%d" % RETRY_SECONDS), END_CONNECTION]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, OverLimit):
        http.rates = dialect.rates(error.standing)
    if status in CLOSING:
        headers.append(END_CONNECTION)
    await http.respond(status, body, headers)
