"""Splits a conversation into what is asked (the task) and what may be quoted (the material)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from routing.offline import cues, transcript, words
from routing.offline.transcript import Sentence
from routing.types import Message, Text, ToolResult

NAME = "Offline extractive"
_LAST_PART = 20_000  # characters in which an unmarked question is looked for
_MAX_TASK = 1_500  # characters; longer paragraphs are material, not a task

_OPENING = re.compile(r"<([A-Za-z][\w-]{0,40})(?: [^<>\n]{0,200})?>|```[^\n`]{0,80}\n|\"{3}")
_MAX_UNCLOSED = 20  # kinds of opening marks without an end, after which a text is taken to hold no blocks
_INLINE_TASK = re.compile(r"[^\n:：]{1,200}[:：]\s*(?=\S)")
_PARAGRAPH = re.compile(r"\n\s*\n")
_MARKER = re.compile(r"^\s*\[(\d{1,3})\](?!\()")
_LONG_LINE = 300
_JSON = re.compile(r"[{\[]\s*[\"{\[]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A line or sentence that may be quoted. `marker` is the `[1]` it stands under, if any; `weight`
    is below 1 for words that are addressed to the model rather than told to it; `role` is who says it."""

    text: str
    marker: str = ""
    weight: float = 1.0
    role: str = "user"


class Conversation:
    """What is asked and what may be quoted. Reads any text without raising; each part on first use."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._texts = [(message.role, text_of(message)) for message in messages]
        users = [place for place, (role, _) in enumerate(self._texts) if role == "user"] or [len(self._texts) - 1]
        self._newest = users[-1]
        self._last = next((place for place in reversed(users) if not self._refers_back(place)), users[0])
        self.task, self._material = split(self._texts[self._last][1]) if self._texts else ("", "")

    def _refers_back(self, place: int) -> bool:
        return place > 0 and bool(cues.REFERS_BACK.search(_blocks(self._texts[place][1])[1]))

    @cached_property
    def _timed(self) -> tuple[str, list[Sentence]]:
        """The newest user message that holds a time-stamped transcript, and its sentences."""
        for role, text in reversed(self._texts):
            if role == "user" and (found := transcript.parse(text)):
                return text, found
        return "", []

    @cached_property
    def document(self) -> tuple[Sentence, ...]:
        """The text that a summary or an analysis is about, sentence by sentence."""
        return tuple(self._timed[1] or _untimed(self._untimed_text() or self._earlier()))

    def _untimed_text(self) -> str:
        """The last user message without its orders. What only looks like a task, a last paragraph or a
        question, is left in: where a schema is to be filled it may be part of the text."""
        orders = (cues.TASK_VERB.match, cues.LESSER_TASK.search, cues.DIRECTIVE.match, cues.WANTS_SUMMARY.search)
        if any(order(self.task) for order in orders):
            return self._material
        return self._texts[self._last][1]

    def _earlier(self) -> str:
        """What was said before the last user message, for "summarise that"."""
        told = (text for place, (role, text) in enumerate(self._texts) if place != self._last and role != "system")
        return "\n\n".join(told)

    @cached_property
    def drafts(self) -> tuple[Sentence, ...]:
        """The answers that messages behind the task quote, for another model to work on."""
        return tuple(_untimed("\n\n".join(self._said(place) for place in range(self._last + 1, len(self._texts)))))

    def _said(self, place: int) -> str:
        """What a message offers for quotation. One that refers back offers what it quotes itself."""
        role, text = self._texts[place]
        if place == self._last:
            return self._material
        return "\n\n".join(_blocks(text)[0]) if place > self._last and role == "user" else text

    @cached_property
    def people(self) -> frozenset[str]:
        """Who speaks in the transcript."""
        return transcript.speakers(self._timed[0])

    @cached_property
    def wants_summary(self) -> bool:
        return bool(cues.WANTS_SUMMARY.search(self.task))

    @cached_property
    def wants_judgement(self) -> bool:
        """True if an opinion on somebody's work is asked for. Beside a transcript only plain words count:
        whoever analyses one is told to check and to rate many things."""
        told = _blocks(self._texts[self._newest][1])[1].splitlines() if self._texts else []
        orders = [self.task, *told[:1], *told[-1:], *(text for role, text in self._texts if role == "system")]
        cue = cues.DEMANDS_VERDICT.search
        return any(cue(order) or (not self._timed[1] and cues.WANTS_JUDGEMENT.search(order)) for order in orders)

    @cached_property
    def passages(self) -> tuple[Passage, ...]:
        """Every line but the question's own, those of earlier offline answers and of a repeated schema."""
        return tuple(self._passages())

    def _passages(self) -> Iterator[Passage]:
        asked = words.terms(self.task)
        for place, (role, _) in enumerate(self._texts):
            marker = ""
            for whole in lines(self._said(place)):
                line = whole
                if found := _MARKER.match(line):
                    marker = f"[{found[1]}]"
                    line = line[found.end() :].strip()
                line = cues.MATERIAL_LABEL.sub("", line)
                skipped = not line or line.startswith(NAME) or cues.SCHEMA_FIELD.search(line)
                if skipped or self._is_task(line, asked):
                    continue
                addressed = role in ("system", "user") and cues.DIRECTIVE.match(line)
                yield Passage(line, marker, 0.4 if addressed else 1.0, role)

    def _is_task(self, line: str, asked: list[str]) -> bool:
        """The question itself, as it stands in an earlier message: it would answer itself best."""
        return len(line) <= 2 * len(self.task) and words.terms(line) == asked


def text_of(message: Message) -> str:
    """What a message says, tool results included and thinking left out."""
    said = (
        part.text if isinstance(part, Text) else part.content
        for part in message.parts
        if isinstance(part, Text | ToolResult)
    )
    return "\n".join(said)


def split(text: str) -> tuple[str, str]:
    """(task, material) of one user message.

    A task is what stands outside quoted blocks. Of that it is, in this order: a line labelled as question,
    a first line that gives an order, a last paragraph that asks, a first one that asks, a last one that
    orders, a first line that introduces the rest, the last paragraph, the last question anywhere.
    """
    blocks, outside = _blocks(text)
    if blocks and 0 < len(outside) <= 4 * _MAX_TASK:
        task, rest = _split_plain(outside)
        return task, "\n\n".join([rest, *blocks])
    return _split_plain(text)


def _blocks(text: str) -> tuple[list[str], str]:
    """What stands between tags, fences or triple quotes, and the text without it."""
    blocks: list[str] = []
    outside: list[str] = []
    unclosed: set[str] = set()
    end = 0
    while (opening := _OPENING.search(text, end)) and len(unclosed) < _MAX_UNCLOSED:
        closing = f"</{opening[1]}>" if opening[1] else opening[0][:3]
        found = -1 if closing in unclosed else text.find(closing, opening.end())
        if found < 0:
            unclosed.add(closing)
            outside.append(text[end : opening.end()])
            end = opening.end()
            continue
        outside.append(text[end : opening.start()] + "\n\n")
        blocks.append(text[opening.end() : found])
        end = found + len(closing)
    outside.append(text[end:])
    return [block for block in blocks if block.strip()], "".join(outside).strip()


def _split_plain(text: str) -> tuple[str, str]:
    paragraphs = [part for part in _PARAGRAPH.split(text) if part.strip()]
    if not paragraphs:
        return "", ""
    for rule in _RULES:
        if found := rule(text, paragraphs):
            return found
    return (text.strip(), "") if len(text) <= _MAX_TASK else ("", text)


def _labelled(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    """A line such as "Question: ...", the last one if there are several."""
    labelled = [match for match in cues.LABELLED_TASK.finditer(text) if match[1].strip()]
    if not labelled:
        return None
    match = labelled[-1]
    return match[1].strip()[:_MAX_TASK], text[: match.start()] + text[match.end() :]


def _ordered_first(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    """A first line, or the words before a first colon, that give an order."""
    first = paragraphs[0].lstrip()
    head, _, tail = first.partition("\n")
    if not cues.TASK_VERB.match(head) or len(head) > _MAX_TASK:
        return None
    if tail or len(paragraphs) > 1:
        return head.strip(), "\n\n".join([tail, *paragraphs[1:]])
    inline = _INLINE_TASK.match(first)
    return (inline[0].strip(), first[inline.end() :]) if inline else None


def _asked_at_an_end(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    for paragraph in (paragraphs[-1], paragraphs[0]):
        if len(paragraph) <= _MAX_TASK and (asked := _questions(paragraph)):
            return asked, _without(text, asked)
    return None


def _ordered_last(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    last = paragraphs[-1].strip()
    orders = cues.TASK_VERB.match(last) or cues.LESSER_TASK.match(last) or cues.DIRECTIVE.match(last)
    return (last, "\n\n".join(paragraphs[:-1])) if orders and _fits_task(paragraphs) else None


def _introduced(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    """A first line such as "Fill in the form from these notes:"."""
    head, _, tail = paragraphs[0].strip().partition("\n")
    introduces = cues.LESSER_TASK.search(head) or cues.DIRECTIVE.match(head)
    more = [tail, *paragraphs[1:]]
    return (head.strip(), "\n\n".join(more)) if introduces and len(head) <= _MAX_TASK and any(more) else None


def _last(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    return (paragraphs[-1].strip(), "\n\n".join(paragraphs[:-1])) if _fits_task(paragraphs) else None


def _fits_task(paragraphs: Sequence[str]) -> bool:
    return len(paragraphs) > 1 and len(paragraphs[-1]) <= _MAX_TASK


def _asked_anywhere(text: str, paragraphs: Sequence[str]) -> tuple[str, str] | None:
    asked = _questions(text[-_LAST_PART:])
    return (asked, _without(text, asked)) if asked else None


_RULES = (_labelled, _ordered_first, _asked_at_an_end, _ordered_last, _introduced, _last, _asked_anywhere)


def _questions(paragraph: str) -> str:
    """The sentences of a paragraph that ask, joined."""
    asking = [
        piece for line in paragraph.splitlines() for piece in words.sentences(line) if piece.endswith(("?", "？"))
    ]
    return " ".join(asking)[-_MAX_TASK:]


def _without(text: str, asked: str) -> str:
    for piece in words.sentences(asked):
        text = text.replace(piece, "\n", 1)
    return text


def lines(text: str) -> Iterator[str]:
    """The sentences of a text; wrapped lines are joined, JSON is cut into fields, long ones at commas."""
    for line in _unwrapped(text.splitlines()):
        for piece in words.sentences(line):
            if len(piece) <= _LONG_LINE and not _JSON.search(piece):
                yield piece.strip()
            else:
                yield from (part.strip() for part in _at_commas(piece))


def _at_commas(text: str) -> Iterator[str]:
    """Pieces of a long line: the fields of a JSON object or the clauses of an endless sentence."""
    pattern = r"(?<=[,}\]{\[])\s*(?=[\"{\[])" if _JSON.search(text) else r"(?<=[,;，；])\s+"
    for field in re.split(pattern, text):
        yield from transcript.cut(field.strip(" {}[],"))


def _unwrapped(raw: Iterable[str]) -> Iterator[str]:
    held = ""
    for line in map(words.clean, raw):
        if held and line[:1].islower() and len(held.rsplit("\n", 1)[-1]) >= 50 and not words.ends_sentence(held):
            held += " " + line
            continue
        if held:
            yield held
        held = line
    if held:
        yield held


def _untimed(material: str) -> Iterator[Sentence]:
    for line in _unwrapped(material.splitlines()):
        if cues.HEADER.match(line) or line.startswith(NAME):
            continue
        for piece in words.sentences(cues.MATERIAL_LABEL.sub("", line)):
            if words.has_words(piece):
                yield from (Sentence(part) for part in transcript.cut(piece))
