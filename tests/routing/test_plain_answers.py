"""The quick reading of ordinary answers gives what the full reading gives, or leaves an answer to it."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.adapters.base import WireRequest
from routing.adapters.openai.answers import read_result
from routing.adapters.openai.plain_answers import plain_result
from routing.types import ProviderError, Usage

SENT = WireRequest("POST", "http://127.0.0.1/v1/chat/completions", body={})
PLAIN: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
}
# (where, what): each makes an answer of another kind
OTHERS: list[tuple[tuple[str | int, ...], Any]] = [
    (("choices", 0, "message", "content"), ""),
    (("choices", 0, "message", "content"), [{"type": "text", "text": "Hi"}]),
    (("choices", 0, "message", "reasoning_content"), "Hm."),
    (("choices", 0, "message", "reasoning"), "Hm."),
    (("choices", 0, "message", "refusal"), "No."),
    (("choices", 0, "message", "tool_calls"), [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]),
    (("choices", 0, "message", "function_call"), {"name": "f", "arguments": "{}"}),
    (("choices", 0, "message"), None),
    (("choices", 0, "text"), "Hello."),
    (("choices", 0, "finish_reason"), "length"),
    (("choices", 0, "finish_reason"), "tool_calls"),
    (("choices", 0, "finish_reason"), "content_filter"),
    (("choices", 0, "finish_reason"), "error"),
    (("choices", 0, "finish_reason"), None),
    (("choices", 0, "error"), {"message": "no", "code": 502}),
    (("choices", 0, "logprobs"), {"content": [{"token": "H", "logprob": -0.5}]}),
    (("choices", 0, "usage"), {"prompt_tokens": 1, "completion_tokens": 1}),
    (("choices",), []),
    (("usage",), None),
    (("usage", "total_tokens"), 20),
    (("usage", "prompt_tokens"), -1),
    (("usage", "prompt_tokens"), 12.0),
    (("usage", "completion_tokens"), True),
    (("usage", "prompt_tokens_details"), {"cached_tokens": 4}),
    (("usage", "cached_tokens"), 4),
    (("model",), None),
    (("id",), None),
    (("x_groq",), {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    (("timings",), {"prompt_n": 1, "predicted_n": 1}),
]


def changed(changes: list[tuple[tuple[str | int, ...], Any]]) -> dict[str, Any]:
    answer = deepcopy(PLAIN)
    for where, what in changes:
        holder: Any = answer
        for step in where[:-1]:
            try:
                holder = holder[step]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if isinstance(holder, dict):
                holder[where[-1]] = what
    return answer


def test_an_ordinary_answer_is_read_the_quick_way() -> None:
    result = plain_result(PLAIN)
    assert result == read_result(PLAIN, SENT)
    assert result is not None
    assert (result.text, result.usage, result.stop_reason) == ("Hello.", Usage(12, 3), "stop")


@pytest.mark.parametrize("one", OTHERS, ids=lambda one: ".".join(map(str, one[0])))
def test_an_answer_of_another_kind_is_left_to_the_full_reading_or_read_alike(one: Any) -> None:
    assert_alike(changed([one]))


@given(st.lists(st.sampled_from(OTHERS), min_size=2, max_size=4))
def test_no_mixture_of_them_is_read_otherwise(several: list[Any]) -> None:
    assert_alike(changed(several))


def assert_alike(answer: dict[str, Any]) -> None:
    quick = plain_result(answer)
    try:
        full = read_result(answer, SENT)
    except ProviderError:
        assert quick is None
    else:
        assert quick in (None, full)
