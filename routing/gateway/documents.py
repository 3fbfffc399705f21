"""PURE: documents and search results of Anthropic's clients that are texts -> the text that any model can read."""

from routing.gateway.reading import MAX_PARTS, Json, flag, mapping, needed, objects, text, unsupported

KINDS = ("document", "search_result")
_ABOUT = ("title", "context", "source")


def document_text(block: Json, where: str) -> str:
    """The text of a block of one of the KINDS, with what is said about it. Raises Unsupported for one that is no text
    (a PDF, a file), and where the answer is to quote it: no answer of ours has a place for citations."""
    if flag(mapping(block, "citations", f"{where}."), "enabled", f"{where}.citations."):
        unsupported(f"{where}.citations")
    if block["type"] == "search_result":
        said = _texts(needed(block, "content", f"{where}."), f"{where}.content")
    else:
        said = _source(mapping(block, "source", f"{where}."), where)
    about = [f"<{name}>{block[name]}</{name}>" for name in _ABOUT if isinstance(block.get(name), str)]
    return "\n".join(["<document>", *about, "<content>", said, "</content>", "</document>"])


def _source(source: Json, where: str) -> str:
    match source.get("type"):
        case "text":
            return text(source, "data", f"{where}.source.")
        case "content":
            return _texts(needed(source, "content", f"{where}.source."), f"{where}.source.content")
    return unsupported(f"{where}.source.type", "must be text or content: other documents are not supported here")


def _texts(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    rows = objects({"content": content}, "content", where.removesuffix("content"), most=MAX_PARTS)
    if any(row.get("type") != "text" for row in rows):
        unsupported(where, "must be text: other documents are not supported here")
    return "\n\n".join(text(row, "text", f"{where}.") for row in rows)
