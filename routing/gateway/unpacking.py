"""Answers that a server packed though it was asked not to: gzip and deflate, which Python unpacks by itself."""

import zlib

from routing.gateway.connections import MAX_ANSWER_BYTES, MAX_STREAM_BYTES, Broken

_EITHER = zlib.MAX_WBITS | 32  # gzip's and zlib's own head are told apart
PACKINGS = frozenset({"gzip", "x-gzip", "deflate"})


class Unpacker:
    """One answer's bytes, which may come in any pieces."""

    def __init__(self, *, streaming: bool) -> None:
        self._inner = zlib.decompressobj(_EITHER)
        self._left = MAX_STREAM_BYTES if streaming else MAX_ANSWER_BYTES

    def feed(self, packed: bytes) -> bytes:
        """What these bytes complete, b"" if that is nothing. Raises Broken for what is not packed, or is too much."""
        try:
            plain = self._inner.decompress(packed, self._left + 1)
        except zlib.error:
            raise Broken("protocol", "the answer is packed in a way that cannot be read") from None
        self._left -= len(plain)
        if self._left < 0:
            raise Broken("protocol", "the answer is too long when it is unpacked")
        return plain
