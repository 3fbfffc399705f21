"""Reading embeddings: lists of numbers, or what some servers send in their place."""

import base64
import math
import struct
from collections.abc import Sized
from typing import Any

from routing.adapters.reading.wire import protocol_error

_MOST_NUMBERS = 250_000  # that one answer may hold: up to 30 bytes each, read at once
_LONGEST_USUAL = 4_096  # numbers of a vector


def get_vectors(value: Any) -> tuple[tuple[float, ...], ...]:
    """Vectors of one length, all numbers finite. Raises ProviderError("protocol")."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [_packed(vector) for vector in value]
    if not isinstance(value, list) or not all(isinstance(vector, list) and vector for vector in value):
        raise protocol_error("the embeddings are not a list of vectors")
    value = [_pooled(vector) for vector in value]
    if len({len(vector) for vector in value}) > 1:
        raise protocol_error("the embeddings differ in length")
    try:
        vectors = tuple(tuple(map(float, vector)) for vector in value)
    except (TypeError, ValueError, OverflowError):
        raise protocol_error("the embeddings hold something that is not a number") from None
    if not all(math.isfinite(number) for vector in vectors for number in vector):
        raise protocol_error("the embeddings hold something that is not a finite number")
    return vectors


def _pooled(vector: list[Any]) -> list[Any]:
    """One vector, around which llama.cpp puts a second list. Raises ProviderError for one a token, as its relatives
    give for models that were not made to embed: their mean would be no embedding that anybody trained."""
    if not isinstance(vector[0], list):
        return vector
    if len(vector) > 1:
        raise protocol_error(
            "there is a vector for each token, not for the text: this is no embedding model, or its server pools none"
        )
    return vector[0]


def refuse_other_number(vectors: Sized, asked: Any) -> None:
    """Raises ProviderError if these are not the vectors of all that was `asked`: a list of texts or of lists of tokens,
    or one of them by itself."""
    alone = isinstance(asked, str) or (isinstance(asked, list) and bool(asked) and isinstance(asked[0], int))
    expected = 1 if alone else len(asked) if isinstance(asked, list) else len(vectors)
    if len(vectors) != expected:
        raise protocol_error(f"{len(vectors)} embeddings for {expected} texts")


def _packed(vector: Any) -> list[float]:
    """A vector as OpenAI packs it: the base64 of little-endian 32-bit numbers, which some servers send unasked."""
    try:
        data = base64.b64decode(vector, validate=True)
        return [number for (number,) in struct.iter_unpack("<f", data)]
    except (TypeError, ValueError, struct.error):
        raise protocol_error("the embeddings hold a text that is no packed vector") from None


def texts_at_once(most: int, length: int | None) -> int:
    """How many texts one request may embed, where the API takes `most` and a vector has `length` numbers, None as long
    as nobody knows."""
    return min(most, max(_MOST_NUMBERS // (length or _LONGEST_USUAL), 1))


def requests_for(texts: int, most: int, length: int | None) -> int:
    """In how many requests so many texts are embedded."""
    return -(-texts // texts_at_once(most, length))
