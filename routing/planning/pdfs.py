"""PURE: how long a PDF is as a prompt: how long it may be at most, and how long it probably is.

Its bytes bound nothing, since its text may be packed a thousandfold; nor do its pages, of which providers say how many
they take and not how much text may stand on one. What bounds it is the model's context: a longer prompt is refused
before it costs anything.
"""

import binascii
import re
from collections.abc import Collection
from math import ceil
from typing import TypeGuard

from routing.types import CITES, READS_PDF, ModelSpec

PAGE_TOKENS_LIKELY = 1_500  # its text, and its picture: measured 560 with Gemini, 1,300 with OpenAI, 2,300 with Claude
UNSEEN_PAGES = 10
_BYTES_OF_A_PAGE = 50_000
_MOST_PAGES_BY_BYTES = 20  # a few scanned pages may have many bytes
_OF_DOCUMENTS = frozenset({READS_PDF, CITES})
_BEGINS = b"%PDF-"
_FIRST_BYTES = 1_024  # where readers look for its beginning
_FIRST_LETTERS = _FIRST_BYTES // 3 * 4 + 4  # of them in base64
_NO_LETTERS = re.compile(r"[^A-Za-z0-9+/]+")
_PAGES = (b"/Type /Page", b"/Type/Page")
MOST_PAGES = 5_000  # more than any provider reads
_PAGES_IN_FRONT = re.compile(rb"/N\s{1,8}(\d{1,5})(?!\d)")
MOST_FACTOR = 1_000  # that the provider's option may say
# OpenAI bills what it shows of a page to its smaller models at more tokens than that takes of their context: 33.3, 2.46
# and, of those named mini, up to 1.72 times as many.
_DEAREST_FACTOR = 34.0
_BILLED = (
    (re.compile(r"4o-?mini"), _DEAREST_FACTOR),
    (re.compile(r"(?:gpt|o\d)[\w.-]*-nano"), 2.5),
    (re.compile(r"(?:gpt|o\d|codex)[\w.-]*-mini"), 1.75),
    (re.compile(r"(?:^|[/.])(?:gpt-\d|chatgpt-|o\d(?:-|$)|claude-|gemini-)(?!.*(?:mini|nano))"), 1.0),
)
_OPENAIS_API = "openai"  # the kind of provider whose models may be OpenAI's


def begins(document: bytes) -> bool:
    """Whether this is a PDF, as far as its readers look for that."""
    return _BEGINS in document[:_FIRST_BYTES]


def is_encoded(data: str) -> bool:
    """Whether this base64 is a PDF's, whatever it is said to be."""
    letters = _NO_LETTERS.sub("", data[: 2 * _FIRST_LETTERS])  # as who reads it leniently
    return begins(binascii.a2b_base64(letters[: len(letters) // 4 * 4]))


def are_among(needs: Collection[str]) -> bool:
    """Whether a request with these needs has documents whose tokens it does not tell: a PDF's text is packed, one to be
    cited is cut up by its reader."""
    return not _OF_DOCUMENTS.isdisjoint(needs)


def tokens_at_most(model: ModelSpec) -> int:
    """More than the model's provider can bill for any prompt that the model takes, documents included."""
    return ceil(model.context_window * _billed(model))


def _billed(model: ModelSpec) -> float:
    """How many times as many as they are, at most. The provider's option `pdf_token_factor` says it where a model's
    name does not: a deployment on Azure is named as its owner likes, and may be any of OpenAI's."""
    stated = model.provider.options.get("pdf_token_factor")
    if is_pdf_token_factor(stated):
        return stated
    if model.provider.kind != _OPENAIS_API:
        return 1.0
    return next((times for names, times in _BILLED if names.search(model.name.lower())), _DEAREST_FACTOR)


def is_pdf_token_factor(stated: object) -> TypeGuard[float]:
    return isinstance(stated, int | float) and not isinstance(stated, bool) and 1 <= stated <= MOST_FACTOR


def tokens_likely(pages: int) -> int:
    """Of a PDF with so many pages; 0: nobody has looked."""
    return (pages or UNSEEN_PAGES) * PAGE_TOKENS_LIKELY


def pages_likely(document: bytes) -> int:
    """About how many pages it has, 1 to MOST_PAGES: those that can be seen, or those that a file made for the web says
    it has, or as many as its size suggests. Nothing is unpacked: whoever sends it would decide how long that takes."""
    seen = sum(document.count(page) - document.count(page + b"s") for page in _PAGES)
    front = document[:_FIRST_BYTES]
    found = _PAGES_IN_FRONT.search(front) if b"/Linearized" in front else None
    stated = int(found[1]) if found else 0
    by_size = min(1 + len(document) // _BYTES_OF_A_PAGE, _MOST_PAGES_BY_BYTES)
    packed = b"/ObjStm" in document  # then most of its pages stand where they cannot be seen
    return min(max(seen, stated, by_size if packed else 1) if seen or stated else by_size, MOST_PAGES)
