"""Rows of routing: what may be called, by which rule, for how much, and what it cost.

Configuration tables bump an epoch by database trigger, so that every process notices every change,
whoever made it. Counters of BudgetPeriod are written by ledger.py alone.
"""

from routing.models.configuration import (
    AGENT_LEVELS,
    CREATOR_TIERS,
    MAX_PRICE,
    PATTERNS,
    PRICE,
    STRATEGIES,
    ConfigEpoch,
    LanguageModel,
    PolicyEdit,
    Price,
    Provider,
    RoutingPolicy,
    RoutingRule,
    RoutingSettings,
    choices,
)
from routing.models.evidence import BatchItem, ProviderBatch, ReviewedOutcome, ShadowComparison
from routing.models.keeping import Statement, StatementLine, StoredBody, UsageMonth
from routing.models.money import Budget, BudgetPeriod, Envelope, Reservation
from routing.models.records import RoutedCall, UsageRecord, UsageRollup
from routing.models.state import CachedAnswer, Circuit, ProviderDay, RateBucket

__all__ = [
    "AGENT_LEVELS",
    "CREATOR_TIERS",
    "MAX_PRICE",
    "PATTERNS",
    "PRICE",
    "STRATEGIES",
    "BatchItem",
    "Budget",
    "BudgetPeriod",
    "CachedAnswer",
    "Circuit",
    "ConfigEpoch",
    "Envelope",
    "LanguageModel",
    "PolicyEdit",
    "Price",
    "Provider",
    "ProviderBatch",
    "ProviderDay",
    "RateBucket",
    "Reservation",
    "ReviewedOutcome",
    "RoutedCall",
    "RoutingPolicy",
    "RoutingRule",
    "RoutingSettings",
    "ShadowComparison",
    "Statement",
    "StatementLine",
    "StoredBody",
    "UsageMonth",
    "UsageRecord",
    "UsageRollup",
    "choices",
]
