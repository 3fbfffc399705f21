"""What all stream decoders share: splitting, the order of errors and deltas, answers that are no stream."""

from abc import ABC, abstractmethod

from routing.adapters.answers.assembly import deltas_of
from routing.adapters.base import Codec, StreamDecoder, WireRequest, WireResponse
from routing.adapters.faults.errors import make_error
from routing.adapters.reading.halves import Halves
from routing.adapters.reading.sse import NDJSONSplitter, SSESplitter
from routing.adapters.reading.wire import loads
from routing.types import Delta, ProviderError, Usage

MAX_BODY_BYTES = 32 * 1024 * 1024
EMPTY = "the answer is empty"


class HoldingDecoder(ABC):
    """Another decoder's stream, of which something is held back for a while."""

    def __init__(self, inner: StreamDecoder, sent: WireRequest) -> None:
        self.done = False
        self.usage: Usage | None = None
        self._inner = inner
        self._sent = sent

    @abstractmethod
    def _read(self, deltas: list[Delta]) -> list[Delta]:
        """What of them, and of those before, is told now."""

    def feed(self, data: bytes) -> list[Delta]:
        try:
            return self._heard(self._inner.feed(data))
        finally:
            self.done = self._inner.done

    def finish(self) -> list[Delta]:
        try:
            return self._heard(self._inner.finish())
        finally:
            self.done = self._inner.done

    def _heard(self, deltas: list[Delta]) -> list[Delta]:
        self.usage = self._inner.usage
        return self._read(deltas)


class EventDecoder(ABC):
    """Feeds the events of a stream to `on_event`, which appends deltas and sets `done` at the end."""

    def __init__(self, codec: Codec, sent: WireRequest, splitter: SSESplitter | NDJSONSplitter) -> None:
        self.done = False
        self.usage: Usage | None = None
        self.sent = sent
        self.halves = Halves()
        self._codec = codec
        self._splitter = splitter
        self._error: ProviderError | None = None
        self._undecided = isinstance(splitter, SSESplitter)  # until the first byte shows a stream or a document
        self._document: bytearray | None = None
        self._heard = False  # any byte
        self._seen = False  # any event at all

    @abstractmethod
    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        """Reads one event. Raises ProviderError."""

    @abstractmethod
    def on_end(self, out: list[Delta]) -> None:
        """Reads the end of a stream that did not say it was done. Raises ProviderError("cut")."""

    def feed(self, data: bytes) -> list[Delta]:
        out: list[Delta] = []
        self._guarded(out, data)
        return self.halves.joined(out) if self.halves.seen else out

    def finish(self) -> list[Delta]:
        out: list[Delta] = []
        if self._error is None and not self.done:
            self._guarded(out, None)
        if self._error is not None:
            raise self._taken()
        self.done = True
        return self.halves.joined(out) if self.halves.seen else out

    def cut(self, message: str = "the stream ended before the answer did") -> ProviderError:
        return make_error("cut", message, self.sent, usage=self.usage)

    def _guarded(self, out: list[Delta], data: bytes | None) -> None:
        """Reads `data` (None: the end). An error waits until the deltas before it have been handed out,
        so that the caller sees the same whatever the chunks were."""
        if self._error is not None:
            raise self._taken()
        if self.done:
            return
        try:
            if data is None:
                self._read_end(out)
            else:
                self._read(data, out)
        except ProviderError as error:
            error.usage = error.usage or self.usage
            self.done = True
            if not out:
                raise
            self._error = error

    def _taken(self) -> ProviderError:
        """The error that waited, to be raised. It comes to refer to this decoder, which keeps it no longer."""
        assert self._error is not None
        error, self._error = self._error, None
        return error

    def _read(self, data: bytes, out: list[Delta]) -> None:
        self._heard = True
        if self._undecided:
            start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            self._undecided = not start
            # JSON or HTML where events were asked for: an error, or a server that does not stream
            if start and start in b"{[<":
                self._document = bytearray()
        if self._document is not None:
            self._document += data
            if len(self._document) > MAX_BODY_BYTES:
                raise make_error("protocol", "the answer is longer than 32 MB", self.sent, retryable=False)
            return
        for name, event in self._splitter.feed(data):
            self._seen = True
            self.on_event(name, event, out)
            if self.done:
                return

    def _read_end(self, out: list[Delta]) -> None:
        if self._document is not None:
            result = self._codec.decode_chat(WireResponse(200, {}, bytes(self._document)), self.sent)
            out += deltas_of(result)
            self.usage = result.usage
            return
        for name, event in self._splitter.flush():
            self._seen = True
            self._last_event(name, event, out)
            if self.done:
                return
        if not self._seen:
            raise make_error("protocol", EMPTY, self.sent, unbilled=not self._heard)
        self.on_end(out)

    def _last_event(self, name: bytes, event: bytes, out: list[Delta]) -> None:
        """The event that no line end closed: if it is half an event, the stream was cut."""
        try:
            self.on_event(name, event, out)
        except ProviderError:
            try:
                loads(event)
            except ProviderError:
                raise self.cut() from None
            raise
