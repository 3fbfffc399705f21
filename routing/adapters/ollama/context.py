"""How much context a call to Ollama needs, and whether the server cut the prompt without saying so."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from routing.adapters.base import EmbedInput, WireRequest
from routing.adapters.faults.errors import make_error
from routing.types import ModelSpec, Usage

SMALLEST_CONTEXT = 4096
_RUNS = re.compile(r"(.)(?=\1{3})")
IMAGE_TOKENS = 1024


def _prompt_texts(body: Mapping[str, Any]) -> list[str]:
    texts = [message.get("content") or "" for message in body["messages"]]
    texts += [message["thinking"] for message in body["messages"] if "thinking" in message]
    texts += [str(message["tool_calls"]) for message in body["messages"] if "tool_calls" in message]
    if "tools" in body:
        texts.append(orjson.dumps(body["tools"], default=dict, option=orjson.OPT_NON_STR_KEYS).decode())
    return texts


def _image_tokens(body: Mapping[str, Any]) -> int:
    return sum(len(message.get("images", ())) for message in body["messages"]) * IMAGE_TOKENS


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that the prompt hardly exceeds: a token per three ASCII characters and per other character."""
    tokens = _image_tokens(body) + 64
    for text in _prompt_texts(body):
        wide = _wide(text)
        tokens += (len(text) - wide) // 3 + wide + 8
    return tokens


def likely_tokens(body: Mapping[str, Any]) -> int:
    """The usual estimate: a token per four characters, two per three that are not ASCII."""
    tokens = _image_tokens(body)
    for text in _prompt_texts(body):
        wide = _wide(text)
        tokens += (len(text) - wide) // 4 + wide * 2 // 3
    return tokens


def _wide(text: str) -> int:
    return 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))


def context_size(prompt: int, output: int, model: ModelSpec) -> int:
    """`num_ctx` for a call: a power of two, because each new size makes Ollama load the model anew,
    and at most the model's window."""
    smallest = model.provider.options.get("min_num_ctx", SMALLEST_CONTEXT)
    size = int(smallest) if isinstance(smallest, int) and smallest > 0 else SMALLEST_CONTEXT
    while size < prompt + output and size < model.context_window:
        size *= 2
    return min(size, model.context_window)


def embed_context(texts: Iterable[EmbedInput], model: ModelSpec) -> int | None:
    """`num_ctx` for texts of which one may be longer than what Ollama has room for unasked; None where none is. Texts
    that fit are embedded in the context that staff gave the model on their server."""
    longest = max((estimate_tokens({"messages": [{"content": text}]}) for text in texts), default=0)
    size = context_size(longest, 0, model)
    return size if longest > SMALLEST_CONTEXT < size else None


def refuse_overflow(sent: WireRequest, *, stated: int | None = None) -> None:
    """Raises ProviderError("context_overflow") for a prompt that cannot fit into the context asked for. `stated`: its
    tokens, where the caller or the server has counted them."""
    body = sent.body or {}
    size = body["options"]["num_ctx"]
    likely = likely_tokens(body)
    if max(likely, stated or 0) >= size:
        tokens = f"about {likely}" if likely > (stated or 0) else str(stated)
        raise make_error("context_overflow", f"the prompt has {tokens} tokens, the model's context {size}", sent)


def refuse_truncated(usage: Usage, sent: WireRequest) -> None:
    """Raises ProviderError("context_overflow") if Ollama evaluated clearly less than it was sent.

    It reports no such thing. But a prompt cut at the server's limit fills that limit to the last token,
    and one from which earlier turns were dropped is far below any estimate.
    """
    body, evaluated = sent.body or {}, usage.input_tokens
    size = (body.get("options") or {}).get("num_ctx")
    if evaluated is None or size is None:
        return
    full = 0 <= size - evaluated <= 1
    if not full and (evaluated >= _few_tokens(body) or evaluated >= _least_tokens(body)):
        return
    at_a_limit = evaluated >= 255 and (evaluated + 2) % 256 <= 2
    if full or at_a_limit or (evaluated >= 256 and evaluated > _last_tokens(body)):
        raise make_error(
            "context_overflow",
            f"the server cut the prompt: it read {evaluated} tokens of about {likely_tokens(body)}",
            sent,
            usage=usage,
        )


def _last_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that what was said last hardly exceeds, from the model's last answer on: some versions count no more than
    that of a conversation, because they had the rest in their cache."""
    messages = body["messages"]
    last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    return estimate_tokens({**body, "messages": messages[last:]})


def _few_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that ordinary text does not fall below: one per six characters that are not space."""
    return sum(len(text) - text.count(" ") - text.count("\n") for text in _prompt_texts(body)) // 6


def _least_tokens(body: Mapping[str, Any]) -> int:
    """The same for tables, indented code and ruled lines: a run of one character may be one token."""
    return sum(len(_RUNS.sub("", "".join(text.split()))) for text in _prompt_texts(body)) // 6
