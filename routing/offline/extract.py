"""What a talk names: tools, settings, topics, workflow steps, and how technical it is."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from routing.offline import cues, lexicon, stopwords, words

_MAX_TOOLS = 12
_MAX_SETTINGS = 15
_MAX_TOPICS = 8

# --- tools -----------------------------------------------------------------------------------------

_NAME = re.compile(r"[^\W\d_][\w+#]*(?:[.-][\w+#]+)*")
_MIXED = re.compile(r"^(?=.*[a-z])(?=.*[A-Z0-9]).*[a-z0-9].*[A-Z].*$|^[A-Z]{2,}[a-z]+|^[A-Z][a-z]+\d|^[a-z]+[A-Z]")
_ACRONYM = re.compile(r"^[A-Z][A-Z0-9]{1,7}s?$")
_BREAK = re.compile(r"[.!?:;\"“”«»()\[\]…。！？：、，]")


def tools(sentences: Sequence[str], *, people: Iterable[str] = ()) -> list[str]:
    """Product-like names, the most used first: known ones in any spelling, CamelCase and acronyms, and
    names that keep their capital in mid-sentence. `people` are never tools."""
    known: Counter[str] = Counter()
    for sentence in sentences:
        known.update(name for found in lexicon.KNOWN_TOOL.findall(sentence) if (name := lexicon.canonical_tool(found)))
    guessed = _capitalised(sentences, people=people)
    covered = {part.lower() for name in known for part in (name, *name.split())}
    scores = {name: 2.0 * count for name, count in known.items()}
    scores |= {name: score for name, score in guessed.items() if name.lower() not in covered}
    return sorted(scores, key=lambda name: (-scores[name], name))[:_MAX_TOOLS]


def _capitalised(sentences: Sequence[str], *, people: Iterable[str]) -> dict[str, float]:
    written = Counter(word for sentence in sentences for word in _NAME.findall(sentence))
    lower = {word for word in written if word.islower()}
    capitals = sum(count for word, count in written.items() if word[0].isupper())
    if capitals > 0.5 * written.total():
        return {}  # titles and shouted captions capitalise everything
    never = lexicon.NOT_TOOLS | {part.lower() for name in people for part in (name, *name.split())}
    places: Counter[str] = Counter()
    for sentence in sentences:
        places.update(_mid_sentence_names(sentence))
    scores: dict[str, float] = {}
    for name, count in places.items():
        ordinary = name.lower() in stopwords.ALL and not _ACRONYM.match(name)
        weight = _name_weight(name, max(count, written[name]), lower)
        if name and weight and not ordinary and name.lower() not in never:
            scores[name] = weight
    return scores


def _mid_sentence_names(sentence: str) -> Iterator[str]:
    """Runs of capitalised words that do not open the sentence, and CamelCase wherever it stands."""
    run: list[str] = []
    last_end = 0
    for match in _NAME.finditer(sentence):
        word = match[0].removesuffix("'s")
        gap = sentence[last_end : match.start()]
        opens = not words.unspaced_share(gap) and (not last_end or bool(_BREAK.search(gap)))
        if run and gap != " ":
            yield _trimmed(run)
            run = []
        if (word[0].isupper() and not opens) or _MIXED.match(word):
            run.append(word)
        elif run:
            yield _trimmed(run)
            run = []
        last_end = match.end()
    if run:
        yield _trimmed(run)


def _trimmed(run: Sequence[str]) -> str:
    """The name without the kind of thing it is: "AutoModel API" is AutoModel."""
    kept = [word for word in run if word.lower() not in lexicon.NOT_TOOLS]
    return next((word for word in kept if _MIXED.match(word)), " ".join(kept))


def _name_weight(name: str, count: int, lower: set[str]) -> float:
    """0 for what is rather an ordinary word or a chance capital."""
    if len(name) < 2 or len(name.split()) > 3:
        return 0
    if _MIXED.match(name):
        return 1.5 * count
    rare = count < (2 if " " in name or _ACRONYM.match(name) else 3)
    parts = name.lower().split()
    if rare or any(part in lower or part in lexicon.NOT_IN_TOOLS for part in parts):
        return 0
    return (0.6 if _ACRONYM.match(name) else 0.8) * count


# --- settings --------------------------------------------------------------------------------------

_NUMBER_WORD = "|".join(lexicon.NUMBER_WORDS)
_SPOKEN = rf"(?:point|(?:{_NUMBER_WORD})\b)(?:[ -](?:point|(?:{_NUMBER_WORD})\b))*"
_NUMBER = rf"(?:-?\d+(?:[.,]\d+)*(?:e-?\d+)?\s?(?:%|percent\b|k\b|gb\b|mb\b|px\b|ms\b)?|{_SPOKEN})"
_PARAMETER = "|".join(re.escape(name) for name in sorted(lexicon.PARAMETERS, key=lambda name: (-len(name), name)))
_BINDING = (
    r"(?:\s+(?:is|are|of|to|at|as|was|value|set|setting|around|about|roughly|equals?|be|should|up|down|here|again|de|à|est|sur|"
    r"auf|ist|von|en|es)\b){0,4}\s*(?:[:=：]|设为|设置为|为|是|到)?\s*"
)
_WORD_EDGE = r"(?<![^\W_])"
_NAME_THEN_NUMBER = re.compile(rf"{_WORD_EDGE}({_PARAMETER}){_BINDING}({_NUMBER})(?![\w])", re.IGNORECASE)
_NUMBER_THEN_NAME = re.compile(
    rf"(?<![\w.])(\d+(?:[.,]\d+)*k?)\s*({'|'.join(map(re.escape, lexicon.COUNTED))})(?![^\W_])", re.IGNORECASE
)
_SIZE = re.compile(r"(?<![\w.])(\d{2,5})\s*(?:x|×|by|par|mal|por|乘)\s*(\d{2,5})(?![\w])", re.IGNORECASE)


def settings(sentences: Iterable[str]) -> list[tuple[str, str]]:
    """(name, value) of the parameters that a number is bound to, in the order of their first mention."""
    found: dict[tuple[str, str], None] = {}
    for sentence in sentences:
        spans = [
            *(
                (match.start(), (_parameter(match[1]), _value(match[2])))
                for match in _NAME_THEN_NUMBER.finditer(sentence)
            ),
            *(
                (match.start(), (_parameter(match[2]), _value(match[1])))
                for match in _NUMBER_THEN_NAME.finditer(sentence)
            ),
            *((match.start(), ("resolution", f"{match[1]}x{match[2]}")) for match in _SIZE.finditer(sentence)),
            *((match.start(), ("sampler", match[0].lower())) for match in lexicon.SAMPLERS.finditer(sentence)),
        ]
        for _, setting in sorted(spans):
            found.setdefault(setting)
    resolved = {name for name, value in found if name == "resolution" and "x" in value}
    kept = [(name, value) for name, value in found if value and not (name in resolved and "x" not in value)]
    return kept[:_MAX_SETTINGS]


def _parameter(spoken: str) -> str:
    return lexicon.PARAMETERS.get(spoken.lower(), spoken.lower())


def _value(spoken: str) -> str:
    """Digits for spoken numbers: "point four" is 0.4, "seven point five" 7.5; "" for no number at all."""
    parts = re.findall(r"[^\W\d_]+", spoken.lower()) if not re.search(r"\d", spoken) else []
    if not parts:
        return re.sub(r"\s?percent", "%", spoken.strip(), flags=re.IGNORECASE)
    if "point" not in parts:
        return lexicon.NUMBER_WORDS.get(parts[0], "")
    at = parts.index("point")
    whole = lexicon.NUMBER_WORDS.get(parts[0], "0") if at else "0"
    decimals = "".join(lexicon.NUMBER_WORDS.get(part, "") for part in parts[at + 1 :])
    return f"{whole}.{decimals}" if decimals else ""


# --- topics ----------------------------------------------------------------------------------------

_PHRASE_WORD = re.compile(rf"[^\W\d_{words.UNSPACED}][^\W_{words.UNSPACED}]*(?:-[^\W_{words.UNSPACED}]+)*")
_CJK_RUN = re.compile("[\u30a0-\u30ff]{2,}|[\u3400-\u9fff]{2,}")
_MAX_CJK_TOPIC = 6


def topics(sentences: Sequence[str]) -> list[str]:
    """Key phrases of one to three words, by frequency and length as in RAKE."""
    counts, forms = _phrases(sentences)
    repeated = {phrase: count for phrase, count in counts.items() if count >= 2} or dict(counts)
    scores = {phrase: count * (0.5 + len(phrase)) for phrase, count in repeated.items()}
    cjk = _cjk_phrases(sentences)
    chosen = _without_parts(sorted(scores, key=lambda phrase: (-scores[phrase], phrase)), counts)
    spaced = [(scores[phrase], forms[phrase].most_common(1)[0][0]) for phrase in chosen]
    ranked = sorted([*spaced, *cjk], key=lambda scored: (-scored[0], scored[1]))
    return [form for _, form in ranked[:_MAX_TOPICS]]


def _phrases(sentences: Sequence[str]) -> tuple[Counter[tuple[str, ...]], dict[tuple[str, ...], Counter[str]]]:
    counts: Counter[tuple[str, ...]] = Counter()
    forms: dict[tuple[str, ...], Counter[str]] = {}
    for sentence in sentences:
        for run in _content_runs(sentence):
            stems = [words.stem(word.lower()) for word in run]
            for size in (1, 2, 3):
                for start in range(len(run) - size + 1):
                    phrase = tuple(stems[start : start + size])
                    if len(set(phrase)) < size or (size == 1 and len(run[start]) < 4 and not run[start].isupper()):
                        continue
                    counts[phrase] += 1
                    written = " ".join(run[start : start + size])
                    forms.setdefault(phrase, Counter())[written if written.isupper() else _lower_first(written)] += 1
    return counts, forms


def _lower_first(phrase: str) -> str:
    """The phrase as it would stand in mid-sentence; names with inner capitals stay."""
    return phrase if _MIXED.match(phrase) else phrase.lower()


def _content_runs(sentence: str) -> Iterator[list[str]]:
    run: list[str] = []
    end = 0
    for match in _PHRASE_WORD.finditer(sentence):
        if run and sentence[end : match.start()] != " ":
            yield run
            run = []
        if words.is_stop_word(word := match[0].lower()) or word in stopwords.TOPIC_NOISE:
            if run:
                yield run
            run = []
        else:
            run.append(match[0])
        end = match.end()
    if run:
        yield run


def _without_parts(ranked: Iterable[tuple[str, ...]], counts: Counter[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drops a phrase that mostly occurs inside, or only extends, a better one."""
    kept: list[tuple[str, ...]] = []
    for phrase in ranked:
        if not any(_same_topic(phrase, better, counts) for better in kept):
            kept.append(phrase)
        if len(kept) == _MAX_TOPICS:
            break
    return kept


def _same_topic(phrase: tuple[str, ...], better: tuple[str, ...], counts: Counter[tuple[str, ...]]) -> bool:
    if not set(phrase) & set(better):
        return False
    return set(better) <= set(phrase) or counts[phrase] <= 3 * counts[better]


def _cjk_phrases(sentences: Sequence[str]) -> list[tuple[float, str]]:
    counts: Counter[str] = Counter()
    for sentence in sentences:
        for run in _CJK_RUN.findall(sentence):
            for piece in re.split(f"[{''.join(sorted(stopwords.CJK_FUNCTION))}]", run):
                longest = min(_MAX_CJK_TOPIC, len(piece))
                counts.update(
                    piece[i : i + size] for size in range(2, longest + 1) for i in range(len(piece) - size + 1)
                )
    scores = {phrase: count * (len(phrase) - 1) ** 1.3 for phrase, count in counts.items() if count >= 2}
    kept: list[str] = []
    for phrase in sorted(scores, key=lambda phrase: (-scores[phrase], phrase)):
        if not any(phrase in better or better in phrase or _overlap(phrase, better) for better in kept):
            kept.append(phrase)
        if len(kept) == _MAX_TOPICS:
            break
    return [(scores[phrase], phrase) for phrase in kept]


def _overlap(one: str, other: str) -> bool:
    return any(one[i : i + 2] in other for i in range(len(one) - 1)) or one[-1] == other[0] or other[-1] == one[0]


# --- steps and level -------------------------------------------------------------------------------


def is_step(sentence: str, language: str) -> bool:
    """True if the sentence tells what to do, or in which order, in a language whose cues we know."""
    told = cues.STEPS.get(language)
    return bool(told and told.search(sentence) and not sentence.rstrip().endswith(("?", "？")))


def technicality(sentences: Sequence[str], *, tool_names: Sequence[str], setting_count: int) -> float:
    """Technical words in a hundred: names of tools, acronyms, compounds, numbers and settings."""
    said = [token for sentence in sentences for token in _NAME.findall(sentence)]
    length = sum(len(sentence.split()) + len(sentence) * words.unspaced_share(sentence) / 2 for sentence in sentences)
    parts = {part.lower() for name in tool_names for part in name.split()}
    marks = sum(
        bool(_ACRONYM.match(word) or _MIXED.match(word) or "-" in word or word.lower() in parts) for word in said
    )
    numbers = sum(len(re.findall(r"\d+(?:[.,]\d+)*", sentence)) for sentence in sentences)
    return 100 * (marks + 0.5 * numbers + 3 * setting_count) / length if length else 0.0


def spread(count: int, size: int) -> list[range]:
    """`count` places cut in at most `size` stretches of nearly equal length, in order."""
    size = min(size, count)
    edges = [round(i * count / size) for i in range(size + 1)] if size else []
    return [range(start, end) for start, end in pairwise(edges)]
