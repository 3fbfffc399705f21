"""What holds of every plan, whatever the configuration and the state of the world."""

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.planning.budgets import budgets_in_scope
from routing.planning.demand import measure
from routing.planning.pricing import is_free, worst_case_microusd
from routing.planning.rules import plan
from routing.types import (
    BudgetState,
    ChatRequest,
    ModelSpec,
    Plan,
    PriceSpec,
    PriceTier,
    ProviderSpec,
    RuleOptions,
    SettingsSpec,
    Snapshot,
    Source,
    World,
)
from tests.routing.specs import NOON, ask, budget, rule, snapshot
from ziggie.errors import RoutingError
from ziggie.values import replace

CAPABILITIES = ("chat", "tools", "vision", "advanced_coding_tasks")
dollars = st.sampled_from([Decimal(0), Decimal("0.15"), Decimal(3), Decimal(75)])
flat = st.builds(PriceSpec, st.just(1), dollars, dollars, st.none() | dollars, st.none() | dollars)
tiers = st.builds(lambda above, its: (PriceTier(above, its),), st.sampled_from([0, 50, 5_000]), flat)
prices = st.none() | flat | st.builds(lambda base, higher: replace(base, tiers=higher), flat, tiers)
usually = st.sampled_from([True, True, True, False])


@st.composite
def providers(draw: st.DrawFn, number: int) -> ProviderSpec:
    return ProviderSpec(
        number,
        f"provider-{number}",
        "openai",
        draw(st.sampled_from(Source)),
        "http://127.0.0.1:1",
        enabled=draw(usually),
        switch=draw(st.sampled_from(["", "", "kimi"])),
        api_key=draw(st.sampled_from(["", "key"])),
        needs_api_key=draw(st.booleans()),
        max_concurrency=draw(st.none() | st.integers(1, 3)),
        max_requests_per_day=draw(st.none() | st.integers(0, 3)),
        options={"max_queue": draw(st.integers(0, 2))},
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[ChatRequest, Snapshot, World]:
    known = [draw(providers(number)) for number in range(3)]
    models = tuple(
        ModelSpec(
            number,
            f"model-{number}",
            draw(st.sampled_from(["one", "two"])),
            draw(st.sampled_from(known)),
            draw(st.sampled_from([256, 4_096, 131_072])),
            draw(st.none() | st.integers(1, 9_000)),
            frozenset(draw(st.sets(st.sampled_from(CAPABILITIES)))),
            enabled=draw(usually),
            price=draw(prices),
        )
        for number in range(draw(st.integers(1, 6)))
    )
    slugs = st.sampled_from([*(m.slug for m in models), "no-such-model"])
    rules = [
        rule(
            f"rule {number}",
            tuple(draw(st.lists(slugs, min_size=1, max_size=6))),
            pattern=draw(st.sampled_from(["single", "single", "verify", "cascade", "ensemble", "debate", "critique"])),
            options=RuleOptions(
                max_attempts=draw(st.integers(1, 4)), rollout_percent=draw(st.sampled_from([0, 50, 100]))
            ),
        )
        for number in range(2)
    ]
    scopes: list[dict[str, Any]] = [{}, {"locations": frozenset({"cloud"})}, {"models": frozenset({"model-0"})}]
    budgets = tuple(
        budget(
            draw(st.integers(0, 500_000)),
            id=number,
            slug=f"budget-{number}",
            scope=draw(st.sampled_from(scopes)),
            hard=draw(usually),
            on_exhausted=draw(st.sampled_from(["local", "deny"])),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    places = st.tuples(st.sampled_from([p.slug for p in known]), st.sampled_from(["", *(m.slug for m in models)]))
    world = World(
        NOON,
        {b.id: BudgetState(draw(st.integers(-10, b.limit_microusd)), b.limit_microusd) for b in budgets},
        draw(st.dictionaries(places, st.just("broken"), max_size=2)),
        busy=draw(st.dictionaries(st.sampled_from([p.slug for p in known]), st.integers(0, 6))),
        requests_today=draw(st.dictionaries(st.sampled_from([p.slug for p in known]), st.integers(0, 4))),
    )
    request = ask(
        "word " * draw(st.integers(0, 2_000)),
        model=draw(st.sampled_from(["auto", "auto", "auto", "model-0", "one"])),
        capabilities=frozenset(draw(st.sets(st.sampled_from(CAPABILITIES[1:]), max_size=1))),
        max_output_tokens=draw(st.none() | st.integers(1, 5_000)),
        json_object=draw(st.booleans()),
        choices=draw(st.sampled_from([1, 1, 2, 5])),
    )
    config = snapshot(*rules, models=models, budgets=budgets, settings=SettingsSpec(kimi_enabled=draw(st.booleans())))
    return request, config, world


def planned(situation: tuple[ChatRequest, Snapshot, World]) -> Plan | None:
    try:
        return plan(*situation)
    except RoutingError:
        return None


@settings(max_examples=200, deadline=None)
@given(situations())
def test_no_candidate_is_disabled_unhealthy_incapable_too_small_or_overloaded(
    situation: tuple[ChatRequest, Snapshot, World],
) -> None:
    request, config, world = situation
    decision = planned(situation)
    for candidate in (*decision.candidates, *decision.parts) if decision else ():
        model, provider = candidate.model, candidate.model.provider
        assert model.enabled
        assert provider.enabled
        assert config.settings.kimi_enabled or not provider.switch
        assert provider.api_key or not provider.needs_api_key
        assert request.needs <= model.capabilities
        assert (provider.slug, "") not in world.open_circuits
        assert (provider.slug, model.slug) not in world.open_circuits
        assert measure(request).input_likely + candidate.max_output_tokens <= model.context_window
        if provider.max_requests_per_day is not None:
            assert world.requests_today.get(provider.slug, 0) < provider.max_requests_per_day
        if provider.max_concurrency is not None:
            room = provider.max_concurrency + provider.options["max_queue"]
            assert world.busy.get(provider.slug, 0) < room


@settings(max_examples=200, deadline=None)
@given(situations())
def test_the_whole_plan_fits_into_every_hard_budget(situation: tuple[ChatRequest, Snapshot, World]) -> None:
    request, config, world = situation
    decision = planned(situation)
    if decision is None:
        return
    demand = measure(request)
    for candidate in (*decision.candidates, *decision.parts):
        model = candidate.model
        hard = [b for b in budgets_in_scope(config, model, demand) if b.hard]
        assert not hard or model.price is not None
        if hard and not is_free(model.price):
            assert model.max_output_tokens is not None or request.max_output_tokens is not None
        if model.price is not None:
            once = worst_case_microusd(
                model.price, input_tokens=demand.input_at_most, output_tokens=candidate.max_output_tokens
            )
            assert candidate.worst_case_microusd >= once
    for each in config.budgets:
        in_scope = [c for c in decision.candidates if each in budgets_in_scope(config, c.model, demand)]
        parts = [c for c in decision.parts if each in budgets_in_scope(config, c.model, demand)]
        held = decision.holds.get(each.id, 0)
        assert held >= sum(c.worst_case_microusd for c in parts)
        # A walk may spend all its attempts on any one candidate; fewer attempts than candidates hold less than all.
        assert held >= max((c.worst_case_microusd for c in in_scope), default=0)
        assert held <= sum(c.worst_case_microusd for c in (*in_scope, *parts))
        if each.hard and held:
            assert held <= world.budgets[each.id].left_microusd


@settings(max_examples=200, deadline=None)
@given(situations(), st.integers(2, 16))
def test_of_several_answers_each_is_held_like_a_call_of_its_own(
    situation: tuple[ChatRequest, Snapshot, World], answers: int
) -> None:
    request, config, world = situation
    request = replace(request, budget_fit="refuse", choices=1, hints=replace(request.hints, pattern="single"))
    alone, together = planned((request, config, world)), planned((replace(request, choices=answers), config, world))
    same = alone and together and alone.rule == together.rule
    if not (alone and together and same) or len(alone.candidates) != len(together.candidates):
        return  # there was room for one of them alone
    for one, all_of_them in zip(alone.candidates, together.candidates, strict=True):
        assert all_of_them.calls == answers * one.calls
        assert all_of_them.worst_case_microusd == answers * one.worst_case_microusd
    assert together.holds == {budget_id: answers * held for budget_id, held in alone.holds.items()}


@settings(max_examples=200, deadline=None)
@given(situations())
def test_every_model_of_the_chain_is_a_candidate_in_order_or_dropped_with_a_reason(
    situation: tuple[ChatRequest, Snapshot, World],
) -> None:
    decision = planned(situation)
    if decision is None or decision.rule == "explicit":
        return
    _, config, _ = situation
    chain = list(dict.fromkeys(next(r for r in config.policy.rules if r.name == decision.rule).chain))
    candidates = [c.model.slug for c in decision.candidates]
    dropped = {d.model: d.reason for d in decision.dropped}
    assert [slug for slug in chain if slug in candidates] == candidates[: len(set(chain) & set(candidates))]
    assert all(slug in candidates or dropped.get(slug) for slug in chain)
    assert all(c.reason and c.max_output_tokens >= 1 for c in (*decision.candidates, *decision.parts))


@settings(max_examples=100, deadline=None)
@given(situations())
def test_the_same_question_has_the_same_answer(situation: tuple[ChatRequest, Snapshot, World]) -> None:
    assert planned(situation) == planned(situation)


@settings(max_examples=100, deadline=None)
@given(situations())
def test_a_refusal_says_why_of_every_model_it_looked_at(situation: tuple[ChatRequest, Snapshot, World]) -> None:
    try:
        plan(*situation)
    except RoutingError as refused:
        message, reasons = refused.message, [detail["reason"] for detail in refused.details]
    else:
        return
    assert message
    assert all(reasons)


@given(st.text(), st.text())
def test_no_text_has_more_tokens_than_its_upper_bound(system: str, user: str) -> None:
    request = ask(system + user)
    assert measure(request).input_at_most >= len((system + user).encode(errors="surrogatepass"))
    assert measure(request).input_likely >= 0
