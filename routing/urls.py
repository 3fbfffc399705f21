"""Pages below /usage/."""

from django.urls import path

from routing import views

urlpatterns = [
    path("", views.usage_page, name="usage"),
    path("figures/", views.usage_figures, name="usage-figures"),
    path("groups.csv", views.usage_csv, name="usage-csv"),
    path("calls/", views.calls, name="usage-calls"),
    path("calls/<uuid:pk>/", views.receipt, name="usage-call"),
    path("prices/", views.prices, name="usage-prices"),
    path("statements/", views.statement_list, name="statements"),
    path("statements/<uuid:pk>/", views.statement_page, name="statement"),
]
