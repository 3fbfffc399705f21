"""Rows of the knowledge base: who makes videos, what they say, and what we learnt from it."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from routing.models import CREATOR_TIERS, choices
from ziggie.ids import uuid7
from ziggie.queue import LeasedRow

TIERS = CREATOR_TIERS
WAITS = "waits for"  # how the step of a video begins that waits for a window or a batch


class Creator(models.Model):
    """Someone whose videos we follow. The tier decides how they are analysed and how often scanned."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=100, unique=True)
    name = models.CharField(max_length=200)
    tier = models.CharField(max_length=10, choices=choices(TIERS), default="medium")
    channel_url = models.URLField(max_length=300, blank=True)
    scan_every_days = models.PositiveSmallIntegerField(
        default=7, validators=[MinValueValidator(1), MaxValueValidator(365)]
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Video(LeasedRow):
    """A video and where it stands on its way to insights. The row is also the job that analyses it.

    `version` grows with every change that pages should show. `round` counts requested analyses: a
    second one starts a new round, and parts of an older round are never mixed in.
    """

    STATES = (
        "new",
        "fetching",
        "no_transcript",
        "blocked",
        "queued",
        "analysing",
        "needs_review",
        "analysed",
        "failed",
    )

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    creator = models.ForeignKey(Creator, on_delete=models.PROTECT, related_name="videos")
    title = models.CharField(max_length=300)
    external_id = models.CharField(max_length=100, blank=True)
    url = models.URLField(max_length=500, blank=True)
    priority = models.CharField(
        max_length=10, choices=choices(TIERS), blank=True, help_text="Overrides the creator's tier."
    )
    language = models.CharField(max_length=20, blank=True)
    state = models.CharField(max_length=15, choices=choices(STATES), default="new")
    progress = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(100)])
    step = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    version = models.PositiveIntegerField(default=0, editable=False)
    round = models.PositiveIntegerField(default=0, editable=False)
    on_cloud = models.BooleanField(
        default=False, editable=False, help_text="This round asks for what critical work gets, whatever the tier."
    )
    at_once = models.BooleanField(
        default=False, editable=False, help_text="Somebody hurried this round: it waits for no window and no batch."
    )
    created_at = models.DateTimeField(default=timezone.now)
    queued_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [models.Index(fields=["state", "lease_until"])]
        constraints = [
            models.UniqueConstraint(
                fields=["creator", "external_id"], condition=~models.Q(external_id=""), name="video_of_creator"
            )
        ]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("video", args=[self.pk])

    @property
    def tier(self) -> str:
        return self.priority or self.creator.tier

    @property
    def waits(self) -> bool:
        """Whether it is still queued because its rule wants it to wait; `step` says for what."""
        return self.state == "queued" and self.step.startswith(WAITS)

    @property
    def asked_tier(self) -> str:
        """The tier that this round's calls are routed by."""
        return "critical" if self.on_cloud else self.tier

    def newest_analysis(self) -> "Analysis | None":
        """The analysis of the latest finished round; free of queries where `analyses` is prefetched."""
        return max(self.analyses.all(), key=lambda analysis: analysis.round, default=None)


class VideoTranscript(models.Model):
    """What is said in a video, as parsed. `segments` is the JSON form of knowledge.transcripts.Transcript."""

    video = models.OneToOneField(Video, on_delete=models.CASCADE, primary_key=True, related_name="transcript")
    format = models.CharField(max_length=10)
    sha256 = models.CharField(max_length=64)
    segments = models.JSONField()
    characters = models.PositiveIntegerField()
    duration_seconds = models.FloatField(default=0)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"transcript of {self.video_id}"


class AnalysisPart(models.Model):
    """One routed call of an analysis: a stretch of the transcript, or the summary of all of them.

    The call id is fixed before the call is made, so that a part that is taken up again after a crash
    is paid for once.
    """

    SUMMARY = 32_767  # this number is the summary's: it comes after every stretch

    video = models.ForeignKey(Video, on_delete=models.CASCADE, related_name="parts")
    round = models.PositiveIntegerField()
    number = models.PositiveSmallIntegerField()
    call_id = models.UUIDField(default=uuid7, unique=True)
    segments = models.JSONField(help_text="The stretch of the transcript that this part is about.")
    insights = models.JSONField(null=True)
    outcome = models.JSONField(null=True, help_text="Model, source, cost and attempts of the call.")

    class Meta:
        ordering = ("round", "number")
        constraints = [models.UniqueConstraint(fields=["video", "round", "number"], name="part_of_analysis")]

    def __str__(self) -> str:
        return f"{self.video_id} round {self.round} part {self.number}"


class Analysis(models.Model):
    """The insights of one round, with what they cost and who made them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    video = models.ForeignKey(Video, on_delete=models.CASCADE, related_name="analyses")
    round = models.PositiveIntegerField()
    insights = models.JSONField()
    confidence = models.FloatField()
    model = models.CharField(max_length=100)
    source = models.CharField(max_length=10)
    cost_microusd = models.BigIntegerField(default=0)
    saved_microusd = models.BigIntegerField(default=0)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0)
    attempts = models.JSONField(default=list)
    call_ids = models.JSONField(default=list)
    note = models.CharField(max_length=500, blank=True, help_text="What to know of how it was made.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "analyses"
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=["video", "round"], name="analysis_of_round")]

    def __str__(self) -> str:
        return f"{self.video_id} by {self.model}"
