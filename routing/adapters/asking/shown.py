"""PURE: marks in a tool's text, in the places of the images and documents that it gave: most APIs have a single text
for a result, and are shown these behind it."""

from collections.abc import Iterable, Sequence

from routing.types import Cited, Image, Part, Pdf

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


def told(rows: Sequence[Row], before: Shown) -> str:
    """A result's texts, a line each. Where one follows an image, "[image 1]" stands in its place for the first one of
    the turn, of which `before` has been counted."""
    last = max((place for place, row in enumerate(rows) if isinstance(row, str)), default=0)
    is_mixed = not all(isinstance(row, str) for row in rows[:last])
    images, documents = before.images, before.documents
    lines: list[str] = []
    for row in rows:
        if isinstance(row, str):
            lines.append(row)
        elif is_mixed and isinstance(row, Image):
            images += 1
            lines.append(f"[image {images}]")
        elif is_mixed:
            documents += 1
            lines.append(f"[document {documents}]")
    return "\n".join(lines)
