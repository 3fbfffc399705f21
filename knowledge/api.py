"""REST of the knowledge base: parse, call one function, answer."""

import json
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from knowledge.insights import SCHEMA
from knowledge.models import Creator, Video
from knowledge.serializers import (
    AnalysisSerializer,
    CreatorSerializer,
    VideoInput,
    VideoSerializer,
    analysis_body,
)
from knowledge.transcripts import Transcript, parse
from knowledge.videos import NewVideo, add_video, request_analysis
from knowledge.waiting import hurry
from ziggie.errors import InvalidInput


class Creators(generics.ListCreateAPIView[Creator]):
    queryset = Creator.objects.all()
    serializer_class = CreatorSerializer

    def perform_create(self, serializer: Any) -> None:
        serializer.save(name=serializer.validated_data.get("name") or serializer.validated_data["slug"])


class Videos(generics.ListAPIView[Video]):
    """Videos, newest first; `?state=` and `?creator=` filter."""

    serializer_class = VideoSerializer

    def get_queryset(self) -> Any:
        videos = Video.objects.select_related("creator").order_by("-id")
        filters = {"state": "state", "creator": "creator__slug", "external_id": "external_id"}
        given = {column: self.request.GET[name] for name, column in filters.items() if self.request.GET.get(name)}
        return videos.filter(**given)

    @extend_schema(
        parameters=[OpenApiParameter("state", str), OpenApiParameter("creator", str)],
        responses=VideoSerializer(many=True),
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(request=VideoInput, responses={201: VideoSerializer, 200: VideoSerializer})
    def post(self, request: Request) -> Response:
        """Takes a video in; with a transcript it is queued for analysis. 200 if it was there already."""
        form = VideoInput(data=request.data)
        form.is_valid(raise_exception=True)
        fields = dict(form.validated_data)
        transcript = _transcript(fields.pop("transcript", None))
        video, created = add_video(NewVideo(**fields), transcript)
        return Response(VideoSerializer(video).data, status=status.HTTP_201_CREATED if created else status.HTTP_200_OK)


def _transcript(given: dict[str, Any] | None) -> Transcript | None:
    """The parsed transcript of a request body. Raises TranscriptError naming the line."""
    if given is None:
        return None
    content, format = given["content"], given.get("format")
    if isinstance(content, str):
        text = content
    elif format in ("json", "json3", None) and isinstance(content, dict | list):
        text = json.dumps(content)
    else:
        raise InvalidInput("transcript.content: must be a text, or the parsed JSON of a json or json3 transcript")
    return parse(text.encode("utf-8", "surrogatepass"), format=format, name="transcript")


class VideoDetail(generics.RetrieveAPIView[Video]):
    queryset = Video.objects.select_related("creator")
    serializer_class = VideoSerializer


class VideoAnalyse(APIView):
    @extend_schema(request=None, responses={202: VideoSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Queues an analysis. 409 while one is under way."""
        video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
        request_analysis(video)
        return Response(VideoSerializer(video).data, status=status.HTTP_202_ACCEPTED)


class VideoHurry(APIView):
    @extend_schema(request=None, responses={202: VideoSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Has a video that waits for a window or a batch analysed now, at the plain price. 409 if it waits for none."""
        video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
        hurry(video)
        video.refresh_from_db()
        return Response(VideoSerializer(video).data, status=status.HTTP_202_ACCEPTED)


class VideoAnalysis(APIView):
    @extend_schema(responses=AnalysisSerializer)
    def get(self, request: Request, pk: str) -> Response:
        """The newest insights of a video, with what they cost; `insights` is null until there are some."""
        video = get_object_or_404(Video.objects.select_related("creator"), pk=pk)
        return Response(analysis_body(video))


class InsightsSchema(APIView):
    @extend_schema(responses={200: dict})
    def get(self, request: Request) -> Response:
        """The JSON Schema that all insights follow."""
        return Response(SCHEMA)
