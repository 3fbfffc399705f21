"""Which sentences matter (LexRank: PageRank over sentence similarity) and which answer a question (BM25)."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from routing.offline import words

# The similarity graph grows with the square of the sentences: longer texts send their best ones.
GRAPH_SENTENCES = 400
_BLOCKS = 40
_MIN_SIMILARITY = 0.08
_BM25_K1 = 1.2
_BM25_B = 0.5

Terms = Sequence[str]


def importance(sentences: Sequence[str]) -> list[float]:
    """One score a sentence, 0 or more: how much of the whole text it stands for, and how little of it is
    filler. Speech is full of sentences that resemble each other and say nothing."""
    terms = [words.subject_terms(sentence) for sentence in sentences]
    scores = centrality(terms)
    dense = (
        min(1.0, len(found) / max(1, len(words.tokens(text)))) for found, text in zip(terms, sentences, strict=True)
    )
    return [round(score * share**2, 12) for score, share in zip(scores, dense, strict=True)]


def centrality(sentences: Sequence[Terms]) -> list[float]:
    """One score a sentence, 0 or more: its PageRank among the sentences that share its words.

    Texts of more than GRAPH_SENTENCES sentences are thinned evenly first; a sentence that was
    thinned out scores 0.
    """
    frequency = Counter(term for terms in sentences for term in dict.fromkeys(terms))
    vectors = [_vector(terms, frequency, len(sentences)) for terms in sentences]
    chosen = _evenly_chosen(vectors) if len(sentences) > GRAPH_SENTENCES else list(range(len(sentences)))
    scores = [0.0] * len(sentences)
    for place, score in zip(chosen, _page_rank([_unit(vectors[i]) for i in chosen]), strict=True):
        scores[place] = score * _length_weight(len(sentences[place]))
    return scores


def _vector(terms: Terms, frequency: Counter[str], total: int) -> dict[str, float]:
    counts = Counter(terms)
    return {term: count * math.log(1 + total / frequency[term]) for term, count in counts.items()}


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight * weight for weight in vector.values()))
    return {term: weight / length for term, weight in vector.items()} if length else {}


def _evenly_chosen(vectors: Sequence[dict[str, float]]) -> list[int]:
    """The places of the sentences nearest to the text's centroid, the same number from each stretch."""
    centroid: defaultdict[str, float] = defaultdict(float)
    for vector in vectors:
        for term, weight in vector.items():
            centroid[term] += weight
    nearness = [
        sum(weight * centroid[term] for term, weight in vector.items()) / math.sqrt(8 + len(vector))
        for vector in vectors
    ]
    size = math.ceil(len(vectors) / _BLOCKS)
    chosen: list[int] = []
    for start in range(0, len(vectors), size):
        block = range(start, min(start + size, len(vectors)))
        chosen += sorted(block, key=lambda place: -nearness[place])[: GRAPH_SENTENCES // _BLOCKS]
    return sorted(chosen)


def _page_rank(vectors: Sequence[dict[str, float]]) -> list[float]:
    # Imported here: the graph library costs 20 MB that a process without offline answers never pays.
    import rustworkx

    similarity: defaultdict[tuple[int, int], float] = defaultdict(float)
    postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for place, vector in enumerate(vectors):
        for term, weight in vector.items():
            postings[term].append((place, weight))
    for listed in postings.values():
        for (one, weight_of_one), (other, weight_of_other) in combinations(listed, 2):
            similarity[one, other] += weight_of_one * weight_of_other
    graph = rustworkx.PyDiGraph()
    graph.add_nodes_from(range(len(vectors)))
    edges = [(one, other, weight) for (one, other), weight in similarity.items() if weight >= _MIN_SIMILARITY]
    graph.add_edges_from(edges)
    graph.add_edges_from([(other, one, weight) for one, other, weight in edges])
    if not vectors:
        return []
    scores = rustworkx.pagerank(graph, weight_fn=float, max_iter=500)
    return [round(scores[place], 9) for place in range(len(vectors))]


def _length_weight(term_count: int) -> float:
    """Fragments say little alone, and a monster sentence is no summary."""
    return min(1.0, term_count / 6) ** 2 * min(1.0, 40 / max(term_count, 1))


def relevance(query: Terms, lines: Sequence[Terms], *, weak: frozenset[str] = frozenset()) -> list[tuple[float, float]]:
    """For each line its BM25 score and the share (0-1) of the query's weight that it covers.

    A query word that occurs nowhere counts half: people ask in other words than documents answer.
    `weak` words count less than half.
    """
    wanted = list(dict.fromkeys(query))
    frequency = Counter(term for line in lines for term in dict.fromkeys(line))
    weight = {
        term: math.log(1 + (len(lines) + 0.5) / (frequency[term] + 0.5)) * (0.4 if term in weak else 1)
        for term in wanted
    }
    whole = sum(value if frequency[term] else value / 2 for term, value in weight.items())
    mean_length = sum(map(len, lines)) / len(lines) if lines else 0.0
    scored = []
    for line in lines:
        counts = Counter(line)
        hits = [term for term in wanted if counts[term]]
        norm = _BM25_K1 * (1 - _BM25_B + _BM25_B * len(line) / mean_length) if mean_length else 0.0
        score = sum(weight[term] * counts[term] * (_BM25_K1 + 1) / (counts[term] + norm) for term in hits)
        scored.append((round(score, 9), sum(weight[term] for term in hits) / whole if whole else 0.0))
    return scored
