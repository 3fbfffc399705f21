from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routing.planning.pricing import (
    affordable_output_tokens,
    baseline_microusd,
    cost_microusd,
    cost_of_all_microusd,
    energy,
    halved,
    is_free,
    microusd,
    most_that_fits,
    saved_microusd,
    usd,
    worst_case_microusd,
)
from routing.types import PriceSpec, PriceTier, Usage
from tests.routing.specs import FREE, HAIKU_PRICE, KIMI_PRICE, SONNET_PRICE, price
from ziggie.values import replace

OLD_HAIKU = price("0.25", "1.25")
OPUS = price("15.00", "75.00")

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine under load
dollars = st.decimals(min_value=0, max_value=1000, places=6)
tokens = st.integers(0, 10_000_000)
prices = st.builds(PriceSpec, st.just(1), dollars, dollars, st.none() | dollars, st.none() | dollars)
thresholds = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=4, unique=True).map(sorted)
tiered = st.builds(
    lambda base, starts, above: replace(
        base, tiers=tuple(PriceTier(*pair) for pair in zip(starts, above, strict=False))
    ),
    prices,
    thresholds,
    st.lists(prices, min_size=4, max_size=4),
)
# Sonnet's own price list: twice the input and half as much again for output above 200,000 input tokens.
LONG_SONNET = replace(
    price("3", "15", cached="0.30", written="3.75"),
    tiers=(PriceTier(200_000, price("6", "22.50", cached="0.60", written="7.50")),),
)


@pytest.mark.parametrize(
    ("its_price", "tokens_in", "tokens_out", "expected"),
    [
        (SONNET_PRICE, 10_000, 4_000, "0.090000"),
        (OLD_HAIKU, 2_000, 3_000, "0.004250"),
        (SONNET_PRICE, 2_000, 3_000, "0.051000"),
        (OPUS, 2_000, 3_000, "0.255000"),
        (HAIKU_PRICE, 2_000, 3_000, "0.017000"),
        (FREE, 1_000_000, 1_000_000, "0.000000"),
    ],
)
def test_the_users_own_examples_cost_what_they_say(
    its_price: PriceSpec, tokens_in: int, tokens_out: int, expected: str
) -> None:
    assert usd(cost_microusd(Usage(tokens_in, tokens_out), its_price)) == expected


def test_a_year_of_the_planned_mix_costs_what_the_users_worked_out() -> None:
    kimi = round(36_500 * 0.15) * cost_microusd(Usage(2_000, 1_000), KIMI_PRICE)
    sonnet = round(36_500 * 0.05) * cost_microusd(Usage(2_000, 1_000), SONNET_PRICE)
    assert usd(kimi) == "15.330000"
    assert usd(sonnet) == "38.325000"
    assert round(Decimal(usd(kimi + sonnet)), 1) == Decimal("53.7")


def test_cached_and_written_input_have_prices_of_their_own() -> None:
    claude = price("3", "15", cached="0.30", written="3.75")
    usage = Usage(10_000, 100, cached_input_tokens=6_000, cache_write_tokens=1_000)
    assert cost_microusd(usage, claude) == 3_000 * 3 + 1_800 + 3_750 + 1_500


def test_cached_input_without_a_price_costs_what_input_costs() -> None:
    usage = Usage(1_000, 0, cached_input_tokens=400, cache_write_tokens=100)
    assert cost_microusd(usage, SONNET_PRICE) == 3_000


def test_more_cached_tokens_than_input_are_not_believed() -> None:
    claude = price("3", "15", cached="0.30", written="3.75")
    assert cost_microusd(Usage(100, 0, cached_input_tokens=900, cache_write_tokens=900), claude) == 30
    assert cost_microusd(Usage(None, 0, cached_input_tokens=900), claude) == 0


def test_a_reported_zero_cached_price_is_a_price() -> None:
    assert cost_microusd(Usage(1_000, 0, cached_input_tokens=1_000), price("3", "15", cached="0")) == 0


def test_half_a_micro_dollar_rounds_up_once() -> None:
    assert cost_microusd(Usage(1, 1), price("0.25", "0.25")) == 1
    assert cost_microusd(Usage(1, 0), price("0.5", "0")) == 1
    assert cost_microusd(Usage(1, 0), price("0.499999", "0")) == 0


def test_without_a_price_nothing_is_charged_and_nothing_is_called_free() -> None:
    assert cost_microusd(Usage(1_000, 1_000), None) == 0
    assert not is_free(None)
    assert is_free(FREE)
    assert not is_free(price("0", "0", written="1"))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(200_000, 1_000), "0.615000"),
        (Usage(200_001, 1_000), "1.222506"),
        (Usage(250_000, 1_000, cached_input_tokens=200_000, cache_write_tokens=10_000), "0.457500"),
        (Usage(0, 1_000), "0.015000"),
        (Usage(None, 1_000), "0.015000"),
    ],
)
def test_a_request_beyond_a_threshold_pays_the_tier_for_all_of_its_tokens(usage: Usage, expected: str) -> None:
    assert usd(cost_microusd(usage, LONG_SONNET)) == expected


def test_several_requests_pay_each_by_its_own_length_and_are_rounded_once() -> None:
    assert cost_of_all_microusd([Usage(150_000, 0)] * 2, LONG_SONNET) == 900_000
    assert cost_of_all_microusd([Usage(1, 0)] * 4, price("0.25", "0")) == 1
    assert cost_of_all_microusd([], LONG_SONNET) == cost_of_all_microusd([Usage(9, 9)], None) == 0


def test_the_counterfactual_and_half_a_price_have_the_tiers_too() -> None:
    assert baseline_microusd(Usage(300_000, 0, cached_input_tokens=300_000), LONG_SONNET) == 1_800_000
    assert cost_microusd(Usage(300_000, 2_000), halved(LONG_SONNET)) == 900_000 + 22_500


def test_nothing_is_free_whose_longer_requests_cost_something() -> None:
    assert not is_free(replace(FREE, tiers=(PriceTier(10, price("0", "0", written="1")),)))
    assert is_free(replace(FREE, tiers=(PriceTier(10, FREE),)))


usages = st.builds(Usage, tokens, tokens, tokens, tokens)


@patient
@given(tiered, usages, st.integers(0, 10_000_000))
def test_no_call_of_at_most_these_tokens_costs_more_than_its_worst_case_in_any_tier(
    its_price: PriceSpec, usage: Usage, shorter_by: int
) -> None:
    at_most = (usage.input_tokens or 0) + shorter_by
    worst = worst_case_microusd(its_price, input_tokens=at_most, output_tokens=usage.output_tokens or 0)
    assert 0 <= cost_microusd(usage, its_price) <= worst


@patient
@given(tiered, st.lists(st.integers(0, 1_000_000), min_size=1, max_size=5))
def test_no_input_in_several_requests_costs_more_than_the_worst_case_of_all_of_it(
    its_price: PriceSpec, lengths: list[int]
) -> None:
    worst = worst_case_microusd(its_price, input_tokens=sum(lengths), output_tokens=0)
    assert cost_of_all_microusd([Usage(length, 0) for length in lengths], its_price) <= worst


@patient
@given(tiered, st.integers(0, 300_000), st.integers(1, 4_096), st.integers(-5, 10**9))
def test_the_most_that_fits_is_the_most_that_fits(its_price: PriceSpec, seen: int, cap: int, room: int) -> None:
    def worst(output: int) -> int:
        return worst_case_microusd(its_price, input_tokens=seen + 2 * output, output_tokens=3 * output)

    output = most_that_fits(worst, at_most=cap, room_microusd=room)
    assert 0 <= output <= cap
    assert output == 0 or worst(output) <= room
    assert output == cap or worst(output + 1) > room


@patient
@given(prices, tokens, tokens, tokens, tokens)
def test_no_call_costs_more_than_its_worst_case(
    its_price: PriceSpec, tokens_in: int, tokens_out: int, cached: int, written: int
) -> None:
    usage = Usage(tokens_in, tokens_out, cached_input_tokens=cached, cache_write_tokens=written)
    worst = worst_case_microusd(its_price, input_tokens=tokens_in, output_tokens=tokens_out)
    assert 0 <= cost_microusd(usage, its_price) <= worst


@patient
@given(prices, st.integers(0, 100_000), st.integers(0, 3), st.integers(1, 4), st.integers(-5, 10**9))
def test_the_affordable_output_is_the_most_that_fits(
    its_price: PriceSpec, tokens_in: int, echoes: int, calls: int, left: int
) -> None:
    def worst(output: int) -> int:
        return worst_case_microusd(its_price, input_tokens=tokens_in + echoes * output, output_tokens=calls * output)

    output = affordable_output_tokens(its_price, input_tokens=tokens_in, echoes=echoes, calls=calls, left_microusd=left)
    if output is None:
        assert worst(10**12) <= left
    elif output > 0:
        assert worst(output) <= left < worst(output + 1)


def test_saving_is_the_baseline_less_payment_and_electricity() -> None:
    baseline = baseline_microusd(Usage(10_000, 4_000, cached_input_tokens=9_000), SONNET_PRICE)
    assert baseline == 90_000
    assert saved_microusd(baseline=baseline, paid=0, electricity=1_400) == 88_600
    assert saved_microusd(baseline=100, paid=500, electricity=7) == -407


def test_energy_of_a_graphics_card_costs_what_the_meter_says() -> None:
    watt_hours, cost = energy(3600, 350, Decimal("0.12"))
    assert watt_hours == 350
    assert usd(cost) == "0.042000"
    assert energy(0, 450, Decimal("0.12")) == (0.0, 0)
    assert energy(-1, 450, Decimal("0.12")) == (0.0, 0)


@pytest.mark.parametrize(
    ("amount", "expected"), [("10.00", 10_000_000), ("0.0000005", 1), ("-1.5", -1_500_000), (Decimal("0.09"), 90_000)]
)
def test_dollars_become_micro_dollars(amount: str | Decimal, expected: int) -> None:
    assert microusd(amount) == expected


@pytest.mark.parametrize("nonsense", ["", "ten", "NaN", "Infinity", "1e999999999"])
def test_what_is_no_amount_is_refused(nonsense: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        microusd(nonsense)


@patient
@given(st.integers(-(10**15), 10**15))
def test_dollars_are_written_with_six_decimals_and_read_back(amount: int) -> None:
    assert microusd(usd(amount)) == amount


def test_negative_dollars_keep_their_sign() -> None:
    assert usd(-407) == "-0.000407"
