"""The offline model: answers by quoting and counting, so that work goes on when no language model can be reached.

It needs no network, no key and no weights, and the same request always gives the same bytes. Every answer
says "offline extractive". Nothing that it reads is an order: a prompt's text is only ever ranked and quoted.
See docs/adr/0011-offline-model.md.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from routing.offline import quoting, words
from routing.offline.conversation import Conversation, text_of
from routing.offline.insights import MAX_CONFIDENCE, MIN_CONFIDENCE, Insights, snake
from routing.offline.leaves import Unfillable
from routing.offline.schema import fill
from routing.planning.tokens import estimate_tokens
from routing.types import (
    ChatRequest,
    ChatResult,
    Cited,
    Delta,
    Image,
    Pdf,
    ProviderError,
    StopReason,
    Text,
    UnsupportedByProvider,
    Usage,
)

MODEL = "offline-extractive"
MAX_CHARACTERS = 2_000_000
# Elements in a list of a JSON answer: fewer are given where the answer would not fit max_output_tokens.
_ITEMS = (10, 4, 2, 0)
_PIECE = 200  # characters of a streamed JSON answer
_ESTIMATED = frozenset({"input_tokens", "output_tokens"})


def answer(request: ChatRequest) -> ChatResult:
    """The whole answer. Pure; takes up to seconds of CPU for a megabyte of prompt, so call it off the event loop.

    Raises UnsupportedByProvider for images, forced tool calls and log probabilities,
    ProviderError("context_overflow") above MAX_CHARACTERS, ProviderError("bad_request") for a JSON schema that is
    wrong or that nothing was found for.
    """
    texts = _checked(request)
    if request.json_schema is not None:
        text = _json_answer(request)
    else:
        said, sure = quoting.answer(Conversation(request.messages))
        text = json.dumps({"answer": said, "confidence": sure}, ensure_ascii=False) if request.json_object else said
    text, stop_reason = _ended(text, request)
    return ChatResult(
        parts=(Text(text),),
        stop_reason=stop_reason,
        usage=Usage(sum(map(estimate_tokens, texts)), estimate_tokens(text), estimated=_ESTIMATED),
        model=MODEL,
        response_id=f"offline-{hashlib.sha256(text.encode()).hexdigest()[:24]}",
    )


def stream(request: ChatRequest) -> Iterator[Delta]:
    """The same answer sentence by sentence; the last delta bears stop reason and usage. Raises as `answer`,
    before the first delta."""
    result = answer(request)
    return _deltas(result, by_sentence=request.json_schema is None and not request.json_object)


def _deltas(result: ChatResult, *, by_sentence: bool) -> Iterator[Delta]:
    start = 0
    for end in _cuts(result.text) if by_sentence else range(_PIECE, len(result.text) + _PIECE, _PIECE):
        yield Delta(text=result.text[start:end], model=result.model, response_id=result.response_id)
        start = end
    yield Delta(stop_reason=result.stop_reason, usage=result.usage, model=result.model, response_id=result.response_id)


def _cuts(text: str) -> Iterator[int]:
    """Where to cut a text behind each sentence; the pieces joined are the text."""
    end = 0
    for sentence in words.sentences(text):
        end = text.index(sentence, end) + len(sentence)
        while end < len(text) and text[end].isspace():
            end += 1
        yield end
    if end < len(text):
        yield len(text)


def confidence(request: ChatRequest, result: ChatResult) -> float:
    """How sure an answer of ours is, 20-60: what its JSON states, else worked out again from the request."""
    if request.json_schema is not None and (stated := _stated_confidence(result.text)) is not None:
        return min(MAX_CONFIDENCE, max(MIN_CONFIDENCE, stated))
    reading = Conversation(request.messages)
    return Insights(reading).confidence if request.json_schema is not None else quoting.answer(reading)[1]


def _stated_confidence(text: str) -> float | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    for name, value in document.items() if isinstance(document, dict) else ():
        if snake(name) == "confidence" and isinstance(value, int | float) and not isinstance(value, bool):
            return value * 100 if 0 < value <= 1 else float(value)
    return None


def _checked(request: ChatRequest) -> list[str]:
    """The prompt's texts. Raises for what extraction cannot serve."""
    if any(isinstance(part, (Image, Pdf, Cited)) for message in request.messages for part in message.parts):
        raise UnsupportedByProvider("the offline model reads no images and no PDFs, and cites nothing")
    if request.tool_choice not in ("", "auto", "none"):
        raise UnsupportedByProvider("the offline model calls no tools")
    if request.logprobs is not None:
        raise UnsupportedByProvider("logprobs: the offline model has none")
    texts = [text_of(message) for message in request.messages]
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise ProviderError("context_overflow", f"more than {MAX_CHARACTERS} characters", retryable=False)
    return texts


def _json_answer(request: ChatRequest) -> str:
    insights = Insights(Conversation(request.messages))
    assert request.json_schema is not None
    text = ""
    for items in _ITEMS:
        try:
            text = _dumped(fill(request.json_schema, insights, items=items))
        except (Unfillable, ValueError) as error:
            raise ProviderError("bad_request", f"offline extractive: {error}", retryable=False) from error
        if request.max_output_tokens is None or estimate_tokens(text) <= request.max_output_tokens:
            break
    return text


def _dumped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # A schema's own constants may hold half a surrogate pair, which UTF-8 cannot.
    return text if text.isprintable() or text.encode(errors="replace").decode() == text else json.dumps(value)


def _ended(text: str, request: ChatRequest) -> tuple[str, StopReason]:
    """Cuts the answer before the first stop sequence and at the limit of tokens."""
    stops = [place for stop in request.stop if stop and (place := text.find(stop)) >= 0]
    text = text[: min(stops, default=len(text))]
    limit = request.max_output_tokens
    if limit is None or estimate_tokens(text) <= limit:
        return text, "stop"
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= limit else (low, middle - 1)
    return text[:low], "length"
