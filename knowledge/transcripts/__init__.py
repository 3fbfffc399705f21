"""PURE: transcripts in any of the formats that caption tools write, to timed text.

parse() either gives every word once and in order or raises one error that names file and line. It
reads nothing but the bytes that it is given, and its time grows with their number alone.
"""

import re

from knowledge.transcripts.blocks import ARROW_TIMES, SBV_TIMES, parse_sbv, parse_srt, parse_vtt
from knowledge.transcripts.cues import Source, check, to_segments
from knowledge.transcripts.decode import decode
from knowledge.transcripts.json_formats import parse_json
from knowledge.transcripts.plain import parse_plain
from knowledge.transcripts.rolling import collapse
from knowledge.transcripts.types import MAX_BYTES, MAX_CUES, MAX_SECONDS, Segment, Transcript, TranscriptError
from knowledge.transcripts.xml_format import parse_xml

__all__ = ["FORMATS", "MAX_BYTES", "MAX_CUES", "MAX_SECONDS", "Segment", "Transcript", "TranscriptError", "parse"]

_PARSERS = {
    "vtt": parse_vtt,
    "srt": parse_srt,
    "sbv": parse_sbv,
    "json3": parse_json,
    "json": parse_json,
    "xml": parse_xml,
    "txt": parse_plain,
}
FORMATS = tuple(_PARSERS)
_ENDINGS = {name: name for name in FORMATS} | {"srv1": "xml", "srv2": "xml", "srv3": "xml", "ttml": "xml"}
# Formats whose content may turn out to be another one. WebVTT and JSON say what they are, or are faulty.
_UNSURE = frozenset({"srt", "sbv", "txt", None})
_HEAD_CHARACTERS = 4000
_HEAD_LINES = 5
_XML_HEAD = re.compile(r"<\?xml\s|<(?:transcript|timedtext|tt)[\s>]")
_JSON_HEAD = re.compile(r"\{|\[\s*[\[{\]]")
_HTML_HEAD = re.compile(r"<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
_MAX_NAME_CHARACTERS = 200


def parse(data: bytes, *, format: str | None = None, name: str = "transcript") -> Transcript:
    """The transcript in `data`. `format` is one of FORMATS; without it the ending of `name` decides, then
    the content. TooLarge above MAX_BYTES or MAX_CUES, TranscriptError for whatever is wrong."""
    source = Source(_printable(name))
    if len(data) > MAX_BYTES:
        size, limit = len(data) / 1024**2, MAX_BYTES // 1024**2
        raise source.too_large(
            1, f"the file is {size:.1f} MB, the limit for a transcript is {limit} MB: split it into several"
        )
    if format is not None and format not in _PARSERS:
        raise source.error(1, f'unknown transcript format "{format[:40]}": use one of {", ".join(FORMATS)}')
    text = decode(bytes(data), source)
    parsed = _PARSERS[_settle(format or _by_ending(name), text, source)](text, source)
    check(parsed, source)
    cues = collapse(parsed.cues) if parsed.timed else parsed.cues
    return Transcript(to_segments(cues), parsed.format, parsed.language, parsed.timed)


def _settle(declared: str | None, text: str, source: Source) -> str:
    """Which parser reads the text, given what the caller or the name said it is."""
    head = text[:_HEAD_CHARACTERS].lstrip()
    if _HTML_HEAD.match(head):
        raise source.error(1, "this is a web page (HTML), not a transcript: export the captions themselves")
    if declared is not None and declared not in _UNSURE:
        return declared
    if head.startswith("WEBVTT"):
        return "vtt"
    if _XML_HEAD.match(head):
        return "xml"
    if declared is None and _JSON_HEAD.match(head):
        return "json"
    lines = [line for line in re.split(r"[\r\n]+", head) if line.strip()][:_HEAD_LINES]
    if lines and SBV_TIMES.fullmatch(lines[0]):
        return "sbv"
    if any(ARROW_TIMES.fullmatch(line) for line in lines):
        return "srt"
    return declared or "txt"


def _by_ending(name: str) -> str | None:
    return _ENDINGS.get(name.rpartition(".")[2].lower())


def _printable(name: str) -> str:
    """A file name that may stand in an error: on one line, of a bounded length."""
    kept = "".join(character for character in name if character.isprintable())
    return kept[-_MAX_NAME_CHARACTERS:] or "transcript"
