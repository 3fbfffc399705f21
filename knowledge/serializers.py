"""Shapes of the knowledge base on the wire."""

from typing import Any

from rest_framework import serializers

from knowledge.models import TIERS, Analysis, Creator, Video
from routing.planning.pricing import usd

FORMATS = ("vtt", "srt", "json3", "json", "txt")


class CreatorSerializer(serializers.ModelSerializer[Creator]):
    class Meta:
        model = Creator
        fields = ("id", "slug", "name", "tier", "channel_url", "scan_every_days", "created_at")
        read_only_fields = ("id", "created_at")
        extra_kwargs = {"name": {"required": False}}


class TranscriptInput(serializers.Serializer[Any]):
    format = serializers.ChoiceField(choices=FORMATS, required=False)
    content = serializers.JSONField(help_text="The transcript's text; for json and json3 the parsed JSON will do.")


class VideoInput(serializers.Serializer[Any]):
    creator = serializers.CharField()
    title = serializers.CharField()
    external_id = serializers.CharField(required=False, default="", allow_blank=True)
    url = serializers.CharField(required=False, default="", allow_blank=True)
    priority = serializers.ChoiceField(choices=TIERS, required=False, default="", allow_blank=True)
    language = serializers.CharField(required=False, default="", allow_blank=True)
    transcript = TranscriptInput(required=False, allow_null=True)


class VideoSerializer(serializers.ModelSerializer[Video]):
    creator: serializers.SlugRelatedField[Creator] = serializers.SlugRelatedField(slug_field="slug", read_only=True)

    class Meta:
        model = Video
        fields = (
            "id",
            "external_id",
            "creator",
            "title",
            "url",
            "priority",
            "language",
            "state",
            "progress",
            "step",
            "error",
            "created_at",
            "finished_at",
        )


class InsightsSerializer(serializers.Serializer[Any]):
    """For the OpenAPI schema only; insights.schema.json is the exact one."""

    summary = serializers.CharField()
    key_points = serializers.ListField(child=serializers.DictField())
    workflow_steps = serializers.ListField(child=serializers.CharField())
    tools = serializers.ListField(child=serializers.CharField())
    settings = serializers.ListField(child=serializers.CharField())
    topics = serializers.ListField(child=serializers.CharField())
    technical_level = serializers.CharField()
    confidence = serializers.FloatField()


class AnalysisSerializer(serializers.Serializer[Any]):
    video_id = serializers.UUIDField()
    state = serializers.CharField()
    insights = InsightsSerializer(allow_null=True)
    model = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # the wire name; Field.source is another thing
    cost_usd = serializers.CharField()
    saved_usd = serializers.CharField()
    seconds = serializers.FloatField()
    attempts = serializers.ListField(child=serializers.DictField())
    error = serializers.CharField()


def analysis_body(video: Video) -> dict[str, Any]:
    """A video's state and its newest insights, if there are any yet."""
    analysis: Analysis | None = video.newest_analysis()
    return {
        "video_id": str(video.pk),
        "external_id": video.external_id,
        "title": video.title,
        "creator": video.creator.slug,
        "state": video.state,
        "error": video.error,
        "insights": analysis.insights if analysis else None,
        "confidence": analysis.confidence if analysis else None,
        "model": analysis.model if analysis else "",
        "source": analysis.source if analysis else "",
        "cost_usd": usd(analysis.cost_microusd if analysis else 0),
        "saved_usd": usd(analysis.saved_microusd if analysis else 0),
        "input_tokens": analysis.input_tokens if analysis else 0,
        "output_tokens": analysis.output_tokens if analysis else 0,
        "seconds": round(analysis.seconds, 3) if analysis else 0.0,
        "attempts": analysis.attempts if analysis else [],
        "call_ids": analysis.call_ids if analysis else [],
    }
