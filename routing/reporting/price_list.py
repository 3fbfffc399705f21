"""Prices against the list of the genai-prices package: what differs is shown, and taken over only where a person says
so. A price that is taken over is one more dated row; the old ones stay, and old records keep their arithmetic.

The package's list is the one that is installed; nothing is fetched. What runs here is local costs nothing and is left
alone.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import transaction

from routing.configuration import rows
from routing.models import LanguageModel, Price
from ziggie.errors import InvalidInput

SMALLEST = Decimal("0.000001")
# Our columns, and what the package calls them.
COLUMNS = {
    "input_usd_per_mtok": "input_mtok",
    "output_usd_per_mtok": "output_mtok",
    "cached_input_usd_per_mtok": "cache_read_mtok",
    "cache_write_usd_per_mtok": "cache_write_mtok",
}
# What the list also asks of a chat and no price here can say: taken over without it, budgets would hold too little.
BEYOND = {
    "requests_kcount": "each request",
    "output_reasoning_mtok": "tokens of reasoning",
    "output_citation_mtok": "tokens of citations",
    "output_image_mtok": "pictures in answers",
}
Figures = dict[str, Decimal | None]
Tiers = list[dict[str, Any]]  # as the price's row keeps them


@dataclass(frozen=True, slots=True)
class Offer:
    """A model whose price differs: dollars per million tokens in force, and in the list, with what longer requests
    pay. `since` is when the list says that its price began. `digest` stands for all that a person saw."""

    model: str
    provider: str
    old: Figures | None
    old_tiers: Tiers
    old_since: datetime | None
    new: Figures
    new_tiers: Tiers
    since: date | None
    source: str

    @property
    def digest(self) -> str:
        seen = repr((self.model, self.shown_old, self.shown_new, self.source))
        return hashlib.sha256(seen.encode()).hexdigest()[:16]

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """Each figure that differs: what it is, what it was, what it would be."""
        old, new = self.shown_old or {}, self.shown_new
        names = dict.fromkeys((*new, *old))
        each = [(name, old.get(name, "none"), new.get(name, "none")) for name in names]
        return [(name, was, would_be) for name, was, would_be in each if was != would_be]

    @property
    def shown_old(self) -> dict[str, str] | None:
        return None if self.old is None else _shown(self.old, self.old_tiers)

    @property
    def shown_new(self) -> dict[str, str]:
        return _shown(self.new, self.new_tiers)


@dataclass(frozen=True, slots=True)
class Comparison:
    source: str
    offers: list[Offer]
    same: list[str]
    unmatched: list[tuple[str, str]]  # model, why
    untouched: list[str]  # local and offline models


def compare() -> Comparison:
    """Every model's price in force beside the list's."""
    from genai_prices import __version__, data_snapshot

    listed = data_snapshot.get_snapshot()
    comparison = Comparison(f"genai-prices {__version__}", [], [], [], [])
    in_force = rows.prices_in_force()
    for model in LanguageModel.objects.select_related("provider").order_by("slug"):
        if model.provider.location != "cloud":
            comparison.untouched.append(model.slug)
            continue
        offer, reason = _offer(model, in_force.get(model.pk), listed, comparison.source)
        if offer is None:
            comparison.unmatched.append((model.slug, reason))
        elif offer.changes:
            comparison.offers.append(offer)
        else:
            comparison.same.append(model.slug)
    return comparison


def _offer(model: LanguageModel, price: Price | None, listed: Any, source: str) -> tuple[Offer | None, str]:
    provider = _provider_of(model, listed)
    if provider is None:
        return None, f"the list does not know the provider {model.provider.slug} or its address"
    found = provider.find_model(model.name, all_providers=listed.providers)
    if found is None:
        return None, f"the list has no {model.name!r} of {provider.name}"
    terms, by_hour = _dearest_of_day(found)
    new = _figures(terms, 0)
    if new["input_usd_per_mtok"] is None:
        return None, f"the list does not price {model.name!r} by input tokens"
    beyond = [said for name, said in BEYOND.items() if getattr(terms, name, None)]
    if beyond:
        return None, f"the list asks of {model.name!r} for {' and for '.join(beyond)}, too, which no price here says"
    old = {name: getattr(price, name) for name in COLUMNS} if price else None
    offer = Offer(
        model=model.slug,
        provider=model.provider.slug,
        old=old,
        old_tiers=price.input_tiers if price else [],
        old_since=price.effective_from if price else None,
        new=new,
        new_tiers=_tiers(terms),
        since=_since(found),
        source=f"{source}: {provider.id}/{found.id}{', at its dearest hour' if by_hour else ''}"[:150],
    )
    return offer, ""


def _dearest_of_day(found: Any) -> tuple[Any, bool]:
    """What the list asks today, and whether that changes with the hour (DeepSeek's does): then what it asks at the
    hour whose input is dearest, since a price here has no hours, and what is held for a call must do at any of them."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    asked = [found.get_prices(midnight + half_hour * timedelta(minutes=30)) for half_hour in range(48)]
    figures = [_figures(terms, 0) for terms in asked]
    dearest = max(range(48), key=lambda place: [figures[place][name] or Decimal(0) for name in COLUMNS])
    return asked[dearest], any(other != figures[0] for other in figures)


def _provider_of(model: LanguageModel, listed: Any) -> Any:
    """By the address that is called, else by the provider's slug; None if the list knows neither."""
    for query in ({"provider_api_url": model.provider.base_url}, {"provider_id": model.provider.slug}):
        known = {"model_ref": None, "provider_id": None, "provider_api_url": None} | query
        try:
            return listed.find_provider(**known)
        except LookupError:
            continue
    return None


def _figures(terms: Any, input_tokens: int) -> Figures:
    """What the list asks of a request of this length."""
    figures = {ours: _amount(getattr(terms, theirs), input_tokens) for ours, theirs in COLUMNS.items()}
    if figures["output_usd_per_mtok"] is None:
        figures["output_usd_per_mtok"] = Decimal(0)  # an embedding model writes nothing
    return figures


def _amount(listed: Any, input_tokens: int) -> Decimal | None:
    """One figure, which the list states once, or with what it is above some lengths."""
    amount = getattr(listed, "base", listed)
    for tier in sorted(getattr(listed, "tiers", ()), key=lambda tier: tier.start):
        if input_tokens > tier.start:
            amount = tier.price
    return None if amount is None else Decimal(amount).quantize(SMALLEST)


def _tiers(terms: Any) -> Tiers:
    """Every length at which any figure changes, with all figures from there on."""
    starts = {tier.start for theirs in COLUMNS.values() for tier in getattr(getattr(terms, theirs), "tiers", ())}
    return [{"above_input_tokens": start, **_texts(_figures(terms, start + 1))} for start in sorted(starts)]


def _texts(figures: Figures) -> dict[str, str]:
    return {name: rows.money(amount) for name, amount in figures.items() if amount is not None}


def _since(found: Any) -> date | None:
    if not isinstance(found.prices, list):
        return None
    today = datetime.now(UTC)
    starts = [getattr(p.constraint, "start_date", None) for p in found.prices if p.constraint is not None]
    return max((start for start in starts if start and start <= today.date()), default=None)


def accept(wanted: Mapping[str, str], *, by: str) -> list[str]:
    """Takes over the list's price for these models: slug -> the digest of what was seen. Returns the slugs.

    All or none. Raises InvalidInput if an offer is not there or is no longer what was seen."""
    with transaction.atomic():
        rows.lock_configuration()
        comparison = compare()
        offers = {offer.model: offer for offer in comparison.offers}
        changed = [slug for slug, seen in wanted.items() if slug not in offers or offers[slug].digest != seen]
        if changed:
            raise InvalidInput(
                f"the list offers no such price for {', '.join(sorted(changed))}; look at the differences again"
            )
        ids = dict(LanguageModel.objects.filter(slug__in=wanted).values_list("slug", "pk"))
        for slug in wanted:
            offer = offers[slug]
            origin = f"{offer.source}, accepted by {by}"[:200]
            columns = {**offer.new, "input_tiers": offer.new_tiers, "origin": origin}
            Price.objects.create(model_id=ids[slug], **columns, effective_from=TransactionNow())
    return sorted(wanted)


def digests(comparison: Comparison, models: Iterable[str]) -> dict[str, str]:
    """What accept() wants of a person who saw this comparison. Raises InvalidInput for models without an offer."""
    offers = {offer.model: offer.digest for offer in comparison.offers}
    if unknown := sorted(set(models) - set(offers)):
        raise InvalidInput(f"nothing differs for {', '.join(unknown)}")
    return {model: offers[model] for model in models}


NAMES = {name: name.removesuffix("_usd_per_mtok").replace("_", " ") for name in COLUMNS}


def _shown(figures: Figures, tiers: Tiers) -> dict[str, str]:
    shown = {NAMES[name]: "none" if amount is None else rows.money(amount) for name, amount in figures.items()}
    for tier in tiers:
        above = f"above {tier['above_input_tokens']:,} input tokens"
        shown[above] = ", ".join(f"{NAMES[name]} {tier[name]}" for name in COLUMNS if name in tier)
    return shown


def as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "source": comparison.source,
        "differences": [
            {
                "model": offer.model,
                "provider": offer.provider,
                "old": offer.shown_old,
                "old_since": offer.old_since,
                "new": offer.shown_new,
                "since": offer.since,
                "source": offer.source,
            }
            for offer in comparison.offers
        ],
        "same": comparison.same,
        "unmatched": [{"model": model, "reason": reason} for model, reason in comparison.unmatched],
        "untouched": comparison.untouched,
    }


def as_text(comparison: Comparison) -> str:
    lines = [f"Dollars per million tokens, in force -> {comparison.source}:"]
    for offer in comparison.offers:
        figures = ", ".join(f"{name} {old} -> {new}" for name, old, new in offer.changes)
        told = [text for text in (offer.since and f"since {offer.since}", offer.source) if text]
        lines.append(f"  {offer.model}: {figures}  ({'; '.join(told)})")
    if not comparison.offers:
        lines.append("  nothing differs")
    lines += [f"Not found: {model}: {reason}" for model, reason in comparison.unmatched]
    same = ", ".join(comparison.same) or "none"
    lines.append(f"As listed: {same}. Left alone, being local: {len(comparison.untouched)}.")
    if comparison.offers:
        lines.append("Nothing was changed. Take over with: manage.py usage prices --accept MODEL …")
    return "\n".join(lines)
