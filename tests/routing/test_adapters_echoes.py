"""What a provider's error repeats of a prompt is told to nobody and kept nowhere."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.adapters.base import WireRequest, WireResponse
from routing.adapters.faults.echoes import without_echo
from routing.adapters.faults.errors import error_from_event, error_from_response

PROMPT = 'Mrs Example of 12 Sample Street\nasked whether\tthe "blue" one\n  can be had by Monday, C:\\orders\\7.'
BODY = {
    "model": "a-model-with-a-name-of-many-letters",
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPT}],
    "tools": [{"type": "function", "function": {"name": "look_up_what_was_ordered_by_whom", "parameters": {}}}],
}
DATA = base64.b64encode(random.Random(7).randbytes(150_000)).decode()
SENT = WireRequest("POST", "https://api.example/v1/chat/completions", body=BODY)
FORMS = {
    "as it is": f"Content was refused: {PROMPT}",
    "in one line": f"Content was refused: {' '.join(PROMPT.split())} (position 3)",
    "JSON": f"could not parse {json.dumps(BODY['messages'])} at 17",
    "Python": f"[{{'loc': ('body', 'messages'), 'given': {PROMPT!r}}}]",
    "its end": f"... {PROMPT[-40:]} is not valid",
}


def _message(text: str) -> str:
    body = json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode()
    return error_from_response(WireResponse(400, {}, body), SENT).message


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_prompt_that_an_error_repeats_is_left_out(text: str) -> None:
    message = _message(text)
    assert "[…]" in message
    for words in ("Mrs Example", "Sample Street", "can be had by", "Monday", "orders"):
        assert words not in message


def test_what_surrounds_it_stays() -> None:
    assert _message(FORMS["in one line"]) == "Content was refused: […] (position 3)"


def test_an_error_amid_a_stream_is_told_without_it_either() -> None:
    assert error_from_event({"message": f"blocked: {PROMPT}", "code": 400}, SENT).message == "blocked: […]"


@pytest.mark.parametrize(
    "text",
    [
        "The model `a-model-with-a-name-of-many-letters` does not exist.",
        "Invalid schema for function 'look_up_what_was_ordered_by_whom': missing type.",
        "Say whether the 'blue' one is meant.",
    ],
)
def test_names_and_short_words_stay(text: str) -> None:
    assert _message(text) == text


@given(st.text("ab \n\"'\\", max_size=60), st.text("cd ", min_size=24, max_size=80), st.text("ab ", max_size=60))
def test_no_run_of_the_callers_words_is_left(before: str, said: str, after: str) -> None:
    words = " ".join(said.split())
    left = without_echo(" ".join(f"{before}<{words}>{after}".split()), {"messages": [{"content": said}]})
    assert len(words) < 24 or words not in left


def test_a_large_request_is_looked_at_from_its_end() -> None:
    messages: Any = [{"role": "user", "content": f"{number} " + "x" * 1_000} for number in range(20_000)]
    messages.append({"role": "user", "content": PROMPT})
    assert without_echo(f"refused: {PROMPT[:31]}", {"messages": messages}) == "refused: […]"


@pytest.mark.parametrize(
    "parts",
    [
        [
            {"type": "text", "text": PROMPT},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        ],
        [{"text": PROMPT}, {"inlineData": {"mimeType": "image/png", "data": DATA}}],
    ],
)
def test_a_prompt_before_an_image_is_left_out_and_so_is_the_image(parts: list[Any]) -> None:
    body = {"messages": [{"role": "user", "content": parts}]}
    assert without_echo(f"refused: {' '.join(PROMPT.split())}", body) == "refused: […]"
    assert DATA[:80] not in without_echo(f"not an image: {DATA[:80]}", body)


@pytest.mark.parametrize("said", ["Frau Müller wünscht die Öffnung ihres Kontos über die Filiale", "请尽快回答" * 6])
def test_what_is_repeated_in_json_of_ascii_alone_is_left_out(said: str) -> None:
    assert without_echo(f"refused: {json.dumps([said])}", {"messages": [{"content": said}]}) == 'refused: ["[…]"]'
