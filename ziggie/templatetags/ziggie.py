"""How figures and names look on pages."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from django import template

register = template.Library()


@register.filter
def usd(microusd: int) -> str:
    """Micro-dollars as dollars; small amounts keep their digits, since a call costs fractions of a cent."""
    dollars = microusd / 1_000_000
    return f"{dollars:.2f}" if abs(dollars) >= 1 else f"{dollars:.4f}"


@register.filter
def money(dollars: str) -> str:
    """A decimal string of dollars, as usd shows amounts."""
    return usd(round(Decimal(dollars) * 1_000_000))


@register.filter
def words(name: str) -> str:
    """A state's name for people."""
    return name.replace("_", " ")


@register.filter
def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@register.filter
def at_second(url: str, seconds: float) -> str:
    """A video's address that starts at a second."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "t"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("t", f"{int(seconds)}s")])))


@register.filter
def lists(insights: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The lists of an analysis that are shown as tags."""
    return [(name.capitalize(), insights.get(name, [])) for name in ("tools", "settings", "topics")]


@register.filter
def seconds(milliseconds: int) -> str:
    """Milliseconds as seconds, with more digits below a second."""
    return f"{milliseconds / 1000:.1f}" if milliseconds >= 1000 else f"{milliseconds / 1000:.3f}"


@register.filter
def unlocalized(number: float) -> str:
    """A number as an SVG drawing wants it, whatever the language."""
    return f"{number:g}"
