"""PURE: what a tool gave, row by row -> one text for every model, and the rows for those that read them."""

from collections.abc import Iterable, Sequence

from routing.types import Cited, Image, Part, Pdf, ToolResult

Row = str | Image | Pdf | Cited


class Shown:
    """How many images and documents a turn has by now. Counted as they come: a turn may have thousands of results."""

    def __init__(self) -> None:
        self.images = self.documents = 0

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if isinstance(part, Image):
                self.images += 1
            elif isinstance(part, (Pdf, Cited)):
                self.documents += 1


def result_parts(
    call_id: str,
    rows: Sequence[Row],
    before: Shown,
    *,
    is_error: bool = False,
    cache_mark: bool = False,
    references: tuple[str, ...] = (),
) -> list[Part]:
    """A tool's result, then the images and documents in it. `before` is what the turn holds by then.

    Where a text follows an image, a marker stands in the image's place, "[image 1]" for the first one of the turn: most
    APIs have a single text for a result, and are shown its images behind it.
    """
    shown = [row for row in rows if not isinstance(row, str)]
    texts = len(rows) - len(shown)
    content = rows[0] if rows and isinstance(rows[0], str) else ""
    kept: tuple[str | None, ...] = ()
    if texts > 1 or (texts and shown and not content):
        kept = tuple([row if isinstance(row, str) else None for row in rows])
        is_mixed = None in kept[: _place_of_last_text(kept)]
        content = "\n".join(_told(rows, before) if is_mixed else [row for row in rows if isinstance(row, str)])
    result = ToolResult(call_id, content, is_error, cache_mark, references, kept)
    return [result, *shown]


def _place_of_last_text(kept: Sequence[str | None]) -> int:
    return max(place for place, row in enumerate(kept) if row is not None)


def _told(rows: Sequence[Row], before: Shown) -> list[str]:
    images, documents = before.images, before.documents
    told: list[str] = []
    for row in rows:
        if isinstance(row, str):
            told.append(row)
        elif isinstance(row, Image):
            images += 1
            told.append(f"[image {images}]")
        else:
            documents += 1
            told.append(f"[document {documents}]")
    return told
