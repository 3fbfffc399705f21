"""Prices beside the list of the genai-prices package: shown, and taken over only where somebody says so."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.test import Client
from genai_prices import data_snapshot

from routing.configuration import rows, snapshot
from routing.models import LanguageModel, Price, Provider
from routing.reporting import price_list
from tests.seeding import seed
from ziggie.errors import InvalidInput

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def catalogue(transactional_db: None) -> None:
    seed()
    set_price("claude-sonnet-4-5", "2.50", "15")
    Price.objects.filter(model__slug="gpt-4o").delete()


def set_price(slug: str, dollars_in: str, dollars_out: str) -> None:
    Price.objects.create(
        model=LanguageModel.objects.get(slug=slug),
        input_usd_per_mtok=Decimal(dollars_in),
        output_usd_per_mtok=Decimal(dollars_out),
    )


def offer(slug: str) -> price_list.Offer:
    return next(offer for offer in price_list.compare().offers if offer.model == slug)


def in_force(slug: str) -> Price:
    return rows.prices_in_force()[LanguageModel.objects.get(slug=slug).pk]


def test_what_differs_is_shown_with_its_source_and_what_longer_inputs_cost() -> None:
    sonnet = offer("claude-sonnet-4-5")
    assert ("input", "2.50", "3.00") in sonnet.changes
    assert ("cached input", "none", "0.30") in sonnet.changes
    assert all(name != "output" for name, _, _ in sonnet.changes)
    assert "anthropic/claude-sonnet-4-5" in sonnet.source
    above = ("above 200,000 input tokens", "none", "input 6.00, output 22.50, cached input 0.60, cache write 7.50")
    assert above in sonnet.changes
    assert offer("gpt-4o").old is None


def test_local_models_are_left_alone_and_unknown_ones_are_named() -> None:
    provider = Provider.objects.create(
        slug="house", kind="openai", location="cloud", base_url="https://llm.example.com/v1"
    )
    LanguageModel.objects.create(slug="house-1", provider=provider, name="house-1", context_window=4096)
    anthropic = Provider.objects.get(slug="anthropic")
    LanguageModel.objects.create(slug="claude-next", provider=anthropic, name="no-such-claude", context_window=4096)
    comparison = price_list.compare()
    assert {"llama3.2", "offline"} <= set(comparison.untouched)
    reasons = dict(comparison.unmatched)
    assert "does not know the provider house" in reasons["house-1"]
    assert "has no 'no-such-claude'" in reasons["claude-next"]
    told = {*comparison.same, *reasons, *comparison.untouched, *(one.model for one in comparison.offers)}
    assert told == set(LanguageModel.objects.values_list("slug", flat=True))


def test_a_model_that_costs_more_than_its_tokens_is_named_and_never_offered_by_them() -> None:
    """Perplexity asks $0.012 for each request of sonar: a short call would be held and paid at a fifteenth."""
    provider = Provider.objects.create(
        slug="perplexity", kind="openai", location="cloud", base_url="https://api.perplexity.ai"
    )
    LanguageModel.objects.create(slug="sonar", provider=provider, name="sonar", context_window=127_000)
    comparison = price_list.compare()
    assert "for each request" in dict(comparison.unmatched)["sonar"]
    assert "sonar" not in {one.model for one in comparison.offers}


def test_a_price_that_changes_with_the_hour_is_offered_at_its_dearest() -> None:
    listed = next(one for one in data_snapshot.get_snapshot().providers if one.id == "deepseek")
    models = [model for model in listed.models if isinstance(model.prices, list)]
    hourly = next(model for model in models if any("TimeOfDate" in repr(price) for price in model.prices))
    house = Provider.objects.create(
        slug="deepseek", kind="openai", location="cloud", base_url="https://api.deepseek.com"
    )
    LanguageModel.objects.create(slug="hourly", provider=house, name=hourly.id, context_window=65_536)
    offered = offer("hourly")
    assert isinstance(hourly.prices, list)
    assert offered.new["input_usd_per_mtok"] == max(Decimal(str(one.prices.input_mtok)) for one in hourly.prices)
    assert offered.new["output_usd_per_mtok"] == max(Decimal(str(one.prices.output_mtok)) for one in hourly.prices)
    assert offered.source.endswith("at its dearest hour")


def test_looking_changes_nothing() -> None:
    before = list(Price.objects.order_by("pk").values())
    call_command("usage", "prices", "--diff")
    assert list(Price.objects.order_by("pk").values()) == before


def test_what_is_accepted_is_a_new_dated_price_and_the_old_ones_stay() -> None:
    old = in_force("claude-sonnet-4-5")
    call_command("usage", "prices", "--accept", "claude-sonnet-4-5", "gpt-4o")
    new = in_force("claude-sonnet-4-5")
    assert (new.input_usd_per_mtok, new.cached_input_usd_per_mtok) == (Decimal("3"), Decimal("0.3"))
    assert new.effective_from > old.effective_from
    assert "genai-prices" in new.origin
    assert Price.objects.filter(pk=old.pk).values_list("input_usd_per_mtok", flat=True).get() == Decimal("2.50")
    snapshot.forget()
    assert snapshot.current().models["claude-sonnet-4-5"].price.id == new.pk  # type: ignore[union-attr]
    assert "claude-sonnet-4-5" in price_list.compare().same


def test_what_longer_inputs_cost_is_taken_over_and_seen_to_end() -> None:
    call_command("usage", "prices", "--accept", "claude-sonnet-4-5")
    price = snapshot.load().models["claude-sonnet-4-5"].price
    assert price is not None
    assert [(tier.above, tier.price.output_usd_per_mtok) for tier in price.tiers] == [(200_000, Decimal("22.50"))]
    Price.objects.filter(pk=price.id).update(
        input_tiers=[{"above_input_tokens": 7, "input_usd_per_mtok": "9.00", "output_usd_per_mtok": "9.00"}]
    )
    assert ("above 7 input tokens", "input 9.00, output 9.00", "none") in offer("claude-sonnet-4-5").changes


def test_figures_that_rise_at_different_lengths_are_told_at_each_of_them() -> None:
    from genai_prices import types

    def rising(base: str, *steps: tuple[int, str]) -> types.TieredPrices:
        return types.TieredPrices(Decimal(base), [types.Tier(start, Decimal(price)) for start, price in steps])

    terms = types.ModelPrice(
        input_mtok=rising("1", (20, "3"), (10, "2")), output_mtok=Decimal(5), cache_read_mtok=rising("0.1", (15, "0.2"))
    )
    assert [tuple(tier.values()) for tier in price_list._tiers(terms)] == [
        (10, "2.00", "5.00", "0.10"),
        (15, "2.00", "5.00", "0.20"),
        (20, "3.00", "5.00", "0.20"),
    ]


def test_only_what_differs_can_be_accepted_and_all_or_nothing() -> None:
    count = Price.objects.count()
    with pytest.raises(InvalidInput, match=r"nothing differs for llama3\.2"):
        call_command("usage", "prices", "--accept", "claude-sonnet-4-5", "llama3.2")
    assert Price.objects.count() == count


def test_the_command_tells_a_program_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("usage", "prices", "--diff", "--json")
    told = json.loads(capsys.readouterr().out)
    sonnet = next(one for one in told["differences"] if one["model"] == "claude-sonnet-4-5")
    assert (sonnet["old"]["input"], sonnet["new"]["input"]) == ("2.50", "3.00")
    call_command("usage", "prices", "--diff")
    assert "claude-sonnet-4-5: input 2.50 -> 3.00" in capsys.readouterr().out


def tick(client: Client, *slugs: str, **seen: str) -> Any:
    data: dict[str, Any] = {"accept": list(slugs)}
    data |= {f"seen-{slug}": seen.get("digest") or offer(slug).digest for slug in slugs}
    return client.post("/usage/prices/", data, follow=True)


def test_staff_tick_what_to_take_over(admin_client: Client) -> None:
    page = admin_client.get("/usage/prices/").content.decode()
    assert "2.50 → <strong>3.00</strong>" in page
    answer = tick(admin_client, "claude-sonnet-4-5").content.decode()
    assert "New prices, in force from now on: claude-sonnet-4-5." in answer
    assert "accepted by admin" in in_force("claude-sonnet-4-5").origin
    assert not Price.objects.filter(model__slug="gpt-4o").exists(), "what was not ticked is not taken over"


def test_a_page_that_shows_an_older_offer_changes_nothing(admin_client: Client) -> None:
    count = Price.objects.count()
    assert "look at the differences again" in tick(admin_client, "claude-sonnet-4-5", digest="stale").content.decode()
    assert "nothing was ticked" in tick(admin_client).content.decode()
    assert Price.objects.count() == count


def test_only_those_who_may_add_prices_see_the_page(client: Client, django_user_model: Any) -> None:
    assert client.get("/usage/prices/").status_code == 302
    user = django_user_model.objects.create_user("ada", password="x", is_staff=True)
    client.force_login(user)
    assert client.get("/usage/prices/").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="add_price"))
    assert client.get("/usage/prices/").status_code == 200


def test_a_price_with_a_date_is_the_one_of_today() -> None:
    """Of the list's dated prices the newest one that has begun counts."""
    from genai_prices import types

    def costs(dollars: str) -> types.ModelPrice:
        return types.ModelPrice(input_mtok=Decimal(dollars), output_mtok=Decimal(dollars))

    begun, future = date(2026, 1, 1), date(2999, 1, 1)
    found = types.ModelInfo(
        id="x",
        match=types.ClauseEquals("x"),
        prices=[
            types.ConditionalPrice(prices=costs("1")),
            types.ConditionalPrice(constraint=types.StartDateConstraint(begun), prices=costs("2")),
            types.ConditionalPrice(constraint=types.StartDateConstraint(future), prices=costs("3")),
        ],
    )
    assert price_list._since(found) == begun
