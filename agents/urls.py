"""Pages below /runs/."""

from django.urls import path

from agents import views

urlpatterns = [
    path("", views.run_list, name="runs"),
    path("<uuid:pk>/", views.run_page, name="run"),
    path("<uuid:pk>/row/", views.run_row, name="run-row"),
    path("<uuid:pk>/body/", views.run_body, name="run-body"),
    path("<uuid:pk>/cancel/", views.run_cancel, name="run-cancel"),
    path("<uuid:pk>/hurry/", views.run_hurry, name="run-hurry"),
    path("<uuid:pk>/review/", views.run_review, name="run-review"),
]
