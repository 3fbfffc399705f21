"""Plain answers: the lines that answer a question, or the sentences that stand for a text, verbatim."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from routing.offline import cues, ranking, words
from routing.offline.conversation import NAME, Conversation, Passage
from routing.offline.transcript import Sentence

NOTHING = f"{NAME}: nothing in the prompt answers this; no language model was available."
NO_JUDGEMENT = f"{NAME}: no judgement was made on this; no language model was available."
_MAX_QUOTES = 4
_MAX_QUOTED = 900  # characters in all
_MIN_COVERAGE = 0.3
_AS_GOOD = 0.7  # of the best line's score: such lines are quoted beside it
_SUMMARY_SENTENCES = 5

# Words that many lines of figures share, and words for what such lines call otherwise (stemmed).
_GENERIC = "use current system high low full enough overall metrics percent total many"
_WEAK = frozenset(map(words.stem, _GENERIC.split()))
_SYNONYMS = {
    words.stem(asked): words.stem(told)
    for told, others in {
        "status": "health normally fine",
        "alerts": "concerning problems warnings",
        "disk": "storage space",
        "memory": "ram",
        "cpu": "processor",
        "cost": "spend spent bill",
    }.items()
    for asked in others.split()
}
_METRIC = re.compile(r"[\w.%/ -]{2,60}[\"']?\s*[:=]\s*[\"']?-?\d")
_HEADING = re.compile(r"^#{1,6} |[:：]$")


@dataclass(frozen=True, slots=True)
class Quotation:
    """Lines found for a question, best first; `coverage` (0-1) is how much of it the best one takes up."""

    passages: tuple[Passage, ...] = ()
    coverage: float = 0.0


def find(question: str, passages: Sequence[Passage], *, told: Sequence[Sequence[str]] | None = None) -> Quotation:
    """The lines that say most about the question; none where nothing is said about it.

    `told` are the passages' terms, for callers that ask often.
    """
    told = [words.terms(each.text) for each in passages] if told is None else told
    asked = _understood(words.terms(question), told)
    wants_number = bool(cues.WANTS_NUMBER.search(question))
    scored: list[tuple[float, float, int]] = []
    for place, (score, coverage) in enumerate(ranking.relevance(asked, told, weak=_WEAK)):
        passage = passages[place]
        if coverage * passage.weight >= _MIN_COVERAGE:
            scored.append((score * passage.weight * _number_bonus(passage.text, wanted=wants_number), coverage, place))
    if not scored:
        return Quotation()
    scored.sort(key=lambda each: (-each[0], each[2]))
    best = scored[0]
    near = [place for score, coverage, place in scored if score >= _AS_GOOD * best[0] and coverage >= 0.7 * best[1]]
    return Quotation(tuple(_distinct(_with_bodies(near, passages))), best[1])


def _understood(asked: Sequence[str], told: Sequence[Sequence[str]]) -> list[str]:
    """The question's terms, each that occurs nowhere replaced by its usual synonym if that occurs."""
    known = {term for line in told for term in line}
    return [_SYNONYMS[term] if term not in known and _SYNONYMS.get(term) in known else term for term in asked]


def _number_bonus(line: str, *, wanted: bool) -> float:
    metric = bool(_METRIC.search(line))
    if not wanted:
        return 1.2 if metric else 1.0
    return 2.0 if metric else 1.4 if re.search(r"\d", line) else 1.0


def _with_bodies(places: Sequence[int], passages: Sequence[Passage]) -> list[Passage]:
    """A heading answers nothing: the lines below it are quoted in its place."""
    found: list[Passage] = []
    for place in places:
        if _HEADING.search(passages[place].text):
            found += [each for each in passages[place + 1 : place + 4] if not _HEADING.search(each.text)]
        else:
            found.append(passages[place])
    return found


def _distinct(passages: Sequence[Passage]) -> list[Passage]:
    kept: dict[str, Passage] = {}
    room = _MAX_QUOTED
    for passage in passages:
        if len(kept) < _MAX_QUOTES and passage.text not in kept and (len(passage.text) <= room or not kept):
            kept[passage.text] = passage
            room -= len(passage.text)
    return list(kept.values())


def summary(sentences: Sequence[Sentence], *, count: int = _SUMMARY_SENTENCES) -> str:
    """The top-ranked sentences in their order; "" for no more than one sentence."""
    texts = [each.text for each in sentences]
    if len(texts) < 2:
        return ""
    scores = ranking.importance(texts)
    best = sorted(range(len(texts)), key=lambda place: (-scores[place], place))[: min(count, max(1, len(texts) // 2))]
    return " ".join(texts[place] for place in sorted(best))


def answer(conversation: Conversation) -> tuple[str, float]:
    """A plain answer and its confidence (20-60)."""
    if conversation.wants_judgement:
        return NO_JUDGEMENT, 20.0
    if conversation.wants_summary and (text := summary(conversation.document)):
        return f"{NAME} summary: {text}", 40.0 + min(15.0, len(conversation.document) / 4)
    quotation = find(conversation.task, conversation.passages)
    if quotation.passages:
        return f"{NAME} answer: {' '.join(map(_quoted, quotation.passages))}", round(25 + 33 * quotation.coverage, 1)
    if drafts := conversation.drafts:
        return f"{NAME} summary: {summary(drafts) or drafts[0].text}", 25.0
    return NOTHING, 20.0


def _quoted(passage: Passage) -> str:
    opening, closing = ("“", "”") if '"' in passage.text else ('"', '"')
    return f"{opening}{passage.text}{closing} {passage.marker}".rstrip()
