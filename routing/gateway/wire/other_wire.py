"""PURE: OpenAI's embeddings and models <-> routing.types."""

import base64
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from routing.adapters.base import EmbedInput
from routing.gateway.wire.reading import (
    MAX_DIMENSIONS,
    MAX_EMBED_TOKENS,
    MAX_TEXTS,
    Json,
    model,
    refuse,
    text,
    unsupported,
    whole,
)
from routing.types import Usage
from ziggie.errors import TooLarge

_READ_OF_EMBEDDINGS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
_AS_ANTHROPIC = {"type": "model", "created_at": "1970-01-01T00:00:00Z"}


@dataclass(frozen=True, slots=True)
class EmbeddingsAsked:
    """An embeddings request. `inputs` are texts, or token numbers in their place; `dimensions`: how long the vectors
    shall be; `as_base64`: they go as float32."""

    model: str
    inputs: tuple[EmbedInput, ...]
    dimensions: int | None
    as_base64: bool


def decode_embeddings(body: Json) -> EmbeddingsAsked:
    """Raises InvalidInput, TooLarge or Unsupported."""
    inputs = _inputs(body.get("input"))
    encoding = text(body, "encoding_format", default="float")
    if encoding not in ("float", "base64"):
        refuse("encoding_format", "must be float or base64")
    text(body, "user", default="")
    for key in body.keys() - _READ_OF_EMBEDDINGS:
        unsupported(key)
    dimensions = whole(body, "dimensions", least=1, most=MAX_DIMENSIONS)
    return EmbeddingsAsked(model(body), inputs, dimensions, encoding == "base64")


def _inputs(given: Any) -> tuple[EmbedInput, ...]:
    """A text, an array of texts, an array of tokens, or an array of such arrays."""
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if not isinstance(items, list) or not items:
        refuse("input", "must be a string, an array of strings, or arrays of token numbers")
    if len(items) > MAX_TEXTS:
        raise TooLarge(f"input: at most {MAX_TEXTS} texts are accepted")
    if not all(items):
        refuse("input", "must not hold an empty string or array")
    if all(isinstance(item, str) for item in items):
        return tuple(items)
    if not all(map(_are_tokens, items)):
        refuse("input", "must hold strings alone, or arrays of token numbers alone")
    if sum(map(len, items)) > MAX_EMBED_TOKENS:
        raise TooLarge(f"input: at most {MAX_EMBED_TOKENS} tokens are accepted at once")
    return tuple(map(tuple, items))


def _are_tokens(given: Any) -> bool:
    """Looked at as a whole: there may be hundreds of thousands."""
    return isinstance(given, list) and set(map(type, given)) == {int} and min(given) >= 0 and max(given) < 2**31


# --- answers ---------------------------------------------------------------------------------------


def encode_vectors(vectors: Sequence[Sequence[float]], start: int, *, as_base64: bool) -> bytes:
    """Some of an answer's rows, the first of which has the index `start`, without the brackets around all."""
    rows = [
        {"object": "embedding", "index": place, "embedding": _vector(vector, as_base64=as_base64)}
        for place, vector in enumerate(vectors, start)
    ]
    return orjson.dumps(rows)[1:-1]


def encode_embeddings(rows: Iterable[bytes], usage: Usage, model: str) -> bytes:
    tokens = usage.input_tokens or 0
    rest = orjson.dumps({"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    return b'{"object":"list","data":[' + b",".join(rows) + b"]," + rest[1:]


def _vector(vector: Sequence[float], *, as_base64: bool) -> Any:
    if not as_base64:
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _model(slug: str, owner: str) -> Json:
    return {"id": slug, "object": "model", "created": 0, "owned_by": owner, **_AS_ANTHROPIC, "display_name": slug}


def encode_model(slug: str, owner: str) -> bytes:
    """One model. Bears what Anthropic's clients read, too."""
    return orjson.dumps(_model(slug, owner))


def encode_models(rows: Iterable[tuple[str, str]]) -> bytes:
    """`rows`: slug and owner of each model."""
    data = [_model(slug, owner) for slug, owner in rows]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return orjson.dumps({"object": "list", "data": data, "has_more": False, **ends})
