"""PURE: texts without secrets: keys, tokens, passwords, mail addresses, phone and card numbers, and what staff add.

Expressions are RE2's, which takes time in proportion to the text whatever the expression. Matches and time have
limits all the same: what cannot be looked through is taken out whole, never let through.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import re2

T = TypeVar("T")

MAX_PATTERNS = 50
MAX_PATTERN_LENGTH = 300
MAX_MATCHES = 1_000  # of one pattern in one text; the rest of the text is taken out
MAX_SECONDS = 2.0  # of the processor, for one body
MAX_DEPTH = 64
MARGIN = 512  # characters beyond a cut that are looked at, so that nothing is let through for being cut
PATTERN_BYTES = 2 * 1024 * 1024

NOT_LOOKED_THROUGH = "[not kept: too much to look through]"


def _is_card(text: str) -> bool:
    digits = [int(character) for character in text if character.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(text: str) -> bool:
    return 8 <= sum(character.isdecimal() for character in text) <= 15


def _is_random(text: str) -> bool:
    return any(character.isdecimal() for character in text) and any(character.isalpha() for character in text)


def _is_mixed(text: str) -> bool:
    return _is_random(text) and text != text.lower() and text != text.upper()


_SECRETS = (
    r"(?:(?:api|access|auth|private|secret|encryption|signing)[-_ ]?key"
    r"|token|secret|password|passwd|passphrase|pwd|credentials?|cookie|authorization)"
)
# the same as the last word of a name like clientSecret
_LAST_WORDS = (
    r"(?:(?:Api|Access|Auth|Private|Secret|Encryption|Signing)Key"
    r"|Token|Secret|Password|Passwd|Passphrase|Pwd|Credentials?|Cookie|Authorization)"
)
_NAMED = rf"(?:(?:\b|_)(?i:{_SECRETS})|[a-z0-9]{_LAST_WORDS})\b"
_IS = r"\s*(?::=|=>|[:=])\s*"
# What is found, how, and what a find must be like to be one. Where an expression has a group, that is taken out.
KINDS: tuple[tuple[str, str, Callable[[str], bool] | None], ...] = (
    ("private key", r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|$)", None),
    ("token", r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?", None),
    ("key", r"\b(?:sk|rk|pk|zg|xai|gsk|hf|npm|pypi|r8|nvapi|pplx|dop_v1|shpat|tvly)[-_][A-Za-z0-9_-]{8,}", None),
    ("key", r"\b(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{12,}|xox[a-z]-[\w-]{8,})", None),
    ("key", r"\b(?:A(?:KIA|SIA|ROA)[A-Z0-9]{12,}|AIza[\w-]{30,}|ya29\.[\w-]{10,}|SG\.[\w-]{10,}\.[\w-]{10,})", None),
    ("token", r"(?i)\b(?:bearer|basic|token)[ \t]+([A-Za-z0-9._~+/=-]{12,})", None),
    ("password", r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/@:]*:([^\s/@]+)@", None),
    ("secret", rf"{_NAMED}\\?[\"']?{_IS}\\?[\"']?([^\s\"'\\,;&]{{4,}})", None),
    # within quotes it goes on to their end: a phrase, or what has quotes of its own
    ("secret", rf"(?s){_NAMED}[\"']?{_IS}\"((?:[^\"\\\n]|\\.)+)", None),
    ("secret", rf"(?s){_NAMED}[\"']?{_IS}'((?:[^'\\\n]|\\.)+)'", None),
    ("secret", rf"(?s){_NAMED}\\+[\"']{_IS}\\+\"(.+?)\\+\"", None),
    ("token", r"[A-Za-z0-9]{32,}", _is_random),
    ("token", r"\b[A-Za-z0-9_]{32,}\b", _is_mixed),
    ("token", r"(?:^|[^A-Za-z0-9/+])([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)", _is_mixed),
    ("token", r"[A-Za-z0-9/+]{32,}={1,2}", _is_mixed),
    ("mail address", r"[\p{L}\p{N}._%+'-]+@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+", None),
    ("card number", r"\b\d(?:[ -]?\d){12,18}\b", _is_card),
    ("phone number", r"\+\d{1,3}(?:[\s().-]{0,3}\d){6,13}\b", _is_phone),
    ("phone number", r"\(\d{2,5}\)[\s.-]{0,2}\d{2,}(?:[\s.-]\d{2,}){0,4}\b", _is_phone),
    ("phone number", r"\b\d{3}[\s.-]\d{3}[\s.-]\d{4}\b", _is_phone),
    ("phone number", r"\b0\d{1,5}[\s./-]\d{3,}(?:[\s./-]\d{2,}){0,4}\b|\b00\d{8,13}\b", _is_phone),
)
_SECRET_NAME = re2.compile(rf"(?i:(?:^|[-_ ]){_SECRETS}|(?:api|access|auth)token)$|[a-z0-9]{_LAST_WORDS}$")


_ESCAPES = re.compile(r"\\\\|\\u([0-9a-fA-F]{4})")


def _in_letters(text: str) -> str:
    """JSON with its letters as they are, not as numbers: what is looked for is written so."""
    return _ESCAPES.sub(_letter, text) if "\\u" in text else text


def _letter(escape: re.Match[str]) -> str:
    letter = chr(int(escape[1], 16)) if escape[1] else "\\"
    return letter if letter.isprintable() and letter not in '"\\' else escape[0]


class PatternError(ValueError):
    """An expression that cannot be used, and why."""


class TooLong(Exception):
    """Looking through a body took longer than MAX_SECONDS."""


def compiled(pattern: str) -> Any:
    """An RE2 expression of staff's. Raises PatternError."""
    if not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
        raise PatternError(f"should have 1 to {MAX_PATTERN_LENGTH} characters")
    return _expression(pattern)


@lru_cache(maxsize=256)
def _expression(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES, False
    try:
        expression = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise PatternError(f"is no RE2 expression: {_told(error)}") from None
    if expression.search("") is not None:
        raise PatternError("would find nothing at all everywhere; let it match at least one character")
    return expression


def _told(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


@dataclass(slots=True)
class Redactor:
    """Takes what is secret out of one body, and cuts it to `characters`. `secrets` are known exactly."""

    characters: int
    patterns: Sequence[str] = ()
    secrets: frozenset[str] = frozenset()
    found: int = 0
    cut: bool = False
    _until: float = field(default_factory=lambda: time.thread_time() + MAX_SECONDS)

    def of(self, value: Any, *, name: str = "", depth: int = 0) -> Any:
        """The same JSON-like value, redacted. Raises TooLong."""
        if isinstance(value, str):
            return self._text(value, name)
        self.characters -= 1  # so that what is no text has a limit too
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self._text(str(value), name) if _SECRET_NAME.search(name[:MARGIN]) else value
        if depth >= MAX_DEPTH:
            self.cut = True
            return NOT_LOOKED_THROUGH
        if isinstance(value, Mapping):
            items = self._while_room(value.items())
            return {self._text(str(key), ""): self.of(item, name=str(key), depth=depth + 1) for key, item in items}
        return [self.of(item, name=name, depth=depth + 1) for item in self._while_room(value)]

    def _while_room(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self.characters <= 0:
                self.cut = True
                return
            yield item

    def _text(self, text: str, name: str) -> str:
        if text and _SECRET_NAME.search(name[:MARGIN]):
            self.found += 1
            return "[secret]"
        if text.lstrip()[:1] in ("{", "["):
            text = _in_letters(text[: 6 * (max(self.characters, 0) + MARGIN)])
        kept = text[: max(self.characters, 0)]
        self.cut |= len(kept) < len(text)
        self.characters -= len(kept)
        return self._redacted(text[: len(kept) + MARGIN], len(kept)) if kept else ""

    def _redacted(self, text: str, length: int) -> str:
        """The first `length` characters of `text` without what the whole of `text` shows to be secret."""
        text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair has no UTF-8
        pieces, place = [], 0
        for start, end, label in sorted(self._spans(text)):
            if start >= length:
                break
            if start >= place:
                pieces += [text[place:start], f"[{label}]"]
                self.found += 1
            place = max(place, end)
        return "".join([*pieces, text[place:length]])

    def _spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        for secret in self.secrets:
            place = text.find(secret)
            while place >= 0:
                yield place, place + len(secret), "key"
                place = text.find(secret, place + len(secret))
        for label, pattern, is_one in KINDS:
            yield from self._matches(text, label, _expression(pattern), is_one)
        for pattern in self.patterns:
            yield from self._matches(text, "redacted", compiled(pattern), None)

    def _matches(
        self, text: str, label: str, expression: Any, is_one: Callable[[str], bool] | None
    ) -> Iterator[tuple[int, int, str]]:
        group = 1 if expression.groups and label != "redacted" else 0
        for count, match in enumerate(expression.finditer(text)):
            if time.thread_time() > self._until:
                raise TooLong
            start, end = match.span(group)
            if count >= MAX_MATCHES:
                yield start, len(text), "the rest is not kept"
                return
            if start < end and (is_one is None or is_one(text[start:end])):
                yield start, end, label
