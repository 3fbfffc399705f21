"""PURE: bars of cost and saving, as the shapes of an SVG drawing that the server sends."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 220.0
LEFT, TOP, BOTTOM = 62.0, 12.0, 24.0
MAX_LABELS = 8
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Amounts:
    label: str
    cost_microusd: int
    saved_microusd: int


@dataclass(frozen=True, slots=True)
class Bar:
    kind: str  # cost, saved, lost
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    bars: list[Bar]
    lines: list[Tick]  # across, with their amount
    labels: list[Tick]  # below
    zero: float
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT


def draw(amounts: Sequence[Amounts]) -> Chart | None:
    """Two bars for each; None where there is nothing to see."""
    values = [value for a in amounts for value in (a.cost_microusd, a.saved_microusd)]
    if not any(values):
        return None
    top, bottom = max(0, *values), min(0, *values)
    step = _step((top - bottom) / 4)
    highest, lowest = -(-top // step) * step, bottom // step * step
    scale = (HEIGHT - TOP - BOTTOM) / (highest - lowest)

    def y(value: float) -> float:
        return round(TOP + (highest - value) * scale, 1)

    room = (WIDTH - LEFT) / len(amounts)
    bars = [bar for place, one in enumerate(amounts) for bar in _bars(one, LEFT + place * room, room, y(0), scale)]
    lines = [Tick(y(value), _usd(value)) for value in _range(lowest, highest, step)]
    every = -(-len(amounts) // MAX_LABELS)
    labels = [Tick(round(LEFT + (p + 0.5) * room, 1), a.label) for p, a in enumerate(amounts) if p % every == 0]
    return Chart(bars, lines, labels, y(0))


def _bars(amounts: Amounts, x: float, room: float, zero: float, scale: float) -> list[Bar]:
    width = round(min(room * 0.4, 26), 2)
    middle = x + room / 2
    saved = amounts.saved_microusd
    kinds = [("cost", amounts.cost_microusd, middle - width), ("saved" if saved >= 0 else "lost", saved, middle)]
    return [
        Bar(
            kind,
            round(left, 2),
            round(zero - max(value, 0) * scale, 2),
            width,
            round(abs(value) * scale, 2),
            f"{amounts.label}: {kind} {_usd(abs(value))}",
        )
        for kind, value, left in kinds
        if value
    ]


def _step(wanted: float) -> int:
    """The next round number of micro-dollars."""
    power = 1
    while power * 10 <= wanted:
        power *= 10
    return max(1, next(int(power * step) for step in STEPS if power * step >= wanted or step == STEPS[-1]))


def _range(lowest: int, highest: int, step: int) -> list[int]:
    return list(range(int(lowest), int(highest) + 1, step))


def _usd(microusd: float) -> str:
    dollars = microusd / 1_000_000
    digits = 2 if abs(dollars) >= 0.1 or not dollars else 4 if abs(dollars) >= 0.001 else 6
    return f"${dollars:,.{digits}f}"
