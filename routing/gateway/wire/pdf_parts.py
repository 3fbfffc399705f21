"""PURE: PDF documents in clients' requests -> routing.types.Pdf."""

import binascii
import re

from routing.gateway.wire.documents import NO_FILES, OF_DOCUMENT, refuse_others
from routing.gateway.wire.reading import MAX_NAME, Json, mapping, refuse, text, unsupported
from routing.planning.pdfs import begins, pages_likely
from routing.types import Pdf

PDF = "application/pdf"
_NO_LETTER = re.compile(r"[^A-Za-z0-9+/=]")
_READ_OF_SOURCE = {"base64": frozenset({"type", "media_type", "data"}), "url": frozenset({"type", "url"})}
_READ_OF_FILE = frozenset({"filename", "file_data"})
_READ_OF_INPUT = frozenset(
    {"type", "filename", "file_data", "file_url", "detail", "cache_control", "prompt_cache_breakpoint"}
)
_OTHERS = "other documents are not supported here, unless they are sent as text"


def is_pdf(block: Json) -> bool:
    """Whether a block of Anthropic's clients is a document that is no text."""
    source = block.get("source")
    return block.get("type") == "document" and isinstance(source, dict) and source.get("type") in ("base64", "url")


def document_pdf(block: Json, where: str) -> Pdf:
    """One that is_pdf(). Raises InvalidInput or Unsupported."""
    refuse_others(block, OF_DOCUMENT, where)
    title, context = (text(block, name, f"{where}.", default="") for name in ("title", "context"))
    source, where = mapping(block, "source", f"{where}."), f"{where}.source"
    kind = source["type"]
    refuse_others(source, _READ_OF_SOURCE[kind], where)
    if kind == "url":
        url = text(source, "url", f"{where}.")
        if not url.startswith(("https://", "http://")):
            refuse(f"{where}.url", "must be an http(s) address")
        return Pdf(url=url, title=title, context=context)
    media_type = text(source, "media_type", f"{where}.")
    if media_type != PDF:
        unsupported(f"{where}.media_type", f"must be {PDF}, and it is {media_type[:100]!r}: {_OTHERS}")
    data = text(source, "data", f"{where}.")
    return Pdf(data=data, title=title, context=context, pages=_pages(data, f"{where}.data"))


def file_pdf(part: Json, where: str) -> Pdf:
    """A part of OpenAI's chat completions of the type `file`. Raises InvalidInput or Unsupported."""
    file, where = mapping(part, "file", f"{where}."), f"{where}.file"
    if file.get("file_id"):
        unsupported(f"{where}.file_id", NO_FILES)
    refuse_others(file, _READ_OF_FILE, where)
    return _of_data(file, where)


def input_pdf(part: Json, where: str) -> Pdf:
    """A part of OpenAI's responses of the type `input_file`. Raises InvalidInput or Unsupported."""
    if part.get("file_id"):
        unsupported(f"{where}.file_id", NO_FILES)
    refuse_others(part, _READ_OF_INPUT, where)
    if not part.get("file_url"):
        return _of_data(part, where)
    url = text(part, "file_url", f"{where}.")
    if not url.startswith(("https://", "http://")):
        refuse(f"{where}.file_url", "must be an http(s) address")
    return Pdf(url=url, title=_file_name(part, where))


def _file_name(file: Json, where: str) -> str:
    name = text(file, "filename", f"{where}.", default="")
    if len(name) > MAX_NAME:
        refuse(f"{where}.filename", f"must have at most {MAX_NAME} characters")
    return name


def _of_data(file: Json, where: str) -> Pdf:
    name = _file_name(file, where)
    head, comma, data = text(file, "file_data", f"{where}.").partition(",")
    where = f"{where}.file_data"
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        refuse(where, f"must be a base64 data: address, as data:{PDF};base64,…")
    media_type = head[len("data:") :].split(";")[0]
    if media_type != PDF:
        unsupported(where, f"must be of the type {PDF}, and it is of {media_type[:100]!r}: {_OTHERS}")
    return Pdf(data=data, title=name, pages=_pages(data, where))


def _pages(data: str, where: str) -> int:
    """About how many pages the document has."""
    if data.endswith("==="):  # the decoder would pass over any number of them
        refuse(where, "must be base64: it ends in more than two '='")
    try:
        document = binascii.a2b_base64(data, strict_mode=True)
    except ValueError:  # binascii.Error is one
        found = _NO_LETTER.search(data)
        why = f"{found[0]!a} at character {found.start()} is none of its letters" if found else "it breaks off"
        refuse(where, f"must be base64: {why}")
    if len(data) % 4:
        refuse(where, "must be base64: it breaks off, or ends in more '=' than it needs")
    if not begins(document):
        refuse(where, "must be a PDF, which begins with %PDF-")
    return pages_likely(document)
