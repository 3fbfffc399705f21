"""Every address, app by app."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from ziggie import openapi  # noqa: F401 - registers how callers prove who they are, before any schema is made
from ziggie.errors import no_such_endpoint

urlpatterns = [
    path("", include("monitoring.urls")),
    path("", include("routing.urls")),
    path("runs/", include("agents.urls")),
    path("knowledge/", include("knowledge.urls")),
    path("login/", LoginView.as_view(template_name="login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/", include("agents.api_urls")),
    path("api/", include("routing.rest.urls")),
    path("api/knowledge/", include("knowledge.api_urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("api/<path:rest>", no_such_endpoint),
]
