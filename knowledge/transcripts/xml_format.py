"""PURE: YouTube's XML captions (srv1, srv2, srv3). Read as a stream, so that depth costs nothing, and
without document types, so that no entity can grow."""

import re
from collections.abc import Mapping
from xml.parsers import expat

from knowledge.transcripts.cues import SRT_TAG, Cue, Parsed, Source, clean_rows, language_tag, line_at, refuse_too_many
from knowledge.transcripts.types import MAX_CUES

_ROOTS = frozenset({"transcript", "timedtext"})
_MAX_ELEMENTS = 20 * MAX_CUES  # srv3 has one for each word
_MAX_TAG_CHARACTERS = 65_535  # all of a tag's attributes are in memory at once
_HUGE_TAG = re.compile(f"<[^<>]{{{_MAX_TAG_CHARACTERS}}}")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
# element -> attribute of start and duration, and how many of their units are a second; first match serves
_TIMED = {
    "text": (("start", "dur", 1), ("t", "d", 1000)),
    "p": (("t", "d", 1000),),
}


def parse_xml(text: str, source: Source) -> Parsed:
    if match := _HUGE_TAG.search(text):
        problem = f"an XML tag of more than {_MAX_TAG_CHARACTERS:,} characters: export the captions again"
        raise source.too_large(line_at(text, match.start()), problem)
    handler = _Handler(source)
    try:
        handler.parser.Parse(text, True)
    except expat.ExpatError as error:
        problem = f"column {error.offset + 1}: invalid XML ({expat.ErrorString(error.code)}): export the captions again"
        raise source.error(error.lineno, problem) from error
    return Parsed(handler.cues, "xml", handler.language)


class _Handler:
    """Collects the timed elements of a document."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.cues: list[Cue] = []
        self.language = ""
        self.depth = 0
        self.elements = 0
        self.open: tuple[int, int, float, float | None] | None = None  # depth, line, start, end
        self.pieces: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    @property
    def line(self) -> int:
        return self.parser.CurrentLineNumber

    def _doctype(self, *_: object) -> None:
        raise self.source.error(self.line, "XML with a document type is not accepted: remove the <!DOCTYPE> part")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.elements > _MAX_ELEMENTS:
            raise self.source.too_large(self.line, f"more than {_MAX_ELEMENTS:,} XML elements: split the file")
        if self.depth == 1:
            if name not in _ROOTS:
                raise self.source.error(
                    self.line,
                    f"XML of <{name[:40]}> is no transcript: <transcript> or <timedtext> is; convert it to .vtt",
                )
            self.language = language_tag(attributes.get("lang", ""))
        elif name == "br":
            self.pieces.append("\n")
        elif name in _TIMED and self.open is None:
            self.open = (self.depth, self.line, *self._times(name, attributes))

    def _end(self, name: str) -> None:
        if self.open and self.open[0] == self.depth:
            _, line, start, end = self.open
            rows = clean_rows("".join(self.pieces), SRT_TAG)
            if rows or name == "text":  # srv3 scrolls with empty <p>
                self.cues.append(Cue(line, start, end, rows))
                refuse_too_many(len(self.cues), line, self.source)
            self.open = None
            self.pieces = []
        self.depth -= 1

    def _characters(self, text: str) -> None:
        if self.open:
            self.pieces.append(text)

    def _times(self, name: str, attributes: Mapping[str, str]) -> tuple[float, float | None]:
        for start_name, duration_name, units in _TIMED[name]:
            if start_name in attributes:
                start = self._number(start_name, attributes[start_name]) / units
                if duration_name not in attributes:
                    return start, None
                return start, start + self._number(duration_name, attributes[duration_name]) / units
        raise self.source.error(self.line, f"<{name}> has no start time: export the captions again")

    def _number(self, name: str, value: str) -> float:
        if not _SECONDS.fullmatch(value):
            raise self.source.error(
                self.line, f'cannot read the time {name}="{value[:40]}": a number of zero or more is expected'
            )
        return float(value)
