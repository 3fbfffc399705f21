"""The older JSON of rules: what is mapped, what is not, and that nothing is guessed."""

import json
from typing import Any

import pytest

from routing.configuration import seeding
from routing.importing.conditions import Comparison, ConditionError, Flag, alternatives
from routing.importing.cortex import Report, convert, import_draft
from routing.models import RoutingPolicy
from ziggie.errors import InvalidInput

MODELS = {
    "kimi-k2:1t-cloud": "kimi-k2:1t-cloud",
    "qwen3-coder:480b-cloud": "qwen3-coder:480b-cloud",
    "qwen3-coder-30b": "qwen3-coder-30b",
    "glm-4.5": "glm-4.5",
    "claude-sonnet-4-5": "claude-sonnet-4-5",
    "haiku": "claude-haiku-4-5",
    "llama3.2": "llama3.2",
}
CAPABILITIES = frozenset({"mixture_of_experts", "advanced_coding_tasks", "trillion_parameters", "vision"})


def converted(data: dict[str, Any]) -> tuple[Report, list[dict[str, Any]]]:
    return convert(data, model_names=dict(MODELS), capabilities=CAPABILITIES)


def rule(condition: str | bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The conditions that one rule becomes, and why parts of it are not mapped."""
    report, rules = converted({"routing_rules": [{"condition": condition, "primary": "llama3.2"}]})
    return [each["when"] for each in rules], [entry["why"] for entry in report.not_mapped]


# --- the language ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a", [(Flag("a"),)]),
        ("a || b && c", [(Flag("a"),), (Flag("b"), Flag("c"))]),
        ("(a || b) && c", [(Flag("a"), Flag("c")), (Flag("b"), Flag("c"))]),
        ("a or b and not c", [(Flag("a"),), (Flag("b"), Flag("c", holds=False))]),
        ("!(a && b)", [(Flag("a", holds=False),), (Flag("b", holds=False),)]),
        ("!!a", [(Flag("a"),)]),
        ("!(n > 5)", [(Comparison("n", "<=", 5.0),)]),
        ("100_000 < n", [(Comparison("n", ">", 100_000.0),)]),
        ("n >= 100k && n < 50%", [(Comparison("n", ">=", 100_000.0), Comparison("n", "<", 0.5))]),
        ('level == "L1"', [(Comparison("level", "==", "L1"),)]),
        ("flag == true", [(Flag("flag"),)]),
        ("flag != true", [(Flag("flag", holds=False),)]),
        ("true", [()]),
        ("a && false", []),
        ("a || a", [(Flag("a"),)]),
        ("k in ['x', y]", [(Comparison("k", "==", "x"),), (Comparison("k", "==", "y"),)]),
        ("k IN (x) && a", [(Comparison("k", "==", "x"), Flag("a"))]),
        ("k not in [x, y]", [(Comparison("k", "!=", "x"), Comparison("k", "!=", "y"))]),
        ("!(k in [x])", [(Comparison("k", "!=", "x"),)]),
        ("0.4 < n <= 0.7", [(Comparison("n", ">", 0.4), Comparison("n", "<=", 0.7))]),
        ("k === 'x' && f !== true", [(Comparison("k", "==", "x"), Flag("f", holds=False))]),
    ],
)
def test_a_condition_is_read_into_alternatives(text: str, meaning: list[Any]) -> None:
    assert alternatives(text) == meaning


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "column 1: a name or a number is missing before 'the end'"),
        ("a &&", "column 5: a name or a number is missing before 'the end'"),
        ("a b", "column 3: an operator is missing before 'b'"),
        ("(a", "column 3: a closing parenthesis is missing before 'the end'"),
        ("a ? b : c", "column 3: '?' is not understood"),
        ("5", "column 1: 5 alone says nothing"),
        ("5 > 3", "column 1: a comparison needs a name on one side"),
        ("__import__('os')", "column 11: an operator is missing before '('"),
        ("a = b", "column 3: '=' is not understood"),
        ("a in b", "column 6: a list is missing before 'b'"),
        ("a in []", "column 7: a name or a number is missing before ']'"),
        ("a in [b", "column 8: a comma or ] is missing before 'the end'"),
        ("a in [b)", "column 8: a comma or ] is missing before ')'"),
        ("[a]", "column 1: a name or a number is missing before '['"),
        ("(" * 100 + "a" + ")" * 100, "is nested deeper than 40 levels"),
        ("!" * 100 + "a", "is nested deeper than 40 levels"),
        ("&&".join(f"(a{i} || b{i})" for i in range(10)), "stands for more than 64 alternatives"),
        ("a" * 2_001, "is longer than 2000 characters"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_column(text: str, problem: str) -> None:
    with pytest.raises(ConditionError) as refused:
        alternatives(text)
    assert str(refused.value) == problem


# --- conditions as rules ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "whens"),
    [
        (
            "requires_moe || complex_reasoning",
            [{"capabilities": ["mixture_of_experts"]}, {"task_kinds": ["complex_reasoning"]}],
        ),
        ("requires_moe || needs_vision", [{"capabilities": ["mixture_of_experts", "vision"]}]),
        ("advanced_coding_tasks", [{"capabilities": ["advanced_coding_tasks"]}]),
        ("trillion_params_required", [{"capabilities": ["trillion_parameters"]}]),
        ("context > 100000", [{"context_tokens": {"above": 100_000}}]),
        ("context_length >= 100000", [{"context_tokens": {"above": 99_999}}]),
        ("100k < tokens && tokens < 200k", [{"context_tokens": {"above": 100_000, "at_most": 199_999}}]),
        ("complexity >= 0.7", [{"complexity": {"above": 0.6999}}]),
        ("complexity > 0.4 && complexity <= 0.9", [{"complexity": {"above": 0.4, "at_most": 0.9}}]),
        ("!(complexity > 0.4)", [{"complexity": {"at_most": 0.4}}]),
        ("budget_remaining < 50%", [{"budget_left": {"at_most": 0.4999}}]),
        ("queue_length > 10", [{"local_queue": {"above": 10}}]),
        ("level == 'L1' || L2", [{"agent_levels": ["L1", "L2"]}]),
        ('priority == "High"', [{"creator_tiers": ["high"]}]),
        ('task_type == "code review"', [{"task_kinds": ["code_review"]}]),
        ("default", [{}]),
        ("task_type in ['code', 'review']", [{"task_kinds": ["code", "review"]}]),
        ("strategy != 'balanced'", [{"strategies": ["cost-optimized", "performance-optimized"]}]),
        ("level == 'L2' && level != 'L1'", [{"agent_levels": ["L2"]}]),
        (True, [{}]),
    ],
)
def test_a_condition_becomes_the_conditions_of_rules(condition: str | bool, whens: list[Any]) -> None:
    assert rule(condition) == (whens, [])


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("!requires_moe", "a rule cannot ask that 'requires_moe' does not hold"),
        ("requires_moe && requires_vision", "a rule cannot ask for 'mixture_of_experts' and 'vision' at once"),
        ("level != 'L1'", "a rule can ask what 'level' is, not !="),
        ("priority == 'urgent'", "priority is one of critical, high, medium, low, not 'urgent'"),
        ("complexity > 7", "complexity is a fraction from 0 to 1, and 7 is none"),
        ("complexity > high", "complexity is a number, and 'high' is none"),
        ("context > 10 && context <= 10", "the bounds of context exclude each other"),
        ("queue < 5", "a rule can only ask for a local queue above a length"),
        ("requires_moe && !requires_vision", "a rule cannot ask that 'requires_vision' does not hold"),
        ("task == 'a' && task == 'b'", "nothing is 'a' and 'b' at once"),
        ("strategy == 'balanced' && strategy != 'balanced'", "nothing is 'balanced' and is not"),
        ("level > 'L1'", "a rule can ask what 'level' is, not >"),
        ("gpu_temperature > 80", "nothing here is called 'gpu_temperature'"),
        ("context != 5", "a rule cannot ask that context is not 5"),
        ("a &&", "cannot be read: column 5: a name or a number is missing before 'the end'"),
        ("false", "never holds"),
    ],
)
def test_what_no_rule_can_say_is_reported_and_makes_no_rule(condition: str, why: str) -> None:
    assert rule(condition) == ([], [why])


def test_of_a_condition_the_alternatives_that_can_be_said_are_kept() -> None:
    whens, why = rule("requires_moe || !simple")
    assert whens == [{"capabilities": ["mixture_of_experts"]}]
    assert why == ["a rule cannot ask that 'simple' does not hold"]


@pytest.mark.parametrize(
    ("earlier", "later", "when"),
    [
        ("requires_moe", "!requires_moe && complexity > 0.5", {"complexity": {"above": 0.5}}),
        ("simple || requires_vision", "!simple && !requires_vision", {}),
        ("level == 'L1'", "level != 'L1'", {}),
        ("queue > 10", "queue <= 10 && task == 'chat'", {"task_kinds": ["chat"]}),
    ],
)
def test_what_an_earlier_rule_takes_needs_no_condition(earlier: str, later: str, when: dict[str, Any]) -> None:
    rules = [{"condition": earlier, "primary": "glm-4.5"}, {"condition": later, "primary": "llama3.2"}]
    report, made = converted({"routing_rules": rules})
    assert made[-1]["when"] == when
    assert not report.not_mapped
    assert "an earlier rule takes all with" in report.mapped[-1]["what"]


def test_two_capabilities_of_which_one_is_taken_are_never_asked_for() -> None:
    rules = [
        {"condition": "requires_moe", "primary": "glm-4.5"},
        {"condition": "requires_vision && requires_moe", "primary": "llama3.2"},
    ]
    report, made = converted({"routing_rules": rules})
    assert len(made) == 1
    (left,) = report.not_mapped
    assert left["why"] == "is never reached: an earlier rule takes all with capabilities mixture_of_experts"


@pytest.mark.parametrize(
    "earlier",
    [
        {"condition": "requires_moe && complexity > 0.5", "primary": "glm-4.5"},  # takes only some of them
        {"condition": "requires_moe", "primary": "nobody"},  # makes no rule
        {"condition": "requires_moe || " + "x" * 70, "primary": "glm-4.5"},  # one of its rules is refused
    ],
)
def test_what_an_earlier_rule_does_not_take_whole_is_not_passed_over(earlier: dict[str, Any]) -> None:
    unsayable = "!" + "x" * 70 if "x" * 70 in earlier["condition"] else "!requires_moe"
    rules = [earlier, {"condition": unsayable, "primary": "llama3.2"}]
    report, made = converted({"routing_rules": rules})
    assert not [each for each in made if each["chain"] == ["llama3.2"]]
    assert any("does not hold" in entry["why"] for entry in report.not_mapped)


def prioritized(*priorities: Any) -> tuple[list[str], list[str]]:
    """The order in which rules with these priorities are tried, and why any of them was not mapped."""
    rules = [
        {"name": str(number), "condition": f"task == 't{number}'", "primary": "llama3.2"}
        | ({} if priority is None else {"priority": priority})
        for number, priority in enumerate(priorities, start=1)
    ]
    report, made = converted({"routing_rules": rules})
    return [each["name"] for each in made], [entry["why"] for entry in report.not_mapped]


@pytest.mark.parametrize(
    ("priorities", "order"),
    [
        (("low", "critical", "High", "normal"), "2341"),
        ((5, 20, 10), "231"),  # nothing says which way, so the higher goes first
        ((1, 2, 3), "123"),  # the file's own order is that of its numbers
        ((30, 20, 10), "123"),
        ((None, 10, 20, 5), "3241"),
        ((None, 10, None), "123"),
        ((1, "2", 1.5), "231"),
    ],
)
def test_a_priority_is_the_order_in_which_rules_are_tried(priorities: tuple[Any, ...], order: str) -> None:
    assert prioritized(*priorities) == (list(order), [])


def test_priorities_that_say_no_order_are_reported() -> None:
    order, why = prioritized("high", 3, "low")
    assert (order, why) == (["1", "2", "3"], ["numbers and words cannot be compared: the order of the file stays"] * 3)
    order, why = prioritized("soon", True, 2, 1)
    assert (order, len(why)) == (["3", "4", "1", "2"], 2)
    assert prioritized(float("nan"))[1]


# --- whole files -----------------------------------------------------------------------------------

OLDER: dict[str, Any] = {
    "cloud_models": {
        "kimi_k2": {"model": "kimi-k2:1t-cloud", "capabilities": ["creative_writing"], "parameters": "1T"},
        "qwen_coder": "qwen3-coder:480b-cloud",
        "mystery": {"model": "gpt-99"},
    },
    "task_routing": {
        "trillion_parameter_tasks": "kimi_k2",
        "code_generation": ["qwen_coder", "qwen3-coder-30b"],
        "enterprise": {"primary": "kimi_k2", "fallback": "big", "condition": "creative_writing"},
    },
    "routing_rules": [
        {
            "name": "heavy",
            "condition": "requires_moe || complex_reasoning",
            "primary": "kimi_k2",
            "enhanced_by": "glm-4.5",
        },
        {"name": "vote", "if": "contested", "models": ["kimi_k2", "qwen_coder", "glm-4.5"], "mode": "ensemble"},
        {"name": "lost", "condition": "true", "primary": "nobody", "gpu": 1},
    ],
    "fallback_chains": {
        "kimi_k2": ["qwen_coder", "qwen3-coder-30b"],
        "big": "kimi_k2 -> qwen_coder",
        "forgotten": ["llama3.2"],
        "default": ["llama3.2", "haiku"],
    },
    "cost_controls": {
        "max_requests_per_day": 1000,
        "cache_ttl": "1h",
        "confidence_threshold": 0.7,
        "monthly_budget": 10,
    },
    "health_checks": {"interval_seconds": 60},
    "version": 2,
}


def test_a_whole_file_becomes_rules_in_its_order_with_the_default_last() -> None:
    report, rules = converted(OLDER)
    options = {"cache_ttl_seconds": 3600, "min_confidence": 70}
    kimi = ["kimi-k2:1t-cloud", "qwen3-coder:480b-cloud", "qwen3-coder-30b"]
    verify = {"pattern": "verify", "roles": {"verifier": "glm-4.5"}}
    three = ["kimi-k2:1t-cloud", "qwen3-coder:480b-cloud", "glm-4.5"]
    assert [{"options": options} | each for each in rules] == rules
    assert [{key: value for key, value in each.items() if key != "options"} for each in rules] == [
        {"name": "heavy", "when": {"capabilities": ["mixture_of_experts"]}, "chain": kimi, **verify},
        {"name": "heavy", "when": {"task_kinds": ["complex_reasoning"]}, "chain": kimi, **verify},
        {
            "name": "vote",
            "when": {"task_kinds": ["contested"]},
            "chain": [*three, "qwen3-coder-30b"],
            "pattern": "ensemble",
            "roles": {"members": three},
        },
        {"name": "trillion_parameter_tasks", "when": {"capabilities": ["trillion_parameters"]}, "chain": kimi},
        {"name": "code_generation", "when": {"task_kinds": ["code_generation"]}, "chain": kimi[1:]},
        {"name": "enterprise", "when": {"capabilities": ["creative_writing"]}, "chain": kimi[:2]},
        {"name": "default", "chain": ["llama3.2", "claude-haiku-4-5"]},
    ]
    assert {entry["place"]: entry["why"] for entry in report.not_mapped} == {
        "version": "this section is not known",
        "cloud_models.mystery": "there is no model 'gpt-99'; add it, with its price, and import again",
        "cost_controls.max_requests_per_day": "a provider's max_requests_per_day says this",
        "cost_controls.monthly_budget": "a budget says this",
        "routing_rules[2]": "names no model that is known",
        "cloud_models.kimi_k2.parameters": "models are edited in the catalogue; the row there is as it was",
        "fallback_chains.forgotten": "no rule begins with it or names it",
        "health_checks": "the router checks the health of every provider by itself",
    }


def test_the_sections_may_be_written_as_lists_or_mappings() -> None:
    _, rules = converted(
        {
            "cloud_models": [{"name": "kimi-k2:1t-cloud"}, "glm-4.5"],
            "routing_rules": {"heavy": {"when": "requires_moe", "models": ["glm-4.5"], "fallbacks": ["haiku"]}},
            "task_routing": [{"name": "poetry", "primary": "glm-4.5"}],
            "fallback_chains": ["llama3.2", "haiku"],
        }
    )
    assert [(each["name"], each["chain"]) for each in rules] == [
        ("heavy", ["glm-4.5", "claude-haiku-4-5"]),
        ("poetry", ["glm-4.5"]),
        ("default", ["llama3.2", "claude-haiku-4-5"]),
    ]


def test_a_chain_may_be_named_by_any_name_of_its_first_model() -> None:
    _, rules = converted(
        {
            "cloud_models": {"kimi": "kimi-k2:1t-cloud"},
            "routing_rules": [{"condition": "requires_moe", "primary": "kimi"}],
            "fallback_chains": {"Kimi-K2:1T-cloud": ["glm-4.5"]},
        }
    )
    assert rules[0]["chain"] == ["kimi-k2:1t-cloud", "glm-4.5"]


@pytest.mark.django_db
def test_an_import_is_a_draft_with_a_report_and_changes_nothing_that_is_live() -> None:
    seeding.seed()
    report = import_draft(json.dumps(OLDER), slug="cortex", by="anna", name="/somewhere/rules.json")
    draft = RoutingPolicy.objects.get(slug="cortex")
    assert (draft.state, draft.created_by, draft.notes) == ("draft", "anna", "Imported from rules.json.")
    assert [rule.name for rule in draft.rules.all()] == report.rules
    assert report.rules[:2] == ["heavy", "heavy (2)"]
    assert RoutingPolicy.objects.get(state="live").slug == "default"
    assert any("creative_writing" in warning["problem"] for warning in report.warnings)
    assert "Not mapped:" in report.as_text()
    assert set(report.as_json()) == {"policy", "version", "rules", "mapped", "not_mapped", "warnings"}


@pytest.mark.django_db
def test_a_rule_that_fits_only_in_part_is_left_out_and_never_takes_more_than_it_said() -> None:
    seeding.seed()
    data = {"routing_rules": [{"condition": f'task == "{"x" * 80}"', "primary": "phi3"}, {"primary": "offline"}]}
    report = import_draft(json.dumps(data), slug="c", by="x", name="f")
    assert len(report.rules) == 1
    assert [entry["place"] for entry in report.not_mapped] == ["rule 'routing_rules 1'"]


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["", "[]", "{", '{"routing_rules": []}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_a_file_without_rules_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        import_draft(text, slug="cortex", by="x", name="f")
    assert not RoutingPolicy.objects.exists()
