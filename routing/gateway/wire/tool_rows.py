"""PURE: what a tool gave, row by row -> one text for every model, and the rows for those that read them."""

from collections.abc import Sequence

from routing.adapters.asking.shown import Row, Shown, told
from routing.types import Part, ToolResult


def result_parts(
    call_id: str,
    rows: Sequence[Row],
    before: Shown,
    *,
    is_error: bool = False,
    cache_mark: bool = False,
    references: tuple[str, ...] = (),
) -> list[Part]:
    """A tool's result, then the images and documents in it. `before` is what the turn holds by then."""
    shown = [row for row in rows if not isinstance(row, str)]
    texts = len(rows) - len(shown)
    content = rows[0] if rows and isinstance(rows[0], str) else ""
    kept: tuple[str | None, ...] = ()
    if texts > 1 or (texts and shown and not content):
        kept = tuple([row if isinstance(row, str) else None for row in rows])
        content = told(rows, before)
    return [ToolResult(call_id, content, is_error, cache_mark, references, kept), *shown]
