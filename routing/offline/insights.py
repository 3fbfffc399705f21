"""What the material of a conversation holds, worked out once and only where a schema asks for it."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from routing.offline import cues, extract, quoting, ranking, words
from routing.offline.conversation import NAME, Conversation, lines
from routing.offline.transcript import Sentence

KEY_POINTS = 8
STEPS = 10
SUMMARY_SENTENCES = 5
MIN_CONFIDENCE = 20.0
MAX_CONFIDENCE = 60.0
_INTERMEDIATE = 2.5  # technical words in a hundred
_ADVANCED = 5.0
_FRAGMENT = 5  # terms; shorter sentences are poor key points

FIELD = re.compile(r"^[\"'*\s-]*([^\"':=：]{1,60}?)[\"'*]*\s*[:=：]\s*(.+)$")


def snake(name: str) -> str:
    """keyPoints, key-points and "Key points" are key_points."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).lower().strip("_")


def field_key(name: str) -> str:
    """One key for a field's name and a property's name, whatever their grammar."""
    return " ".join(words.terms(snake(name).replace("_", " "))) or snake(name)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing found: what it says, where in the talk, and for settings its name and value."""

    text: str
    seconds: float | None = None
    name: str = ""
    value: str = ""


class Insights:
    """Reads one conversation. Every property is pure and computed on first use."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """The document; where there is none, what else was said, but for the system text."""
        said = self.conversation.document
        told = (each for each in self.conversation.passages if each.role != "system" and each.weight == 1.0)
        return said or tuple(Sentence(each.text) for each in told)

    @cached_property
    def texts(self) -> list[str]:
        return [each.text for each in self.sentences]

    @cached_property
    def terms(self) -> list[list[str]]:
        return [words.subject_terms(text) for text in self.texts]

    @cached_property
    def language(self) -> str:
        return words.language_of(" ".join(self.texts[:400]))

    @cached_property
    def scores(self) -> list[float]:
        return ranking.importance(self.texts)

    def best(self, count: int, *, among: Callable[[int], bool] = lambda place: True) -> list[Item]:
        """The `count` top-ranked distinct sentences in the order of the text."""
        places = (place for place in range(len(self.texts)) if among(place))
        chosen: dict[str, int] = {}
        for place in sorted(places, key=lambda place: (-self.scores[place], place)):
            if len(chosen) >= count:
                break
            chosen.setdefault(self.texts[place], place)
        return [self._item(place) for place in sorted(chosen.values())]

    def _item(self, place: int) -> Item:
        return Item(self.texts[place], self.sentences[place].seconds, name=self.texts[place])

    @cached_property
    def summary(self) -> str:
        """Top-ranked sentences, or the plain statement that there was nothing to summarise."""
        if self.conversation.wants_judgement:
            return quoting.NO_JUDGEMENT
        if not self.texts:
            return quoting.NOTHING
        said = " ".join(item.text for item in self.best(SUMMARY_SENTENCES))
        return f"{NAME} summary: {said}"

    @cached_property
    def key_points(self) -> list[Item]:
        """The best sentence of each stretch of the talk, in the order of time."""
        size = min(KEY_POINTS, max(3, len(self.texts) // 3))
        points: dict[str, Item] = {}
        for stretch in extract.spread(len(self.texts), size):
            place = max(stretch, key=lambda place: (len(self.terms[place]) >= _FRAGMENT, self.scores[place], -place))
            points.setdefault(self.texts[place], self._item(place))
        return sorted(points.values(), key=lambda item: item.seconds or 0.0)

    @cached_property
    def steps(self) -> list[Item]:
        """Sentences that tell what to do; ranked ones where we know no cues of the language."""
        if self.language not in cues.STEPS:
            return self.best(min(5, len(self.texts)))
        return self.best(STEPS, among=lambda place: extract.is_step(self.texts[place], self.language))

    @cached_property
    def failures(self) -> list[Item]:
        """Lines of a log that tell of something that went wrong."""
        return self.best(KEY_POINTS, among=lambda place: bool(cues.FAILURE.search(self.texts[place])))

    @cached_property
    def tools(self) -> list[Item]:
        return _named(extract.tools(self.texts, people=self.conversation.people))

    @cached_property
    def settings(self) -> list[Item]:
        # Captions without full stops are cut anywhere: a parameter may stand before the cut, its number behind.
        following = [" ".join(text.split()[:4]) for text in self.texts[1:]] + [""]
        said = [
            text if words.ends_sentence(text) else f"{text} {after}"
            for text, after in zip(self.texts, following, strict=False)
        ]
        found = extract.settings(said)
        return [Item(f"{name} {value}", name=name, value=value) for name, value in found]

    @cached_property
    def topics(self) -> list[Item]:
        people = {name.lower() for person in self.conversation.people for name in (person, *person.split())}
        return _named([topic for topic in extract.topics(self.texts) if topic.lower() not in people])

    @cached_property
    def technicality(self) -> int:
        """0 for beginners, 1 intermediate, 2 advanced."""
        names = [item.text for item in self.tools]
        density = extract.technicality(self.texts, tool_names=names, setting_count=len(self.settings))
        return (density >= _INTERMEDIATE) + (density >= _ADVANCED)

    @cached_property
    def confidence(self) -> float:
        """20-60: more for more text, full sentences, a known language and names found; never 70."""
        if self.conversation.wants_judgement or not self.texts:
            return MIN_CONFIDENCE
        ended = sum(words.ends_sentence(text) for text in self.texts) / len(self.texts)
        amount = min(1.0, math.log10(1 + len(self.texts)) / 2.3)
        score = 22 + 14 * amount + 12 * ended + 5 * bool(self.language) + 5 * bool(self.tools or self.settings)
        return round(min(MAX_CONFIDENCE, max(MIN_CONFIDENCE, score)), 1)

    @cached_property
    def term_sets(self) -> list[frozenset[str]]:
        return [frozenset(terms) for terms in self.terms]

    @cached_property
    def fields(self) -> dict[str, str]:
        """What `name: value` lines state, by field_key of the name; the first line of a name counts."""
        stated: dict[str, str] = {}
        # The task is searched too: a form may stand so close to its instructions that no rule tells them apart.
        told = (*(each.text for each in self.conversation.passages), *lines(self.conversation.task))
        for line in told:
            if match := FIELD.match(line):
                stated.setdefault(field_key(match[1]), match[2].strip().strip("\"'"))
        return stated

    @cached_property
    def _told(self) -> list[list[str]]:
        return [words.terms(each.text) for each in self.conversation.passages]

    def about(self, subject: str) -> Item | None:
        """The line that says most about a subject, a property's name say; None if no line does."""
        found = quoting.find(subject, self.conversation.passages, told=self._told).passages
        return Item(found[0].text, name=found[0].text) if found else None


def _named(names: Sequence[str]) -> list[Item]:
    return [Item(name, name=name, value=name) for name in names]
