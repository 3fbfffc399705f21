"""PURE: documents and search results of Anthropic's clients -> text for any model, a PDF for those that read it, or as
they are where the model is to cite them."""

from collections.abc import Iterable

from routing.gateway.wire.documents import KINDS, NOTHING, block_text, is_cited, plain_rows
from routing.gateway.wire.pdf_parts import document_pdf, is_pdf
from routing.gateway.wire.reading import Json, dicts, refuse
from routing.types import Cited, Pdf, Text


def document_part(block: Json, where: str) -> Text | Pdf | Cited:
    """One of the KINDS, without what is marked in it. Raises InvalidInput or Unsupported."""
    if is_cited(block, where):
        return _to_be_cited(block, where)
    return document_pdf(block, where) if is_pdf(block) else Text(block_text(block, where))


def _to_be_cited(block: Json, where: str) -> Cited:
    as_it_is = {key: value for key, value in block.items() if value not in NOTHING and key != "cache_control"}
    as_it_is["citations"] = {"enabled": True}
    if is_pdf(block):
        pdf = document_pdf(block, where)
        as_it_is["source"] = {key: value for key, value in block["source"].items() if value not in NOTHING}
        return Cited(as_it_is, pdf.title + pdf.context, pdf.pages)
    text = block_text(block, where)
    if block["type"] == "search_result":
        return Cited({**as_it_is, "content": plain_rows(block["content"])}, text)
    return Cited({**as_it_is, "source": _source(block["source"])}, text)


def _source(source: Json) -> Json:
    """What a document of text, which has been read, is made of."""
    if source["type"] == "content":
        return {"type": "content", "content": plain_rows(source["content"])}
    return {"type": "text", "media_type": "text/plain", "data": source["data"]}


def refuse_some_cited(turns: Iterable[Json]) -> None:
    """Raises InvalidInput where only some of the documents are to be cited, or of the search results: of the others
    Claude would be told as text, and count them wrongly."""
    blocks = [block for turn in turns for block in dicts(turn.get("content"))]
    results = [block for block in blocks if block.get("type") == "tool_result"]
    blocks += [block for result in results for block in dicts(result.get("content"))]
    for kind in KINDS:
        if len({is_cited(block, "messages") for block in blocks if block.get("type") == kind}) > 1:
            refuse("messages", f"must have citations enabled on all {kind} blocks, or on none")
