"""A receipt as its page shows it: what was judged, who was looked at, what was tried, what each part cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from routing.configuration import rows
from routing.models import Price, RoutedCall, StoredBody, UsageRecord
from routing.money.ledger_rows import TOKEN_COUNTS
from routing.reporting.owners import owners_of
from routing.walk import calibration
from ziggie.models import ApiKey

FEATURES = (
    ("task_kind", "Task kind"),
    ("agent_level", "Agent level"),
    ("creator_tier", "Creator tier"),
    ("complexity", "Complexity"),
    ("context_tokens", "Context, tokens"),
    ("capabilities", "Capabilities"),
    ("strategy", "Strategy"),
    ("budget_left", "Budget left"),
    ("local_queue", "Local queue"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt of the receipt with its usage record, None where that was removed, and the price that it paid.
    `tier`: the request was so long that it paid the price above so many input tokens. `by_batch`: it paid half."""

    attempt: Mapping[str, Any]
    started_at: datetime | None
    record: UsageRecord | None
    price: Price | None = None
    tier: int | None = None
    by_batch: bool = False

    @property
    def further_tokens(self) -> list[str]:
        """Tokens that have a price of their own, or that nobody sees: what the provider told, also where it told 0."""
        used = self.attempt["usage"]
        names = {"cached_input_tokens": "cached", "cache_write_tokens": "written", "reasoning_tokens": "reasoning"}
        return [f"{used[name]} {said}" for name, said in names.items() if used.get(name) is not None]

    @property
    def paid_at(self) -> str:
        """Dollars per million tokens in and out, as the record's price has them for so long a request; and cached and
        written, where there were such tokens and they have a price of their own."""
        if self.price is None:
            return ""
        tiers: list[dict[str, Any]] = self.price.input_tiers
        tier = next((each for each in tiers if each["above_input_tokens"] == self.tier), {})
        share = 2 if self.by_batch else 1

        def dollars(name: str) -> str:
            amount = tier.get(name) if tier else getattr(self.price, name)
            return "" if amount is None else f"${rows.money(Decimal(amount) / share)}"

        told = f"{dollars('input_usd_per_mtok')} / {dollars('output_usd_per_mtok')} a million"
        for name, said in {"cached_input": "cached", "cache_write": "written"}.items():
            if self.attempt["usage"].get(f"{name}_tokens") and (amount := dollars(f"{name}_usd_per_mtok")):
                told += f", {said} {amount}"
        return f"{told}{', half price' if self.by_batch else ''}"

    @property
    def estimated(self) -> str:
        """What of the figures we worked out ourselves, in words."""
        names = {name.replace("_", " ").removesuffix(" tokens") for name in self.attempt["usage"].get("estimated", ())}
        return ", ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class Money:
    """Micro-dollars; `by_role` is what each part of the pattern cost."""

    baseline: int
    energy: int
    by_role: Mapping[str, int]


def context_of(call: RoutedCall) -> dict[str, Any]:
    """All that the page of a call shows."""
    records = {record.attempt: record for record in UsageRecord.objects.filter(call_id=call.pk).order_by("attempt")}
    # A call that was given up has no attempts on its receipt, only the record that was made for it.
    attempts = call.attempts or [_attempt_of(record) for record in records.values()]
    prices = Price.objects.in_bulk({record.price_id for record in records.values() if record.price_id})
    batch = bool((call.request.get("circumstances") or {}).get("batch"))
    tried = [_tried(attempt, records.get(number), prices, batch) for number, attempt in enumerate(attempts, start=1)]
    return {
        "call": call,
        "features": features(call.features),
        "attempts": tried,
        "money": _money(call, list(records.values())),
        "findings": findings(call.findings or {}),
        "confidence": confidence(call),
        "outcomes": _outcomes(call),
        "owners": owners_of(call),
        "key_name": _key_name(call.api_key_id),
    }


@dataclass(frozen=True, slots=True)
class Stored:
    """The bodies that a rule keeps. `texts` is None for somebody who may not see them."""

    texts: Mapping[str, str] | None
    redactions: int
    cut: bool


def stored_bodies(call: RoutedCall, *, visible: bool) -> Stored | None:
    """None where nothing is stored."""
    row = StoredBody.objects.filter(pk=call.pk).first()
    if row is None:
        return None
    bodies = (("Request", row.request), ("Answer", row.answer))
    texts = {name: json.dumps(body, indent=2, ensure_ascii=False) for name, body in bodies if body is not None}
    return Stored(texts if visible else None, row.redactions, row.cut)


def features(kept: Mapping[str, Any]) -> list[Fact]:
    """PURE: what the request was judged by; nothing is left out because nobody said it."""
    estimated = kept.get("estimated", ())
    return [Fact(label, _feature(name, kept.get(name)), name in estimated) for name, label in FEATURES]


def _feature(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if name == "budget_left" and isinstance(value, int | float):
        return f"{value:.0%}"
    return "none" if value in (None, "") else str(value)


def _tried(
    attempt: Mapping[str, Any], record: UsageRecord | None, prices: Mapping[int, Price], by_batch: bool
) -> Tried:
    started = attempt.get("started_at")
    price = prices.get(record.price_id) if record and record.price_id else None
    input_tokens = attempt["usage"].get("input_tokens") or 0
    above = [tier["above_input_tokens"] for tier in price.input_tiers] if price else []
    tier = max((start for start in above if input_tokens > start), default=None)
    return Tried(attempt, datetime.fromisoformat(started) if started else None, record, price, tier, by_batch)


def _attempt_of(record: UsageRecord) -> dict[str, Any]:
    first_token = record.first_token_ms
    return {
        **{
            name: getattr(record, name)
            for name in ("model", "provider", "source", "outcome", "role", "error", "status")
        },
        "started_at": record.created_at.isoformat(),
        "seconds": record.duration_ms / 1000,
        "first_token_seconds": None if first_token is None else first_token / 1000,
        "usage": {name: getattr(record, name) for name in (*TOKEN_COUNTS, "estimated")},
        "cost_microusd": record.cost_microusd,
    }


def _money(call: RoutedCall, records: Sequence[UsageRecord]) -> Money:
    by_role: dict[str, int] = {}
    for attempt in call.attempts:
        by_role[attempt["role"]] = by_role.get(attempt["role"], 0) + attempt["cost_microusd"]
    return Money(
        baseline=sum(record.baseline_microusd for record in records),
        energy=sum(record.energy_microusd for record in records),
        by_role=by_role if len(by_role) > 1 else {},
    )


# --- what a pattern found --------------------------------------------------------------------------


def findings(kept: Mapping[str, Any]) -> list[Fact]:
    """PURE: what the pattern learned, as facts for people."""
    found = []
    for name, value in kept.items():
        if name == "review":
            found += _review(value)
        elif name == "draft":
            found += _draft(value)
        elif name == "rounds" and isinstance(value, list):
            found += [Fact(f"Round {number}", _objections(r)) for number, r in enumerate(value, start=1)]
        else:
            found.append(Fact(name.replace("_", " ").capitalize(), _said(value)))
    return found


def _review(review: Mapping[str, Any]) -> list[Fact]:
    by = f" by {review['by']}" if review.get("by") else ""
    verdict = {"right": f"found right{by}", "wrong": f"found wrong{by}"}.get(
        str(review.get("verdict")), f"no review: {review.get('reason', '')}"
    )
    found = [Fact("Review", verdict), *(Fact("Problem", str(problem)) for problem in review.get("problems", ()))]
    if review.get("then"):
        who = review.get("revised_by") or review.get("asked") or ""
        found.append(Fact("Then", f"{review['then']} {who}".strip()))
    return found


def _draft(draft: Mapping[str, Any]) -> list[Fact]:
    if draft.get("confidence") is None:
        who = draft.get("by") or "nobody"
        return [Fact("Draft", f"{who}: {draft.get('reason') or 'stated no confidence'}")]
    return [Fact("Draft", f"by {draft['by']}, {'used' if draft.get('used') else 'not sure enough: it was refined'}")]


def _objections(said: Mapping[str, Any]) -> str:
    then = "revised" if said.get("revised") else "not revised"
    return f"{'; '.join(map(str, said.get('objections', ())))} ({then})"


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# --- how sure --------------------------------------------------------------------------------------


def confidence(call: RoutedCall) -> list[Fact]:
    """PURE: each confidence of the call and which figure it is: stated, from token probabilities, or calibrated."""
    draft = (call.findings or {}).get("draft") or {}
    if draft.get("confidence") is not None:
        return _drafts(draft)
    served = next((attempt for attempt in call.attempts if attempt.get("served")), None)
    if served is None or served.get("confidence") is None:
        return []
    return [Fact("Confidence", f"{served['confidence']:g} %, the raw figure that {served['model']} stated of itself")]


def _drafts(draft: Mapping[str, Any]) -> list[Fact]:
    known = {"stated by the model": draft.get("stated"), "by its token probabilities": draft.get("log_probability")}
    parts = [f"{figure:g} % {name}" for name, figure in known.items() if figure is not None]
    count = draft.get("calibrated_on", 0)
    which = f"calibrated on {count} reviewed outcomes" if count else "the raw figure"
    lower = "; the lower one counts" if len(parts) > 1 else ""
    return [
        Fact("Confidence of the draft", f"{draft['confidence']:g} %, {which}"),
        Fact("Raw figure", f"{draft.get('raw', draft['confidence']):g} % ({', '.join(parts)}{lower})"),
    ]


def _outcomes(call: RoutedCall) -> dict[str, int] | None:
    """How many reviews there are to calibrate this kind of answer by; None for a call without a confidence."""
    model = next((attempt["model"] for attempt in call.attempts if attempt.get("confidence") is not None), None)
    if model is None:
        return None
    own, everyone = calibration.outcomes_known(call.task_kind, model)
    return {"own": own, "all": everyone, "enough": calibration.ENOUGH_OUTCOMES}


def _key_name(key_id: str) -> str:
    """The name of the key that paid; its id where it is gone."""
    if not key_id:
        return ""
    try:
        return ApiKey.objects.filter(pk=key_id).values_list("name", flat=True).first() or key_id
    except ValueError:  # recorded by hand, or by a program of another time
        return key_id
