"""REST of the ledger: records, summaries and savings. Keys with the scope "coordinator" and staff read."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing.models import UsageRecord
from routing.planning.pricing import usd
from routing.reporting import usage
from ziggie.pagination import PAGED, NewestFirstCursor, page_of

LINES_AT_ONCE = 500
PERIOD = [OpenApiParameter("from", str), OpenApiParameter("to", str)]
FILTERS = [*PERIOD, OpenApiParameter("api_key", str), *(OpenApiParameter(name, str) for name in usage.FILTERS)]


class Records(GenericAPIView[UsageRecord]):
    """Attempts, the newest first."""

    pagination_class = NewestFirstCursor
    queryset = UsageRecord.objects.none()

    @extend_schema(
        parameters=[*FILTERS, *PAGED],
        responses=page_of("UsageRecord", serializers.ListField(child=serializers.DictField())),
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(usage.records(request.query_params.dict()))
        return self.get_paginated_response([usage.record_json(record) for record in page or ()])


class RecordsCsv(APIView):
    """All matching attempts as CSV, the oldest first."""

    @extend_schema(parameters=FILTERS, responses={(200, "text/csv"): str})
    def get(self, request: Request) -> StreamingHttpResponse:
        found = usage.oldest_first(usage.records(request.query_params.dict()))
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        return _Download(_csv(found), content_type="text/csv; charset=utf-8", headers=headers)


class Summary(APIView):
    """Calls, cost and saving of a period, whole and by group: the 1,000 dearest, and how many are left out."""

    @extend_schema(
        parameters=[*PERIOD, OpenApiParameter("group_by", str, enum=list(usage.GROUPS))],
        responses={200: dict[str, Any]},
    )
    def get(self, request: Request) -> Response:
        during = usage.period(request.query_params.get("from", ""), request.query_params.get("to", ""))
        found = usage.summary(during, request.query_params.get("group_by", "model"))
        return Response(
            {
                "from": during.since,
                "to": during.until,
                "calls": found.whole.calls,
                "cost_usd": usd(found.whole.cost_microusd),
                "saved_usd": usd(found.whole.saved_microusd),
                "groups": [usage.group_json(*group) for group in found.groups],
                "groups_left_out": found.left_out,
            }
        )


class Savings(APIView):
    """What the same tokens would have cost on the baseline model, less what was paid, less electricity. `local_share`
    is of the calls that a model answered, as on the pages."""

    @extend_schema(parameters=PERIOD, responses={200: dict[str, Any]})
    def get(self, request: Request) -> Response:
        during = usage.period(request.query_params.get("from", ""), request.query_params.get("to", ""))
        found = usage.summary(during, "source")
        sums, sources = found.whole, [group for group in found.groups if group[0]]
        answered = {source: group.answered for source, group, _ in sources}
        by_models = sum(answered.values()) - answered.get("offline", 0)
        return Response(
            {
                "from": during.since,
                "to": during.until,
                "calls": sums.calls,
                "baseline_usd": usd(sums.baseline_microusd),
                "cost_usd": usd(sums.cost_microusd),
                "electricity_usd": usd(sums.energy_microusd),
                "saved_usd": usd(sums.saved_microusd),
                "local_share": round(answered.get("local", 0) / by_models, 4) if by_models else None,
                "sources": [usage.group_json(*source) for source in sources],
            }
        )


class _Download(StreamingHttpResponse):
    """Goes out piece by piece. Django's own reads an iterator to its end before it sends any of it, where an
    asynchronous server asks."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = cast("Iterator[bytes]", self.streaming_content)
        while (piece := await sync_to_async(_next_of)(pieces)) is not None:
            yield piece


def _next_of(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _csv(found: Iterable[UsageRecord]) -> Iterator[str]:
    rows = usage.csv_rows(found)
    while some := list(islice(rows, LINES_AT_ONCE)):
        piece = io.StringIO()
        csv.writer(piece).writerows(some)
        yield piece.getvalue()
