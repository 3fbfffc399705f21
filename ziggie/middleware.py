"""Headers that every page bears."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

# The admin theme evaluates expressions in its attributes (Alpine.js), so only it is allowed to.
PAGES = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self' ws: wss:",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'none'",
        "object-src 'none'",
    )
)
ADMIN = PAGES + "; script-src 'self' 'unsafe-inline' 'unsafe-eval'"


class ContentSecurityPolicyMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        third_party = request.path.startswith(("/admin/", "/api/docs"))
        response.headers.setdefault("Content-Security-Policy", ADMIN if third_party else PAGES)
        return response
