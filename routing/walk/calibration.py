"""What a stated confidence is worth: isotonic regression on outcomes that people have reviewed.

Models differ in how sure they claim to be. Once enough answers of a task kind were reviewed, a raw figure is
read as the share of answers that were good at that figure; until then it is taken as it is.
"""

import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import psycopg
from django.db.models import Count, Q

from routing import database
from routing.models import ReviewedOutcome
from ziggie.errors import Unavailable

logger = logging.getLogger(__name__)

ENOUGH_OUTCOMES = 50
MOST_OUTCOMES = 2_000  # the newest ones count
FRESH_SECONDS = 60.0
MAX_CURVES = 1_000

OUTCOMES = """
SELECT confidence, good, model = %s FROM routing_reviewedoutcome
WHERE task_kind = %s AND confidence IS NOT NULL ORDER BY reviewed_at DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A confidence (0-100), and how many reviewed outcomes it rests on; 0: it is the raw figure."""

    confidence: float
    outcomes: int = 0


@dataclass(frozen=True, slots=True)
class Curve:
    """A function that never falls, given by points; between two of them it is a straight line."""

    raw: tuple[float, ...]
    true: tuple[float, ...]
    outcomes: int

    def at(self, raw: float) -> float:
        place = bisect_right(self.raw, raw)
        if place == 0:
            return self.true[0]
        if place == len(self.raw):
            return self.true[-1]
        left, right = self.raw[place - 1], self.raw[place]
        share = (raw - left) / (right - left)
        return self.true[place - 1] + share * (self.true[place] - self.true[place - 1])


def isotonic(outcomes: Iterable[tuple[float, bool]]) -> Curve:
    """The curve nearest to the outcomes, by least squares, among those that never fall. At least one outcome.

    Pool adjacent violators: neighbours whose shares of good answers fall are pooled until none do.
    """
    blocks: list[list[float]] = []  # [sum of good, count, lowest raw, highest raw]
    for raw, same in groupby(sorted(outcomes), key=lambda outcome: outcome[0]):
        good = [outcome[1] for outcome in same]
        blocks.append([sum(good), len(good), raw, raw])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            after = blocks.pop()
            before = blocks[-1]
            blocks[-1] = [before[0] + after[0], before[1] + after[1], before[2], after[3]]
    points = [(at, 100.0 * good / count) for good, count, low, high in blocks for at in dict.fromkeys((low, high))]
    total = sum(int(block[1]) for block in blocks)
    return Curve(tuple(raw for raw, _ in points), tuple(true for _, true in points), total)


async def calibrated(task_kind: str, model: str, raw: float) -> Calibrated:
    """The raw confidence as reviewed outcomes tell it: those of the model itself if there are enough, else those
    of all models at this kind of task. While the database is away, as they were known last: the answer is there, and is
    given."""
    curve = await _curve(task_kind, model)
    return Calibrated(raw) if curve is None else Calibrated(curve.at(raw), curve.outcomes)


@dataclass(slots=True)
class _Known:
    curves: dict[tuple[str, str], tuple[float, Curve | None]] = field(default_factory=dict)


_known = _Known()


def forget() -> None:
    """Reviewed outcomes are read again at once."""
    _known.curves.clear()


async def _curve(task_kind: str, model: str) -> Curve | None:
    read_at, curve = _known.curves.get((task_kind, model), (float("-inf"), None))
    if time.monotonic() - read_at < FRESH_SECONDS:
        return curve
    try:
        async with database.connection() as connection:
            rows = await (await connection.execute(OUTCOMES, (model, task_kind, MOST_OUTCOMES))).fetchall()
    except (Unavailable, psycopg.Error) as away:
        logger.warning("the reviewed outcomes of %s cannot be read: %s", model, type(away).__name__)
        return curve
    curve = _fitted(rows)
    if len(_known.curves) >= MAX_CURVES:
        _known.curves.clear()
    _known.curves[task_kind, model] = (time.monotonic(), curve)
    return curve


def _fitted(rows: Sequence[tuple[float, bool, bool]]) -> Curve | None:
    its_own = [(raw, good) for raw, good, own in rows if own]
    everyone = [(raw, good) for raw, good, _ in rows]
    for outcomes in (its_own, everyone):
        if len(outcomes) >= ENOUGH_OUTCOMES:
            return isotonic(outcomes)
    return None


def outcomes_known(task_kind: str, model: str) -> tuple[int, int]:
    """How many reviewed outcomes there are to calibrate by: the model's own, and those of all models at this task."""
    known = ReviewedOutcome.objects.filter(task_kind=task_kind, confidence__isnull=False)
    counts = known.aggregate(own=Count("pk", filter=Q(model=model)), all=Count("pk"))
    return counts["own"], counts["all"]
