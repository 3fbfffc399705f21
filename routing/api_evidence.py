"""REST of what is known before a policy changes: recorded traffic through a version of it."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing import replay
from routing.api_policies import policy_of

MAX_CALLS_IN_A_REQUEST = 20_000


class ReplayInput(serializers.Serializer[Any]):
    days = serializers.IntegerField(required=False, default=replay.DEFAULT_DAYS, min_value=1, max_value=replay.MAX_DAYS)
    max_calls = serializers.IntegerField(
        required=False, default=MAX_CALLS_IN_A_REQUEST, min_value=1, max_value=MAX_CALLS_IN_A_REQUEST
    )


class ReplayPolicy(APIView):
    """What this version would have made of the newest recorded calls. Calls nobody; the command takes more calls."""

    @extend_schema(request=ReplayInput, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, slug: str, version: int) -> Response:
        given = ReplayInput(data=request.data)
        given.is_valid(raise_exception=True)
        target = replay.target_of(policy_of(slug, version))
        return Response(replay.replay(target, **given.validated_data))
