"""What daphne, which serves pages and gateway under one address, takes of a request before anybody looks at it, and
keeps of an answer that its client does not read; how many clients it lets in; and what it leaves undone at its end.

By itself daphne lets everybody in, and reads a body of any size to its end, for as long as that takes, before the
application is asked; a byte now and then keeps a connection open for ever that never says what it wants; and answers
pile up in memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from daphne import http_protocol
from daphne.server import Server
from django.conf import settings
from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.web.http_headers import Headers
from zope.interface import implementer

from routing.gateway.app import wind_up
from routing.gateway.exchange import http as limits
from routing.gateway.exchange.http import RequestTimeout
from routing.gateway.exchange.leaving import COMMENT, Prelude, Watch
from routing.gateway.exchange.sockets import allow_many, untaken
from routing.gateway.paths import asked_for, origin_form
from routing.gateway.serving.crowd import TOLD_SECONDS, crowd
from routing.gateway.serving.refusals import UNREAD, refusal
from ziggie.errors import TooLarge, ZiggieError

reactor: Any = twisted_reactor
HEAD_SECONDS = 10.0  # for a request's first line, from its first byte or the connection; then for its headers
REQUEST_SECONDS = 45.0  # from there to its last byte
SETTLE_SECONDS = 5.0  # at the end of the process, for the books of its calls
LINGER_SECONDS = 1.0  # for a client that still sends when it has its answer


@implementer(IHalfCloseableProtocol)
class BoundedChannel(http_protocol.http.HTTPChannel):  # type: ignore[misc]  # the package has no types
    """Between requests: who has begun one must go on with it. Idle connections are left to daphne's own limit.

    Within an answer: `room` is set while the client takes what it is sent; one that takes next to nothing is left."""

    _deadline: Any = None
    _taking: Any = None
    _leaving: Watch | None = None  # once the client sends no more
    _kept_waiting = 0.0  # seconds for which a client kept its answer waiting
    _line = b""  # the last one of a head
    told = 0  # letters of the next answer that are written already

    def connectionMade(self) -> None:
        self.room = asyncio.Event()
        self.room.set()
        super().connectionMade()
        self._crowd = crowd()
        peer = getattr(self.transport.getPeer(), "host", "")  # a socket in a folder has none
        self.has_place = self._crowd.enter(self, peer)
        if not self.has_place and not self._crowd.turn_away(self):
            self.transport.abortConnection()
        self._deadline = reactor.callLater(HEAD_SECONDS if self.has_place else TOLD_SECONDS, self._too_slow)

    @property
    def keeps_a_place(self) -> bool:
        """Whether nothing is asked on it that is not refused, and nothing of an answer is on its way."""
        return not any(request.has_begun and not request.is_refused for request in self.requests) and not self._waiting

    def make_room(self) -> None:
        """For a connection that may be of more use."""
        self.transport.loseConnection()

    def gives_up_its_place(self) -> None:
        """To others that need one: it has become another kind of connection, which is not counted."""
        self._crowd.leave(self)

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is None and not self.requests:
            self._deadline = reactor.callLater(HEAD_SECONDS, self._too_slow)
        super().dataReceived(data)

    def request_has_begun(self) -> None:
        """Its own limits hold from now on."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connectionLost(self, reason: Any) -> None:
        self._crowd.leave(self)
        self.request_has_begun()
        self._forget_taking()
        if self._leaving is not None:
            self._leaving.stop()
        self.room.set()
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """The client sends no more: what has come whole is answered."""
        if self._leaving is not None:
            return
        self._leaving = Watch(self.transport.socket, knock=self._knock, leave=self.transport.abortConnection)
        self._expect_no_more()

    def writeConnectionLost(self) -> None:
        """Our half: the client has been told that this is the end."""

    def requestDone(self, request: Any) -> None:
        super().requestDone(request)  # the next one begins, with what has come of it
        if self._leaving is not None:
            self._expect_no_more()

    def _expect_no_more(self) -> None:
        if self._busyReceiving:
            return  # whole requests may be left of what came: who reads them asks again
        if self.requests:
            self.requests[-1].sends_no_more()
        elif self._buffer.strip():
            self._line = self._buffer
            self._respondToBadRequestAndDisconnect()
        else:
            self.loseConnection()

    def _knock(self) -> None:
        if self.requests:
            self.requests[0].knock()

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.room.clear()
        self._watch_taking()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._forget_taking()
        self.room.set()

    def loseConnection(self) -> None:
        super().loseConnection()
        self._watch_taking()

    async def wait_for_room(self, *, has_time: bool) -> None:
        """Returns once the client takes what it is sent. Who keeps a stream of the gateway waiting too long is left; a
        page's long export, say, has time."""
        if has_time or self.room.is_set():
            await self.room.wait()
            return
        began = reactor.seconds()
        most = max(limits.KEPT_WAITING_SECONDS - self._kept_waiting, 0.0)
        leaving = reactor.callLater(most, self.transport.abortConnection)
        try:
            await self.room.wait()
        finally:
            self._kept_waiting += reactor.seconds() - began
            if leaving.active():
                leaving.cancel()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        begun, self.told = self.told, 0
        self._kept_waiting = 0.0
        super().writeHeaders(version[begun:], code, reason, headers)

    def lineReceived(self, line: bytes) -> None:
        self._line = line
        super().lineReceived(line)

    def _send100Continue(self) -> None:
        if not self.requests[-1].is_refused:
            super()._send100Continue()

    def lineLengthExceeded(self, line: bytes) -> None:
        self._line = line
        self._respondToBadRequestAndDisconnect(UNREAD[431])

    def _respondToBadRequestAndDisconnect(self, error: ZiggieError = UNREAD[400]) -> None:
        if self.requests and self.requests[-1].is_refused:
            return
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            error = UNREAD[431]
        self.transport.write(refusal(error, getattr(self, "_path", b"") or asked_for(self._line)))
        if self.requests:  # else what came is no line
            self.requests[-1].give_up()
        self.loseConnection()

    def _watch_taking(self) -> None:
        if self._taking is None and self._waiting:
            self._taking = reactor.callLater(limits.SEND_SECONDS, self._look_whether_taken, self._not_taken())

    def _look_whether_taken(self, before: int) -> None:
        self._taking = None
        if before - self._not_taken() >= limits.SEND_BYTES:
            self._watch_taking()
        else:
            self.transport.abortConnection()

    def _forget_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _not_taken(self) -> int:
        return self._waiting + untaken(self.transport.socket)

    @property
    def _waiting(self) -> int:
        """Bytes that wait in the transport, which says so in no other way."""
        transport = self.transport
        waiting: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return waiting

    def _too_slow(self) -> None:
        self._deadline = None
        error = RequestTimeout(f"no request within {HEAD_SECONDS:g} s") if self.has_place else UNREAD[503]
        self.transport.write(refusal(error, b""))
        self.timeoutConnection()


class BoundedRequest(http_protocol.WebRequest):  # type: ignore[misc]  # the package has no types
    """Bodies must be short and come soon; everything else is daphne's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_begun = False  # all of its head is there
        self._prelude: Prelude | None = None
        self._received = 0
        self.is_refused = False
        self._is_whole = False
        self._has_place = self.channel.has_place
        seconds = HEAD_SECONDS if self._has_place else TOLD_SECONDS
        self._deadline: Any = reactor.callLater(seconds, self._too_slow, seconds)
        self.channel.request_has_begun()

    def gotLength(self, length: int | None) -> None:
        self.has_begun = True
        self._forget_deadline()
        self._deadline = reactor.callLater(REQUEST_SECONDS, self._too_slow, REQUEST_SECONDS)
        too_long = length is not None and length > self._most
        super().gotLength(0 if too_long else length)
        if not self._has_place:
            self._refuse(UNREAD[503])
        elif len(self.requestHeaders.getRawHeaders(b"host", ())) > 1:
            self._refuse(UNREAD[400])
        elif too_long:
            self._refuse(TooLarge(f"a body may have at most {self._most} bytes"))

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._most:
            self._refuse(TooLarge(f"a body may have at most {self._most} bytes"))
        if not self.is_refused:
            super().handleContentChunk(data)

    def process(self) -> Any:
        self._is_whole = True
        self._forget_deadline()
        if self.is_refused:
            return None
        channel = self.channel
        self.uri: bytes = origin_form(self.uri)
        self.path = self.uri.partition(b"?")[0]
        processing = super().process()
        if self.transport is None:  # it has gone to a live socket
            channel.gives_up_its_place()
        return processing

    def connectionLost(self, reason: Any) -> None:
        self._forget_deadline()
        super().connectionLost(reason)

    def sends_no_more(self) -> None:
        if self._is_whole and not self.is_refused:
            return
        self._refuse(UNREAD[400])
        self.channel.loseConnection()

    def knock(self) -> None:
        """Writes what says nothing, for a client that may have gone; behind a refusal that would be too much."""
        if self.is_refused:
            return
        if self.startedWriting:
            kind = self.responseHeaders.getRawHeaders(b"content-type", [b""])[0]
            if kind.startswith(b"text/event-stream"):
                self.write(COMMENT)
        else:
            version = self.clientproto
            self._prelude = self._prelude or Prelude(version, may_continue=version == b"HTTP/1.1")
            self.channel.transport.write(self._prelude.next())
            self.channel.told = self._prelude.length

    def handle_exception(self, exception: Exception) -> None:
        """The application failed. Where it had begun to answer daphne's own word raises, in the round that it makes of
        all connections: then that is its last one, and whatever is asked from then on is kept for ever."""
        if self.startedWriting:
            self._close()  # whoever reads sees that something is missing
            return
        self._response_started = False
        self.responseHeaders = Headers()
        super().handle_exception(exception)

    @property
    def _address(self) -> bytes:
        """The path that was asked for; known to the channel before it is known to the request."""
        return unquote_to_bytes(origin_form(getattr(self.channel, "_path", b"") or b""))

    @property
    def _most(self) -> int:
        most: int = limits.MAX_BODY_BYTES if self._address.startswith(b"/v1/") else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return most

    def _too_slow(self, seconds: float) -> None:
        self._deadline = None
        late = RequestTimeout(f"the request did not arrive within {seconds:g} s")
        self._refuse(late if self._has_place else UNREAD[503])

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def give_up(self) -> None:
        """It is refused, and nothing else is said about it."""
        self.is_refused = True
        self._forget_deadline()

    def _refuse(self, error: ZiggieError) -> None:
        """Answers once in the words of the API that was called, and closes."""
        if self.is_refused or self.channel is None:
            return
        self.give_up()
        self.channel.transport.write(refusal(error, self._address))
        self.channel.transport.loseWriteConnection()
        reactor.callLater(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        if self.channel is not None:
            self.channel.transport.abortConnection()


async def _ended(applications: list[asyncio.Future[None]]) -> None:
    for application in applications:
        application.cancel()
    await asyncio.gather(*applications, return_exceptions=True)
    await wind_up((), seconds=SETTLE_SECONDS)


def end_applications(server: Server) -> Deferred[None]:
    """Cuts what is under way, and has the books of all calls written before the process ends: daphne, which would end
    at once, tells applications nothing of its end."""
    running = [details.get("application_instance") for details in server.connections.values()]
    return Deferred.fromFuture(asyncio.ensure_future(_ended([found for found in running if found is not None])))


Reply = Callable[[Server, Any, Any], Awaitable[None]]


def waiting_for_room(handle_reply: Reply) -> Reply:
    """An application's `send`, which returns once the client has taken enough for more."""

    async def reply(server: Server, protocol: Any, message: Any) -> None:
        await handle_reply(server, protocol, message)
        channel = getattr(protocol, "channel", None)  # of a request that is not over
        if channel is not None:
            await channel.wait_for_room(has_time=not unquote_to_bytes(protocol.path).startswith(b"/v1/"))

    return reply


def install() -> None:
    """Has daphne make its connections and requests bounded ones, and many."""
    allow_many()
    http_protocol.HTTPFactory.protocol = BoundedChannel
    http_protocol.WebRequest = BoundedRequest
    Server.handle_reply = waiting_for_room(Server.handle_reply)
    Server.kill_all_applications = end_applications
