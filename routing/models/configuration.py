"""What may be called, by which rule, at what price: rows that staff edit."""

from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from ziggie.fields import EncryptedTextField
from ziggie.ids import uuid7

AGENT_LEVELS = ("L1", "L2", "L3")
CREATOR_TIERS = ("critical", "high", "medium", "low")
STRATEGIES = ("cost-optimized", "performance-optimized", "balanced")
PATTERNS = ("single", "verify", "cascade", "ensemble", "debate", "critique")
MAX_PRICE = Decimal(100_000)

PRICE: dict[str, Any] = {
    "max_digits": 12,
    "decimal_places": 6,
    "validators": [MinValueValidator(Decimal(0)), MaxValueValidator(MAX_PRICE)],
}


def choices(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


class Provider(models.Model):
    """Someone who serves models over HTTP, or the offline model built in here."""

    KINDS = ("ollama", "anthropic", "openai", "gemini", "cohere", "offline")
    LOCATIONS = ("local", "cloud", "offline")

    slug = models.SlugField(max_length=60, unique=True)
    kind = models.CharField(max_length=20, choices=choices(KINDS), help_text="openai: any OpenAI-compatible server")
    location = models.CharField(max_length=10, choices=choices(LOCATIONS))
    base_url = models.URLField(max_length=300, blank=True)
    enabled = models.BooleanField(default=True)
    switch = models.CharField(
        max_length=20, blank=True, choices=[("kimi", "kimi")], help_text="Serves only while this setting is on."
    )
    api_key_env = models.CharField("API key variable", max_length=60, null=True, blank=True)  # noqa: DJ001 - null in the routing file
    api_key = EncryptedTextField(
        "API key", blank=True, default="", help_text="Kept encrypted; used before the variable."
    )
    max_concurrency = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    max_requests_per_day = models.PositiveIntegerField(null=True, blank=True)
    timeout_seconds = models.PositiveIntegerField(
        default=120, validators=[MinValueValidator(1), MaxValueValidator(3600)]
    )
    power_watts = models.PositiveIntegerField(default=0, validators=[MaxValueValidator(100_000)])
    options = models.JSONField(default=dict, blank=True, help_text="What this server does differently, by name.")

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class LanguageModel(models.Model):
    slug = models.CharField(max_length=100, unique=True, help_text="The name in rules and on pages.")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="models")
    name = models.CharField(max_length=150, help_text="The name on the wire.")
    aliases = ArrayField(models.CharField(max_length=150), default=list, blank=True)
    context_window = models.PositiveIntegerField(validators=[MinValueValidator(256), MaxValueValidator(100_000_000)])
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    capabilities = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    enabled = models.BooleanField(default=True)
    dimensions = models.PositiveIntegerField(null=True, blank=True, help_text="Length of an embedding model's vectors.")
    tokens_per_second = models.PositiveIntegerField(null=True, blank=True)
    vram_gb = models.DecimalField("VRAM GB", max_digits=6, decimal_places=1, null=True, blank=True)
    notes = models.TextField(blank=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class Price(models.Model):
    """US dollars per million tokens from a moment on. The newest row in force counts; rows are not edited
    once used, so that old records keep their arithmetic."""

    model = models.ForeignKey(LanguageModel, on_delete=models.CASCADE, related_name="prices")
    input_usd_per_mtok = models.DecimalField(**PRICE)
    output_usd_per_mtok = models.DecimalField(**PRICE)
    cached_input_usd_per_mtok = models.DecimalField(null=True, blank=True, **PRICE)
    cache_write_usd_per_mtok = models.DecimalField(null=True, blank=True, **PRICE)
    input_tiers = models.JSONField(
        default=list, blank=True, help_text="What requests pay whose input is longer: see docs/routing.md."
    )
    effective_from = models.DateTimeField(default=timezone.now)
    origin = models.CharField(max_length=200, blank=True, help_text="Where the figure comes from.")

    class Meta:
        ordering = ("model", "-effective_from", "-id")
        indexes = [models.Index(fields=["model", "-effective_from", "-id"])]

    def __str__(self) -> str:
        return f"{self.model_id}: {self.input_usd_per_mtok}/{self.output_usd_per_mtok}"


class RoutingSettings(models.Model):
    """One row of settings for the whole installation."""

    strategy = models.CharField(max_length=30, choices=choices(STRATEGIES), default="balanced")
    baseline_model = models.CharField(max_length=100, blank=True, help_text="Savings are counted against this model.")
    electricity_usd_per_kwh = models.DecimalField(
        "electricity $/kWh",
        max_digits=8,
        decimal_places=4,
        default=Decimal("0.12"),
        validators=[MinValueValidator(Decimal(0))],
    )
    kimi_enabled = models.BooleanField(default=False)
    time_zone = models.CharField(max_length=60, default="UTC", help_text="Budgets roll over at midnight here.")
    usage_months = models.PositiveSmallIntegerField(
        default=24,
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1200)],
        help_text="Whole months of records and receipts that are kept beside the present one; empty keeps all.",
    )
    body_days = models.PositiveSmallIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(3650)], help_text="How long bodies are kept."
    )
    body_kilobytes = models.PositiveSmallIntegerField(
        default=64,
        validators=[MinValueValidator(1), MaxValueValidator(1024)],
        help_text="The most that is kept of a request, and of an answer.",
    )
    redact_patterns = ArrayField(
        models.CharField(max_length=300),
        default=list,
        blank=True,
        help_text="RE2 expressions: what they find is taken out of bodies, beside keys, addresses and numbers.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "settings"
        constraints = [models.CheckConstraint(condition=Q(pk=1), name="one_row_of_settings")]

    def __str__(self) -> str:
        return "Settings"


class RoutingPolicy(models.Model):
    """An ordered list of rules. One policy is live; publishing another is one UPDATE."""

    STATES = ("draft", "live", "retired")

    slug = models.SlugField(max_length=60)
    version = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=10, choices=choices(STATES), default="draft")
    notes = models.TextField(blank=True)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    published_by = models.CharField(max_length=150, blank=True)
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "routing policies"
        ordering = ("slug", "-version")
        constraints = [
            models.UniqueConstraint(fields=["slug", "version"], name="policy_version"),
            models.UniqueConstraint(fields=["state"], condition=Q(state="live"), name="one_live_policy"),
        ]

    def __str__(self) -> str:
        return f"{self.slug} v{self.version} ({self.state})"


class PolicyEdit(models.Model):
    """Who changed a version in place: a draft's rules, or notes. Written by policies.py alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    policy = models.ForeignKey(RoutingPolicy, on_delete=models.CASCADE, related_name="edits")
    edited_by = models.CharField(max_length=150, blank=True)
    edited_at = models.DateTimeField(default=timezone.now)
    changes = models.TextField(help_text="As a difference of the routing file's YAML.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.policy_id} by {self.edited_by}"


def _names() -> Any:
    return ArrayField(models.CharField(max_length=60), default=list, blank=True)


def _fraction() -> Any:
    return models.DecimalField(
        max_digits=5,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(1))],
    )


class RoutingRule(models.Model):
    """The first rule whose conditions all hold serves. Empty conditions hold always."""

    policy = models.ForeignKey(RoutingPolicy, on_delete=models.CASCADE, related_name="rules")
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=100)
    task_kinds = _names()
    agent_levels = _names()
    creator_tiers = _names()
    capabilities = _names()
    strategies = _names()
    complexity_above = _fraction()
    complexity_at_most = _fraction()
    context_tokens_above = models.PositiveIntegerField(null=True, blank=True)
    context_tokens_at_most = models.PositiveIntegerField(null=True, blank=True)
    budget_left_above = _fraction()
    budget_left_at_most = _fraction()
    local_queue_above = models.PositiveIntegerField(null=True, blank=True)
    pattern = models.CharField(max_length=10, choices=choices(PATTERNS), default="single")
    chain = ArrayField(models.CharField(max_length=100), help_text="Model slugs, the first choice first.")
    roles = models.JSONField(
        default=dict, blank=True, help_text="verifier, draft, refiner, members, synthesiser, vote, rounds"
    )
    options = models.JSONField(
        default=dict, blank=True, help_text="min_confidence, first_token_seconds, max_attempts, …"
    )

    class Meta:
        ordering = ("policy", "position")
        constraints = [
            models.UniqueConstraint(fields=["policy", "name"], name="rule_name_in_policy"),
            models.UniqueConstraint(
                fields=["policy", "position"], name="rule_position_in_policy", deferrable=models.Deferrable.DEFERRED
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ConfigEpoch(models.Model):
    """One row, bumped by triggers on every configuration table."""

    epoch = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.epoch)
