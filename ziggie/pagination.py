"""How lists are cut into pages on every endpoint."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

# Of a list whose answers are described by hand: the generator then finds no list in it.
PAGED = [
    OpenApiParameter("cursor", str, description="Where a page begins: `next` and `previous` hold it."),
    OpenApiParameter("page_size", int, description="How many a page holds, 500 at most."),
]


class Cursor(CursorPagination):
    """`?page_size=` up to 500. A cursor that no page of the list gave is refused before the database sees it."""

    page_size_query_param = "page_size"
    max_page_size = 500

    def decode_cursor(self, request: Request) -> Any:
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None and not self.may_be_at(str(cursor.position)):
            raise NotFound(self.invalid_cursor_message)
        return cursor

    def may_be_at(self, position: str) -> bool:
        """Whether the column that orders the list can have this value."""
        return "\0" not in position


class NewestFirstCursor(Cursor):
    """Newest first, by UUIDv7 id."""

    ordering = "-id"
    page_size = 50

    def may_be_at(self, position: str) -> bool:
        try:
            UUID(position)
        except ValueError:
            return False
        return True


def page_of(name: str, results: Any) -> Any:
    """A page of these, for the OpenAPI schema."""
    links = {link: serializers.URLField(allow_null=True) for link in ("next", "previous")}
    return inline_serializer(f"{name}Page", {**links, "results": results})
