"""PURE: WebVTT, SubRip and YouTube's SBV: blocks of lines that begin with a cue's times."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from knowledge.transcripts.cues import (
    SRT_TAG,
    VTT_TAG,
    Parsed,
    Source,
    language_tag,
    refuse_too_many,
    split_lines,
    voiced_cues,
)

_STAMP = r"(?:([0-9]{1,4}):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"
ARROW_TIMES = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?")
SBV_TIMES = re.compile(rf"\s*{_STAMP},{_STAMP}\s*")
_NUMBER = re.compile(r"\s*[0-9]+\s*")
_MEANT_AS_TIMES = re.compile(r"\s*-?[0-9][^\s>]{0,20}:")
_VTT_HEADER = re.compile(r"WEBVTT(?:[ \t].*)?")
_HEADER_LANGUAGE = re.compile(r"Language:\s*(\S+)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a format writes a cue. `comments` are the first words of blocks that are none."""

    name: str
    times: re.Pattern[str]
    example: str
    tags: re.Pattern[str]
    comments: re.Pattern[str] | None = None
    any_identifier: bool = False


_VTT = _Dialect(
    name="vtt",
    times=ARROW_TIMES,
    example="00:00:01.000 --> 00:00:04.000",
    tags=VTT_TAG,
    comments=re.compile(r"(?:NOTE|STYLE|REGION|WEBVTT)(?:[ \t].*)?|X-TIMESTAMP-MAP.*"),
    any_identifier=True,
)
_SRT = _Dialect("srt", ARROW_TIMES, "00:00:01,000 --> 00:00:04,000", SRT_TAG)
_SBV = _Dialect("sbv", SBV_TIMES, "0:00:01.000,0:00:04.000", SRT_TAG)


@dataclass(slots=True)
class _Draft:
    """A cue whose text is still being read."""

    line: int
    start: float
    end: float
    payload: list[str] = field(default_factory=list)


def parse_vtt(text: str, source: Source) -> Parsed:
    lines = split_lines(text, source)
    first = next(number for number, line in enumerate(lines) if line.strip())
    if not _VTT_HEADER.fullmatch(lines[first]):
        raise source.error(
            first + 1, 'the header is missing: a WebVTT file begins with the line "WEBVTT"; name SubRip captions .srt'
        )
    body, language = _skip_header(lines, first + 1)
    return _parse(lines, body, _VTT, source, language)


def parse_srt(text: str, source: Source) -> Parsed:
    return _parse(split_lines(text, source), 0, _SRT, source)


def parse_sbv(text: str, source: Source) -> Parsed:
    return _parse(split_lines(text, source), 0, _SBV, source)


def _skip_header(lines: Sequence[str], start: int) -> tuple[int, str]:
    """The index of the first line after the header, and the language it names."""
    language = ""
    for index in range(start, len(lines)):
        if not lines[index] or "-->" in lines[index]:
            return index, language
        if match := _HEADER_LANGUAGE.fullmatch(lines[index]):
            language = language_tag(match[1])
    return len(lines), language


def _parse(lines: Sequence[str], body: int, dialect: _Dialect, source: Source, language: str = "") -> Parsed:
    drafts = _Reader(dialect, source).read(lines, body)
    cues = [cue for d in drafts for cue in voiced_cues(d.line, d.start, d.end, d.payload, dialect.tags)]
    return Parsed(cues, dialect.name, language)


def _blocks(lines: Sequence[str], start: int) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines between empty ones, each with the number of its first line. A line of spaces is no
    empty one (YouTube's automatic captions pad with them), but says nothing at the head of a block."""
    block: list[str] = []
    for number, line in enumerate(lines[start:], start + 1):
        if line if block else line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield len(lines) - len(block) + 1, block


class _Reader:
    """Reads the blocks of one file into drafts of cues."""

    def __init__(self, dialect: _Dialect, source: Source) -> None:
        self.dialect = dialect
        self.source = source
        self.drafts: list[_Draft] = []
        self.numbered = False  # the first cue has a number, so a number above times is one too

    def read(self, lines: Sequence[str], start: int) -> list[_Draft]:
        comments = self.dialect.comments
        for number, block in _blocks(lines, start):
            if comments and comments.fullmatch(block[0]):
                continue
            self._read_block(number, block)
        return self.drafts

    def _read_block(self, number: int, block: list[str]) -> None:
        found = self._head(number, block)
        if found is None:
            self._continue_cue(number, block)
            return
        head, times = found
        if head == 1 and not self.drafts:
            self.numbered = bool(_NUMBER.fullmatch(block[0]))
        self._begin_cue(number + head, times)
        for index in range(head + 1, len(block)):
            more = self._times(number + index, block[index])
            if more is None:
                self.drafts[-1].payload.append(block[index])
            else:
                self._drop_number()
                self._begin_cue(number + index, more)

    def _begin_cue(self, number: int, times: tuple[float, float]) -> None:
        self.drafts.append(_Draft(number, *times))
        refuse_too_many(len(self.drafts), number, self.source)

    def _head(self, number: int, block: list[str]) -> tuple[int, tuple[float, float]] | None:
        """Where in a block its times stand (0, or 1 below an identifier) and what they are."""
        for index, line in enumerate(block[:2]):
            if index == 1 and not self.dialect.any_identifier and not _NUMBER.fullmatch(block[0]):
                return None
            times = self._times(number + index, line, wanted="-->" in line)
            if times:
                return index, times
        return None

    def _continue_cue(self, number: int, block: list[str]) -> None:
        """A block without times is the text of a cue that has none yet (some tools strip the padding of
        YouTube's captions and leave an empty line there), or a fault."""
        orphan = _NUMBER.fullmatch(block[0]) and len(block) > 1
        times_below = any(self.dialect.times.fullmatch(line) for line in block)
        if self.drafts and not self.drafts[-1].payload and not orphan and not times_below:
            self.drafts[-1].payload.extend(block)
            return
        raise self.source.error(number, self._advice(times_below))

    def _advice(self, times_below: bool) -> str:
        if times_below:
            return "text directly above a cue's times: put an empty line before the cue, or remove it"
        advice = f'text without times: put a line such as "{self.dialect.example}" above it, or remove it'
        return advice if self.drafts else f"{advice}; name a file of plain text .txt"

    def _times(self, number: int, line: str, *, wanted: bool = False) -> tuple[float, float] | None:
        """Start and end in seconds; None for a line of text. An error if the line is meant as times, by
        its place (`wanted`) or its looks, and cannot be read."""
        match = self.dialect.times.fullmatch(line)
        if match:
            start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
            if start is not None and end is not None:
                return start, end
        elif not wanted and not ("-->" in line and _MEANT_AS_TIMES.match(line)):
            return None
        raise self.source.error(
            number, f'cannot read the times "{line.strip()[:60]}": write them like "{self.dialect.example}"'
        )

    def _drop_number(self) -> None:
        """Without an empty line between cues, the next one's number was taken for text."""
        payload = self.drafts[-1].payload
        if self.numbered and payload and _NUMBER.fullmatch(payload[-1]):
            payload.pop()


def _seconds(parts: Sequence[str | None]) -> float | None:
    """Seconds of hours, minutes, seconds and a decimal fraction; None beyond 59 minutes or seconds."""
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    if int(minutes) > 59 or int(seconds) > 59:
        return None
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")
