"""Addresses below /api/knowledge/."""

from django.urls import path

from knowledge import api

urlpatterns = [
    path("creators", api.Creators.as_view()),
    path("videos", api.Videos.as_view()),
    path("videos/<uuid:pk>", api.VideoDetail.as_view()),
    path("videos/<uuid:pk>/analyze", api.VideoAnalyse.as_view()),
    path("videos/<uuid:pk>/hurry", api.VideoHurry.as_view()),
    path("videos/<uuid:pk>/analysis", api.VideoAnalysis.as_view()),
    path("insights.schema.json", api.InsightsSchema.as_view()),
]
