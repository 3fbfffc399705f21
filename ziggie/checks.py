"""System checks: settings that cannot work, or that nobody should go live with. Each says what to do."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # Django's name
from django.core.exceptions import ImproperlyConfigured

TAG = "ziggie"
MOST_WORKERS = 64


@register(TAG)
def check_secret_key(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    try:
        present = bool(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django refuses to hand out an empty one
        present = False
    if not present:
        hint = "Set SECRET_KEY to 50 random characters and keep them; or DEBUG=true on your own machine."
        return [Error("DEBUG is off and SECRET_KEY is missing.", hint=hint, id="ziggie.E001")]
    if not settings.DEBUG and settings.FIELD_ENCRYPTION_KEY == settings.SECRET_KEY:
        hint = "Set FIELD_ENCRYPTION_KEY to 50 other random characters before provider keys are stored."
        return [Warning("Stored provider keys are encrypted with SECRET_KEY.", hint=hint, id="ziggie.W001")]
    return []


@register(TAG)
def check_reach(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if is_loopback(settings.HOST):
        return []
    found: list[CheckMessage] = []
    if settings.DEBUG:
        hint = "Set DEBUG=false and SECRET_KEY; error pages with DEBUG show the program's inside to everybody."
        found.append(Warning(f"DEBUG is on and HOST={settings.HOST} lets others in.", hint=hint, id="ziggie.W002"))
    local = {settings.HOST, "127.0.0.1", "localhost", "[::1]"}
    if set(settings.ALLOWED_HOSTS) <= local and settings.HOST in {"0.0.0.0", "::"}:  # noqa: S104
        hint = "Set ALLOWED_HOSTS to the names under which people reach this machine, separated by commas."
        found.append(Warning("Requests from other machines will be refused.", hint=hint, id="ziggie.W003"))
    if "*" in settings.ALLOWED_HOSTS:
        hint = "Set ALLOWED_HOSTS to the names under which people reach this machine, separated by commas."
        found.append(Warning("Any Host header is accepted.", hint=hint, id="ziggie.W004"))
    return found


@register(TAG)
def check_numbers(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if not 1 <= settings.WORKERS <= MOST_WORKERS:
        hint = f"Set WORKERS to a number from 1 to {MOST_WORKERS}; 2 does for a start."
        found.append(Error(f"WORKERS={settings.WORKERS} cannot work.", hint=hint, id="ziggie.E002"))
    if not 0 <= settings.PORT <= 65535:
        found.append(Error(f"PORT={settings.PORT} is not a port.", hint="Set PORT from 1 to 65535.", id="ziggie.E003"))
    for name in ("MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS"):
        if getattr(settings, name) < 0:
            hint = f"Set {name} to a number of connections; 0 is what the system allows."
            found.append(Error(f"{name}={getattr(settings, name)} cannot be.", hint=hint, id="ziggie.E008"))
    return found


@register(TAG)
def check_proxies(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for entry in settings.TRUSTED_PROXIES:
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError:
            hint = "Set TRUSTED_PROXIES to addresses or networks such as 10.0.0.0/8, separated by commas."
            found.append(Error(f"TRUSTED_PROXIES: {entry!r} is no network.", hint=hint, id="ziggie.E007"))
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in ("", "localhost")
