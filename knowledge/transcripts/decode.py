"""PURE: bytes to text. UTF-8 and whatever has a byte order mark is certain; three older encodings are
read where the evidence is strong; everything else is refused, because wrong letters would go unnoticed
into every analysis."""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass

from charset_normalizer import CharsetMatch, from_bytes

from knowledge.transcripts.cues import Source
from knowledge.transcripts.types import TranscriptError

# The longer mark first: UTF-32's little-endian one begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# offset, bytes, what it is: only asked about data that is no text, since some are plain letters
_SIGNATURES = (
    (4, b"ftyp", "MP4 or MOV video"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (0, b"RIFF", "WAV, AVI or WebP"),
    (0, b"OggS", "Ogg audio"),
    (0, b"ID3", "MP3 audio"),
    (0, b"\xff\xfb", "MP3 audio"),
    (0, b"fLaC", "FLAC audio"),
    (0, b"\x89PNG", "PNG image"),
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"GIF8", "GIF image"),
    (0, b"PK\x03\x04", "ZIP archive or Office document"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ", "xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard archive"),
    (0, b"%PDF", "PDF document"),
    (0, b"\xd0\xcf\x11\xe0", "older Office document"),
    (0, b"SQLite format 3", "SQLite database"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
)
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]+")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MAX_CONTROL_SHARE = 0.01  # stray ones survive in real captions, and are dropped later
_LINE_END = re.compile(rb"\r\n|\n|\r")
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]+")


def decode(data: bytes, source: Source) -> str:
    """The text of a file, without its byte order mark. TranscriptError if it is none, or not for certain."""
    if not data.strip():
        raise source.error(1, "the file is empty: export the captions again")
    text = _decode(data, source)
    if not text.strip():
        raise source.error(1, "the file is empty: export the captions again")
    if text.startswith("{\\rtf"):
        raise source.error(1, "this is an RTF document, not a transcript: save it as plain text")
    if _count(_CONTROLS, text) > _MAX_CONTROL_SHARE * len(text):
        raise _binary(data, source)
    return text


def _decode(data: bytes, source: Source) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding, len(mark), source)
    if b"\0" in data:
        raise _binary(data, source)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _legacy(data, error.start, source)


def _strict(data: bytes, encoding: str, skipped: int, source: Source) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore")
        line = len(_LINE_END.findall(before.encode("utf-8", "ignore"))) + 1
        raise source.error(
            line,
            f"the bytes at offset {skipped + error.start} are not {encoding.upper()}, which the mark at the "
            "start of the file promises: save it as UTF-8",
        ) from error
    if "\0" in text:
        raise _binary(data, source)
    return text


def _binary(data: bytes, source: Source) -> TranscriptError:
    for offset, signature, kind in _SIGNATURES:
        if data.startswith(signature, offset):
            return source.error(1, f"this is a binary file ({kind}), not a transcript: give the captions as text")
    control = _CONTROL_BYTES.search(data)
    offset = control.start() if control else 0
    return source.error(
        _line_of(data, offset),
        f"this is a binary file (control byte 0x{data[offset]:02X} at offset {offset}), not a transcript: give the "
        "captions as text; UTF-16 text needs its byte order mark",
    )


def _count(characters: re.Pattern[str], text: str) -> int:
    """How many characters of a text are of a class. Without a list of them, which may be millions."""
    return len(text) - len(characters.sub("", text))


def _line_of(data: bytes, offset: int) -> int:
    return len(_LINE_END.findall(data, 0, offset)) + 1


# --- encodings from before UTF-8 ---------------------------------------------------------------

# Letters beyond ASCII of the languages that windows-1252 was made for. One language must hold all that a
# file uses: Hungarian, Romanian or Turkish bytes decode as windows-1252 too, but into letters that no one
# of these languages has together.
_WESTERN = tuple(
    frozenset(letters + letters.upper())
    for letters in (
        "äöüß",  # German
        "àâæçéèêëîïôœùûüÿ",  # French
        "áéíñóúü",  # Spanish
        "áâãàçéêíóôõúü",  # Portuguese
        "àèéìíîòóùú",  # Italian
        "àèéíïòóúüç",  # Catalan
        "åäöéü",  # Swedish, Finnish
        "åæøéèêóòâô",  # Danish, Norwegian
        "áéèëêïíîóôöúüç",  # Dutch
        "áðéíóúýþæö",  # Icelandic
    )
)
_TYPOGRAPHY = frozenset("‘’‚“”„‹›«»–—…•·°€£§©®™¡¿´¨ªº½¼¾±²³×\xa0\xad")
_HIRAGANA = re.compile("[\u3041-\u3096]+")
_KANA = re.compile("[\u3041-\u30ff]")
_HALF_WIDTH_KANA = re.compile("[\uff61-\uff9f]")
_SAMPLE_BYTES = 256 * 1024
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")


@dataclass(frozen=True, slots=True)
class _Evidence:
    """When a reading may be believed. `chaos` and `coherence` are charset-normalizer's, 0.0 to 1.0: how
    much it looks like rubbish, and like some language."""

    max_chaos: float
    min_coherence: float
    fits: Callable[[str], bool]


def _is_western(text: str) -> bool:
    letters = set("".join(_BEYOND_ASCII.findall(text))) - _TYPOGRAPHY
    return any(letters <= alphabet for alphabet in _WESTERN)


def _is_chinese(text: str) -> bool:
    return not _KANA.search(text)  # Japanese in EUC-JP reads as kana and rare characters here


def _is_japanese(text: str) -> bool:
    foreign = _count(_BEYOND_ASCII, text)
    hiragana = _count(_HIRAGANA, text)
    return hiragana >= 10 and hiragana >= 0.2 * foreign and not _HALF_WIDTH_KANA.search(text)


_LEGACY = {
    "cp1252": _Evidence(max_chaos=0.1, min_coherence=0.4, fits=_is_western),
    "gb18030": _Evidence(max_chaos=0.05, min_coherence=0.1, fits=_is_chinese),
    "cp932": _Evidence(max_chaos=0.05, min_coherence=0.0, fits=_is_japanese),
}


def _legacy(data: bytes, offset: int, source: Source) -> str:
    if not _is_damaged_utf8(data):
        readings = [text for encoding in _LEGACY if (text := _reading(data, encoding)) is not None]
        if len(readings) == 1:
            return readings[0]
    if any(data.startswith(signature, place) for place, signature, _ in _SIGNATURES):
        raise _binary(data, source)
    raise source.error(
        _line_of(data, offset),
        f"byte 0x{data[offset]:02X} at offset {offset} is not UTF-8, and no other encoding fits for certain: "
        "save the file as UTF-8",
    )


def _is_damaged_utf8(data: bytes) -> bool:
    """True if most of what is not ASCII is good UTF-8: other encodings hardly ever form it by chance."""
    text = data.decode("utf-8", "surrogateescape")
    bad = _count(_ESCAPED_BYTES, text)
    return _count(_BEYOND_ASCII, text) - bad >= 2 * bad


def _reading(data: bytes, encoding: str) -> str | None:
    """The text in that encoding, if charset-normalizer and our own rule both believe it."""
    match: CharsetMatch | None = from_bytes(_sample(data), cp_isolation=[encoding]).best()
    evidence = _LEGACY[encoding]
    if match is None or match.chaos > evidence.max_chaos or match.coherence < evidence.min_coherence:
        return None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return text if evidence.fits(text) else None


def _sample(data: bytes) -> bytes:
    """Lines beyond ASCII, enough to tell a language. Whole ones, since half a character fits nothing."""
    kept: list[bytes] = []
    size = 0
    for line in data.split(b"\n"):
        if not line.isascii() and size < _SAMPLE_BYTES:
            kept.append(line)
            size += len(line)
    return b"\n".join(kept)
