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
    if abs(dollars) >= 1:
        return f"{dollars:.2f}"
    return f"{dollars:.6f}" if microusd % 100 else f"{dollars:.4f}"


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
def percent(fraction: float | None) -> str:
    """A fraction as a percentage; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.3g} %"


@register.filter
def signed(microusd: int) -> str:
    """A difference of money with its sign, which stands before the dollar."""
    return f"{'−' if microusd < 0 else '+'}${usd(abs(microusd))}" if microusd else "$0"


@register.filter
def conditions(when: Mapping[str, Any]) -> list[str]:
    """A rule's conditions for people; all of them must hold."""
    found = []
    for name, wanted in when.items():
        if isinstance(wanted, Mapping):
            signs = (("above", "above"), ("at_most", "at most"))
            bounds = " and ".join(f"{said} {wanted[side]}" for side, said in signs if side in wanted)
            found.append(f"{words(name)} {bounds}")
        else:
            found.append(f"{words(name)}: {' or '.join(wanted)}")
    return found


@register.filter
def settings_of(given: Mapping[str, Any] | None) -> list[str]:
    """A rule's options or roles for people; none for a rule that says none."""
    return [f"{words(name)}: {_plainly(value)}" for name, value in (given or {}).items()]


def _plainly(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


@register.filter
def value_of(given: Mapping[str, Any], name: str) -> Any:
    """What a mapping holds under a name; "" for nothing."""
    return given.get(name, "")


@register.filter
def seconds(milliseconds: int) -> str:
    """Milliseconds as seconds, with more digits below a second."""
    return f"{milliseconds / 1000:.1f}" if milliseconds >= 1000 else f"{milliseconds / 1000:.3f}"


@register.filter
def unlocalized(number: float) -> str:
    """A number as an SVG drawing wants it, whatever the language."""
    return f"{number:g}"
