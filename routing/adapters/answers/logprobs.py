"""How probable each token of an answer was, in the shapes of several APIs -> entries of OpenAI's chat completions:
{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}."""

import sys
from collections.abc import Collection
from http import HTTPStatus
from math import inf
from typing import Any

from routing.adapters.answers.decoding import HoldingDecoder
from routing.adapters.base import StreamDecoder, WireRequest
from routing.adapters.faults.errors import make_error
from routing.adapters.reading.wire import Json, get_number
from routing.types import Delta, Usage

_NEVER = -9999.0  # as OpenAI says of a token that is most unlikely; JSON has no word for minus infinity
_MOST_SILENT = 10  # texts at the beginning of a stream
_NUMBERS = ("logprob", "logProbability")  # Google's is the second

_SHAPE = frozenset({"token", "logprob", "bytes"})
_BYTES = frozenset({list, type(None)})

Entries = tuple[Json, ...]


def of_choice(choice: Json) -> Entries:
    """Those of a choice, of the text or of the refusal: `{"content": […]}`, or lists side by side, as Together and
    llama-cpp-python have them."""
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        return ()
    listed = told.get("content") or told.get("refusal")
    return entries(listed) if isinstance(listed, list) else _side_by_side(told)


def entries(tokens: Any) -> Entries:
    """Those of a list of tokens, each with its alternatives in `top_logprobs`, if it has any."""
    if not isinstance(tokens, list):
        return ()
    return tuple(
        {**_entry(token), "top_logprobs": _alternatives(token.get("top_logprobs"))}
        for token in tokens
        if isinstance(token, dict) and isinstance(token.get("token"), str)
    )


def of_candidate(candidate: Json) -> Entries:
    """Google's: the tokens that were chosen, and the likeliest ones of each place."""
    told = candidate.get("logprobsResult")
    chosen = told.get("chosenCandidates") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(chosen, list):
        return ()
    likeliest = told.get("topCandidates")
    listed = likeliest if isinstance(likeliest, list) else ()
    rows = [row.get("candidates") if isinstance(row, dict) else None for row in listed]
    rows += [None] * (len(chosen) - len(rows))
    return tuple(
        {**_entry(token), "top_logprobs": _alternatives(row)}
        for token, row in zip(chosen, rows, strict=False)
        if isinstance(token, dict) and isinstance(token.get("token"), str)
    )


def refuse_silence(sent: WireRequest, told: Collection[Any], *, has_text: bool, usage: Usage | None = None) -> None:
    """Raises ProviderError for an answer without what the caller asked for: the server has taken no notice, and has
    what it wrote paid."""
    if sent.logprobs and has_text and not told:
        silence = "logprobs: the server tells no log probabilities"
        raise make_error("bad_request", silence, sent, status=HTTPStatus.OK.value, usage=usage)


class LogprobsDecoder(HoldingDecoder):
    """Another decoder's stream, of which the first texts are held back until there are log probabilities: nobody has
    seen anything yet of an answer that turns out to tell none. The first texts may have none of their own, as blanks
    before an answer. `at_end`: so may all of them but the last."""

    def __init__(self, inner: StreamDecoder, sent: WireRequest, *, at_end: bool = False) -> None:
        super().__init__(inner, sent)
        self._left = inf if at_end else _MOST_SILENT
        self._held: list[Delta] = []  # from the first text on
        self._told = False

    def _read(self, deltas: list[Delta]) -> list[Delta]:
        if self._told:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            self._told = self._told or bool(delta.logprobs)
            if self._told:
                out += [*self._held, delta]
                self._held = []
            elif self._held or delta.text:
                self._hold(delta, out)
            else:
                out.append(delta)
        return out

    def _hold(self, delta: Delta, out: list[Delta]) -> None:
        self._held.append(delta)
        self._left -= bool(delta.text)
        refuse_silence(self._sent, (), has_text=self._left <= 0 or delta.stop_reason is not None, usage=self.usage)
        if delta.is_output:
            out.append(Delta(held=delta.text + delta.reasoning + delta.tool_arguments))


def of_the_end(told: Entries, text: str) -> Entries:
    """Those of `text`, which is the end of what the model wrote: what was thought before it is no part of it."""
    place, left = len(told), len(text.encode())
    while place and left > 0:
        place -= 1
        left -= len(told[place]["bytes"] or told[place]["token"].encode())
    return told[place:]


def _side_by_side(told: Json) -> Entries:
    tokens, numbers = told.get("tokens"), told.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(numbers, list):
        return ()
    likeliest = told.get("top_logprobs")
    rows = likeliest if isinstance(likeliest, list) else []
    rows = [*rows, *[None] * (len(tokens) - len(rows))]
    return tuple(
        {**_entry({"token": token, "logprob": number}), "top_logprobs": _alternatives(row)}
        for token, number, row in zip(tokens, numbers, rows, strict=False)
        if isinstance(token, str)
    )


def _alternatives(row: Any) -> list[Json]:
    if isinstance(row, dict):  # token -> log probability
        row = [{"token": token, "logprob": number} for token, number in row.items()]
    listed = row if isinstance(row, list) else ()
    return [_entry(token) for token in listed if isinstance(token, dict) and isinstance(token.get("token"), str)]


def _entry(token: Json) -> Json:
    """The token itself where it has this shape already: an answer may hold half a million of them."""
    if token.keys() == _SHAPE and type(token["bytes"]) in _BYTES and _is_finite(token["logprob"]):
        return token
    number = next((found for name in _NUMBERS if (found := get_number(token, name)) is not None), _NEVER)
    given = token.get("bytes")
    return {"token": token["token"], "logprob": number, "bytes": given if isinstance(given, list) else None}


def _is_finite(number: Any) -> bool:
    return type(number) is float and abs(number) <= sys.float_info.max


def token_numbers(choice: Json) -> list[float]:
    """The log probabilities that a choice of OpenAI's kind tells."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    numbers = (get_number(token, "logprob") for token in content if isinstance(token, dict))
    return [number for number in numbers if number is not None]


def mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
