"""What a schema's property is for, told from its name: one row a role. Where no row speaks, the prompt's
lines about that name do; where none do, the answer says so (null, "unknown", the least number)."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from routing.offline import quoting, words
from routing.offline.conversation import NAME
from routing.offline.insights import FIELD, Insights, Item, field_key, snake
from ziggie.values import replace

BY_STATISTICS = f"{NAME}: chosen by word statistics; no language model was available."
UNKNOWN = "unknown"
_TITLE = 80  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the answer a value goes. `item` is the found thing that the enclosing list element is about;
    `claimed` says that a sibling already carries the item's text."""

    name: str = ""
    description: str = ""
    item: Item | None = None
    depth: int = 0
    claimed: bool = False

    def child(self, name: str, schema: Any, *, claimed: bool = False) -> "Place":
        description = schema.get("description", "") if isinstance(schema, dict) else ""
        return replace(self, name=name, description=str(description)[:500], depth=self.depth + 1, claimed=claimed)


def _name(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|_)(?:{pattern})(?:_|$)")


# --- lists -----------------------------------------------------------------------------------------

_LISTS: tuple[tuple[re.Pattern[str], Callable[[Insights], Sequence[Item]]], ...] = (
    (_name("errors?|exceptions?|failures?|warnings?"), lambda on: on.failures),
    (
        _name("key_points?|highlights?|insights?|takeaways?|points?|notes|quotes?|moments?|chapters?|learnings?"),
        lambda on: on.key_points,
    ),
    (_name("steps?|procedures?|instructions?|actions?|how_to|action_items?"), lambda on: on.steps),
    (
        _name("tools?|software|products?|libraries|technolog(?:y|ies)|frameworks?|plugins?|apps?|entities|models"),
        lambda on: on.tools,
    ),
    (_name("settings?|param(?:eter)?s?|configurations?|options|values"), lambda on: on.settings),
    (
        _name("topics?|tags?|key_?words?|themes?|categor(?:y|ies)|subjects?|key_phrases|labels?|concepts"),
        lambda on: on.topics,
    ),
)
_DEFAULT_ITEMS = 5


# What only a reader with judgement can find. An empty list would say that there is nothing to find.
_FINDINGS = _name(
    "findings?|issues?|bugs?|faults?|vulnerabilit(?:y|ies)|problems?|objections?|violations?|corrections?"
)


def items_for(place: Place, insights: Insights, *, of_text: bool) -> list[Item]:
    """What a list of that name may hold, in reading order. `of_text`: its elements are plain texts."""
    name = snake(place.name)
    if _FINDINGS.search(name):
        return [Item(quoting.NO_JUDGEMENT)] if of_text else []
    for pattern, found in _LISTS:
        if pattern.search(name):
            return list(found(insights))
    return [] if place.item else insights.best(_DEFAULT_ITEMS)


# --- strings ---------------------------------------------------------------------------------------

_SUMMARY = _name(r"summary|abstract|overview|synopsis|tl_?dr|digest|recap")
_TITLE_NAME = _name(r"title|headline|heading|subject")
_ANSWER = _name(r"answer|response|reply|output|result|message|text|content|completion|body")
_REASON = _name(
    "reason(?:ing|s)?|rationale|explanation|justification|comments?|feedback|critique|analysis|thoughts?|notes?|review"
)
_LANGUAGE = _name("language|lang|locale")
_ITEM_TEXT = _name(
    "text|sentence|quote|point|description|content|details?|body|summary|step|insight|action|instruction|message|takeaway|"
    "note|statement|evidence"
)
_ITEM_NAME = _name(
    "name|tool|title|label|parameter|param|setting|key|topic|tag|keyword|heading|headline|subject|software|product|option|"
    "concept"
)
_ITEM_VALUE = _name("value|amount|number|setting_value")
_TIME_UNIT = "(?:_?(?:time|stamp|seconds?|secs?|s|ms|millis(?:econds)?|at))*"
_TIME = _name(f"(?:start|begin|end|at|offset|time|timestamp){_TIME_UNIT}|seconds?|secs?|ms")
_ISO = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
    "chinese": "zh",
    "japanese": "ja",
}


def carries_item(name: str) -> bool:
    """True for a property that takes the text or the name of the list element it belongs to."""
    return bool(_ITEM_TEXT.search(snake(name)) or _ITEM_NAME.search(snake(name)))


_IDENTITY = _name(
    r"id|ids|uuid|slug|code|url|uri|link|path|file|filename|hash|version|model|provider|author|speaker|email|country|city"
)


def is_prose(place: Place) -> bool:
    """True if a reader reads this string: there the model's name may stand before it."""
    name = snake(place.name)
    return not any(role.search(name) for role in (_ITEM_NAME, _ITEM_VALUE, _LANGUAGE, _TIME, _IDENTITY))


def text_for(place: Place, insights: Insights) -> str:
    """What a string of that name may say; it is cut to the schema's limits elsewhere."""
    name = snake(place.name)
    if place.item:
        return _item_text(name, place, place.item)
    for pattern, text in _TEXTS:
        if pattern.search(name):
            return text(insights)
    if stated := _stated(place, insights):
        return stated
    if _TITLE_NAME.search(name):
        return _title(insights)
    if not name or _ANSWER.search(name):
        return quoting.answer(insights.conversation)[0]
    return _told_about(place, insights)


def _reason(insights: Insights) -> str:
    return quoting.NO_JUDGEMENT if insights.conversation.wants_judgement else BY_STATISTICS


_TEXTS: tuple[tuple[re.Pattern[str], Callable[[Insights], str]], ...] = (
    (_SUMMARY, lambda insights: insights.summary),
    (_LANGUAGE, lambda insights: _ISO.get(insights.language, "und")),
    (_REASON, _reason),
)


def _told_about(place: Place, insights: Insights) -> str:
    if insights.conversation.wants_judgement:
        return UNKNOWN
    found = insights.about(f"{snake(place.name)} {place.description}")
    return found.text if found else UNKNOWN


def _item_text(name: str, place: Place, item: Item) -> str:
    if _TIME.search(name):
        return clock(item.seconds or 0.0)
    if _ITEM_VALUE.search(name):
        return item.value or item.text
    if _ITEM_NAME.search(name):
        return item.name or item.text
    if not name or _ITEM_TEXT.search(name) or not place.claimed:
        return item.text
    return ""


def clock(seconds: float) -> str:
    """h:mm:ss"""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _title(insights: Insights) -> str:
    topics = [item.text for item in insights.topics[:3]]
    best = insights.best(1)
    return ", ".join(topics) or (best[0].text[:_TITLE] if best else UNKNOWN)


def _stated(place: Place, insights: Insights) -> str:
    """The value of a `name: value` line of the prompt with this property's name; "" if there is none."""
    return insights.fields.get(field_key(place.name), "")


# --- numbers and truths ----------------------------------------------------------------------------

_CONFIDENCE = _name(r"confidence|certainty|sureness")
_SCORE = _name(
    r"score|rating|rank|grade|quality|probability|likelihood|similarity|stars|points|severity|priority|votes?"
)
_DOUBT = _name(
    r"(?:needs?|requires?)_(?:human_)?(?:review|check|verification|escalation)|uncertain|unsure|low_confidence|offline|incomplete|escalate"
)
_FRACTION_SAID = re.compile(r"\b0(?:\.0)?\s*(?:-|–|to|and|\.\.)\s*1(?:\.0)?\b(?!\d|\.[1-9]|%)")
_DIGITS = re.compile(r"-?\d+(?:[.,]\d+)*")


def is_confidence(name: str) -> bool:
    return bool(_CONFIDENCE.search(snake(name)))


def is_fraction(schema: Any, place: Place) -> bool:
    """True if a confidence here runs from 0 to 1 rather than to 100."""
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return (isinstance(high, int | float) and high <= 1) or (
        high is None and bool(_FRACTION_SAID.search(place.description))
    )


def number_for(place: Place, insights: Insights, schema: Any) -> float | None:
    """None: the prompt states no such number."""
    name = snake(place.name)
    if is_confidence(name):
        return insights.confidence / (100 if is_fraction(schema, place) else 1)
    if place.item:
        return _item_number(name, place.item)
    if _SCORE.search(name) or insights.conversation.wants_judgement:
        return None
    if stated := _stated(place, insights):
        return _first_number(stated)
    found = insights.about(f"{name} {place.description}") if name else None
    return _first_number(found.text) if found else None


def _item_number(name: str, item: Item) -> float | None:
    if _TIME.search(name):
        return None if item.seconds is None else item.seconds * (1000 if re.search(r"ms$|milli", name) else 1)
    return _first_number(item.value) if _ITEM_VALUE.search(name) or not name else None


def _first_number(text: str) -> float | None:
    stated = FIELD.match(text)
    match = _DIGITS.search(stated[2] if stated else text) or _DIGITS.search(text)
    if not match:
        return None
    digits = match[0]
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    try:
        return float(digits.replace(",", "."))
    except ValueError:
        return None  # a version or an address, such as 1.2.3


def truth_for(place: Place) -> bool:
    """False, for we never claim approval; True only for properties that admit doubt."""
    return bool(_DOUBT.search(snake(place.name)))


# --- choices ---------------------------------------------------------------------------------------

_LEVEL = _name(r"(?:technical_?)?level|difficulty|skill_level|audience")
_LEVELS = (
    re.compile(r"begin|basic|easy|novice|intro|low|simple|element", re.IGNORECASE),
    re.compile(r"inter|medium|moderate|mid|average", re.IGNORECASE),
    re.compile(r"advanc|expert|hard|high|complex|pro\b", re.IGNORECASE),
)
_REFUSING = re.compile(
    r"\b(?:wrong|reject\w*|fail\w*|no|false|invalid|incorrect|bad|unsafe|disagree\w*|deny|denied|worse)\b"
)
_UNDECIDED = re.compile(
    r"unknown|unsure|uncertain|undecided|unclear|undetermined|inconclusive|abstain|neutral|review|n/?a$|none|other|insufficient|"
    r"not[ _-]enough|cannot|can't|tie$|maybe|partial",
    re.IGNORECASE,
)
_APPROVING = re.compile(
    r"^(?!.*\b(?:not|no|never)\b).*\b(?:approv\w*|accept\w*|pass(?:ed|es)?|ok|okay|yes|true|correct|valid|agree[ds]?|success\w*|"
    r"safe|good|lgtm|excellent|supported|entail\w*|ready|ship|merge|right|confirm\w*|adequate|sufficient|satisf\w*|complete)\b"
)
_VERDICT = _name(
    r"verdict|decision|approv(?:ed|al)|judg(?:e?ment)|vote|outcome|recommendation|winner|status|result|passed|correct"
)


def ordered_choices(values: Iterable[Any], place: Place, insights: Insights) -> list[Any]:
    """An enum's values, the one that we can stand for best first."""
    listed = list(values)
    name, texts = snake(place.name), [str(value) for value in listed]
    if _LEVEL.search(name) and len(listed) >= 2:
        return _by_level(listed, texts, insights.technicality)
    if _LANGUAGE.search(name):
        wanted = (insights.language, _ISO.get(insights.language, ""))
        return sorted(listed, key=lambda value: str(value).lower() not in wanted)
    if _VERDICT.search(name) or insights.conversation.wants_judgement or any(map(_approves, listed)):
        return sorted(listed, key=_reluctance)
    mentions = {text: _mentions(text, place, insights) for text in texts}
    return sorted(listed, key=lambda value: (-mentions[str(value)], not _UNDECIDED.search(str(value))))


def _reluctance(value: Any) -> tuple[bool, bool, bool]:
    """Sorts what leaves the question open before refusals, both before the rest, approval last."""
    said = str(value)
    return _approves(value), not _UNDECIDED.search(said), not _REFUSING.search(_spoken(value))


def _approves(value: Any) -> bool:
    return bool(_APPROVING.search(_spoken(value)))


def _spoken(value: Any) -> str:
    return snake(str(value)).replace("_", " ")


def mentioned_choices(values: Iterable[Any], insights: Insights) -> list[Any]:
    """The values of an enum that the material speaks of, in the enum's order."""
    return [value for value in values if _mentions(str(value), Place(), insights)]


def _by_level(listed: list[Any], texts: list[str], level: int) -> list[Any]:
    named = [place for place, text in enumerate(texts) if _LEVELS[level].search(text)]
    middle = named[0] if named else round(level * (len(listed) - 1) / 2)
    return sorted(listed, key=lambda value: abs(listed.index(value) - middle))


def _mentions(value: str, place: Place, insights: Insights) -> int:
    wanted = words.terms(snake(value).replace("_", " "))
    lines = [frozenset(words.terms(place.item.text))] if place.item else insights.term_sets
    return sum(all(term in line for term in wanted) for line in lines) if wanted else 0
