"""PURE: the only cost arithmetic. Decimal inside, whole micro-dollars outside, rounded once.

A price of X dollars per million tokens is X micro-dollars per token. So a cost is tokens times price, and
nothing is divided before the one rounding at the end.

Where a price rises with the length of the input, a request that passes a threshold pays the tier's price for all of
its tokens, output included, as providers charge it.
"""

from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

from routing.types import ModelSpec, PriceSpec, PriceTier, Usage
from ziggie.values import replace

MICRO = Decimal(1_000_000)
SECONDS_PER_HOUR = 3600
HALF_PRICE_BATCHES = frozenset({"anthropic"})  # kinds of providers
_ONE = Decimal(1)


def cost_microusd(usage: Usage, price: PriceSpec | None) -> int:
    """What these tokens cost. Counts that nobody knows and models without a price cost nothing.

    `input_tokens` holds the cached and the cache-written ones. A provider that reports more of those
    than input is not believed: cached counts first, then written, together never more than input.
    """
    return 0 if price is None else _half_up(_cost(usage, price))


def cost_of_all_microusd(usages: Iterable[Usage], price: PriceSpec | None) -> int:
    """What several requests cost together, each by its own length."""
    return 0 if price is None else _half_up(sum((_cost(usage, price) for usage in usages), Decimal(0)))


def _cost(usage: Usage, price: PriceSpec) -> Decimal:
    input_tokens = usage.input_tokens or 0
    if price.tiers:
        price = price_at(price, input_tokens)
    cost = (usage.output_tokens or 0) * price.output_usd_per_mtok
    if usage.cached_input_tokens or usage.cache_write_tokens:
        cached = min(usage.cached_input_tokens or 0, input_tokens)
        written = min(usage.cache_write_tokens or 0, input_tokens - cached)
        input_tokens -= cached + written
        cost += cached * _or_input(price.cached_input_usd_per_mtok, price)
        cost += written * _or_input(price.cache_write_usd_per_mtok, price)
    return cost + input_tokens * price.input_usd_per_mtok


def price_at(price: PriceSpec, input_tokens: int) -> PriceSpec:
    """What a request of this length pays."""
    reached = [tier.price for tier in price.tiers if input_tokens > tier.above]
    return reached[-1] if reached else price


def worst_case_microusd(price: PriceSpec, *, input_tokens: int, output_tokens: int) -> int:
    """The most that a call of at most these tokens can cost, in one request or in several, rounded up: every token
    is taken at the dearest price that so long an input can have, since nobody knows beforehand how long it will be
    and which tokens are cached or written."""
    dearest, dearest_output = dearest_input_usd_per_mtok(price), price.output_usd_per_mtok
    if price.tiers:
        for tier in price.tiers:
            if input_tokens > tier.above:
                dearest = max(dearest, dearest_input_usd_per_mtok(tier.price))
                dearest_output = max(dearest_output, tier.price.output_usd_per_mtok)
    cost = input_tokens * dearest + output_tokens * dearest_output
    return int(cost.to_integral_value(ROUND_CEILING))


def dearest_input_usd_per_mtok(price: PriceSpec) -> Decimal:
    """Of the base price: its tiers not looked at."""
    dearest = price.input_usd_per_mtok
    for other in (price.cached_input_usd_per_mtok, price.cache_write_usd_per_mtok):
        if other is not None and other > dearest:
            dearest = other
    return dearest


def affordable_output_tokens(
    price: PriceSpec, *, input_tokens: int, echoes: int, calls: int, left_microusd: int
) -> int | None:
    """How many output tokens each of `calls` calls may make so that all of it fits into what is left.

    `input_tokens` is the input of all calls together; `echoes` is how often an output becomes input
    again. None: any number fits. 0: nothing does. For a price without tiers: see most_that_fits.
    """
    dearest = dearest_input_usd_per_mtok(price)
    left = left_microusd - input_tokens * dearest
    each = echoes * dearest + calls * price.output_usd_per_mtok
    if left < 0:
        return 0
    return int(left / each) if each else None


def most_that_fits(worst_case_microusd: Callable[[int], int], *, at_most: int, room_microusd: int) -> int:
    """The most output tokens whose worst case fits, at most so many: for prices that no division tells. 0: nothing
    does."""
    fits, too_many = 0, at_most + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if worst_case_microusd(middle) <= room_microusd:
            fits = middle
        else:
            too_many = middle
    return fits


def batched(model: ModelSpec) -> ModelSpec:
    """The model as it is paid for within its provider's batch."""
    if model.price is None or model.provider.kind not in HALF_PRICE_BATCHES:
        return model
    return replace(model, price=halved(model.price))


def halved(price: PriceSpec) -> PriceSpec:
    """What providers ask for work that may wait."""

    def half(amount: Decimal | None) -> Decimal | None:
        return None if amount is None else amount / 2

    return replace(
        price,
        input_usd_per_mtok=price.input_usd_per_mtok / 2,
        output_usd_per_mtok=price.output_usd_per_mtok / 2,
        cached_input_usd_per_mtok=half(price.cached_input_usd_per_mtok),
        cache_write_usd_per_mtok=half(price.cache_write_usd_per_mtok),
        tiers=tuple(PriceTier(tier.above, halved(tier.price)) for tier in price.tiers),
    )


def is_free(price: PriceSpec | None) -> bool:
    """True if nothing that a call uses can cost anything. Without a price nobody can say so."""
    if price is None or price.output_usd_per_mtok or dearest_input_usd_per_mtok(price):
        return False
    return all(is_free(tier.price) for tier in price.tiers)


def baseline_microusd(usage: Usage, baseline_price: PriceSpec | None) -> int:
    """What the same tokens would have cost on the baseline model, none of them cached there."""
    if usage.cached_input_tokens or usage.cache_write_tokens:
        usage = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    return cost_microusd(usage, baseline_price)


def saved_microusd(*, baseline: int, paid: int, electricity: int) -> int:
    """Baseline cost less what was paid and less electricity, all in micro-dollars; negative for a loss."""
    return baseline - paid - electricity


def energy(seconds: float, watts: int, usd_per_kwh: Decimal) -> tuple[float, int]:
    """Watt-hours and their cost in micro-dollars for a machine that draws `watts` for `seconds`."""
    if not watts:
        return 0.0, 0
    watt_hours = Decimal(str(max(seconds, 0.0))) * watts / SECONDS_PER_HOUR
    return float(watt_hours), _half_up(watt_hours * usd_per_kwh * 1000)


def usd(microusd: int) -> str:
    """Dollars with six decimals: 90000 -> "0.090000"."""
    sign = "-" if microusd < 0 else ""
    dollars, rest = divmod(abs(microusd), 1_000_000)
    return f"{sign}{dollars}.{rest:06d}"


def microusd(dollars: Decimal | str) -> int:
    """Micro-dollars of an amount in dollars, rounded half up. Raises ValueError for what is no finite number."""
    try:
        amount = Decimal(dollars) * MICRO
        if amount.is_finite():
            return _half_up(amount)
    except ArithmeticError:  # not a number, or one too large to count in micro-dollars
        pass
    raise ValueError(f"not an amount of dollars: {str(dollars)[:40]!r}")


def _or_input(own_price: Decimal | None, price: PriceSpec) -> Decimal:
    return price.input_usd_per_mtok if own_price is None else own_price


def _half_up(cost: Decimal) -> int:
    return int(cost.quantize(_ONE, ROUND_HALF_UP))
