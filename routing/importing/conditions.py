"""PURE: the condition language of the older rules, read into alternatives of plain comparisons.

    requires_moe || complex_reasoning
    (context > 100000 && !simple) || agent_level == "L1"

`||`, `&&`, `!` (also or, and, not), parentheses, `== != > >= < <=` (also chained: `0.4 < complexity <= 0.7`),
`in [a, b]`, numbers (100k, 50%), texts, names.
Nothing is ever evaluated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_CHARACTERS = 2_000
MAX_DEPTH = 40
MAX_ALTERNATIVES = 64

Operator = Literal["==", "!=", ">", ">=", "<", "<="]
OPPOSITE: dict[Operator, Operator] = {"==": "!=", "!=": "==", ">": "<=", ">=": "<", "<": ">=", "<=": ">"}
MIRRORED: dict[Operator, Operator] = {"==": "==", "!=": "!=", ">": "<", ">=": "<=", "<": ">", "<=": ">="}
TOKEN = re.compile(
    r"\s*(?:(?P<number>\d[\d_]*(?:\.\d+)?[kKmM%]?(?![\w.]))|(?P<name>[A-Za-z_][\w.:-]*)"
    r"|(?P<text>\"[^\"]*\"|'[^']*')|(?P<sign>\|\||&&|===?|!==?|>=|<=|[><!()\[\],]))"
)
WORDS = {"or": "||", "and": "&&", "not": "!", "in": "in"}
SAME = {"===": "==", "!==": "!="}
ALWAYS = frozenset({"true", "always", "default", "otherwise", "any", "all"})
NEVER = frozenset({"false", "never"})
SCALE = {"k": 1_000.0, "m": 1_000_000.0, "%": 0.01}


class ConditionError(ValueError):
    """The text is no condition; says where."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that holds or does not."""

    name: str
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    name: str
    operator: Operator
    value: float | str


@dataclass(frozen=True, slots=True)
class Constant:
    holds: bool


@dataclass(frozen=True, slots=True)
class Both:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple["Node", ...]


Term = Flag | Comparison
Node = Term | Constant | Both | Either


def alternatives(text: str) -> list[tuple[Term, ...]]:
    """The condition as alternatives, in each of which all terms hold; `[()]` holds always, `[]` never.

    Raises ConditionError.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConditionError(f"is longer than {MAX_CHARACTERS} characters")
    return list(dict.fromkeys(_alternatives(_Parser(text).parse())))


def _alternatives(node: Node) -> list[tuple[Term, ...]]:
    match node:
        case Constant(holds):
            return [()] if holds else []
        case Either(parts):
            return _bounded([term for part in parts for term in _alternatives(part)])
        case Both(parts):
            result: list[tuple[Term, ...]] = [()]
            for part in parts:
                result = _bounded([(*before, *after) for before in result for after in _alternatives(part)])
            return result
    return [(node,)]


def _bounded(terms: list[tuple[Term, ...]]) -> list[tuple[Term, ...]]:
    if len(terms) > MAX_ALTERNATIVES:
        raise ConditionError(f"stands for more than {MAX_ALTERNATIVES} alternatives")
    return terms


def _negated(node: Node) -> Node:
    match node:
        case Constant(holds):
            return Constant(not holds)
        case Flag(name, holds):
            return Flag(name, not holds)
        case Comparison(name, operator, value):
            return Comparison(name, OPPOSITE[operator], value)
        case Both(parts):
            return Either(tuple(_negated(part) for part in parts))
        case Either(parts):
            return Both(tuple(_negated(part) for part in parts))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, text, sign, end
    text: str
    column: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while text[position:].strip():
        found = TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            column = position + len(text[position:]) - len(text[position:].lstrip())
            raise ConditionError(f"column {column + 1}: {text[column]!r} is not understood")
        kind, word = found.lastgroup, found.group(found.lastgroup)
        if kind == "name" and word.lower() in WORDS:
            kind, word = "sign", WORDS[word.lower()]
        word = SAME.get(word, word) if kind == "sign" else word
        yield _Token(kind, word, found.start(found.lastgroup) + 1)
        position = found.end()
    yield _Token("end", "the end", len(text) + 1)


class _Parser:
    """Recursive descent: either -> both -> negation -> comparison or name."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.place = 0
        self.depth = 0

    def parse(self) -> Node:
        node = self._either()
        if self._token.kind != "end":
            raise self._unexpected("an operator")
        return node

    @property
    def _token(self) -> _Token:
        return self.tokens[self.place]

    def _take(self, *signs: str) -> str:
        """The next token's text if it is one of the signs; else ""."""
        token = self._token
        if token.kind != "sign" or token.text not in signs:
            return ""
        self.place += 1
        return token.text

    def _either(self) -> Node:
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return Either(tuple(parts)) if len(parts) > 1 else parts[0]

    def _both(self) -> Node:
        parts = [self._negation()]
        while self._take("&&"):
            parts.append(self._negation())
        return Both(tuple(parts)) if len(parts) > 1 else parts[0]

    def _negation(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConditionError(f"is nested deeper than {MAX_DEPTH} levels")
        if self._take("!"):
            node = _negated(self._negation())
        elif self._take("("):
            node = self._either()
            if not self._take(")"):
                raise self._unexpected("a closing parenthesis")
        else:
            node = self._comparison()
        self.depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._operand()
        if self._peek("in") or (self._peek("!") and self._peek("in", ahead=1)):
            return self._membership(left)
        parts: list[Node] = []
        while sign := self._take(*OPPOSITE):
            right = self._operand()
            parts.append(_compared(left, next(known for known in OPPOSITE if known == sign), right))
            left = right
        if not parts:
            return self._alone(left)
        return Both(tuple(parts)) if len(parts) > 1 else parts[0]

    def _membership(self, left: _Token) -> Node:
        """`name in [a, b]`, also with parentheses; `not in` is its opposite."""
        wanted = not self._take("!")
        self._take("in")
        closing = {"[": "]", "(": ")"}.get(self._take("[", "("))
        if closing is None:
            raise self._unexpected("a list")
        values = [self._operand()]
        while self._take(","):
            values.append(self._operand())
        if not self._take(closing):
            raise self._unexpected(f"a comma or {closing}")
        either = Either(tuple(_compared(left, "==", value) for value in values))
        return either if wanted else _negated(either)

    def _peek(self, sign: str, *, ahead: int = 0) -> bool:
        token = self.tokens[min(self.place + ahead, len(self.tokens) - 1)]
        return token.kind == "sign" and token.text == sign

    def _operand(self) -> _Token:
        token = self._token
        if token.kind not in {"number", "name", "text"}:
            raise self._unexpected("a name or a number")
        self.place += 1
        return token

    def _alone(self, token: _Token) -> Node:
        if token.kind != "name":
            raise ConditionError(f"column {token.column}: {token.text} alone says nothing")
        if token.text.lower() in ALWAYS | NEVER:
            return Constant(token.text.lower() in ALWAYS)
        return Flag(token.text)

    def _unexpected(self, wanted: str) -> ConditionError:
        return ConditionError(f"column {self._token.column}: {wanted} is missing before {self._token.text!r}")


def _compared(left: _Token, operator: Operator, right: _Token) -> Node:
    if "name" not in {left.kind, right.kind}:
        raise ConditionError(f"column {left.column}: a comparison needs a name on one side")
    if left.kind != "name":
        left, right, operator = right, left, MIRRORED[operator]
    truth = right.text.lower()
    if right.kind == "name" and truth in {"true", "false"} and operator in {"==", "!="}:
        return Flag(left.text, (truth == "true") == (operator == "=="))
    return Comparison(left.text, operator, _value(right))


def _value(token: _Token) -> float | str:
    if token.kind == "text":
        return token.text[1:-1]
    if token.kind == "name":
        return token.text
    digits, scale = token.text.replace("_", ""), 1.0
    if digits[-1].lower() in SCALE:
        digits, scale = digits[:-1], SCALE[digits[-1].lower()]
    return float(digits) * scale
