"""What all processes share for a while: circuits, counts, cached answers."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from routing.models.configuration import (
    Provider,
    choices,
)


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
