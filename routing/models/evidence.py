"""What is learned of answers: reviews, comparisons; and answers that are waited for."""

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from routing.models.configuration import choices
from ziggie.ids import uuid7
from ziggie.queue import LeasedRow


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
    call; failed or cancelled else. The answer is on the receipt of `call_id`. Written by the batch modules alone.

    What was sent and is not wanted any more leaves a row that is `given_up`: what it costs is still counted.
    """

    STATES = ("queued", "ready", "sent", "done", "failed", "cancelled")
    OWNERS = ("run", "video")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    call_id = models.UUIDField(default=uuid7)
    state = models.CharField(max_length=10, choices=choices(STATES), default="queued")
    request = models.JSONField(null=True, help_text="Until it is answered.")
    plain = models.BooleanField(default=False, help_text="No provider's batch is tried any more.")
    given_up = models.BooleanField(default=False, help_text="Nobody wants its answer; what it costs counts.")
    submissions = models.PositiveSmallIntegerField(default=0)
    batch = models.ForeignKey(ProviderBatch, null=True, on_delete=models.SET_NULL, related_name="items")
    sent = models.JSONField(null=True, help_text="What settles it: the decision, the hold, the model.")
    error = models.TextField(blank=True)
    made_for = models.CharField(
        max_length=10, blank=True, choices=choices(OWNERS), help_text="Whose work it is, who makes plain calls alone."
    )
    requested_by = models.CharField(max_length=150, blank=True)
    external_id = models.CharField(max_length=100, blank=True)
    digest = models.CharField(max_length=64, blank=True, help_text="Of a request with an external id.")
    limit_microusd = models.BigIntegerField(null=True, help_text="The most that all its calls may cost.")
    spent_microusd = models.BigIntegerField(default=0, help_text="Of that, by batches.")
    allowed_models = ArrayField(models.CharField(max_length=100), default=list, help_text="Empty: all.")
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
            models.Index(fields=["finished_at"], name="batchitem_age"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["requested_by", "external_id"], condition=~Q(external_id=""), name="batchitem_external_id"
            )
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"
