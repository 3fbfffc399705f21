"""REST of the ledger: records, summaries and savings. Keys with the scope "coordinator" and staff read."""

import csv
from collections.abc import Iterator
from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing import usage
from routing.models import UsageRecord
from routing.pricing import usd
from ziggie.pagination import NewestFirstCursor

PERIOD = [OpenApiParameter("from", str), OpenApiParameter("to", str)]
FILTERS = [*PERIOD, OpenApiParameter("api_key", str), *(OpenApiParameter(name, str) for name in usage.FILTERS)]


class Records(GenericAPIView[UsageRecord]):
    """Attempts, the newest first."""

    pagination_class = NewestFirstCursor
    queryset = UsageRecord.objects.none()

    @extend_schema(parameters=FILTERS, responses={200: dict[str, Any]})
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(usage.records(request.query_params.dict()))
        return self.get_paginated_response([usage.record_json(record) for record in page or ()])


class RecordsCsv(APIView):
    """All matching attempts as CSV, the oldest first."""

    @extend_schema(parameters=FILTERS, responses={(200, "text/csv"): str})
    def get(self, request: Request) -> StreamingHttpResponse:
        found = usage.records(request.query_params.dict()).order_by("id").iterator(chunk_size=2_000)
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        return StreamingHttpResponse(_csv(found), content_type="text/csv; charset=utf-8", headers=headers)


class Summary(APIView):
    """Calls, cost and saving of a period, whole and by group."""

    @extend_schema(
        parameters=[*PERIOD, OpenApiParameter("group_by", str, enum=list(usage.GROUPS))],
        responses={200: dict[str, Any]},
    )
    def get(self, request: Request) -> Response:
        during = usage.period(request.query_params.get("from", ""), request.query_params.get("to", ""))
        sums = usage.totals(during)
        groups = usage.groups(during, request.query_params.get("group_by", "model"))
        return Response(
            {
                "from": during.since,
                "to": during.until,
                "calls": sums.calls,
                "cost_usd": usd(sums.cost_microusd),
                "saved_usd": usd(sums.saved_microusd),
                "groups": [usage.group_json(*group) for group in groups],
            }
        )


class Savings(APIView):
    """What the same tokens would have cost on the baseline model, less what was paid, less electricity."""

    @extend_schema(parameters=PERIOD, responses={200: dict[str, Any]})
    def get(self, request: Request) -> Response:
        during = usage.period(request.query_params.get("from", ""), request.query_params.get("to", ""))
        sums = usage.totals(during)
        by_source = {key: group for key, group, _ in usage.groups(during, "source") if key}
        answered = sum(group.calls for group in by_source.values())
        local = by_source["local"].calls if "local" in by_source else 0
        return Response(
            {
                "from": during.since,
                "to": during.until,
                "calls": sums.calls,
                "baseline_usd": usd(sums.baseline_microusd),
                "cost_usd": usd(sums.cost_microusd),
                "electricity_usd": usd(sums.energy_microusd),
                "saved_usd": usd(sums.saved_microusd),
                "local_share": round(local / answered, 4) if answered else None,
                "sources": [usage.group_json(key, group, {}) for key, group in by_source.items()],
            }
        )


class _Line:
    """What csv.writer writes to: hands each line back."""

    def write(self, line: str) -> str:
        return line


def _csv(found: Iterator[UsageRecord]) -> Iterator[str]:
    writer = csv.writer(_Line())
    for row in usage.csv_rows(found):
        yield writer.writerow(row)
