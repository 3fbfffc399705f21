"""Documents for APIs that have no place for them, or for what is said about them: as text in the prompt."""

import re
from collections.abc import Iterable

from routing.adapters.asking.marks import without_marks
from routing.types import Pdf

_ENDS = {
    name: re.compile(rf"<(?=\s*/\s*(?:{name}|document)\b)", re.IGNORECASE)
    for name in ("content", "title", "context", "source")
}
_FILE_NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}\.pdf", re.IGNORECASE)
NO_CITATIONS = "citations of documents: Claude alone tells them"
_UNNAMED = "document.pdf"


def document_text(about: Iterable[tuple[str, str]], content: str) -> str:
    """A document with what is said about it, (title, context or source, text) each, none of which can end it early."""
    told = [f"<{name}>{_within(name, value)}</{name}>" for name, value in about if value]
    return "\n".join(["<document>", *told, "<content>", _within("content", content), "</content>", "</document>"])


def _within(name: str, value: str) -> str:
    """A text that does not end what it stands in: what follows would look like the caller's own words."""
    return without_marks(value, _ENDS[name], (name, "document"), "&lt;")


def file_name(pdf: Pdf) -> str:
    """The document's name where an API wants one."""
    return pdf.title if _FILE_NAME.fullmatch(pdf.title) else _UNNAMED


def said_of(pdf: Pdf, *, named: bool) -> str:
    """What is to be told in front of a document, "" for nothing. `named`: its file_name() is told apart."""
    title = "" if named and file_name(pdf) == pdf.title else pdf.title
    if not title and not pdf.context:
        return ""
    return document_text((("title", title), ("context", pdf.context)), "(the PDF that follows)")
