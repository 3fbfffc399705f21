"""PURE: which path a request asks for."""

from functools import lru_cache
from urllib.parse import unquote

import httptools

COMMON_URL_BYTES = 256


def asked_for(data: bytes) -> bytes:
    """What the first line of bytes that nobody could read seems to ask for."""
    words = data[:COMMON_URL_BYTES].split(b" ", 2)
    return words[1] if len(words) > 2 else b""


def origin_form(url: bytes) -> bytes:
    """Path and query, also of a whole address, as clients send it to proxies and may send it to any server."""
    if not url.lower().startswith((b"http://", b"https://")):
        return url
    _, found, rest = url.partition(b"://")[2].partition(b"/")
    return b"/" + rest if found else b"/"


@lru_cache(maxsize=256)
def known_path(url: bytes) -> str:
    """Kept for those that come again and again."""
    return path_of(url)


def path_of(url: bytes) -> str:
    try:
        path = httptools.parse_url(url).path or b""
    except httptools.HttpParserInvalidURLError:
        return ""  # where nothing is
    return unquote(path.decode("ascii", "replace"))
