"""REST of the coordinator: parse, call one function, answer."""

from decimal import Decimal
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agents.models import LEVELS, Agent, AgentRun
from agents.runs import MAX_BUDGET_USD, NewRun, cancel_run, create_run
from agents.shapes import RunSerializer
from agents.waiting import hurry_run
from routing.planning.pricing import microusd
from ziggie.auth import caller_of


class AgentSerializer(serializers.ModelSerializer[Agent]):
    class Meta:
        model = Agent
        fields = ("id", "slug", "name", "level", "system_prompt", "enabled", "created_at")
        read_only_fields = ("id", "created_at")


class RunInput(serializers.Serializer[Any]):
    agent = serializers.CharField(required=False, default="", allow_blank=True, help_text="An agent's slug.")
    name = serializers.CharField(required=False, default="", allow_blank=True, max_length=200)
    level = serializers.ChoiceField(choices=LEVELS, required=False, default="", allow_blank=True)
    system_prompt = serializers.CharField(required=False, default="", allow_blank=True)
    prompt = serializers.CharField(trim_whitespace=False)
    model = serializers.CharField(required=False, default="auto", max_length=100)
    metadata = serializers.DictField(required=False, default=dict)
    budget_usd = serializers.DecimalField(
        max_digits=15,
        decimal_places=6,
        min_value=Decimal(0),
        max_value=Decimal(MAX_BUDGET_USD),
        required=False,
        allow_null=True,
        default=None,
        help_text="The most that all calls of the run may cost together.",
    )
    budget_fit = serializers.ChoiceField(
        choices=("clamp", "refuse"),
        required=False,
        allow_blank=True,
        default="",
        help_text="Where a budget has no room for the longest answer: a shorter one, or none.",
    )
    callback_url = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, default="", help_text="Gets the run as JSON once it is over."
    )


class Agents(generics.ListCreateAPIView[Agent]):
    queryset = Agent.objects.all()
    serializer_class = AgentSerializer


class Runs(generics.ListAPIView[AgentRun]):
    """Runs, newest first; `?status=` and `?agent=` filter."""

    serializer_class = RunSerializer

    def get_queryset(self) -> Any:
        filters = {"status": "status", "agent": "agent__slug"}
        given = {column: self.request.GET[name] for name, column in filters.items() if self.request.GET.get(name)}
        return AgentRun.objects.select_related("agent").prefetch_related("callbacks").filter(**given).order_by("-id")

    @extend_schema(
        request=RunInput,
        responses={201: RunSerializer, 200: RunSerializer},
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)],
    )
    def post(self, request: Request) -> Response:
        """Queues a run. 200 with the earlier run if its Idempotency-Key was used before."""
        form = RunInput(data=request.data)
        form.is_valid(raise_exception=True)
        caller = caller_of(request)
        said = form.validated_data
        budget = said.pop("budget_usd")
        callback_url = said.pop("callback_url") or ""
        new = NewRun(
            **said,
            budget_microusd=None if budget is None else microusd(budget),
            callback_url=callback_url,
            idempotency_key=request.headers.get("Idempotency-Key", "")[:200],
            requested_by=caller.name,
            api_key_id=caller.key_id or "",
        )
        run, created = create_run(new)
        return Response(RunSerializer(run).data, status=status.HTTP_201_CREATED if created else status.HTTP_200_OK)


class RunDetail(generics.RetrieveAPIView[AgentRun]):
    queryset = AgentRun.objects.select_related("agent").prefetch_related("callbacks")
    serializer_class = RunSerializer


class RunHurry(APIView):
    @extend_schema(request=None, responses={202: RunSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Has a run that waits for a window or a batch answered now, at the plain price. 409 if it waits for none."""
        run = get_object_or_404(AgentRun, pk=pk)
        return Response(RunSerializer(hurry_run(run)).data, status=status.HTTP_202_ACCEPTED)


class RunCancel(APIView):
    @extend_schema(request=None, responses=RunSerializer)
    def post(self, request: Request, pk: str) -> Response:
        """Ends a run that is not over yet. 409 if it is."""
        run = get_object_or_404(AgentRun.objects.select_related("agent").prefetch_related("callbacks"), pk=pk)
        return Response(RunSerializer(cancel_run(run)).data)
