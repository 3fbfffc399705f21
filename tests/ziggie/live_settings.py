"""Ziggie's settings without its apps: processes that only send or hear live events start in half the time."""

from ziggie.settings import *  # noqa: F403

INSTALLED_APPS: list[str] = []
