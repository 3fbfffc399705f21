"""Pages below /knowledge/."""

from django.urls import path

from knowledge import views

urlpatterns = [
    path("", views.video_list, name="videos"),
    path("videos/upload/", views.video_upload, name="video-upload"),
    path("videos/<uuid:pk>/", views.video_page, name="video"),
    path("videos/<uuid:pk>/row/", views.video_row, name="video-row"),
    path("videos/<uuid:pk>/body/", views.video_body, name="video-body"),
    path("videos/<uuid:pk>/analyze/", views.video_analyse, name="video-analyse"),
    path("videos/<uuid:pk>/hurry/", views.video_hurry, name="video-hurry"),
    path("videos/<uuid:pk>/review/", views.video_review, name="video-review"),
    path("videos/<uuid:pk>/redo/", views.video_redo, name="video-redo"),
]
