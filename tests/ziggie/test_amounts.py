"""Amounts of money as pages show them."""

import pytest

from ziggie.templatetags.ziggie import money, usd


@pytest.mark.parametrize(
    ("microusd", "shown"),
    [
        (0, "0.0000"),
        (2_000, "0.0020"),
        (250, "0.000250"),
        (1, "0.000001"),
        (-3, "-0.000003"),
        (123_456, "0.123456"),
        (999_999, "0.999999"),
        (1_000_000, "1.00"),
        (-12_345_678, "-12.35"),
    ],
)
def test_less_than_a_dollar_is_shown_to_its_last_digit(microusd: int, shown: str) -> None:
    assert usd(microusd) == shown
    assert money(f"{microusd / 1_000_000:.6f}") == shown
