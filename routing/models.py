"""Rows of routing: what may be called, by which rule, for how much, and what it cost.

Configuration tables bump an epoch by database trigger, so that every process notices every change,
whoever made it. Counters of BudgetPeriod are written by ledger.py alone.
"""

from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from routing import models_usage  # noqa: F401 - Django finds an app's rows from here
from ziggie.fields import EncryptedTextField
from ziggie.ids import uuid7
from ziggie.queue import LeasedRow

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


class Circuit(models.Model):
    """Whether a provider (no model_slug), or one model of it, is being called. Shared by all processes.

    closed -> open until `open_until` -> one call tries it (half_open, until `probe_until`) -> closed, or open
    for longer. `trips` counts how often it opened lately.
    """

    STATES = ("closed", "open", "half_open")

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="circuits")
    model_slug = models.CharField(max_length=100, blank=True)
    state = models.CharField(max_length=10, choices=choices(STATES), default="closed")
    failures = models.PositiveIntegerField(default=0)
    trips = models.PositiveIntegerField(default=0)
    open_until = models.DateTimeField(null=True, blank=True)
    probe_until = models.DateTimeField(null=True, blank=True)
    error_kind = models.CharField(max_length=20, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    changed_at = models.DateTimeField(default=timezone.now)
    checked_at = models.DateTimeField(null=True, blank=True)
    loaded_models = ArrayField(models.CharField(max_length=150), default=list, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "model_slug"], name="circuit_of")]

    def __str__(self) -> str:
        return f"{self.provider_id}/{self.model_slug or '*'} {self.state}"


class ProviderDay(models.Model):
    """How many calls a provider with a daily limit has had on one day of the staff's time zone."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="days")
    day = models.DateField()
    requests = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "day"], name="day_of_provider")]

    def __str__(self) -> str:
        return f"{self.provider_id} {self.day}: {self.requests}"


class Budget(models.Model):
    PERIODS = ("day", "week", "month", "total")

    slug = models.SlugField(max_length=60, unique=True)
    scope = models.JSONField(
        default=dict,
        blank=True,
        help_text="Lists by locations, providers, models, api_keys, task_kinds, agent_levels or creators.",
    )
    period = models.CharField(max_length=10, choices=choices(PERIODS), default="month")
    limit_microusd = models.BigIntegerField("limit", validators=[MinValueValidator(0)])
    hard = models.BooleanField(default=True, help_text="Calls that could pass the limit are refused.")
    on_exhausted = models.CharField(
        max_length=10, choices=[("local", "use what costs nothing"), ("deny", "refuse")], default="local"
    )
    alert_at_percent = ArrayField(
        models.PositiveSmallIntegerField(validators=[MaxValueValidator(1000)]), default=list, blank=True
    )
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class BudgetPeriod(models.Model):
    """A budget's counters for one period. `overrun` is how far a lowered limit or a provider that charged
    more than its bound leaves a hard budget above its limit just now: never admitted, only found out.

    The limit follows the budget's row at the next call. Periods of one budget do not overlap: a budget
    whose kind of period changes ends the old period then and there."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    period = models.CharField(max_length=10, choices=choices(Budget.PERIODS))
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    limit_microusd = models.BigIntegerField()
    hard = models.BooleanField()
    settled_microusd = models.BigIntegerField(default=0)
    held_microusd = models.BigIntegerField(default=0)
    overrun_microusd = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["budget", "starts_at"], name="period_of_budget"),
            models.CheckConstraint(
                condition=Q(hard=False)
                | Q(settled_microusd__lte=F("limit_microusd") + F("overrun_microusd") - F("held_microusd")),
                name="hard_budget_not_overspent",
            ),
            models.CheckConstraint(
                condition=Q(settled_microusd__gte=0, held_microusd__gte=0, overrun_microusd__gte=0),
                name="budget_counters_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.budget_id} from {self.starts_at:%Y-%m-%d}"


class Envelope(models.Model):
    """Money that a run, a swarm or a batch holds at once, for its calls to draw from. `amounts` stand beside
    `period_ids`: what it holds and no call has taken yet; nothing once it is closed. The row outlives its closing,
    so that an envelope that is opened again goes on with what was left of its limit."""

    id = models.UUIDField(primary_key=True, editable=False)  # also the run's or the batch's
    name = models.CharField(max_length=100)
    api_key_id = models.CharField(max_length=64, blank=True, help_text="The key whose calls may draw from it.")
    limit_microusd = models.BigIntegerField()
    left_microusd = models.BigIntegerField(help_text="Of the limit, what calls neither hold nor have spent.")
    period_ids = ArrayField(models.BigIntegerField(), default=list)
    amounts_microusd = ArrayField(models.BigIntegerField(), default=list)
    expires_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(left_microusd__lte=F("limit_microusd")), name="envelope_within_limit"),
            models.CheckConstraint(
                condition=Q(closed_at__isnull=True) | Q(amounts_microusd=[]), name="closed_envelope_holds_nothing"
            ),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(closed_at=None), name="envelope_expiry"),
            models.Index(fields=["closed_at"], name="envelope_closed"),
        ]

    def __str__(self) -> str:
        return self.name


class Reservation(models.Model):
    """Money held for one routed call. The row lives exactly as long as the hold: whoever deletes it settles or
    releases, so that happens once. `amounts` stand beside `period_ids`. A hold that outlives `expires_at` is settled
    by the sweep from `context`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)  # also the call's id
    envelope_id = models.UUIDField(null=True, help_text="The envelope that this call draws from.")
    period_ids = ArrayField(models.BigIntegerField(), default=list)
    amounts_microusd = ArrayField(models.BigIntegerField(), default=list)
    drawn_microusd = ArrayField(models.BigIntegerField(), null=True, help_text="What of each amount the envelope held.")
    taken_microusd = models.BigIntegerField(null=True, help_text="What the call takes of its envelope's limit.")
    expires_at = models.DateTimeField()
    context = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="reservation_expiry")]

    def __str__(self) -> str:
        return str(self.id)


class RoutedCall(models.Model):
    """The receipt of a routed call: what was decided, why, and what came of it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    policy = models.CharField(max_length=60)
    policy_version = models.PositiveIntegerField()
    rule = models.CharField(max_length=100)
    pattern = models.CharField(max_length=10)
    features = models.JSONField()
    candidates = models.JSONField()
    request = models.JSONField(default=dict, help_text="What the decision needs to be made again; no texts.")
    attempts = models.JSONField(default=list)
    outcome = models.CharField(max_length=30)
    error = models.TextField(blank=True)
    model = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=60, blank=True)
    source = models.CharField(max_length=10, blank=True)
    cache = models.CharField(max_length=5, default="off")
    reserved_microusd = models.BigIntegerField(default=0)
    cost_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    duration_ms = models.PositiveIntegerField(default=0)
    task_kind = models.CharField(max_length=40, blank=True)
    agent_level = models.CharField(max_length=4, blank=True)
    creator = models.CharField(max_length=100, blank=True)
    run_id = models.CharField(max_length=64, blank=True)
    api_key_id = models.CharField(max_length=64, blank=True)
    bodies = models.JSONField(null=True, blank=True)
    findings = models.JSONField(null=True, blank=True, help_text="What the pattern learned: docs/routing.md.")

    class Meta:
        ordering = ("-id",)
        indexes = [
            BrinIndex(fields=["created_at"], name="routedcall_time"),
            models.Index(fields=["run_id"], condition=~Q(run_id=""), name="routedcall_run"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.rule}"

    @property
    def seconds(self) -> float:
        return self.duration_ms / 1000


class UsageRecord(models.Model):
    """One attempt's tokens, cost and time. Token counts are null where the provider gave none;
    `estimated` names those that we worked out ourselves.

    The table is partitioned by month (migration 0007): the database's key is (id, created_at), and it holds the
    constraint below within a month. Across months the receipt, which is written once, does."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    call_id = models.UUIDField()
    attempt = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    model = models.CharField(max_length=100)
    provider = models.CharField(max_length=60)
    source = models.CharField(max_length=10)
    outcome = models.CharField(max_length=20)
    role = models.CharField(max_length=20, default="answer")
    error = models.CharField(max_length=500, blank=True)
    status = models.PositiveSmallIntegerField(null=True)
    input_tokens = models.PositiveIntegerField(null=True)
    output_tokens = models.PositiveIntegerField(null=True)
    cached_input_tokens = models.PositiveIntegerField(null=True)
    cache_write_tokens = models.PositiveIntegerField(null=True)
    reasoning_tokens = models.PositiveIntegerField(null=True)
    estimated = ArrayField(models.CharField(max_length=30), default=list)
    price_id = models.BigIntegerField(null=True)
    cost_microusd = models.BigIntegerField(default=0)
    baseline_microusd = models.BigIntegerField(default=0)
    energy_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    energy_wh = models.FloatField(default=0)
    duration_ms = models.PositiveIntegerField(default=0)
    first_token_ms = models.PositiveIntegerField(null=True)
    rule = models.CharField(max_length=100, blank=True)
    task_kind = models.CharField(max_length=40, blank=True)
    agent_level = models.CharField(max_length=4, blank=True)
    creator = models.CharField(max_length=100, blank=True)
    run_id = models.CharField(max_length=64, blank=True)
    api_key_id = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["call_id", "attempt"], name="one_record_per_attempt")]
        indexes = [BrinIndex(fields=["created_at"], name="usagerecord_time")]

    def __str__(self) -> str:
        return f"{self.model} {self.outcome} {self.cost_microusd} µ$"


class UsageRollup(models.Model):
    """Sums of usage records by hour and by all that pages group by, written in the records' own transaction.

    `hour` is where an hour of UTC begins; or a quarter of one, where the staff's days do not begin with an hour.

    `calls` and `answered` count routed calls under the model that served them last; all else sums attempts.
    `latency` counts attempts by duration: element i (from 0) holds those of 2^(i/4) to 2^((i+1)/4) milliseconds."""

    LATENCY_BUCKETS = 88  # up to 2^22 ms, more than an hour

    hour = models.DateTimeField()
    model = models.CharField(max_length=100)
    provider = models.CharField(max_length=60)
    source = models.CharField(max_length=10)
    rule = models.CharField(max_length=100)
    task_kind = models.CharField(max_length=40)
    agent_level = models.CharField(max_length=4)
    creator = models.CharField(max_length=100)
    api_key_id = models.CharField(max_length=64)
    calls = models.BigIntegerField(default=0)
    answered = models.BigIntegerField(default=0)
    attempts = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cached_input_tokens = models.BigIntegerField(default=0)
    cost_microusd = models.BigIntegerField(default=0)
    baseline_microusd = models.BigIntegerField(default=0)
    energy_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    energy_wh = models.FloatField(default=0)
    duration_ms = models.BigIntegerField(default=0)
    latency = ArrayField(models.BigIntegerField(), default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "hour",
                    "model",
                    "provider",
                    "source",
                    "rule",
                    "task_kind",
                    "agent_level",
                    "creator",
                    "api_key_id",
                ],
                name="rollup_of_hour",
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.model}"


class RateBucket(models.Model):
    """What an API key used in one second, over all processes: the sliding windows of limits.py."""

    api_key_id = models.UUIDField()
    second = models.BigIntegerField(help_text="Unix time")
    requests = models.IntegerField(default=0)
    tokens = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["api_key_id", "second"], name="bucket_of_second")]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.second}"


class CachedAnswer(models.Model):
    """An answer that equal requests may share, or the claim of the call that is just getting it (no answer yet).
    The table is unlogged: after a crash of the database it is empty. Written by cache.py alone."""

    key = models.CharField(max_length=64, primary_key=True)  # a digest of the request and the key that made it
    owner = models.UUIDField(help_text="The call that got the answer, or is getting it.")
    expires_at = models.DateTimeField()
    stored_at = models.DateTimeField(null=True)
    bytes = models.PositiveIntegerField(default=0)
    answer = models.TextField(null=True, help_text="JSON; null while the call is under way.")  # noqa: DJ001 - a claim has none

    class Meta:
        indexes = [
            models.Index(fields=["expires_at"], name="cachedanswer_expiry"),
            models.Index(fields=["stored_at"], name="cachedanswer_age"),
        ]

    def __str__(self) -> str:
        return self.key[:12]


class ReviewedOutcome(models.Model):
    """What a person said of an answer. Calibration learns from those that came with a confidence."""

    call_id = models.UUIDField(primary_key=True)
    task_kind = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=100)
    confidence = models.FloatField(
        null=True, validators=[MinValueValidator(0), MaxValueValidator(100)], help_text="The raw figure, 0-100."
    )
    good = models.BooleanField()
    note = models.CharField(max_length=500, blank=True)
    reviewed_by = models.CharField(max_length=150, blank=True)
    reviewed_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [models.Index(fields=["task_kind", "-reviewed_at"], name="reviewed_kind")]

    def __str__(self) -> str:
        return f"{self.model} {'good' if self.good else 'bad'}"


class ShadowComparison(LeasedRow):
    """An answered call that a second model answers too, outside its user's time, and a judge's blind verdict.
    The texts are there until the verdict is. Written by shadowing.py and shadow.py alone."""

    STATES = ("waiting", "judged", "skipped", "failed")

    id = models.UUIDField(primary_key=True, editable=False)  # the answered call's
    policy = models.CharField(max_length=60)
    policy_version = models.PositiveIntegerField()
    rule = models.CharField(max_length=100)
    task_kind = models.CharField(max_length=60, blank=True)
    model = models.CharField(max_length=100)
    shadow_model = models.CharField(max_length=100)
    judge_model = models.CharField(max_length=100, blank=True, db_default="")
    state = models.CharField(max_length=10, choices=choices(STATES), default="waiting")
    winner = models.CharField(max_length=10, blank=True, choices=choices(("model", "shadow", "tie")))
    preferences = models.JSONField(default=list, help_text="What was said with the model first, with the shadow first.")
    problem = models.CharField(max_length=300, blank=True)
    cost_microusd = models.BigIntegerField(default=0)
    bodies = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    judged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        indexes = [
            models.Index(fields=["created_at"], condition=Q(state="waiting"), name="shadow_waiting"),
            models.Index(fields=["policy", "rule"], name="shadow_rule"),
        ]

    def __str__(self) -> str:
        return f"{self.rule}: {self.shadow_model} beside {self.model}"


class ProviderBatch(LeasedRow):
    """Requests that a provider answers together, later and cheaper. `sending` until its id is known."""

    STATES = ("sending", "open", "ended", "lost")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=60)
    remote_id = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=10, choices=choices(STATES), default="sending")
    problem = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "provider batches"
        ordering = ("-created_at",)
        indexes = [models.Index(fields=["state"], condition=Q(state__in=["sending", "open"]), name="batch_unfinished")]

    def __str__(self) -> str:
        return self.remote_id or str(self.id)


class BatchItem(LeasedRow):
    """A request that may wait: queued -> sent with a provider's batch -> done, or queued -> ready -> done by a plain
    call. The answer is on the receipt of `call_id`. Written by batch_rows.py and batching.py alone."""

    STATES = ("queued", "ready", "sent", "done", "failed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    call_id = models.UUIDField(default=uuid7)
    state = models.CharField(max_length=10, choices=choices(STATES), default="queued")
    request = models.JSONField(null=True, help_text="Until it is answered.")
    plain = models.BooleanField(default=False, help_text="No provider's batch is tried any more.")
    submissions = models.PositiveSmallIntegerField(default=0)
    batch = models.ForeignKey(ProviderBatch, null=True, on_delete=models.SET_NULL, related_name="items")
    sent = models.JSONField(null=True, help_text="What settles it: the decision, the hold, the model.")
    error = models.TextField(blank=True)
    api_key_id = models.CharField(max_length=64, blank=True)
    run_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    looked_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["looked_at"], condition=Q(state="queued"), name="batchitem_queued"),
            models.Index(fields=["state"], condition=Q(state="ready"), name="batchitem_ready"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"
