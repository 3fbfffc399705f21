"""Rows of the agents: who they are, and each run of one."""

from django.core.validators import MaxValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from routing.models import AGENT_LEVELS, choices
from ziggie.ids import uuid7
from ziggie.queue import LeasedRow

LEVELS = AGENT_LEVELS


class Agent(models.Model):
    """A role with a system prompt. Level L1 directs, L2 specialises, L3 does micro-tasks."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=100, unique=True)
    name = models.CharField(max_length=200)
    level = models.CharField(max_length=2, choices=choices(LEVELS), default="L3")
    system_prompt = models.TextField(blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.name


class AgentRun(LeasedRow):
    """One task given to one agent. The row is also the job."""

    STATUSES = ("queued", "working", "waiting_approval", "completed", "failed", "cancelled", "timed_out")
    FINAL = ("completed", "failed", "cancelled", "timed_out")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="runs")
    level = models.CharField(max_length=2)
    prompt = models.TextField()
    requested_model = models.CharField(max_length=100, default="auto")
    metadata = models.JSONField(default=dict, blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)
    requested_by = models.CharField(max_length=150, blank=True)
    api_key_id = models.CharField(max_length=64, blank=True)
    budget_microusd = models.BigIntegerField(null=True, blank=True, help_text="The most that all its calls may cost.")
    budget_fit = models.CharField(max_length=6, blank=True, help_text="clamp or refuse; see docs/routing.md.")
    at_once = models.BooleanField(default=False, help_text="Somebody hurried it: it waits for no window and no batch.")
    waits_for = models.CharField(max_length=200, blank=True, help_text="Why it is still queued, if a rule wants so.")
    callback_url = models.CharField(max_length=2000, blank=True, help_text="Who is told when the run is over.")
    call_id = models.UUIDField(default=uuid7, unique=True, help_text="Fixed before the call: a run is paid for once.")

    status = models.CharField(max_length=20, choices=[(s, s) for s in STATUSES], default="queued")
    progress = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(100)])
    version = models.PositiveIntegerField(default=0, editable=False)
    answer = models.TextField(blank=True)
    error = models.TextField(blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=100, blank=True)
    source = models.CharField(max_length=10, blank=True)
    cost_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [models.Index(fields=["status", "lease_until"], name="waiting_runs")]
        constraints = [
            models.UniqueConstraint(
                fields=["requested_by", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="one_run_per_idempotency_key",
            )
        ]

    def __str__(self) -> str:
        return f"{self.agent_id}: {self.prompt[:60]}"

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.pk])

    @property
    def seconds(self) -> float | None:
        if self.started_at is None:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()

    @property
    def callback(self) -> "Callback | None":
        """The latest delivery of its end."""
        return max(self.callbacks.all(), key=lambda callback: callback.created_at, default=None)

    @property
    def callback_place(self) -> str:
        """The callback's address without what may be secret in it."""
        return self.callback_url.partition("?")[0].partition("#")[0]


class Callback(LeasedRow):
    """The end of one run, on its way to whoever asked for it. Written by callbacks.py alone."""

    STATES = ("waiting", "delivered", "failed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(AgentRun, on_delete=models.CASCADE, related_name="callbacks")
    state = models.CharField(max_length=10, choices=[(s, s) for s in STATES], default="waiting")
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, default=timezone.now)
    status = models.PositiveSmallIntegerField(null=True, help_text="Of the latest answer.")
    problem = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = [models.Index(fields=["next_at"], condition=models.Q(state="waiting"), name="callback_due")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.state}"
