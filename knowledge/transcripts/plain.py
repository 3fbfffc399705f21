"""PURE: plain text: with the time stamps of YouTube's "Show transcript" if it has them, else without
times. Times are never made up from the number of words."""

import re
from collections.abc import Sequence

from knowledge.transcripts.cues import Cue, Parsed, Source, clean, refuse_too_many, split_lines

# "0:15 text", "[00:15] text", "(1:02:03)", "00:15 - text"
_STAMPED = re.compile(
    r"(?P<open>[\[(])?(?:([0-9]{1,2}):)?([0-9]{1,3}):([0-9]{2})(?:[.,][0-9]{1,3})?(?(open)[\])])"
    r"(?:\s*[-–—|:](?=\s)|(?=\s|$)|(?(open)(?=\S)|(?!)))\s*(?P<text>.*)"
)
# What a screen reader says of the stamp above it, copied along with it: "1 minute, 5 seconds"
_SPOKEN_STAMP = re.compile(r"(?:([0-9]+) hours?(?:, )?)?(?:([0-9]+) minutes?(?:, )?)?(?:([0-9]+) seconds?)?")
# Fewer stamped lines than one in ten are lines of prose that happen to begin with a time of day.
_MIN_STAMPED_SHARE = 0.1
_MIN_STAMPED = 2
_MAX_LINES_BEFORE_FIRST_STAMP = 5


def parse_plain(text: str, source: Source) -> Parsed:
    lines = [(n, row) for n, line in enumerate(split_lines(text, source), 1) if (row := clean(line))]
    refuse_too_many(len(lines), 1, source)
    stamps = [_stamp(row) for _, row in lines]
    if _is_stamped(stamps):
        return Parsed(_timed_cues(lines, stamps), "txt")
    return Parsed([Cue(number, 0.0, None, (row,)) for number, row in lines], "txt", timed=False)


def _is_stamped(stamps: Sequence[tuple[int, str] | None]) -> bool:
    places = [place for place, stamp in enumerate(stamps) if stamp]
    if not places or places[0] > _MAX_LINES_BEFORE_FIRST_STAMP:
        return False
    only_one = len(stamps) <= 2 and places[0] == 0
    return only_one or len(places) >= max(_MIN_STAMPED, _MIN_STAMPED_SHARE * len(stamps))


def _stamp(row: str) -> tuple[int, str] | None:
    """Seconds and the words after the stamp that a line begins with."""
    match = _STAMPED.fullmatch(row)
    if not match or int(match[4]) > 59:
        return None
    return int(match[2] or 0) * 3600 + int(match[3]) * 60 + int(match[4]), match["text"]


def _timed_cues(lines: Sequence[tuple[int, str]], stamps: Sequence[tuple[int, str] | None]) -> list[Cue]:
    """A cue for each stamp, with the lines up to the next. What stands before the first starts at 0."""
    drafts: list[tuple[int, int, list[str]]] = []
    for (number, row), stamp in zip(lines, stamps, strict=True):
        if stamp:
            drafts.append((number, stamp[0], [stamp[1]] if stamp[1] else []))
        elif not drafts:
            drafts.append((number, 0, [row]))
        elif drafts[-1][2] or _spoken_seconds(row) != drafts[-1][1]:
            drafts[-1][2].append(row)
    return [Cue(number, float(start), None, tuple(rows)) for number, start, rows in drafts]


def _spoken_seconds(row: str) -> int | None:
    match = _SPOKEN_STAMP.fullmatch(row[:60])
    if not match:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds
