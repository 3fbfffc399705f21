import pytest
from msgspec import to_builtins

from routing.planning.budgets import budgets_in_scope
from routing.planning.demand import from_json, measure
from routing.planning.roles import WRAPPING_TOKENS
from routing.planning.rules import decide, plan
from routing.types import (
    SHADOW,
    BudgetState,
    Dropped,
    Image,
    Message,
    ModelSpec,
    Plan,
    PriceTier,
    Range,
    RuleOptions,
    SettingsSpec,
    Text,
    Tool,
    ToolResult,
    When,
)
from tests.routing.specs import (
    ANTHROPIC,
    HEALTHY,
    LARGE,
    LLAMA,
    MODELS,
    MOONSHOT,
    NOON,
    OFFLINE,
    OLLAMA,
    SONNET,
    SONNET_PRICE,
    World,
    ask,
    budget,
    left,
    model,
    price,
    rule,
    snapshot,
)
from ziggie.errors import BudgetExceeded, InvalidInput, NoRoute, UnknownModel, Unsupported
from ziggie.values import replace

CLOUD_FIRST = ("claude-sonnet-4-5", "claude-haiku-4-5", "llama3.2", "offline")


def chosen(a_plan: Plan) -> list[str]:
    return [candidate.model.slug for candidate in a_plan.candidates]


def why_not(a_plan: Plan, slug: str) -> Dropped:
    return next(d for d in a_plan.dropped if d.model == slug)


def swap(*changed: ModelSpec) -> tuple[ModelSpec, ...]:
    by_slug = {m.slug: m for m in changed}
    return tuple(by_slug.get(m.slug, m) for m in MODELS)


# --- which rule serves -------------------------------------------------------------------------


def test_the_first_rule_whose_conditions_all_hold_serves() -> None:
    config = snapshot(
        rule("reports", ("offline",), When(task_kinds=frozenset({"report"}), agent_levels=frozenset({"L1"}))),
        rule("directors", ("claude-sonnet-4-5",), When(agent_levels=frozenset({"L1"}))),
        rule("rest", ("llama3.2",)),
    )
    assert plan(ask(task_kind="report", agent_level="L1"), config, HEALTHY).rule == "reports"
    assert plan(ask(task_kind="chat", agent_level="L1"), config, HEALTHY).rule == "directors"
    assert plan(ask(task_kind="report", agent_level="L3"), config, HEALTHY).rule == "rest"


@pytest.mark.parametrize(
    ("complexity", "expected"), [(0.4, "small"), (0.41, "large"), (0.7, "large"), (0.71, "haiku"), (0.91, "sonnet")]
)
def test_a_range_is_open_below_and_closed_above(complexity: float, expected: str) -> None:
    config = snapshot(
        rule("sonnet", when=When(complexity=Range(above=0.9))),
        rule("haiku", when=When(complexity=Range(above=0.7, at_most=0.9))),
        rule("large", when=When(complexity=Range(above=0.4, at_most=0.7))),
        rule("small"),
    )
    assert plan(ask(complexity=complexity), config, HEALTHY).rule == expected


def test_one_of_a_rules_capabilities_is_enough_and_images_count_as_vision() -> None:
    seer = model("llava:13b", OLLAMA, capabilities=frozenset({"chat", "vision", "ocr"}))
    config = snapshot(
        rule("eyes", ("llava:13b",), When(capabilities=frozenset({"vision", "ocr"}))),
        rule("rest"),
        models=(*MODELS, seer),
    )
    picture = Message("user", (Text("What is this?"), Image("image/png", "AAAA")))
    assert plan(replace(ask(), messages=(picture,)), config, HEALTHY).rule == "eyes"
    assert plan(ask(capabilities=frozenset({"ocr"})), config, HEALTHY).rule == "eyes"
    assert plan(ask(), config, HEALTHY).rule == "rest"


def test_a_request_may_state_its_strategy_and_else_the_installations_counts() -> None:
    frugal = rule("frugal", when=When(strategies=frozenset({"cost-optimized"})))
    config = snapshot(frugal, rule("rest"))
    assert plan(ask(), config, HEALTHY).rule == "rest"
    assert plan(ask(strategy="cost-optimized"), config, HEALTHY).rule == "frugal"
    thrifty = snapshot(frugal, rule("rest"), settings=SettingsSpec(strategy="cost-optimized"))
    assert plan(ask(), thrifty, HEALTHY).rule == "frugal"


def test_a_long_local_queue_overflows_to_cloud_by_rule() -> None:
    config = snapshot(
        rule("overflow", ("claude-haiku-4-5",), When(local_queue=Range(above=10))), rule("local", ("llama3.2",))
    )
    assert plan(ask(), config, World(NOON, local_queue=10)).rule == "local"
    assert plan(ask(), config, World(NOON, local_queue=11)).rule == "overflow"


def test_a_rule_may_ask_how_much_of_the_tightest_cloud_budget_is_left() -> None:
    monthly = budget(10_000_000, id=1)
    weekly = budget(1_000_000, id=2, slug="weekly", scope={"providers": frozenset({"anthropic"})})
    local = budget(1, id=3, slug="local", scope={"locations": frozenset({"local"})})
    other_creator = budget(1, id=4, slug="other", scope={"creators": frozenset({"somebody"})})
    config = snapshot(
        rule("rich", ("claude-haiku-4-5",), When(budget_left=Range(above=0.5))),
        rule("poor"),
        budgets=(monthly, weekly, local, other_creator),
    )
    assert plan(ask(), config, HEALTHY).features.budget_left == 1
    half_spent = left(400_000, 1_000_000, id=2)
    assert plan(ask(), config, half_spent).features.budget_left == 0.4
    assert plan(ask(), config, half_spent).rule == "poor"


def test_a_budget_of_nothing_has_nothing_left() -> None:
    assert plan(ask(), snapshot(budgets=(budget(0),)), HEALTHY).features.budget_left == 0


def test_no_matching_rule_is_no_route() -> None:
    config = snapshot(rule("analysis only", when=When(task_kinds=frozenset({"analysis"}))))
    with pytest.raises(NoRoute, match="no rule"):
        plan(ask(task_kind="chat"), config, HEALTHY)


# --- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "level", "expected"),
    [
        ("Hi", "L1", 0.8),
        ("Hi", "L2", 0.5),
        ("Hi", "L3", 0.2),
        ("Hi", "", 0.5),
        ("Hi", "l3", 0.2),
        ("x" * 10_000, "L3", 0.2),
        ("x" * 10_001, "L3", 0.3),
        ("Describe the ARCHITECTURE.", "L3", 0.4),
        ("Weigh our strategic options.", "L2", 0.7),
        ("architecture and strategy" + "x" * 10_001, "L1", 1.0),
    ],
)
def test_complexity_is_estimated_from_level_length_and_subject(text: str, level: str, expected: float) -> None:
    features = plan(ask(text, agent_level=level), snapshot(), HEALTHY).features
    assert features.complexity == expected
    assert "complexity" in features.estimated


def test_context_is_estimated_as_characters_by_four_and_marked() -> None:
    features = plan(ask("x" * 40_000), snapshot(), HEALTHY).features
    assert features.context_tokens == 10_000
    assert features.estimated == {"complexity", "context_tokens"}


def test_what_the_caller_states_is_taken_and_not_marked() -> None:
    features = plan(ask("architecture", complexity=0.1, context_tokens=99), snapshot(), HEALTHY).features
    assert (features.complexity, features.context_tokens, features.estimated) == (0.1, 99, frozenset())


@pytest.mark.parametrize("hint", [{"complexity": 1.1}, {"complexity": float("nan")}, {"context_tokens": -1}])
def test_a_hint_that_cannot_be_meant_is_refused(hint: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        plan(ask(**hint), snapshot(), HEALTHY)


# --- why a model may not serve -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "kind", "reason"),
    [
        (replace(SONNET, enabled=False), "disabled", "the model is disabled"),
        (replace(SONNET, provider=replace(ANTHROPIC, enabled=False)), "disabled", "provider anthropic is disabled"),
        (replace(SONNET, provider=MOONSHOT), "switch", "Kimi is switched off"),
        (replace(SONNET, provider=replace(ANTHROPIC, api_key="")), "key", "anthropic has no API key"),
        (replace(SONNET, capabilities=frozenset({"embedding"})), "capability", "makes embeddings"),
        (replace(SONNET, context_window=256), "context", "context of 256 tokens is too small"),
        (replace(SONNET, provider=replace(ANTHROPIC, max_requests_per_day=0)), "daily_limit", "0 requests of today"),
    ],
)
def test_a_model_that_may_not_serve_is_dropped_with_a_plain_reason(changed: ModelSpec, kind: str, reason: str) -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), models=swap(changed))
    decision = plan(ask(), config, HEALTHY)
    assert chosen(decision) == ["claude-haiku-4-5", "llama3.2", "offline"]
    dropped = why_not(decision, "claude-sonnet-4-5")
    assert dropped.kind == kind
    assert reason in dropped.reason


def test_a_switched_on_kimi_serves() -> None:
    config = snapshot(rule(chain=("kimi-k2",)), settings=SettingsSpec(kimi_enabled=True))
    assert chosen(plan(ask(), config, HEALTHY)) == ["kimi-k2"]


def test_a_stored_key_that_cannot_be_read_is_named_as_the_reason() -> None:
    locked = replace(ANTHROPIC, api_key="", api_key_problem="the stored key cannot be read")
    config = snapshot(rule(chain=CLOUD_FIRST), models=swap(replace(SONNET, provider=locked)))
    assert "cannot be read" in why_not(plan(ask(), config, HEALTHY), "claude-sonnet-4-5").reason


def test_an_open_circuit_drops_a_model_or_a_whole_provider_and_says_why() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST))
    one = plan(ask(), config, World(NOON, open_circuits={("anthropic", "claude-sonnet-4-5"): "3 timeouts"}))
    assert chosen(one)[0] == "claude-haiku-4-5"
    assert "3 timeouts" in why_not(one, "claude-sonnet-4-5").reason
    both = plan(ask(), config, World(NOON, open_circuits={("anthropic", ""): "connection refused"}))
    assert chosen(both) == ["llama3.2", "offline"]
    assert "connection refused" in why_not(both, "claude-haiku-4-5").reason


def test_a_full_queue_drops_and_a_short_one_waits() -> None:
    config = snapshot(rule(chain=("llama3.2", "offline")))
    assert chosen(plan(ask(), config, World(NOON, busy={"ollama": 8}))) == ["llama3.2", "offline"]
    assert chosen(plan(ask(), config, World(NOON, busy={"ollama": 1008}))) == ["offline"]
    impatient = replace(LLAMA, provider=replace(OLLAMA, options={"max_queue": 0}))
    config = snapshot(rule(chain=("llama3.2", "offline")), models=swap(impatient))
    busy = plan(ask(), config, World(NOON, busy={"ollama": 8}))
    assert chosen(busy) == ["offline"]
    assert why_not(busy, "llama3.2").kind == "busy"


def test_tools_and_images_need_models_that_know_them() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST))
    with_tools = plan(ask(tools=(Tool("now", "tells the time", {"type": "object"}),)), config, HEALTHY)
    assert why_not(with_tools, "offline").reason == "cannot do tools"
    with pytest.raises(Unsupported) as caught:
        plan(replace(ask(), messages=(Message("user", (Image("image/png", "AAAA"),)),)), config, HEALTHY)
    assert [detail["model"] for detail in caught.value.details] == list(CLOUD_FIRST)
    assert all("vision" in detail["reason"] for detail in caught.value.details)


def test_a_name_in_a_chain_that_means_nothing_is_a_drop_too() -> None:
    decision = plan(ask(), snapshot(rule(chain=("gone", "llama3.2"))), HEALTHY)
    assert chosen(decision) == ["llama3.2"]
    assert why_not(decision, "gone").kind == "unknown"


def test_the_context_must_hold_the_likely_input_and_the_wanted_output() -> None:
    small = replace(LLAMA, context_window=8_192)
    config = snapshot(rule(chain=("llama3.2", "offline")), models=swap(small))
    prose = "word " * 4_000  # 20,000 characters, about 5,000 tokens
    assert chosen(plan(ask(prose), config, HEALTHY))[0] == "llama3.2"
    assert plan(ask(prose), config, HEALTHY).candidates[0].max_output_tokens == 8_192 - 5_000
    assert chosen(plan(ask(prose, max_output_tokens=4_000), config, HEALTHY)) == ["offline"]
    assert chosen(plan(ask(prose, context_tokens=8_100), config, HEALTHY)) == ["offline"]


def test_chinese_text_is_not_taken_for_a_quarter_of_its_tokens() -> None:
    small = replace(LLAMA, context_window=8_192)
    config = snapshot(rule(chain=("llama3.2", "offline")), models=swap(small))
    assert chosen(plan(ask("语言模型" * 3_000), config, HEALTHY)) == ["offline"]


def test_nothing_left_lists_every_drop() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST[:3]))
    circuits = {("anthropic", ""): "529 overloaded", ("ollama", ""): "connection refused"}
    with pytest.raises(NoRoute) as caught:
        plan(ask(), config, World(NOON, open_circuits=circuits))
    assert [detail["model"] for detail in caught.value.details] == list(CLOUD_FIRST[:3])
    assert "529 overloaded" in caught.value.message


def test_where_money_is_missing_and_what_is_free_could_not_do_it_the_budget_is_what_is_told() -> None:
    small = replace(LLAMA, context_window=4_096)
    config = snapshot(rule(chain=("claude-sonnet-4-5", "llama3.2")), models=swap(small), budgets=(budget(10_000_000),))
    with pytest.raises(BudgetExceeded) as caught:
        plan(ask("x" * 20_000), config, left(10, 10_000_000))
    assert [detail["kind"] for detail in caught.value.details] == ["budget", "context"]
    with pytest.raises(NoRoute):  # this one passes by itself
        plan(ask(), config, left(10, 10_000_000, open_circuits={("ollama", ""): "connection refused"}))


@pytest.mark.parametrize("model", ["auto", "claude-sonnet-4-5"])
@pytest.mark.parametrize("order", [("local", "deny"), ("deny", "local")])
def test_of_two_budgets_that_are_used_up_the_one_that_denies_decides_whatever_they_are_called(
    order: tuple[str, str], model: str
) -> None:
    both = tuple(budget(10_000_000, id=n, slug=f"b{n}", on_exhausted=word) for n, word in enumerate(order, start=1))
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=both)
    used_up = World(NOON, budgets={1: BudgetState(10, 10_000_000), 2: BudgetState(10, 10_000_000)})
    with pytest.raises(BudgetExceeded) as caught:
        plan(ask(model=model), config, used_up)
    assert f"the budget b{order.index('deny') + 1} has" in caught.value.message


# --- asked for by name -------------------------------------------------------------------------


def test_a_model_asked_for_by_name_serves_alone() -> None:
    decision = plan(ask(model="claude-haiku-4-5"), snapshot(rule(chain=CLOUD_FIRST)), HEALTHY)
    assert chosen(decision) == ["claude-haiku-4-5"]
    assert (decision.rule, decision.candidates[0].reason) == ("explicit", "asked for by name")
    assert decision.options.first_token_seconds is None


def test_an_alias_names_its_model() -> None:
    assert chosen(plan(ask(model="haiku"), snapshot(), HEALTHY)) == ["llama3.2"]


def test_an_unknown_name_is_an_unknown_model() -> None:
    with pytest.raises(UnknownModel, match="gpt-99"):
        plan(ask(model="gpt-99"), snapshot(), HEALTHY)


def test_a_model_asked_for_by_name_is_checked_like_any_other() -> None:
    with pytest.raises(NoRoute, match="Kimi is switched off"):
        plan(ask(model="kimi-k2"), snapshot(), HEALTHY)


def test_a_wire_name_that_two_providers_know_means_the_one_that_serves_and_local_first() -> None:
    at_home = model("qwen-local", OLLAMA, name="qwen3")
    hosted = model("qwen-hosted", ANTHROPIC, SONNET_PRICE, name="qwen3")
    config = snapshot(models=(hosted, at_home))
    decision = plan(ask(model="qwen3"), config, HEALTHY)
    assert chosen(decision) == ["qwen-local"]
    assert why_not(decision, "qwen-hosted").kind == "preferred"
    down = plan(ask(model="qwen3"), config, World(NOON, open_circuits={("ollama", ""): "down"}))
    assert chosen(down) == ["qwen-hosted"]
    assert why_not(down, "qwen-local").kind == "circuit"


# --- money -------------------------------------------------------------------------------------


def test_what_is_held_covers_every_attempt_the_walk_may_make() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000),))
    decision = plan(ask("x" * 1_000, max_output_tokens=1_000), config, HEALTHY)
    paid = [c.worst_case_microusd for c in decision.candidates]
    assert paid == [3 * 1_016 + 15_000, 1_016 + 5_000, 0, 0]
    assert decision.holds == {1: sum(paid)}


def test_an_answer_that_may_be_sent_back_is_held_for_twice() -> None:
    config = snapshot(rule(chain=("claude-haiku-4-5",)), budgets=(budget(10_000_000),))
    once = plan(ask("x" * 1_000, max_output_tokens=1_000), config, HEALTHY)
    twice = plan(ask("x" * 1_000, max_output_tokens=1_000, json_object=True), config, HEALTHY)
    assert twice.candidates[0].calls == 2
    assert twice.holds[1] > 2 * once.holds[1]


def test_only_as_many_candidates_as_attempts_count_the_dearest_ones() -> None:
    one_try = RuleOptions(max_attempts=1)
    config = snapshot(
        rule(chain=("claude-haiku-4-5", "claude-sonnet-4-5"), options=one_try), budgets=(budget(10_000_000),)
    )
    decision = plan(ask(max_output_tokens=100), config, HEALTHY)
    assert len(decision.candidates) == 2
    assert decision.holds == {1: decision.candidates[1].worst_case_microusd}


def test_several_answers_at_once_are_all_held_for() -> None:
    config = snapshot(rule(chain=("claude-haiku-4-5",)), budgets=(budget(10_000_000),))
    one = plan(ask(max_output_tokens=1_000), config, HEALTHY).holds[1]
    ten = plan(ask(max_output_tokens=1_000, extra={"n": 10}), config, HEALTHY).holds[1]
    assert ten - one == 9 * 5_000


def test_an_open_output_is_cut_to_what_the_budget_holds() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5",)), budgets=(budget(10_000_000),))
    decision = plan(ask(), config, left(20_000, 10_000_000))
    candidate = decision.candidates[0]
    assert 256 <= candidate.max_output_tokens < 8_192
    assert candidate.worst_case_microusd <= 20_000 < candidate.worst_case_microusd + 15
    assert "limited to" in candidate.reason


LONG_SONNET = model(
    "claude-sonnet-4-5",
    ANTHROPIC,
    replace(SONNET_PRICE, tiers=(PriceTier(2_000, price("6", "22.50")),)),
    context_window=200_000,
)


def test_what_is_held_of_a_price_with_tiers_is_the_dearest_that_the_input_may_reach() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5",)), models=(LONG_SONNET,), budgets=(budget(10_000_000),))
    short = plan(ask("x" * 1_984, max_output_tokens=1_000), config, HEALTHY)
    assert short.holds == {1: 3 * 2_000 + 15_000}
    long = plan(ask("x" * 1_985, max_output_tokens=1_000), config, HEALTHY)
    assert long.holds == {1: 6 * 2_001 + 22_500}


def test_a_repair_that_grows_into_a_tier_is_held_at_its_price() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5",)), models=(LONG_SONNET,), budgets=(budget(10_000_000),))
    decision = plan(ask("x" * 984, max_output_tokens=1_000, json_object=True), config, HEALTHY)
    again = 1_000 + WRAPPING_TOKENS + 1_000
    assert decision.holds == {1: 3 * 1_000 + 15_000 + 6 * again + 22_500}


def test_an_open_output_is_cut_to_what_the_budget_holds_in_the_tier_that_it_may_reach() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5",)), models=(LONG_SONNET,), budgets=(budget(10_000_000),))
    candidate = plan(ask("x" * 3_000), config, left(40_000, 10_000_000)).candidates[0]
    assert candidate.max_output_tokens == int((40_000 - 3_016 * 6) / 22.5)
    assert candidate.worst_case_microusd <= 40_000 < candidate.worst_case_microusd + 23


def test_an_output_that_the_caller_fixed_is_refused_rather_than_cut() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5", "llama3.2")), budgets=(budget(10_000_000),))
    decision = plan(ask(max_output_tokens=4_000), config, left(20_000, 10_000_000))
    assert chosen(decision) == ["llama3.2"]
    assert why_not(decision, "claude-sonnet-4-5").reason == (
        "could cost $0.060081, and the budget monthly-cloud has $0.020000 left"
    )


def test_a_spent_budget_leaves_what_costs_nothing() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000),))
    decision = plan(ask(), config, left(0, 10_000_000))
    assert chosen(decision) == ["llama3.2", "offline"]
    assert decision.holds == {}


def test_a_chain_without_a_free_model_turns_to_the_free_ones_of_the_next_rules() -> None:
    config = snapshot(
        rule("directors", ("claude-sonnet-4-5",)),
        rule("never", ("llama3.1:70b",), When(task_kinds=frozenset({"other"}))),
        rule("rest", ("claude-haiku-4-5", "llama3.2")),
        budgets=(budget(10_000_000),),
    )
    decision = plan(ask(), config, left(0, 10_000_000))
    assert (decision.rule, chosen(decision)) == ("directors", ["llama3.2"])
    assert "costs nothing" in decision.candidates[0].reason


def test_a_named_model_beyond_a_budget_gives_way_to_the_free_ones_of_the_rules_for_such_a_task() -> None:
    config = snapshot(
        rule("never", ("llama3.1:70b",), When(task_kinds=frozenset({"other"}))),
        rule("first", ("claude-haiku-4-5", "llama3.2")),
        rule("rest", ("llama3.1:70b", "llama3.2", "offline")),
        budgets=(budget(10_000_000),),
    )
    decision = plan(ask(model="claude-sonnet-4-5"), config, left(0, 10_000_000))
    assert (decision.rule, chosen(decision)) == ("explicit", ["llama3.2", "llama3.1:70b", "offline"])
    assert decision.holds == {}
    assert decision.candidates[0].reason == (
        "costs nothing, from the rule 'first': the model asked for is beyond a budget"
    )
    assert why_not(decision, "claude-sonnet-4-5").kind == "budget"


def test_a_named_model_that_fails_for_another_reason_has_no_substitute() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000),))
    down = World(NOON, open_circuits={("anthropic", ""): "down"})
    with pytest.raises(NoRoute):
        plan(ask(model="claude-sonnet-4-5"), config, down)


def test_a_named_model_beyond_a_budget_is_refused_where_the_budget_denies_or_no_rule_knows_the_task() -> None:
    denying = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000, on_exhausted="deny"),))
    other = When(task_kinds=frozenset({"other"}))
    unknown = snapshot(rule("other", ("llama3.2",), other), budgets=(budget(10_000_000),))
    for config in (denying, unknown):
        with pytest.raises(BudgetExceeded, match="monthly-cloud"):
            plan(ask(model="claude-sonnet-4-5"), config, left(0, 10_000_000))


def test_a_comparison_is_never_made_with_another_model_than_the_one_it_names() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000),))
    with pytest.raises(BudgetExceeded):
        plan(ask(model="claude-sonnet-4-5", task_kind=SHADOW), config, left(0, 10_000_000))


def test_a_budget_that_denies_refuses_what_it_cannot_hold() -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), budgets=(budget(10_000_000, on_exhausted="deny"),))
    with pytest.raises(BudgetExceeded, match="monthly-cloud"):
        plan(ask(), config, left(0, 10_000_000))


def test_a_budget_that_denies_only_shortens_the_fallbacks_of_a_free_first_choice() -> None:
    config = snapshot(
        rule(chain=("llama3.2", "claude-haiku-4-5", "offline")), budgets=(budget(10_000_000, on_exhausted="deny"),)
    )
    assert chosen(plan(ask(), config, left(0, 10_000_000))) == ["llama3.2", "offline"]


def test_money_as_the_only_reason_is_budget_exceeded() -> None:
    config = snapshot(rule(chain=("claude-sonnet-4-5",)), budgets=(budget(10_000_000),))
    with pytest.raises(BudgetExceeded):
        plan(ask(model="claude-sonnet-4-5"), config, left(0, 10_000_000))


@pytest.mark.parametrize("changed", [replace(SONNET, price=None), replace(SONNET, max_output_tokens=None)])
def test_a_hard_budget_admits_nothing_without_a_price_and_an_output_limit(changed: ModelSpec) -> None:
    config = snapshot(rule(chain=CLOUD_FIRST), models=swap(changed), budgets=(budget(10_000_000),))
    decision = plan(ask(), config, HEALTHY)
    assert why_not(decision, "claude-sonnet-4-5").kind == "unpriced"
    soft = snapshot(rule(chain=CLOUD_FIRST), models=swap(changed), budgets=(budget(1, hard=False),))
    assert chosen(plan(ask(), soft, HEALTHY))[0] == "claude-sonnet-4-5"


def test_a_callers_own_output_limit_bounds_a_model_that_has_none() -> None:
    endless = replace(SONNET, max_output_tokens=None)
    config = snapshot(rule(chain=CLOUD_FIRST), models=swap(endless), budgets=(budget(10_000_000),))
    decision = plan(ask(max_output_tokens=500), config, HEALTHY)
    assert decision.candidates[0].max_output_tokens == 500


def test_a_fallback_that_no_longer_fits_beside_the_first_choice_is_dropped() -> None:
    config = snapshot(rule(chain=("claude-haiku-4-5", "claude-sonnet-4-5", "llama3.2")), budgets=(budget(40_000),))
    decision = plan(ask(max_output_tokens=4_000), config, HEALTHY)
    assert chosen(decision) == ["claude-haiku-4-5", "llama3.2"]
    assert why_not(decision, "claude-sonnet-4-5").kind == "budget"


def test_each_budget_counts_what_is_in_its_scope() -> None:
    budgets = (
        budget(10_000_000, id=1),
        budget(10_000_000, id=2, slug="anthropic", scope={"providers": frozenset({"anthropic"})}),
        budget(10_000_000, id=3, slug="sonnet", scope={"models": frozenset({"claude-sonnet-4-5"})}),
        budget(10_000_000, id=4, slug="key", scope={"api_keys": frozenset({"key-1"})}),
        budget(10_000_000, id=5, slug="other key", scope={"api_keys": frozenset({"key-2"})}),
        budget(10_000_000, id=6, slug="everything", scope={}),
        budget(10_000_000, id=7, slug="local", scope={"locations": frozenset({"local"})}),
        budget(
            10_000_000,
            id=8,
            slug="a mixture",
            scope={
                "creators": frozenset({"instasd"}),
                "task_kinds": frozenset({"analysis"}),
                "agent_levels": frozenset(),
            },
        ),
    )
    request = ask(max_output_tokens=100, api_key_id="key-1", creator="instasd", task_kind="analysis")
    config = snapshot(rule(chain=("claude-sonnet-4-5", "claude-haiku-4-5", "llama3.2")), budgets=budgets)
    holds = plan(request, config, HEALTHY).holds
    assert set(holds) == {1, 2, 3, 4, 6, 8}
    assert holds[3] < holds[1] == holds[2] == holds[8]
    in_scope = budgets_in_scope(config, LLAMA, measure(request))
    assert [b.slug for b in in_scope] == ["key", "everything", "local", "a mixture"]


# --- patterns ----------------------------------------------------------------------------------


def test_a_patterns_models_are_screened_and_held_for_beside_the_chain() -> None:
    config = snapshot(
        rule(chain=("claude-sonnet-4-5",), pattern="verify", roles={"verifier": "claude-haiku-4-5"}),
        budgets=(budget(10_000_000),),
    )
    decision = plan(ask(max_output_tokens=100), config, HEALTHY)
    assert [(part.role, part.model.slug) for part in decision.parts] == [("verifier", "claude-haiku-4-5")]
    assert decision.holds[1] == decision.candidates[0].worst_case_microusd + decision.parts[0].worst_case_microusd


def test_a_part_that_may_not_serve_is_dropped_with_its_reason() -> None:
    config = snapshot(rule(chain=("llama3.2",), pattern="verify", roles={"verifier": "kimi-k2"}))
    decision = plan(ask(), config, HEALTHY)
    assert decision.parts == ()
    assert why_not(decision, "kimi-k2").reason == "Kimi is switched off"


def test_members_can_answer_when_the_chain_cannot() -> None:
    config = snapshot(
        rule(chain=("kimi-k2",), pattern="ensemble", roles={"members": ["llama3.2", "llama3.1:70b"], "vote": True})
    )
    decision = plan(ask(), config, HEALTHY)
    assert [part.model.slug for part in decision.parts] == ["llama3.2", "llama3.1:70b"]
    assert decision.roles["vote"] is True


@pytest.mark.parametrize(
    ("pattern", "roles"),
    [
        ("verify", {"verifier"}),
        ("cascade", {"draft", "refiner"}),
        ("ensemble", {"member", "synthesiser"}),
        ("debate", {"member", "synthesiser"}),
        ("critique", set()),
    ],
)
def test_a_request_may_ask_for_a_pattern_and_the_chain_fills_its_roles(pattern: str, roles: set[str]) -> None:
    decision = plan(ask(pattern=pattern), snapshot(rule(chain=CLOUD_FIRST)), HEALTHY)
    assert decision.pattern == pattern
    assert {part.role for part in decision.parts} == roles


@pytest.mark.parametrize(
    ("asked", "stated", "seconds"),
    [
        ("ensemble", 5.0, 60.0),
        ("debate", 90.0, 90.0),
        ("ensemble", None, None),
        ("cascade", 5.0, 5.0),  # one draft, which others can go on without
        ("", 5.0, 5.0),
    ],
)
def test_members_that_a_caller_asks_for_have_time_to_load(
    asked: str, stated: float | None, seconds: float | None
) -> None:
    served = rule(chain=CLOUD_FIRST, options=RuleOptions(first_token_seconds=stated))
    assert plan(ask(pattern=asked), snapshot(served), HEALTHY).options.first_token_seconds == seconds
    own = rule(chain=CLOUD_FIRST, pattern="ensemble", options=RuleOptions(first_token_seconds=7))
    assert plan(ask(pattern="ensemble"), snapshot(own), HEALTHY).options.first_token_seconds == 7


def test_a_pattern_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no such pattern"):
        plan(ask(pattern="seance"), snapshot(), HEALTHY)


def test_more_rounds_are_held_for_and_bounded() -> None:
    def held(rounds: int) -> int:
        debate = rule(chain=("claude-haiku-4-5", "claude-sonnet-4-5"), pattern="debate", roles={"rounds": rounds})
        return plan(ask(max_output_tokens=100), snapshot(debate, budgets=(budget(10**9),)), HEALTHY).holds[1]

    assert held(1) < held(2) < held(5) == held(10**9)


# --- rollout -----------------------------------------------------------------------------------


def test_a_rollout_serves_its_share_and_sticks_to_a_conversation() -> None:
    config = snapshot(
        rule("new", ("llama3.1:70b",), options=RuleOptions(rollout_percent=30)), rule("old", ("llama3.2",))
    )
    rules = [plan(ask(f"question {number}"), config, HEALTHY).rule for number in range(2_000)]
    assert 500 < rules.count("new") < 700
    first = ask("question 1")
    later = replace(first, messages=(*first.messages, Message("assistant", (Text("yes"),)), *ask("more").messages))
    assert plan(first, config, HEALTHY).rule == plan(later, config, HEALTHY).rule


def test_raising_a_rollout_keeps_those_who_are_in_it() -> None:
    def served(percent: int) -> set[int]:
        new = rule("new", ("llama3.1:70b",), options=RuleOptions(rollout_percent=percent))
        config = snapshot(new, rule("old"))
        return {n for n in range(500) if plan(ask(run_id=f"run-{n}"), config, HEALTHY).rule == "new"}

    assert served(0) < served(10) < served(50) < served(100) == set(range(500))


def test_a_rule_passed_over_by_its_rollout_is_noted() -> None:
    config = snapshot(rule("new", ("llama3.1:70b",), options=RuleOptions(rollout_percent=0)), rule("old"))
    assert plan(ask(), config, HEALTHY).notes == ("rule 'new' matches and serves 0% of its requests, not this one",)


# --- the receipt -------------------------------------------------------------------------------


def test_a_kept_demand_gives_the_same_decision_again_without_the_texts() -> None:
    config = snapshot(
        rule("new", CLOUD_FIRST, options=RuleOptions(rollout_percent=50)),
        rule("old", CLOUD_FIRST[1:]),
        budgets=(budget(10_000_000),),
    )
    for number in range(50):
        request = ask(f"secret {number} strategy", json_object=True, run_id=None, api_key_id="k", agent_level="L2")
        kept = to_builtins(measure(request))
        assert "secret" not in str(kept)
        for receipt in ({"demand": kept, "circumstances": {}}, {**kept, "circumstances": {}}):
            assert decide(from_json(receipt), config, HEALTHY) == plan(request, config, HEALTHY)


def test_tool_results_and_strange_characters_are_measured() -> None:
    odd = Message("tool", (ToolResult("1", "\ud800 lone surrogate"),))
    demand = measure(replace(ask(), messages=(odd,)))
    assert demand.input_at_most >= len("\ud800 lone surrogate".encode(errors="surrogatepass"))


def test_names_of_speakers_are_measured() -> None:
    named = replace(ask(), messages=(Message("user", (Text("hi"),), "ы" * 64),))
    assert measure(named).input_at_most >= measure(ask("hi")).input_at_most + 128


@pytest.mark.parametrize("extra", [{"n": "many"}, {"n": float("inf")}, {"n": [3]}])
def test_a_number_of_answers_that_is_no_number_is_not_held_too_low(extra: dict[str, object]) -> None:
    assert measure(ask(extra=extra)).choices == 1_000


def test_a_price_that_only_writing_the_cache_has_is_not_free() -> None:
    odd = replace(LARGE, price=price("0", "0", written="1"))
    config = snapshot(rule(chain=("llama3.1:70b",)), models=swap(odd), budgets=(budget(10**6, scope={}),))
    assert plan(ask(), config, HEALTHY).holds[1] > 0


def test_the_built_in_model_costs_nothing_even_without_a_price() -> None:
    bare = replace(OFFLINE, price=None)
    config = snapshot(rule(chain=("offline",)), models=swap(bare), budgets=(budget(0, scope={}),))
    assert chosen(plan(ask(), config, HEALTHY)) == ["offline"]


def test_features_name_the_request_as_rules_see_it() -> None:
    features = plan(
        ask(task_kind="analysis", agent_level="l2", creator_tier="High"), snapshot(), World(NOON, local_queue=3)
    ).features
    assert (features.task_kind, features.agent_level, features.creator_tier) == ("analysis", "L2", "high")
    assert (features.local_queue, features.strategy) == (3, "balanced")
