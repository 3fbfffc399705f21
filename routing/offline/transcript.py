"""Reads the time-stamped lines of a prompt and joins them to sentences that keep their second."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from routing.offline import words

_STAMPED = re.compile(r"^\s*\[(?:(\d{1,3}):)?(\d{1,3}):(\d{2})(?:[.,]\d{1,3})?(?:\s*(?:-->|-|–)\s*[\d:.,]+)?\]\s*(.*)$")
_NOISE = re.compile(r"^(?:[-–>\s]*[(\[（【♪][^)\]）】♪]*[)\]）】♪]\s*)+$|^[\W_]*$")
_MARKUP = re.compile(r"^\s*(?:</?\w[^>]*>|`{3,}\w*|\"{3}|-{3,})\s*$")
_LEADING = re.compile(r"^(?:[-–•>]+\s*)+")
_SPEAKER = re.compile(r"^([^\W_][\w.'’|()-]*(?: [\w.'’|()-]+){0,3}):\s+")
MAX_SENTENCE = 500  # characters; speech without any full stop goes on and on
_WINDOW_SECONDS = 12
_WINDOW_WEIGHT = 110  # characters; unspaced scripts count threefold


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the material. `seconds` is where it begins in the talk, None in untimed text."""

    text: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Cue:
    seconds: float
    text: str
    speaker: str = ""


def parse(text: str) -> list[Sentence]:
    """The sentences of the `[h:mm:ss] text` lines in a text; empty if it has none.

    Unstamped lines between stamped ones continue the line before; those outside belong to the prompt.
    """
    heard = [cue for cue in _cues(text) if words.has_words(cue.text)]
    # Where nobody speaks, "[Music]" is all that can be said of the talk.
    cues = [cue for cue in heard if not _NOISE.match(cue.text)] or heard
    joined = _by_punctuation(cues) if _is_punctuated(cues) else _by_window(cues)
    return [Sentence(piece, each.seconds) for each in joined for piece in cut(each.text)]


def cut(text: str) -> Iterator[str]:
    """A text in pieces of at most MAX_SENTENCE characters, at spaces where there are any."""
    while len(text) > MAX_SENTENCE:
        space = text.rfind(" ", MAX_SENTENCE // 2, MAX_SENTENCE)
        end = space if space > 0 else MAX_SENTENCE
        yield text[:end]
        text = text[end:].lstrip()
    if text:
        yield text


def speakers(text: str) -> frozenset[str]:
    """Names that open at least two stamped lines as `Name: ` (three if written in lower case)."""
    heads = Counter(match[1] for _, said in _stamped_lines(text) if (match := _SPEAKER.match(said)))
    return frozenset(name for name, count in heads.items() if count >= (3 if name.islower() else 2))


def _stamped_lines(text: str) -> Iterator[tuple[float, str]]:
    seconds: float | None = None
    parts: list[str] = []
    for line in text.splitlines():
        if match := _STAMPED.match(line):
            if seconds is not None:
                yield seconds, words.clean(" ".join(parts))
            hours, minutes, rest, said = match.groups()
            seconds, parts = float(int(hours or 0) * 3600 + int(minutes) * 60 + int(rest)), [said]
        elif not _MARKUP.match(line):
            parts.append(line)
    if seconds is not None:
        yield seconds, words.clean(parts[0])


def _cues(text: str) -> Iterator[_Cue]:
    names = speakers(text)
    for seconds, said in _stamped_lines(text):
        match = _SPEAKER.match(said)
        if match and match[1] in names:
            yield _Cue(seconds, said[match.end() :], match[1])
        else:
            yield _Cue(seconds, _LEADING.sub("", said))


def _is_punctuated(cues: Iterable[_Cue]) -> bool:
    """True if a sentence ends at least every 60 words; automatic captions have none or a stray one."""
    text = " ".join(cue.text for cue in cues)
    ends = sum(1 for _ in words.sentences(text)) - 1
    return ends * 60 >= len(text.split()) + len(text) * words.unspaced_share(text) / 2


def _by_punctuation(cues: Iterable[_Cue]) -> list[Sentence]:
    found: list[Sentence] = []
    parts: list[str] = []
    start, speaker = 0.0, ""

    def close() -> None:
        if parts:
            found.append(Sentence(" ".join(parts), start))
            parts.clear()

    for cue in cues:
        if cue.speaker != speaker:
            close()
            speaker = cue.speaker
        for piece in words.sentences(cue.text):
            start = start if parts else cue.seconds
            parts.append(piece)
            if words.ends_sentence(piece) or sum(map(len, parts)) > MAX_SENTENCE:
                close()
    close()
    return found


def _by_window(cues: Iterable[_Cue]) -> list[Sentence]:
    found: list[Sentence] = []
    window: list[_Cue] = []
    weight = 0.0
    for cue in cues:
        full = weight >= _WINDOW_WEIGHT or (window and cue.seconds - window[0].seconds >= _WINDOW_SECONDS)
        if window and (full or cue.speaker != window[0].speaker):
            found.append(Sentence(" ".join(each.text for each in window), window[0].seconds))
            window, weight = [], 0.0
        window.append(cue)
        weight += len(cue.text) * (1 + 2 * words.unspaced_share(cue.text))
    if window:
        found.append(Sentence(" ".join(each.text for each in window), window[0].seconds))
    return found
