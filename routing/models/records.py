"""What was done and what it cost: receipts, usage records, their sums."""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.utils import timezone

from ziggie.fields import WrittenJSONField
from ziggie.ids import uuid7


class RoutedCall(models.Model):
    """The receipt of a routed call: what was decided, why, and what came of it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    policy = models.CharField(max_length=60)
    policy_version = models.PositiveIntegerField()
    rule = models.CharField(max_length=100)
    pattern = models.CharField(max_length=10)
    features = WrittenJSONField()
    candidates = WrittenJSONField()
    request = WrittenJSONField(default=dict, help_text="What the decision needs to be made again; no texts.")
    attempts = WrittenJSONField(default=list)
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
    paid_by = models.JSONField(default=dict, help_text="What each budget paid: its id -> micro-dollars.")

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
    `latency` counts attempts by duration: element i (from 0) holds those of 2^(i/4) to 2^((i+1)/4) milliseconds, the
    last one (87) all that took longer than an hour, too."""

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
