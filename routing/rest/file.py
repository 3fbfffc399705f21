"""REST of the routing file as a whole: the same text that `manage.py routing apply` and `export` deal in."""

import re
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing.configuration import routing_file
from routing.configuration.shape import SLUG
from routing.configuration.text import MAX_BYTES, decode
from routing.importing import cortex
from routing.rest.entries import NAME
from ziggie.auth import caller_of
from ziggie.errors import InvalidInput

FORMATS = ("yaml", "json")
RAW = "raw"
AS_SENT = {f"application/{name}": OpenApiTypes.OBJECT for name in FORMATS}


class RawText(BaseParser):
    """The body as it came, whatever it says it is: the reader tells YAML from JSON, and knows the lines."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        return {RAW: stream.read(MAX_BYTES + 1)}


class RoutingFile(APIView):
    """The whole configuration as one text. PUT loads a file: all of it, or with every mistake named nothing of it."""

    staff_write = True
    parser_classes = (RawText,)

    @extend_schema(
        parameters=[OpenApiParameter("as", str, enum=FORMATS, description="yaml if not stated.")],
        responses={(200, f"application/{name}"): OpenApiTypes.OBJECT for name in FORMATS},
    )
    def get(self, request: Request) -> HttpResponse:
        wanted = request.query_params.get("as", "yaml")
        if wanted not in FORMATS:
            raise InvalidInput(f"as: should be one of {', '.join(FORMATS)}")
        text = routing_file.export("json" if wanted == "json" else "yaml")
        return HttpResponse(text, content_type=f"application/{wanted}; charset=utf-8")

    @extend_schema(request=AS_SENT, responses=OpenApiTypes.OBJECT)
    def put(self, request: Request) -> Response:
        changes = routing_file.apply(text_of(request), by=caller_of(request).name, name=NAME)
        return Response({"written": changes.written, "warnings": changes.warnings})


class CortexFile(APIView):
    """The older JSON of rules as a draft, with what was mapped, what was not, and why."""

    staff_write = True
    parser_classes = (RawText,)

    @extend_schema(
        parameters=[OpenApiParameter("slug", str, description="The draft's name; cortex if not stated.")],
        request={"application/json": OpenApiTypes.OBJECT},
        responses={201: OpenApiTypes.OBJECT},
    )
    def post(self, request: Request) -> Response:
        slug = request.query_params.get("slug", "cortex")
        if len(slug) > 60 or not re.fullmatch(SLUG, slug):
            raise InvalidInput("slug: is no valid name here")
        report = cortex.import_draft(text_of(request), slug=slug, by=caller_of(request).name, name=NAME)
        return Response(report.as_json(), status=status.HTTP_201_CREATED)


def text_of(request: Request) -> str:
    """Raises TooLarge, or InvalidInput for what is no text."""
    data: Any = request.data
    return decode(data.get(RAW, b""), NAME)
