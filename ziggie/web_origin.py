"""Which web pages may open a socket here. A cookie travels with a handshake from any page; its origin tells."""

from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import split_domain_port, validate_host


class OriginCheck:
    """Refuses (HTTP 403) a handshake from a page of another site. Programs send no origin and pass: they
    hold no other site's cookies."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = {name.lower(): value.decode("latin1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is None or is_allowed(origin, host=headers.get(b"host", "")):
            await self.application(scope, receive, send)
        else:
            await WebsocketDenier()(scope, receive, send)


def is_allowed(origin: str, *, host: str) -> bool:
    """Whether a page of `origin` is one of ours: its host is allowed by name, or trusted with its scheme.

    Where ALLOWED_HOSTS takes any name, the page has to come from the host that it calls.
    """
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    try:
        name = urlsplit(origin).hostname
    except ValueError:
        return False
    if not name:
        return False
    if ":" in name:
        name = f"[{name}]"
    named = [pattern for pattern in settings.ALLOWED_HOSTS if pattern != "*"]
    if validate_host(name, named):
        return True
    return "*" in settings.ALLOWED_HOSTS and name == split_domain_port(host.lower())[0]
