"""Budgets and what is held of them. BudgetPeriod's counters are written by the ledger alone."""

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from routing.models.configuration import choices
from ziggie.fields import WrittenJSONField
from ziggie.ids import uuid7


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
    context = WrittenJSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="reservation_expiry")]

    def __str__(self) -> str:
        return str(self.id)
