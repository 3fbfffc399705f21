"""Rows around the ledger's records: what is left of months whose records are gone, bodies that a rule keeps,
and what providers say that they were used for."""

from django.db import models
from django.utils import timezone

from ziggie.ids import uuid7


class UsageMonth(models.Model):
    """The sums of a month whose records and receipts were dropped, as they stood then: with what is left of the
    month's records they add up to its rollups, which stay. Written by retention.py alone."""

    month = models.DateField(primary_key=True, help_text="Its first day, in UTC.")
    attempts = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_microusd = models.BigIntegerField(default=0)
    baseline_microusd = models.BigIntegerField(default=0)
    energy_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    receipts = models.BigIntegerField(default=0)
    receipts_microusd = models.BigIntegerField(default=0)
    paid_by = models.JSONField(default=dict, help_text="What each budget paid, by the receipts that were dropped.")
    dropped_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-month",)

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class StoredBody(models.Model):
    """What was asked and answered in one call, redacted, because its rule says so. Purged after some days.
    Written by bodies.py alone."""

    call_id = models.UUIDField(primary_key=True)
    created_at = models.DateTimeField(default=timezone.now)
    request = models.JSONField()
    answer = models.JSONField(null=True, help_text="Null for a call that had no answer.")
    redactions = models.PositiveIntegerField(default=0)
    cut = models.BooleanField(default=False, help_text="Something was longer than what is kept.")

    class Meta:
        verbose_name_plural = "stored bodies"
        indexes = [models.Index(fields=["created_at"], name="storedbody_age")]

    def __str__(self) -> str:
        return str(self.call_id)


class Statement(models.Model):
    """A provider's export of what it was used for, and who loaded it. Its lines are compared with the rollups
    whenever somebody looks. Written by statements.py alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=60)
    file_name = models.CharField(max_length=200)
    digest = models.CharField(max_length=64, help_text="SHA-256 of the file.")
    form = models.CharField(max_length=40, help_text="Which kind of export it is.")
    first_day = models.DateField()
    last_day = models.DateField()
    file_rows = models.PositiveIntegerField()
    loaded_by = models.CharField(max_length=150)
    loaded_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["provider", "digest"], name="statement_loaded_once")]

    def __str__(self) -> str:
        return f"{self.provider} {self.first_day} to {self.last_day}"


class StatementLine(models.Model):
    """One day (in UTC) and model of a statement. What the export does not tell is null."""

    statement = models.ForeignKey(Statement, on_delete=models.CASCADE, related_name="lines")
    day = models.DateField()
    model = models.CharField(max_length=150, help_text="The provider's name for it; empty for what is no model's.")
    input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    cost_microusd = models.BigIntegerField(null=True)

    class Meta:
        ordering = ("day", "model")
        constraints = [models.UniqueConstraint(fields=["statement", "day", "model"], name="line_of_day_and_model")]

    def __str__(self) -> str:
        return f"{self.day} {self.model}"
