"""Incremental splitters for the two ways in which providers stream: server-sent events and lines of JSON.

Bytes come in chunks of any size and are never decoded here, so a character cut in two does no harm.
"""

from routing.types import ProviderError

MAX_EVENT_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class LineSplitter:
    """Splits bytes into lines at LF, CRLF or CR, whatever the chunks are. Lines come without their ending."""

    __slots__ = ("_at_start", "_parts", "_size", "_skip_lf")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._skip_lf = False  # the last chunk ended with CR: an LF at the start of the next belongs to it
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises ProviderError("protocol") for a line without an end."""
        if self._skip_lf and data:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        if b"\r" in data:
            self._skip_lf = data[-1] == 0x0D
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        may_be_too_long = self._size + len(data) > MAX_EVENT_BYTES
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = self._join(lines[0])
            self._parts, self._size = [], 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        if may_be_too_long and max([self._size, *map(len, lines)]) > MAX_EVENT_BYTES:
            raise ProviderError("protocol", "a line of the stream is longer than 4 MB", retryable=False)
        return lines

    def flush(self) -> bytes:
        """The last line if the stream ended without ending it, else b""."""
        rest = self._join(b"")
        self._parts, self._size = [], 0
        return rest

    def _join(self, end: bytes) -> bytes:
        line = b"".join((*self._parts, end)) if self._parts else end
        if self._at_start:
            self._at_start = False
            return line.removeprefix(_BOM)
        return line


class SSESplitter:
    """Server-sent events: (event name, data) pairs. Comments, ids and retry times are skipped."""

    __slots__ = ("_data", "_event", "_is_late", "_lines", "_size")

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._event = b""
        self._is_late = False  # the name came behind its data, or before the next ones
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The events that `data` completes."""
        events: list[tuple[bytes, bytes]] = []
        for line in self._lines.feed(data):
            if line.startswith(b"data: ") and not self._data and len(line) > 6:  # nearly every line that says anything
                self._data.append(line[6:])
                self._size = len(line)
            elif line:
                if self._data and self._is_next(line):
                    events.append(self._dispatch_before(line))
                self._field(line)
            elif self._data:
                events.append(self._dispatch())
            else:
                self._event = b""
        return events

    def flush(self) -> list[tuple[bytes, bytes]]:
        """The last event if the stream ended without a blank line; some servers do."""
        line = self._lines.flush()
        if line:
            self._field(line)
        return [self._dispatch()] if self._data else []

    def _is_next(self, line: bytes) -> bool:
        """True if another event begins though no blank line ended the one before, whose JSON is whole: JSON over
        several lines never goes on like this."""
        if not self._data[-1].rstrip().endswith(b"}"):
            return False
        name, _, value = line.partition(b":")
        if name == b"event":  # one that has no name yet may have it behind its data
            return bool(self._event)
        return name == b"data" and value.lstrip().startswith((b"{", b"[DONE]"))

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"event":
            self._event, self._is_late = value, bool(self._data)
            return
        if name == b"error":  # llama.cpp reports failures in a field of this name
            self._event = name
        elif name != b"data" or not (self._data or value.strip()):  # one without data keeps the connection alive
            return
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            raise ProviderError("protocol", "an event of the stream is longer than 4 MB", retryable=False)
        self._data.append(value)

    def _dispatch_before(self, line: bytes) -> tuple[bytes, bytes]:
        """The event before the one that begins with this line, or with a name that came before it."""
        if not self._is_late or line.startswith(b"event"):
            return self._dispatch()
        late, self._event = self._event, b""
        event = self._dispatch()
        self._event = late
        return event

    def _dispatch(self) -> tuple[bytes, bytes]:
        event = (self._event, b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
        self._event, self._is_late, self._data, self._size = b"", False, [], 0
        return event


class NDJSONSplitter:
    """Lines of JSON, as ("", line) pairs, so that both splitters read alike. Blank lines are skipped."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines = LineSplitter()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"", line) for line in self._lines.feed(data) if line]

    def flush(self) -> list[tuple[bytes, bytes]]:
        line = self._lines.flush()
        return [(b"", line)] if line.strip() else []
