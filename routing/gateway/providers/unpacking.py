"""Answers that a server packed though it was asked not to: gzip and deflate, which Python unpacks by itself."""

import zlib

from routing.gateway.providers.connections import MAX_ANSWER_BYTES, Broken

_EITHER = zlib.MAX_WBITS | 32  # gzip's and zlib's own head are told apart
_RAW = -zlib.MAX_WBITS  # what some servers call deflate, too
_GZIP = b"\x1f"  # the first byte of each of its members
MOST_MEMBERS = 4_096  # of one answer: each costs a decompressor, and a copy of what is behind it
SLICE_BYTES = 16 * 1024  # which are copied at most
PACKINGS = frozenset({"gzip", "x-gzip", "deflate"})
NOT_PACKED = frozenset({"", "identity", "none", "utf-8", "utf8"})  # as servers say that mean another header


class Unpacker:
    """One answer's bytes, which may come in any pieces. Streams, too, may be no longer than a whole answer: a few
    packed bytes can be very many."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_EITHER)
        self._left = MAX_ANSWER_BYTES
        self._start = b""  # its first two bytes, which show what it is
        self._is_known = False
        self._is_over = False
        self._members = 1

    def whole(self, packed: bytes) -> bytes:
        """The same for the rest of an answer. Raises Broken also where that ends too soon."""
        plain = self.feed(packed)
        if not self._inner.eof:
            raise Broken("cut", "the packed answer ended before its end")
        return plain

    def feed(self, packed: bytes) -> bytes:
        """What these bytes complete, b"" if that is nothing. Raises Broken for what is not packed, or is too much."""
        if not self._is_known:
            self._start += packed
            if len(self._start) < 2:
                return b""
            packed, self._start, self._is_known = self._start, b"", True
            if not _has_head(packed):
                self._inner = zlib.decompressobj(_RAW)
        return b"".join([self._fed(packed[at : at + SLICE_BYTES]) for at in range(0, len(packed), SLICE_BYTES)])

    def _fed(self, packed: bytes) -> bytes:
        plain: list[bytes] = []  # of many small members: added up one by one they would be copied again and again
        while packed:
            if self._inner.eof:
                if self._is_over or not packed.startswith(_GZIP):  # what may stand behind the end
                    self._is_over = True
                    break
                self._inner = zlib.decompressobj(_EITHER)
                self._members += 1
            try:
                plain.append(self._inner.decompress(packed, self._left + 1))
            except zlib.error:
                raise Broken("protocol", "the answer is packed in a way that cannot be read") from None
            self._left -= len(plain[-1])
            if self._left < 0 or self._members > MOST_MEMBERS:
                raise Broken("protocol", "the answer is too long when it is unpacked")
            packed = self._inner.unused_data
        return b"".join(plain)


def beginning(packed: bytes, most: int) -> bytes:
    """What can be read of an answer that may have been cut, at most so many bytes; b"" if it cannot be read."""
    try:
        return zlib.decompressobj(_EITHER if packed and _has_head(packed) else _RAW).decompress(packed, most)
    except zlib.error:
        return b""


def _has_head(packed: bytes) -> bool:
    """gzip's magic number, or zlib's: a method and a check of it."""
    return packed.startswith(b"\x1f\x8b") or (packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0)
