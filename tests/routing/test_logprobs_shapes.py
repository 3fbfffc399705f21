"""Log probabilities in the shapes that servers have for them, and in OpenAI's own, which need no other."""

from typing import Any

import pytest

from routing.adapters.answers.logprobs import entries

PLAIN: dict[str, Any] = {"token": "a", "logprob": -0.5, "bytes": [97]}
NEVER = {"token": "a", "logprob": -9999.0, "bytes": None}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenAI's": (PLAIN, PLAIN),
    "without bytes": ({**PLAIN, "bytes": None}, {**PLAIN, "bytes": None}),
    "bytes left out": ({"token": "a", "logprob": -0.5}, {**PLAIN, "bytes": None}),
    "bytes of another kind": ({**PLAIN, "bytes": "YQ=="}, {**PLAIN, "bytes": None}),
    "a whole number": ({**PLAIN, "logprob": -1}, {**PLAIN, "logprob": -1.0}),
    "minus infinity": ({**PLAIN, "logprob": float("-inf")}, {**NEVER, "bytes": [97]}),
    "not a number": ({**PLAIN, "logprob": float("nan")}, {**NEVER, "bytes": [97]}),
    "a truth": ({**PLAIN, "logprob": True}, {**NEVER, "bytes": [97]}),
    "none": ({"token": "a"}, NEVER),
    "more than there is to tell": ({**PLAIN, "token_id": 7}, PLAIN),
    "Google's": ({"token": "a", "logProbability": -0.5, "tokenId": 7}, {**PLAIN, "bytes": None}),
}


@pytest.mark.parametrize(("told", "expected"), SHAPES.values(), ids=SHAPES)
def test_a_token_and_its_alternatives_are_told_as_openai_tells_them(
    told: dict[str, Any], expected: dict[str, Any]
) -> None:
    (entry,) = entries([{**told, "top_logprobs": [told, PLAIN]}])
    assert entry == {**expected, "top_logprobs": [expected, PLAIN]}
