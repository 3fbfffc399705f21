"""PURE: documents and search results of Anthropic's clients that are texts -> the text that any model can read."""

from routing.adapters.asking.documents import document_text
from routing.gateway.wire.reading import MAX_PARTS, Json, flag, mapping, needed, objects, text, unsupported

# the fields of each kind that are told, then those that are read otherwise
_ABOUT = {"document": ("title", "context"), "search_result": ("title", "source")}
KINDS = frozenset(_ABOUT)
_READ = {
    "document": frozenset({"type", "source", "citations", "cache_control"}),
    "search_result": frozenset({"type", "content", "citations", "cache_control"}),
}
_READ_OF_SOURCE = {"text": frozenset({"type", "media_type", "data"}), "content": frozenset({"type", "content"})}
_READ_OF_TEXT = frozenset({"type", "text", "cache_control"})
OF_DOCUMENT = _READ["document"].union(_ABOUT["document"])
NO_FILES = "is not supported here: no file is kept for later. Send the document itself, as base64"
NOTHING: tuple[object, ...] = (None, "", [], {})


def block_text(block: Json, where: str) -> str:
    """The text of a block of one of the KINDS, with what is said about it. Raises Unsupported for one that is no text
    (a file), or that says what would get lost."""
    kind = block["type"]
    refuse_others(block, _READ[kind].union(_ABOUT[kind]), where)
    if kind == "search_result":
        said = _texts(needed(block, "content", f"{where}."), f"{where}.content")
    else:
        said = _source(mapping(block, "source", f"{where}."), where)
    about = [(name, text(block, name, f"{where}.", default="")) for name in _ABOUT[kind]]
    return document_text(about, said)


def texts_of(block: Json) -> list[Json]:
    """The blocks of text that a document, which has been read, is made of."""
    holder = block if block["type"] == "search_result" else block["source"]
    content = holder.get("content")
    return content if isinstance(content, list) else []


def refuse_others(holder: Json, known: frozenset[str], where: str) -> None:
    for key, value in holder.items():
        if key not in known and value not in NOTHING:
            unsupported(f"{where}.{key[:40]}")


def is_cited(block: Json, where: str) -> bool:
    """Whether the model is to cite it. Raises InvalidInput or Unsupported for what is no such wish."""
    wish = mapping(block, "citations", f"{where}.")
    if wish:
        refuse_others(wish, frozenset({"enabled"}), f"{where}.citations")
    return bool(flag(wish, "enabled", f"{where}.citations."))


def plain_rows(content: str | list[Json]) -> list[Json]:
    """Blocks of text, which have been read, without their marks."""
    texts = [content] if isinstance(content, str) else [row["text"] for row in content]
    return [{"type": "text", "text": text} for text in texts]


def _source(source: Json, where: str) -> str:
    kind, where = source.get("type"), f"{where}.source"
    if kind == "file":
        unsupported(f"{where}.type", f"file {NO_FILES}")
    if kind not in ("text", "content"):
        unsupported(f"{where}.type", "must be base64, url, text or content")
    refuse_others(source, _READ_OF_SOURCE[kind], where)
    if kind == "content":
        return _texts(needed(source, "content", f"{where}."), f"{where}.content")
    if source.get("media_type") not in (None, "text/plain"):
        unsupported(f"{where}.media_type", "must be text/plain: other documents are not supported here")
    return text(source, "data", f"{where}.")


def _texts(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    rows = objects({"content": content}, "content", where.removesuffix("content"), most=MAX_PARTS)
    if any(row.get("type") != "text" for row in rows):
        unsupported(where, "must be text: other documents are not supported here")
    for row in rows:
        refuse_others(row, _READ_OF_TEXT, where)
    return "\n\n".join(text(row, "text", f"{where}.") for row in rows)
