"""PURE: what the gateway wants of a request's first line and headers, and the heads that come again and again."""

from collections.abc import Iterable, Mapping

from ziggie.values import value

HINT_PREFIX = b"x-ziggie-"
_NO_HINT = HINT_PREFIX + b"anthropic-beta"  # its place among the hints is for what the header of that name may say
BETAS = "anthropic_beta"  # among the hints: a header that says how a request is to be served
MAX_KNOWN_BYTES = 2_048  # a head longer than this is read each time
MAX_KNOWN = 2_048
END = b"\r\n\r\n"
MAX_DIGITS = 20  # of a length; none that is longer comes this far
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# What makes a request's end, or the connection's, depend on more than content-length.
UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer"})


@value
class Head:
    """`raw_key` is the API key, "" without one; `length` the stated one, 0 where it is none."""

    method: str
    path: str
    hints: Mapping[str, str]
    raw_key: str
    forwarded: str
    speaks_anthropic: bool
    length: int
    encoding: bytes


def read_head(method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """`headers` have lower-case names."""
    bearer = api_key = forwarded = ""
    length, encoding, speaks_anthropic = 0, b"", False
    hints: dict[str, str] = {}
    for name, said in headers:
        if name == b"authorization":
            scheme, _, token = said.decode("latin-1").partition(" ")
            bearer = token.strip() if scheme.lower() == "bearer" else ""
        elif name == b"x-api-key":
            api_key = said.decode("latin-1").strip()
        elif name == b"content-length":
            length = int(said) if said.isdigit() and len(said) <= MAX_DIGITS else 0
        elif name == b"x-forwarded-for":  # several such headers are one list
            forwarded += ("," if forwarded else "") + said.decode("latin-1")
        elif name == b"content-encoding":
            encoding = said.strip().lower()
        elif name == b"anthropic-version":
            speaks_anthropic = True
        elif name == b"anthropic-beta":
            hints[BETAS] = f"{hints[BETAS]},{said.decode('latin-1')}" if BETAS in hints else said.decode("latin-1")
        elif name.startswith(HINT_PREFIX) and name != _NO_HINT:
            hint = name[len(HINT_PREFIX) :].decode("latin-1").replace("-", "_")
            hints[hint] = said.decode("utf-8", "replace")
    return Head(method, path, hints, bearer or api_key, forwarded, speaks_anthropic, length, encoding)


def is_long_head(received: int, last: bytes, most: int) -> bool:
    """Of so many bytes, the last ones with them, most may be a body. A head that ends between two reads is left to the
    parser."""
    end = last.find(END)
    return received - len(last) + end > most if end >= 0 else last[:1] not in (b"\r", b"\n")


def only_framing(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head that says no more than where its body ends, as these say it."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] in FRAMING]
    return b"POST / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


class KnownHeads:
    """Heads by their bytes. A client sends the same one with every request of the same length; it need not be read
    again where it stands at the start of a message and what follows is as long as it says."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the body, if these bytes are one whole request with a head that is known."""
        end = data.find(END, 0, MAX_KNOWN_BYTES)
        if end < 0:
            return None
        head = self._heads.get(data[:end])
        if head is None or len(data) != end + len(END) + head.length:
            return None
        return head, data[end + len(END) :]

    def remember(self, data: bytes, head: Head, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keeps the head of a request that came in one piece, if nothing but its length says where it ends."""
        end = data.find(END, 0, MAX_KNOWN_BYTES)
        names = [name for name, said in headers if name != b"connection" or said.lower() != b"keep-alive"]
        if end < 0 or not UNUSUAL.isdisjoint(names) or b"connection" in names or names.count(b"content-length") != 1:
            return
        if head.length and len(data) == end + len(END) + head.length:
            if len(self._heads) >= MAX_KNOWN:
                self._heads.clear()
            self._heads[data[:end]] = head
