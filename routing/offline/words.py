"""Sentences and terms of any language, by rules alone: no data files, no downloads."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from routing.offline import stopwords

# Scripts that put no spaces between words: Thai to Khmer, kana, Han.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_TOKEN = re.compile(rf"[{UNSPACED}]+|\d+(?:[.,]\d+)*|[^\W\d_{UNSPACED}]+\d*")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SPACE = re.compile(r"\s+")

_CLOSERS = "\"'”’»)\\]）】」』"
_SENTENCE_END = re.compile(rf"(?<=[。！？｡])[{_CLOSERS}]*|(?<=[.!?…])[{_CLOSERS}]*(?=\s)|(?<=[.!?…])[{_CLOSERS}]*$")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|cf|fig|no|vol|approx|jr|sr|inc|ltd|z\.b|bzw|ca|m|mme|p\.ex)\.$",
    re.IGNORECASE,
)

_SUFFIXES = ("ies", "ages", "age", "ings", "ing", "ly", "ed", "es", "y", "s", "e")


def clean(text: str) -> str:
    """One line without control characters or stray spaces."""
    return _SPACE.sub(" ", _CONTROL.sub("", text)).strip()


def unspaced_share(text: str) -> float:
    """The share (0-1) of characters whose script writes without spaces."""
    return len(_UNSPACED.findall(text)) / len(text) if text else 0.0


def sentences(text: str) -> Iterator[str]:
    """The sentences of one paragraph, unchanged but for the spaces around them."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        piece = text[start : end.end()]
        if end.end() < len(text) and (_ABBREVIATION.search(piece[-8:]) or re.fullmatch(r"\s*\d{1,3}\.", piece)):
            continue  # no end: an abbreviation, or the number of a list item
        follower = text[end.end() : end.end() + 2].strip()
        if follower.islower() and piece.rstrip().endswith((".", "…")):
            continue  # "approx. half" and trailing dots go on
        if piece.strip():
            yield piece.strip()
        start = end.end()
    if text[start:].strip():
        yield text[start:].strip()


def ends_sentence(text: str) -> bool:
    """True if nothing is missing after this text."""
    return bool(re.search(rf"[.!?。！？｡][{_CLOSERS}]*$", text)) and not _ABBREVIATION.search(text[-8:])


def tokens(text: str) -> list[str]:
    """Words, numbers and unbroken runs of unspaced scripts, as written; `a_b` and `aB` are two words."""
    return _TOKEN.findall(_CAMEL.sub(" ", text))


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The word without its commonest endings, so that `uses`, `used` and `usage` meet."""
    if len(word) < 4 or not word.isascii():
        return word.removesuffix("s") if len(word) > 4 else word.removesuffix("e")
    for suffix in _SUFFIXES:
        rest = word.removesuffix(suffix)
        if rest != word and len(rest) >= 2 and not (suffix == "s" and rest.endswith("s")):
            return rest[:-1] if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "lsz" else rest
    return word


_NOISE = frozenset(map(stem, sorted(stopwords.TOPIC_NOISE)))


def is_stop_word(word: str) -> bool:
    return word in stopwords.ALL or (len(word) == 1 and not word.isdigit())


def terms(text: str) -> list[str]:
    """What a text is about: stemmed content words, and character pairs for unspaced scripts."""
    found: list[str] = []
    for token in tokens(text):
        if _UNSPACED.match(token):
            found += _pairs(token)
        elif not is_stop_word(word := token.lower()):
            found.append(stem(word))
    return found


def subject_terms(text: str) -> list[str]:
    """The terms without those that every talk is full of."""
    return [term for term in terms(text) if term not in _NOISE]


def _pairs(run: str) -> list[str]:
    grammar = stopwords.CJK_FUNCTION
    if len(run) == 1:
        return [] if run in grammar else [run]
    return [one + other for one, other in pairwise(run) if one not in grammar or other not in grammar]


def has_words(text: str) -> bool:
    return bool(_TOKEN.search(text))


def language_of(text: str) -> str:
    """The English name of the language, or "" where the rules cannot tell. Looks at 20,000 characters."""
    sample = text[:20_000]
    if unspaced_share(sample) > 0.15:
        return "japanese" if re.search("[\u3040-\u30ff]", sample) else "chinese"
    words = [token.lower() for token in tokens(sample)]
    counts = {language: sum(word in listed for word in words) for language, listed in stopwords.BY_LANGUAGE.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if words and counts[best] / len(words) > 0.12 else ""
