"""Log probabilities in the shapes that servers have for them."""
# ruff: noqa: E501 - answers are written as they come

import json
from typing import Any

import pytest

from routing.adapters import CODECS
from routing.adapters.answers.assembly import Assembler
from routing.adapters.answers.logprobs import of_candidate, of_choice
from routing.adapters.base import WireRequest, WireResponse
from routing.types import ProviderError, Tool
from tests.routing.adapters_support import ask, model, run_decoder
from tests.routing.test_adapters_dialects import chunk, gemini, lines, sse

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
        "ollama": lines({"message": {"content": "Hi"}, "done": False}, {"message": {}, "done": True}),
        "gemini": sse({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}, done=False),
    }
    deltas, error = run_decoder(lambda: CODECS[kind]().chat_stream(SENT), [said[kind]])
    assert isinstance(error, ProviderError)
    assert error.kind == "bad_request"
    assert not any(delta.is_output for delta in deltas)


def words(kind: str, count: int, *, told_from: int) -> bytes:
    """A stream of `count` words, which tells log probabilities from that word on; Gemini's with the last alone."""
    rows: list[Any] = []
    for number in range(count):
        told = [{"token": "x ", "logprob": -1}] if number >= told_from else None
        match kind:
            case "openai":
                row = {"delta": {"content": "x "}, "logprobs": told and {"content": told}}
                rows.append({"id": "1", "model": "m", "choices": [row]})
            case "ollama":
                rows.append({"message": {"content": "x "}, "logprobs": told, "done": False})
            case _:
                rows.append(gemini({"text": "x "}, finish=None))
    if kind == "ollama":
        return lines(*rows, {"message": {}, "done": True})
    if kind == "openai":
        return sse(*rows, chunk("stop"))
    told = {"chosenCandidates": [{"token": "x ", "logProbability": -1}]} if told_from <= count else None
    ending: dict[str, Any] = {"finishReason": "STOP", "logprobsResult": told}
    return sse(*rows, {"candidates": [{"content": {"parts": [{"text": "x"}]}, **ending}]}, done=False)


@pytest.mark.parametrize(("kind", "silent"), [("openai", 1), ("openai", 9), ("ollama", 9), ("gemini", 50)])
def test_a_streams_first_texts_wait_for_the_first_log_probabilities(kind: str, silent: int) -> None:
    """A server may tell none of a first blank, and Gemini all of them at the end."""
    body = words(kind, silent + 2, told_from=silent)
    for size in (7, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        deltas, error = run_decoder(lambda: CODECS[kind]().chat_stream(SENT), pieces)
        assert error is None
        assert "".join(delta.text for delta in deltas).strip() == " ".join(["x"] * (silent + 2 + (kind == "gemini")))
        assert sum(len(delta.logprobs) for delta in deltas) == (1 if kind == "gemini" else 2)
        assert any(delta.held for delta in deltas)


@pytest.mark.parametrize("kind", ["openai", "ollama", "gemini"])
def test_a_long_stream_without_them_is_not_shown(kind: str) -> None:
    deltas, error = run_decoder(lambda: CODECS[kind]().chat_stream(SENT), [words(kind, 30, told_from=99)])
    assert error is not None
    assert error.kind == "bad_request"
    assert not any(delta.is_output for delta in deltas)


def test_calls_wait_behind_a_text_that_has_none_yet() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    told = {"delta": {"content": "."}, "logprobs": {"content": [{"token": ".", "logprob": -1}]}}
    body = sse(chunk(content="Hi"), chunk(tool_calls=[call]), {"id": "1", "choices": [told]}, chunk("tool_calls"))
    deltas, error = run_decoder(lambda: CODECS["openai"]().chat_stream(SENT), [body])
    assert error is None
    assert [delta.text or delta.tool_name for delta in deltas if delta.is_output] == ["Hi", "f", "."]


def test_ollamas_thinking_has_none() -> None:
    def line(token: str, done: bool = False, /, **said: str) -> dict[str, Any]:
        return {
            "message": said,
            "logprobs": [{"token": token, "logprob": -1, "bytes": list(token.encode())}],
            "done": done,
        }

    stream = lines(line("Hm", thinking="Hm"), line("</think>"), line("Hé", content="Hé"), line(""), {"done": True})
    deltas, error = run_decoder(lambda: CODECS["ollama"]().chat_stream(SENT), [stream])
    assert error is None
    assert [told["token"] for delta in deltas for told in delta.logprobs] == ["Hé", ""]
    tokens = [{"token": token, "logprob": -1} for token in ("Hm", "</think>", "\n", "H", "é")]
    whole = json.dumps({"message": {"content": "Hé", "thinking": "Hm"}, "logprobs": tokens, "done": True}).encode()
    result = CODECS["ollama"]().decode_chat(WireResponse(200, {}, whole), SENT)
    assert [told["token"] for told in result.logprobs] == ["H", "é"]
    plain = json.dumps({"message": {"content": "Hé"}, "logprobs": tokens, "done": True}).encode()
    assert len(CODECS["ollama"]().decode_chat(WireResponse(200, {}, plain), SENT).logprobs) == 5


def test_a_call_that_a_model_is_held_to_has_none() -> None:
    asked = ask(logprobs=0, tools=(Tool("f", "", {}),), tool_choice="f")
    sent = CODECS["ollama"]().encode_chat(asked, model("ollama"), max_output_tokens=9, stream=True)
    told = [{"token": "{}", "logprob": -1}]
    row = {"message": {"content": "{}"}, "logprobs": told}
    deltas, error = run_decoder(
        lambda: CODECS["ollama"]().chat_stream(sent), [lines({**row, "done": False}, {"message": {}, "done": True})]
    )
    assert error is None
    assert [delta.tool_name for delta in deltas if delta.tool_name] == ["f"]
    assert not any(delta.logprobs for delta in deltas)
    result = CODECS["ollama"]().decode_chat(WireResponse(200, {}, json.dumps({**row, "done": True}).encode()), sent)
    assert (len(result.tool_calls), result.logprobs) == (1, ())
