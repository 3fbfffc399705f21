"""PURE: texts of others that are not to open or end what only the gateway opens and ends."""

import re

_SPARSE, _FEW = 48, 64  # one "<" in so many characters, and some in the shortest text: each takes a tenth of a µs
_WORDS_SPARSE = 50  # ordinary pages and feeds have one in 60 or 70


def without_marks(text: str, mark: re.Pattern[str], words: tuple[str, ...], instead: str) -> str:
    """The text with `instead` for each "<" that `mark` finds. Each of its finds has one of the small-lettered `words`
    in it. Where "<" and words are so many that looking at each would hold up everybody, and nobody reads them any more,
    every "<" becomes a "("."""
    if text.count("<") <= len(text) // _SPARSE + _FEW:
        return mark.sub(instead, text)
    small = text.replace("İ", "I").lower()  # in small letters that one is two characters
    if sum(map(small.count, words)) > len(text) // _WORDS_SPARSE + _FEW:
        return text.replace("<", "(")
    return _replaced(text, mark, _places(small, words), instead)


def _places(text: str, words: tuple[str, ...]) -> list[int]:
    places: list[int] = []
    for word in words:
        place = text.find(word)
        while place >= 0:
            places.append(place)
            place = text.find(word, place + 1)
    return sorted(places)


def _replaced(text: str, mark: re.Pattern[str], places: list[int], instead: str) -> str:
    """`mark` can only be found before one of these places, and behind the place before it."""
    pieces: list[str] = []
    told = looked = 0
    for place in places:
        start = text.rfind("<", looked, place)
        looked = place
        if start >= 0 and mark.match(text, start):
            pieces += (text[told:start], instead)
            told = start + 1
    return "".join([*pieces, text[told:]])
