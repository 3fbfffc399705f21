"""REST of what is known before a policy changes: recorded traffic through a version of it."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from routing.evidence import replay, shadow
from routing.rest.policies import policy_of
from ziggie import inputs
from ziggie.inputs import StrictInput

MAX_CALLS_IN_A_REQUEST = 20_000


class ReplayInput(StrictInput):
    days = serializers.IntegerField(required=False, default=replay.DEFAULT_DAYS, min_value=1, max_value=replay.MAX_DAYS)
    max_calls = serializers.IntegerField(
        required=False, default=MAX_CALLS_IN_A_REQUEST, min_value=1, max_value=MAX_CALLS_IN_A_REQUEST
    )


class ReplayPolicy(APIView):
    """What this version would have made of the newest recorded calls. Calls nobody; the command takes more calls."""

    @extend_schema(request=ReplayInput, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, slug: str, version: int) -> Response:
        given = inputs.read(ReplayInput(data=request.data))
        target = replay.target_of(policy_of(slug, version))
        return Response(replay.replay(target, **given))


class Shadows(APIView):
    """How often a rule's shadow model was preferred to the one that served, with Wilson's 95% interval."""

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        return Response({"comparisons": shadow.summary()})
