"""What REST callers say of a task for the router."""

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from routing.models import AGENT_LEVELS, CREATOR_TIERS, PATTERNS, STRATEGIES
from routing.types import Hints
from ziggie.inputs import StrictInput


class HintsInput(StrictInput):
    """What is not stated is estimated."""

    task_kind = serializers.CharField(required=False, default="", allow_blank=True, max_length=40)
    agent_level = serializers.ChoiceField(choices=AGENT_LEVELS, required=False, default="", allow_blank=True)
    creator_tier = serializers.ChoiceField(choices=CREATOR_TIERS, required=False, default="", allow_blank=True)
    complexity = serializers.FloatField(required=False, default=None, allow_null=True, min_value=0, max_value=1)
    context_tokens = serializers.IntegerField(
        required=False, default=None, allow_null=True, min_value=0, max_value=2**31 - 1
    )
    capabilities = serializers.ListField(child=serializers.CharField(max_length=60), required=False, max_length=50)
    strategy = serializers.ChoiceField(choices=STRATEGIES, required=False, default="", allow_blank=True)
    pattern = serializers.ChoiceField(choices=PATTERNS, required=False, default="", allow_blank=True)

    @staticmethod
    def hints_of(said: Mapping[str, Any]) -> Hints:
        """The hints among what a valid form holds."""
        names = ("task_kind", "agent_level", "creator_tier", "complexity", "context_tokens", "strategy", "pattern")
        given = {name: said[name] for name in names}
        return Hints(**given, capabilities=frozenset(said.get("capabilities", ())))
