"""PURE: a long transcript as parts that a model with a small context can read. Every word is in a part."""

import re
from collections.abc import Iterator
from itertools import pairwise

from knowledge.transcripts import Segment, Transcript
from routing.planning.tokens import estimate_tokens
from ziggie.errors import InvalidInput
from ziggie.values import replace

# About four sentences: enough to know what "it" is, little enough to pay for.
DEFAULT_OVERLAP_SECONDS = 20.0
MIN_TOKENS = 64  # less holds no sentence beside its stamp
_MAX_OVERLAP_SHARE = 0.25  # of a part, however fast somebody talks
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_WORD = re.compile(r"\S+\s*|\s+")


def split(
    transcript: Transcript, *, max_tokens: int, overlap_seconds: float = DEFAULT_OVERLAP_SECONDS
) -> list[Transcript]:
    """Parts whose to_prompt() is at most `max_tokens`, in order; one part if all fits. A timed part
    begins with the segments of the `overlap_seconds` before it, so that no step is torn from its cause.
    A segment that is too long alone becomes several with the same times, cut after a sentence, else a
    word, else a character. InvalidInput if `max_tokens` is too small to hold anything."""
    if max_tokens < MIN_TOKENS:
        raise InvalidInput(f"cannot split a transcript into parts of {max_tokens} tokens: allow at least {MIN_TOKENS}")
    parts: list[list[tuple[Segment, int]]] = [[]]
    used = 0
    for segment in _fitting(transcript, max_tokens):
        cost = _cost(transcript, segment)
        if used + cost > max_tokens:
            room = min(int(max_tokens * _MAX_OVERLAP_SHARE), max_tokens - cost)
            overlap = _tail(parts[-1], segment.start_seconds - overlap_seconds, room) if transcript.timed else []
            parts.append(overlap)
            used = sum(tokens for _, tokens in overlap)
        parts[-1].append((segment, cost))
        used += cost
    return [replace(transcript, segments=tuple(segment for segment, _ in part)) for part in parts]


def _cost(transcript: Transcript, segment: Segment) -> int:
    return estimate_tokens(transcript.prompt_line(segment) + "\n")


def _tail(part: list[tuple[Segment, int]], since_seconds: float, room: int) -> list[tuple[Segment, int]]:
    """The last segments of a part that start after a time and fit."""
    kept = len(part)
    while kept > 1 and part[kept - 1][0].start_seconds >= since_seconds and part[kept - 1][1] <= room:
        kept -= 1
        room -= part[kept][1]
    return part[kept:]


def _fitting(transcript: Transcript, max_tokens: int) -> Iterator[Segment]:
    """The segments, none of them longer than a part."""
    for segment in transcript.segments:
        if _cost(transcript, segment) <= max_tokens:
            yield segment
            continue
        room = max_tokens - _cost(transcript, replace(segment, text=""))
        if room < max_tokens // 2:
            raise InvalidInput(f"a speaker's name of {len(segment.speaker)} characters leaves no room in {max_tokens}")
        for text in _pack(segment.text, room):
            yield replace(segment, text=text)


def _pack(text: str, room: int) -> Iterator[str]:
    """Pieces of at most `room` tokens, as full as whole sentences allow."""
    piece, used = "", 0
    for atom in _atoms(text, room):
        cost = estimate_tokens(atom)
        if piece and used + cost > room:
            yield piece.strip()
            piece, used = "", 0
        piece += atom
        used += cost
    if piece.strip():
        yield piece.strip()


def _atoms(text: str, room: int) -> Iterator[str]:
    """Sentences; words of a sentence that does not fit; halves of a word that does not."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    for start, end in pairwise([0, *ends, len(text)]):
        sentence = text[start:end]
        if estimate_tokens(sentence) <= room:
            yield sentence
            continue
        for word in _WORD.findall(sentence):
            yield from _halves(word, room)


def _halves(word: str, room: int) -> Iterator[str]:
    if len(word) < 2 or estimate_tokens(word) <= room:
        yield word
        return
    middle = len(word) // 2
    yield from _halves(word[:middle], room)
    yield from _halves(word[middle:], room)
