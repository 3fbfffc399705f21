"""Splits a conversation into what is asked (the task) and what may be quoted (the material)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from routing.offline import transcript, words
from routing.offline.transcript import Sentence
from routing.types import Message, Text, ToolResult

NAME = "Offline extractive"
_MAX_TASK = 1_500  # characters; longer paragraphs are material, not a task

TASK_VERB = re.compile(
    r"^\W*(?:please |can you |could you |now )*(?:summar\w+|tl;?dr|explain|describe|outline|condense|recap|sum up|list|extract|"
    r"analy[sz]e|translate|write|draft|generate|create|merge|combine|synthesi[sz]e|consolidate|review|rate|judge|grade|verify|"
    r"evaluate|classify|improve|rewrite|refine|compare|identify|find|name|"
    r"résum\w+|expli\w+|décri\w+|fasse|fass|zusammenfass\w+|erklär\w+|resum\w+|riassum\w+|spiega\w*)\b|^\W*(?:请|總結|总结|概括|解释|要約|翻译)",
    re.IGNORECASE,
)
_SUMMARISE = re.compile(
    r"\b(?:summar(?:y|ies|i[sz]\w*)|tl;?dr|explain|describe|outline|condense|recap|sum up|key points|main points|takeaways|"
    r"merge|combine|synthesi[sz]e|consolidate|digest|gist|résum\w+|expliqu\w+|zusammenfass\w+|fass\w* .*zusammen|erklär\w+|"
    r"resum\w+|explic\w+|riassum\w+)\b|总结|總結|概括|摘要|解释|要約",
    re.IGNORECASE,
)
_JUDGE = re.compile(
    r"\bverdict\b|\bLGTM\b|\b(?:APPROVED?|REJECT(?:ED)?|PASS|FAIL)\b\W+(?:or|and|/)?\W*\b(?:APPROVED?|REJECT(?:ED)?|PASS|FAIL)\b"
    r"|\b(?i:approve or reject|judge|grade|cast your vote|vote for)\b"
    r"|\b(?i:score|rate)\b[^.\n]{0,60}\b(?i:from|out of|between|on a scale|0-|1-)"
    r"|\b(?i:verify|review|evaluate|assess|critique|check|fact-check)\b[^.\n]{0,40}\b(?i:answer|response|draft|output|claims?|"
    r"result|code|solution|analysis|work)\b"
    r"|\b(?i:answer|response|draft|output|result|solution)s?\b[^.\n]{0,20}\b(?i:is|are) (?i:correct|right|acceptable|valid|better|best)\b"
    r"|\b(?i:is|are) (?i:this|the|that|these)(?i: \w+){0,2} (?i:answers?|response|draft|output|result|solution)\b[^.\n]{0,20}\b(?i:correct|right|"
    r"acceptable|valid|better|good|complete)\b|\b(?i:which|better) (?i:answer|response|draft)\b"
)
_LABELLED = re.compile(
    r"^\W*(?:user(?:'s)? )?(?:question|query|task|instructions?|frage|pregunta|domanda|pergunta|aufgabe|tâche|问题|質問|q)\W{0,3}[:：]\W*(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_BLOCK = re.compile(
    r"<([A-Za-z][\w-]{0,40})(?: [^<>\n]{0,200})?>\n?(.*?)</\1>|```[^\n`]*\n(.*?)```|\"\"\"\n?(.*?)\"\"\"", re.DOTALL
)
_PARAGRAPH = re.compile(r"\n\s*\n")
_DIRECTIVE = re.compile(
    r"^\W*(?:you(?:'re)?\b|your (?:task|job|role|answer)|please|answer|reply|respond|"
    r"return|use (?:the|only|these|this)|do not|don't|never|always|keep|be |write|give|cite|quote|if (?:the|you|nothing|there|no)|"
    r"only |act as|here (?:is|are)|based on|given the|tu es|vous êtes|répond\w+|du bist|sie sind|antworte\w*|eres|responde|你是|请)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\W*(?:context|document|passages?|text|source|transcript|content|metrics|notes?|上下文|文本)\s*[:：]\s*", re.IGNORECASE)
_MARKER = re.compile(r"^\s*\[(\d{1,3})\](?!\()")
_LONG_LINE = 300
_JSON = re.compile(r"[{\[]\s*[\"{\[]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A line or sentence that may be quoted. `marker` is the `[1]` it stands under, if any; `weight`
    is below 1 for words that are addressed to the model rather than told to it."""

    text: str
    marker: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """`document` is the text that a summary or an analysis is about, sentence by sentence."""

    task: str
    passages: tuple[Passage, ...]
    document: tuple[Sentence, ...]
    people: frozenset[str] = frozenset()
    wants_summary: bool = False
    wants_judgement: bool = False


def read(messages: Sequence[Message]) -> Conversation:
    """Finds task and material; never raises, whatever the text."""
    texts = [(message.role, text_of(message)) for message in messages]
    last = max((place for place, (role, _) in enumerate(texts) if role == "user"), default=len(texts) - 1)
    task, material = split(texts[last][1]) if texts else ("", "")
    system = " ".join(text for role, text in texts if role == "system")
    stamped = next((text for role, text in reversed(texts) if role == "user" and transcript.parse(text)), "")
    timed = transcript.parse(stamped)
    return Conversation(
        task=task,
        passages=tuple(_passages(texts, last, task=task, material=material)),
        document=tuple(timed or _untimed(material or _earlier(texts, last))),
        people=transcript.speakers(stamped),
        wants_summary=bool(_SUMMARISE.search(task)),
        wants_judgement=bool(_JUDGE.search(task) or _JUDGE.search(system)),
    )


def text_of(message: Message) -> str:
    """What a message says, tool results included and thinking left out."""
    said = (part.text if isinstance(part, Text) else part.content for part in message.parts if isinstance(part, Text | ToolResult))
    return "\n".join(said)


def split(text: str) -> tuple[str, str]:
    """(task, material) of one user message.

    A task is, in this order: what stands outside quoted blocks, a line labelled as question, a first
    paragraph that gives an order, a last one that asks or orders, a first one that asks, the last
    question anywhere, the last paragraph.
    """
    blocks = [body for match in _BLOCK.finditer(text) if (body := next(filter(None, match.groups()[1:]), "")).strip()]
    outside = _BLOCK.sub("\n\n", text).strip() if blocks else text
    if blocks and 0 < len(outside) <= 4 * _MAX_TASK:
        question = _split_plain(outside)[0]
        return question, outside.replace(question, "", 1) + "\n\n" + "\n\n".join(blocks)
    return _split_plain(text)


def _split_plain(text: str) -> tuple[str, str]:
    if labelled := [match for match in _LABELLED.finditer(text) if match[1].strip()]:
        match = labelled[-1]
        return match[1].strip()[:_MAX_TASK], text[: match.start()] + text[match.end() :]
    paragraphs = [part for part in _PARAGRAPH.split(text) if part.strip()]
    if not paragraphs:
        return "", ""
    first, last = paragraphs[0], paragraphs[-1]
    head, _, tail = first.partition("\n")
    if TASK_VERB.match(head) and (tail or len(paragraphs) > 1) and len(head) <= _MAX_TASK:
        return head.strip(), "\n\n".join([tail, *paragraphs[1:]])
    if head.rstrip().endswith((":", "：")) and TASK_VERB.match(head.split(":", 1)[0]):
        return head.strip(), "\n\n".join([tail, *paragraphs[1:]])
    inline = re.match(r"[^\n:：]{1,200}[:：]\s+(?=\S)", first)
    if inline and TASK_VERB.match(first):
        return inline[0].strip(), text[text.index(first) + inline.end() :]
    for paragraph in (last, first):
        if len(paragraph) <= _MAX_TASK and (asked := _questions(paragraph)):
            return asked, text.replace(asked, "\n", 1) if asked in text else _without(text, asked)
    if len(last) <= _MAX_TASK and len(paragraphs) > 1:
        return last.strip(), "\n\n".join(paragraphs[:-1])
    if asked := _questions(text[-20_000:]):
        return asked, _without(text, asked)
    if len(last) <= _MAX_TASK:
        return last.strip(), ""
    return "", text


def _questions(paragraph: str) -> str:
    """The sentences of a paragraph that ask, joined."""
    asking = [piece for line in paragraph.splitlines() for piece in words.sentences(line) if piece.endswith(("?", "？"))]
    return " ".join(asking)[-_MAX_TASK:]


def _without(text: str, asked: str) -> str:
    for piece in words.sentences(asked):
        text = text.replace(piece, "\n", 1)
    return text


def _passages(texts: Sequence[tuple[str, str]], last: int, *, task: str, material: str) -> Iterator[Passage]:
    asked = words.terms(task)
    for place, (role, text) in enumerate(texts):
        marker = ""
        for line in lines(material if place == last else text):
            if found := _MARKER.match(line):
                marker = f"[{found[1]}]"
                line = line[found.end() :].strip()  # noqa: PLW2901 - the marker is no part of the quotation
            line = _LABEL.sub("", line)  # noqa: PLW2901 - nor is "Context:"
            if not line or line.startswith(NAME) or words.terms(line) == asked:
                continue
            addressed = role in ("system", "user") and _DIRECTIVE.match(line)
            yield Passage(line, marker, 0.4 if addressed else 1.0)


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


def _earlier(texts: Sequence[tuple[str, str]], last: int) -> str:
    """What the conversation held before its last user message, for "summarise that"."""
    return "\n\n".join(text for place, (role, text) in enumerate(texts) if place != last and role != "system")


def _untimed(material: str) -> Iterator[Sentence]:
    for line in _unwrapped(material.splitlines()):
        for piece in words.sentences(line):
            if not piece.startswith(NAME) and words.terms(piece):
                yield from (Sentence(part) for part in transcript.cut(piece))
