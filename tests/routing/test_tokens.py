"""The estimate of tokens: characters / 4 for prose, honest where that would promise too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.planning.tokens import estimate_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("word" * 100, 100),
        ("four " * 80_000, 100_000),
        ("字" * 10, 10),
        ("🎨", 2),
        ("é" * 4, 4),
        ("2024", 4),
    ],
)
def test_each_script_has_its_weight(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


# How many tokens cl100k_base makes of each.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("[0:00:05] Welcome to the course.\n[0:00:08] This course has been designed to teach you\n" * 10, 280),
        ("大家好，今天我要介绍如何制作更大的图片。首先打开菜单，选择模型。", 32),
        ('{"start_seconds": 12.5, "text": "load it"}', 16),
    ],
)
def test_the_estimate_is_near_a_real_tokenizer(text: str, tokens: int) -> None:
    assert 0.95 * tokens <= estimate_tokens(text) <= 1.4 * tokens


@given(st.text(), st.text())
def test_a_whole_is_never_more_than_its_parts(first: str, second: str) -> None:
    assert estimate_tokens(first + second) <= estimate_tokens(first) + estimate_tokens(second)
    assert estimate_tokens(first + second) >= estimate_tokens(first)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_ascii_is_counted_by_the_same_weights_as_text_of_all_scripts(text: str) -> None:
    assert estimate_tokens(text * 4 + "字") == estimate_tokens(text * 4) + 1
