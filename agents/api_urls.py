"""Addresses below /api/agents."""

from django.urls import path

from agents import api

urlpatterns = [
    path("", api.Agents.as_view()),
    path("/runs", api.Runs.as_view()),
    path("/runs/<uuid:pk>", api.RunDetail.as_view()),
    path("/runs/<uuid:pk>/cancel", api.RunCancel.as_view()),
]
