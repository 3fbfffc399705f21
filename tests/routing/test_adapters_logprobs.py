"""Log probabilities in the shapes that servers have for them."""
# ruff: noqa: E501 - answers are written as they come

import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.assembly import Assembler
from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.logprobs import of_candidate, of_choice
from routing.types import ProviderError
from tests.routing.adapters_support import run_decoder
from tests.routing.test_adapters_dialects import chunk, sse

SENT = WireRequest("POST", "x", body={}, logprobs=True)


def entry(token: str, number: float, given: Any = None, *beside: Any) -> dict[str, Any]:
    return {"token": token, "logprob": number, "bytes": given, "top_logprobs": list(beside)}


def other(token: str, number: float) -> dict[str, Any]:
    return {"token": token, "logprob": number, "bytes": None}


SHAPES: dict[str, tuple[Any, list[Any]]] = {
    "openai": (
        {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Ho", "logprob": -3, "bytes": None}]}],
         "refusal": None},
        [entry("Hi", -0.5, [72, 105], other("Ho", -3.0))],
    ),
    "a token that is half a character": (
        {"content": [{"token": "\\xf0\\x9f", "logprob": 0, "bytes": [240, 159]}]}, [entry("\\xf0\\x9f", 0.0, [240, 159])]),
    "llama.cpp: an id beside, no alternatives": (
        {"content": [{"id": 9, "token": "Hi", "logprob": -0.5, "bytes": [72], "top_logprobs": []}]}, [entry("Hi", -0.5, [72])]),
    "together: lists side by side": (
        {"tokens": ["H", "i"], "token_logprobs": [-0.5, None], "token_ids": [1, 2]}, [entry("H", -0.5), entry("i", -9999.0)]),
    "llama-cpp-python: alternatives by token": (
        {"tokens": ["H", "i"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"H": -0.5, "J": -2}], "text_offset": [0, 1]},
        [entry("H", -0.5, None, other("H", -0.5), other("J", -2.0)), entry("i", -1.0)],
    ),
    "a refusal": ({"content": None, "refusal": [{"token": "No", "logprob": -1}]}, [entry("No", -1.0)]),
    "nothing": (None, []),
    "no tokens": ({"content": []}, []),
    "something else": ({"content": [7, {"token": 7}, {"logprob": -1}], "tokens": 3}, []),
}  # fmt: skip


@pytest.mark.parametrize(("told", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_a_choices_log_probabilities_are_told_in_one_shape(told: Any, expected: list[Any]) -> None:
    assert list(of_choice({"logprobs": told})) == expected


def test_googles_are_told_in_the_same_shape() -> None:
    told = {"chosenCandidates": [{"token": "H", "tokenId": 1, "logProbability": -0.5}, {"token": "i", "logProbability": -1}],
            "topCandidates": [{"candidates": [{"token": "J", "logProbability": -2}]}]}  # fmt: skip
    assert list(of_candidate({"logprobsResult": told})) == [entry("H", -0.5, None, other("J", -2.0)), entry("i", -1.0)]
    for odd in (None, 7, {}, {"chosenCandidates": 7}, {"chosenCandidates": [7, {"token": None}], "topCandidates": [1]}):
        assert of_candidate({"logprobsResult": odd}) == ()
    odd = {"chosenCandidates": [{"token": "H", "logProbability": -1}], "topCandidates": 5}
    assert list(of_candidate({"logprobsResult": odd})) == [entry("H", -1.0)]


def test_numbers_that_json_has_no_word_for_are_most_unlikely() -> None:
    body = b'{"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop", "logprobs": {"content": [{"token": "Hi", "logprob": -Infinity}, {"token": "!", "logprob": NaN}]}}]}'
    result = CODECS["openai"]().decode_chat(WireResponse(200, {}, body), SENT)
    assert [told["logprob"] for told in result.logprobs] == [-9999.0, -9999.0]


def test_a_stream_tells_them_with_the_text_they_belong_to() -> None:
    """Also of a token that is half a character and has no text yet."""
    body = sse(
        chunk(role="assistant", content=""),
        *({"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None,
           "logprobs": {"content": [{"token": token, "logprob": -1, "bytes": None, "top_logprobs": []}]}}]}
          for text, token in (("", "\\xf0\\x9f"), ("🎉", "\\x8e\\x89"), (" ok", " ok"))),
        chunk("stop"),
    )  # fmt: skip
    for size in (1, 13, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(SENT), pieces)
        assert error is None
        told = [(delta.text, [entry["token"] for entry in delta.logprobs]) for delta in deltas if delta.logprobs]
        assert told == [("", ["\\xf0\\x9f"]), ("🎉", ["\\x8e\\x89"]), (" ok", [" ok"])]
        assembler = Assembler()
        for delta in deltas:
            assembler.add(delta)
        assert len(assembler.result().logprobs) == 3
    plain = WireRequest("POST", "x", body={})
    deltas, _ = run_decoder(lambda: CODECS["openai"]().chat_stream(plain), [body])
    assert not any(delta.logprobs for delta in deltas)


@pytest.mark.parametrize("kind", ["openai", "ollama", "gemini"])
def test_a_stream_without_them_fails_before_its_first_word(kind: str) -> None:
    said = {
        "openai": sse(chunk(role="assistant", content=""), chunk(content="Hi"), chunk("stop")),
        "ollama": json.dumps({"model": "m", "message": {"content": "Hi"}, "done": False}).encode() + b"\n",
        "gemini": sse({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}, done=False),
    }
    deltas, error = run_decoder(lambda: CODECS[kind]().chat_stream(SENT), [said[kind]])
    assert isinstance(error, ProviderError)
    assert error.kind == "bad_request"
    assert not any(delta.is_output for delta in deltas)
