"""PURE: automatic captions that scroll, made into text that comes once.

YouTube's automatic captions show two rows: each cue repeats the row that was there and adds one, with
10 ms cues in between that hold the picture. Conversion to SubRip keeps all of that but the word stamps.
Ordinary captions are left as they are: there, a row that comes twice was said twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from knowledge.transcripts.cues import Cue
from ziggie.values import replace

_FLASH_SECONDS = 0.05  # nothing is said in less; YouTube's are 0.01
_GAP_SECONDS = 0.1  # a row that scrolls is still on the screen when the next comes
_MAX_ROWS = 4  # what roll-up captions show at once, at most


@dataclass(frozen=True, slots=True)
class _Step:
    """A cue beside the one before it: what it still shows of that, and what is new."""

    cue: Cue
    fresh: tuple[str, ...]
    carried: bool  # it begins with rows that were on the screen
    whole_rows: bool  # what is new begins a row
    touches: bool  # it starts when the one before it ends
    follows_stamped: bool

    @property
    def grows(self) -> bool:
        return self.carried and bool(self.fresh) and self.whole_rows and self.touches

    @property
    def flashes(self) -> bool:
        short = self.cue.end is not None and self.cue.end - self.cue.start <= _FLASH_SECONDS
        return self.carried and not self.fresh and short

    @property
    def holds(self) -> bool:
        held = self.carried and not self.fresh and self.touches
        return held and self.follows_stamped and not self.cue.stamped


def collapse(cues: Sequence[Cue]) -> list[Cue]:
    """The cues with each row only where it first comes, if they scroll; else the cues themselves."""
    steps = list(_steps([cue for cue in cues if cue.rows]))
    if not _scrolls(steps):
        return list(cues)
    return [replace(step.cue, rows=rows) for step in steps if (rows := _said(step))]


def _scrolls(steps: Sequence[_Step]) -> bool:
    """A caption that is repeated now and then proves nothing, a file in which most cues do it does."""
    pairs = len(steps) - 1
    grows = sum(step.grows for step in steps)
    still = sum(step.flashes or step.holds for step in steps)
    stamped = any(step.cue.stamped for step in steps)
    if still or (stamped and grows):
        return grows + still >= 0.3 * pairs
    return grows >= 2 and grows >= 0.6 * pairs


def _said(step: _Step) -> tuple[str, ...]:
    """What is new in a cue. One that only repeats is new speech if its words carry times of their own,
    or if the screen was empty before it."""
    again = step.carried and not step.fresh and not step.flashes
    if again and (step.cue.stamped or not step.touches):
        return step.cue.rows
    return step.fresh


def _steps(cues: Sequence[Cue]) -> Iterator[_Step]:
    screen: list[str] = []  # the rows on show; rows are clean, so a space is between any two words
    before: Cue | None = None
    for cue in cues:
        kept, length = _overlap(screen, " ".join(cue.rows))
        fresh, whole_rows = _after(cue.rows, length)
        touches = before is None or before.end is None or cue.start - before.end <= _GAP_SECONDS
        yield _Step(
            cue,
            fresh,
            carried=kept > 0,
            whole_rows=whole_rows,
            touches=touches,
            follows_stamped=before is not None and before.stamped,
        )
        screen = [*screen[len(screen) - kept :], *fresh][-_MAX_ROWS:]
        before = cue


def _overlap(screen: Sequence[str], text: str) -> tuple[int, int]:
    """How many of the last rows on the screen the text begins with, and how many characters those are."""
    for kept in range(len(screen), 0, -1):
        shown = " ".join(screen[-kept:])
        if text.startswith(shown) and text[len(shown) : len(shown) + 1] in ("", " "):
            return kept, len(shown)
    return 0, 0


def _after(rows: tuple[str, ...], length: int) -> tuple[tuple[str, ...], bool]:
    """The rows after the first `length` characters, and whether they begin with a whole row."""
    for number, row in enumerate(rows):
        if length <= 0:
            return rows[number:], True
        if length < len(row):
            return (row[length + 1 :], *rows[number + 1 :]), False
        length -= len(row) + 1
    return (), True
