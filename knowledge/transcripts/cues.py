"""PURE: what every format has in common: cues, their clean text, the checks that all must pass."""

import html
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from knowledge.transcripts.types import (
    MAX_CUES,
    MAX_LINE_CHARACTERS,
    MAX_LINES,
    MAX_SECONDS,
    MAX_SPEAKER_CHARACTERS,
    Segment,
    TranscriptError,
)
from ziggie.errors import TooLarge

# Overlapping speakers are written a little out of order by real caption tools.
ORDER_TOLERANCE_SECONDS = 0.25

_LINE_END = re.compile(r"\r\n|\n|\r")  # not str.splitlines: U+2028, \x0b and \x85 end no line of a caption
# Every pattern here forbids "<" inside a tag, so that a file full of "<" costs one step a character.
BREAK = re.compile(r"<[bB][rR]\s*/?>")
VTT_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|[0-9:.]+|/?)>")
# SubRip has no escapes, so only known formatting is removed: "a < b > c" and "<div>" are words there.
SRT_TAG = re.compile(
    r"</?(?:b|i|u|s|em|strong|font|span|ruby|rt|lang|c)(?:[\s.][^<>]*)?>|<[0-9:.]+>|\{\\[^{}]*\}|\{/?[biu]\}",
    re.IGNORECASE,
)
_VOICE = re.compile(r"<(?:v(?:\.[^\s<>]*)?(?:\s([^<>]*))?|/v)>")
_WORD_STAMP = re.compile(r"<(?:[0-9]+:)?[0-9]{1,2}:[0-9]{2}[.,][0-9]{1,3}>")
# Controls, surrogates (PostgreSQL stores neither) and the invisible marks that break comparing words.
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufeff\u200b]")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True, slots=True)
class Cue:
    """One cue as its format wrote it. `rows` are its lines of clean text, `stamped` says that words in
    it carry times, `path` is its place in a JSON file ("events[3]")."""

    line: int
    start: float
    end: float | None
    rows: tuple[str, ...]
    speaker: str = ""
    stamped: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A format's answer. `line_of` tells a cue's line if the parser did not count lines on its way."""

    cues: list[Cue]
    format: str
    language: str = ""
    timed: bool = True
    line_of: Callable[[Cue], int] = operator.attrgetter("line")


@dataclass(frozen=True, slots=True)
class Source:
    """The file that errors name."""

    name: str

    def error(self, line: int, problem: str) -> TranscriptError:
        return TranscriptError.at(self.name, line, problem)

    def too_large(self, line: int, problem: str) -> TooLarge:
        return TooLarge(
            f"{self.name}, line {line}: {problem}", details=[{"file": self.name, "line": line, "problem": problem}]
        )


def split_lines(text: str, source: Source) -> list[str]:
    """The lines of a file, without their ends. A line beyond the limit is refused."""
    if text.count("\n") + text.count("\r") > MAX_LINES:
        raise source.too_large(1, f"more than {MAX_LINES:,} lines: split the file into several")
    lines = _LINE_END.split(text)
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise source.too_large(
                number,
                f"one line of {len(line):,} characters, the limit is {MAX_LINE_CHARACTERS:,}: break it into lines",
            )
    return lines


def line_at(text: str, offset: int) -> int:
    """The line, from 1, of a place in a text."""
    return len(_LINE_END.findall(text, 0, offset)) + 1


def clean(text: str, tags: re.Pattern[str] | None = None) -> str:
    """Words on one line. With `tags` the text is markup: tags go and entities are resolved."""
    if tags and ("<" in text or "{" in text):
        text = tags.sub("", BREAK.sub(" ", text))
    if tags and "&" in text:
        text = _unescape(text)
    return " ".join((text if text.isprintable() else _UNPRINTABLE.sub("", text)).split())


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # "&#999…;" with more digits than int() reads: not an entity, so plain text
        return text


def clean_rows(text: str, tags: re.Pattern[str] | None = None) -> tuple[str, ...]:
    rows = (clean(row, tags) for row in text.split("\n"))
    return tuple(row for row in rows if row)


def voiced_cues(
    line: int, start: float, end: float | None, payload: Sequence[str], tags: re.Pattern[str]
) -> Iterator[Cue]:
    """A cue's text as one Cue a speaker; one without rows if it says nothing."""
    text = "\n".join(payload)
    marked = "<" in text
    stamped = marked and bool(_WORD_STAMP.search(text))
    pieces = _VOICE.split(text) if marked else [text]  # text, speaker, text, speaker, ...
    voices = zip([None, *pieces[1::2]], pieces[::2], strict=True)
    spoken = [(speaker, rows) for speaker, piece in voices if (rows := clean_rows(piece or "", tags))]
    if not spoken:
        yield Cue(line, start, end, ())
    for speaker, rows in spoken:
        yield Cue(line, start, end, rows, _name(speaker, tags), stamped)


def _name(speaker: str | None, tags: re.Pattern[str]) -> str:
    return clean(speaker, tags)[:MAX_SPEAKER_CHARACTERS] if speaker else ""


def language_tag(value: object) -> str:
    """A BCP 47 tag, or nothing if the file's words are none."""
    return value if isinstance(value, str) and _LANGUAGE.fullmatch(value) else ""


def refuse_too_many(count: int, line: int, source: Source) -> None:
    if count > MAX_CUES:
        raise source.too_large(line, f"more than {MAX_CUES:,} cues: split the file into several")


def check(parsed: Parsed, source: Source) -> None:
    """Raise the first thing that is wrong with the cues of a file."""
    if not parsed.cues:
        raise source.error(1, "no cues in this file: export the captions again")
    if parsed.timed:
        _check_times(parsed, source)
    spoken = [cue for cue in parsed.cues if cue.rows]
    if not any(any(map(str.isalnum, row)) for cue in spoken for row in cue.rows):
        raise _at(parsed.cues[0], parsed, source, "no cue holds any words: export the captions with their text")
    if parsed.timed and all(cue.end == cue.start for cue in spoken):
        raise _at(
            spoken[0], parsed, source, "every cue ends at the second it starts: export the captions with real times"
        )


def _check_times(parsed: Parsed, source: Source) -> None:
    latest = 0.0
    for cue in parsed.cues:
        if problem := _time_problem(cue, latest):
            raise _at(cue, parsed, source, problem)
        latest = max(latest, cue.start)


def _time_problem(cue: Cue, latest: float) -> str:
    last = cue.start if cue.end is None else max(cue.start, cue.end)
    if last > MAX_SECONDS:
        return f"a time of {last:,.0f} s, the limit is {MAX_SECONDS // 3600} hours: correct the time or its unit"
    if cue.end is not None and cue.end < cue.start:
        return f"the cue ends at {cue.end:.3f} s, before its start at {cue.start:.3f} s: correct the times"
    if cue.start < latest - ORDER_TOLERANCE_SECONDS:
        return f"the cue starts at {cue.start:.3f} s, but one before it at {latest:.3f} s: sort the cues by time"
    return ""


def _at(cue: Cue, parsed: Parsed, source: Source, problem: str) -> TranscriptError:
    return source.error(parsed.line_of(cue), f"{cue.path}: {problem}" if cue.path else problem)


def to_segments(cues: Sequence[Cue]) -> tuple[Segment, ...]:
    """What is said, with times in milliseconds: binary fractions of a sum are no information."""
    return tuple(
        Segment(round(cue.start, 3), None if cue.end is None else round(cue.end, 3), " ".join(cue.rows), cue.speaker)
        for cue in cues
        if cue.rows
    )
