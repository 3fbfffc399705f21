"""Addresses below /api/."""

from django.urls import path

from agents import api

urlpatterns = [
    path("agents", api.Agents.as_view()),
    path("agents/runs", api.Runs.as_view()),
    path("agents/runs/<uuid:pk>", api.RunDetail.as_view()),
    path("agents/runs/<uuid:pk>/cancel", api.RunCancel.as_view()),
    path("agents/runs/<uuid:pk>/hurry", api.RunHurry.as_view()),
]
