"""Runs as JSON: in REST answers and in callbacks."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.models import Agent, AgentRun, Callback
from routing.planning.pricing import usd


class CallbackSerializer(serializers.ModelSerializer[Callback]):
    class Meta:
        model = Callback
        fields = ("state", "attempts", "status", "problem", "next_at", "delivered_at")


class RunSerializer(serializers.ModelSerializer[AgentRun]):
    agent: serializers.SlugRelatedField[Agent] = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    cost_usd = serializers.SerializerMethodField()
    saved_usd = serializers.SerializerMethodField()
    budget_usd = serializers.SerializerMethodField()
    callback = serializers.SerializerMethodField()

    class Meta:
        model = AgentRun
        fields = (
            "id",
            "agent",
            "level",
            "status",
            "progress",
            "prompt",
            "answer",
            "model",
            "source",
            "cost_usd",
            "saved_usd",
            "budget_usd",
            "input_tokens",
            "output_tokens",
            "error",
            "error_code",
            "waits_for",
            "metadata",
            "callback",
            "created_at",
            "started_at",
            "finished_at",
        )

    def get_cost_usd(self, run: AgentRun) -> str:
        return usd(run.cost_microusd)

    def get_saved_usd(self, run: AgentRun) -> str:
        return usd(run.saved_microusd)

    def get_budget_usd(self, run: AgentRun) -> str | None:
        return None if run.budget_microusd is None else usd(run.budget_microusd)

    @extend_schema_field(CallbackSerializer(allow_null=True))
    def get_callback(self, run: AgentRun) -> dict[str, Any] | None:
        """The latest delivery; null before the run is over, and where none was asked for."""
        latest = run.callback
        return None if latest is None else dict(CallbackSerializer(latest).data)
