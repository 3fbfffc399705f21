"""The seeded catalogue: who serves what, and that seeding respects what staff did."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from routing.configuration import rows, seeding, snapshot, validation
from routing.evidence.explaining import request_of
from routing.models import Budget, LanguageModel, Price, Provider, RoutingPolicy, RoutingRule, RoutingSettings
from routing.planning import rules
from routing.types import EMBEDS, BudgetState, Hints, Plan, Snapshot, World
from tests.routing.specs import NOON
from ziggie.errors import ConfigurationError
from ziggie.values import replace

pytestmark = pytest.mark.django_db

SEED = {
    "ollama_base_url": "http://localhost:11434",
    "anthropic_base_url": "https://api.anthropic.com",
    "moonshot_base_url": "https://api.moonshot.ai/v1",
    "openai_base_url": "https://api.openai.com/v1",
    "strategy": "balanced",
    "monthly_api_budget_usd": "10.00",
    "kimi_enabled": False,
}
KEYS = {f"{name}_API_KEY": "test" for name in ("ANTHROPIC", "MOONSHOT", "OPENAI", "GEMINI", "XAI", "COHERE")}
MOE = "mixture_of_experts"
SONNET, HAIKU, KIMI = "claude-sonnet-4-5", "claude-haiku-4-5", "kimi-k2"
SMALL, LARGE, TINY = "llama3.2", "llama3.1:70b", "llama3.2:3b"


@pytest.fixture
def seeded() -> Snapshot:
    with override_settings(SEED=SEED, PROVIDER_API_KEYS=KEYS):
        seeding.seed()
        return snapshot.load()


@pytest.fixture(scope="module")
def as_seeded(django_db_setup: None, django_db_blocker: Any) -> Snapshot:
    """The snapshot alone, seeded once and rolled back: for tests that only look."""
    with django_db_blocker.unblock(), transaction.atomic():
        with override_settings(SEED=SEED, PROVIDER_API_KEYS=KEYS):
            seeding.seed()
            configuration = snapshot.load()
        transaction.set_rollback(True)
    return configuration


def plan(configuration: Snapshot, *, left: float = 1.0, queue: int = 0, **hints: Any) -> Plan:
    """A plan with `left` of the cloud budget and every provider healthy."""
    budget = next(budget for budget in configuration.budgets if budget.slug == "monthly-cloud")
    state = BudgetState(left_microusd=int(budget.limit_microusd * left), limit_microusd=budget.limit_microusd)
    world = World(NOON, budgets={budget.id: state}, local_queue=queue)
    return rules.plan(request_of(Hints(**hints)), configuration, world)


def chain(planned: Plan) -> list[str]:
    return [candidate.model.slug for candidate in planned.candidates]


ROUTES: list[tuple[dict[str, Any], list[str]]] = [
    # knowledge base analyzer: by the creator's priority
    ({"task_kind": "analysis", "creator_tier": "critical"}, [SONNET, HAIKU, SMALL, "offline"]),
    ({"task_kind": "analysis", "creator_tier": "high"}, [SONNET, HAIKU, SMALL, "offline"]),
    ({"task_kind": "analysis", "creator_tier": "medium"}, [SMALL, HAIKU, SONNET, "offline"]),
    ({"task_kind": "analysis", "creator_tier": "low"}, [SMALL, HAIKU, SONNET, "offline"]),
    ({"task_kind": "analysis"}, [SMALL, HAIKU, SONNET, "offline"]),
    # agent runner: L3 always local, L2 local when up, L1 always cloud
    ({"task_kind": "agent", "agent_level": "L3"}, [TINY, SMALL, "offline"]),
    ({"task_kind": "agent", "agent_level": "L3", "complexity": 0.95}, [TINY, SMALL, "offline"]),
    ({"task_kind": "agent", "agent_level": "L2"}, [SMALL, HAIKU, "offline"]),
    ({"task_kind": "agent", "agent_level": "L1"}, [HAIKU, SONNET, SMALL, "offline"]),
    ({"task_kind": "agent", "agent_level": "L1", "complexity": 0.3}, [HAIKU, SONNET, SMALL, "offline"]),
    # the smallest viable model for each role
    ({"agent_level": "L3"}, [TINY, SMALL, "offline"]),
    ({"agent_level": "L2"}, [SMALL, HAIKU, "offline"]),
    ({"agent_level": "L1", "complexity": 0.5}, [LARGE, HAIKU, SMALL, "offline"]),
    ({"agent_level": "L1"}, [HAIKU, SONNET, SMALL, "offline"]),
    ({"agent_level": "L1", "complexity": 0.95}, [SONNET, HAIKU, SMALL, "offline"]),
    # natural-language system query
    ({"task_kind": "nl_query"}, [SMALL, HAIKU, "offline"]),
    # everything else: the ladder by complexity and context
    ({"complexity": 0.91}, [SONNET, LARGE, SMALL, "offline"]),
    ({"complexity": 0.1, "context_tokens": 100_001}, [SONNET, LARGE, SMALL, "offline"]),
    ({"complexity": 0.1, "context_tokens": 100_000}, [SMALL, HAIKU, "offline"]),
    ({"complexity": 0.9}, [HAIKU, LARGE, SMALL, "offline"]),
    ({"complexity": 0.71}, [HAIKU, LARGE, SMALL, "offline"]),
    ({"complexity": 0.7}, [LARGE, HAIKU, SMALL, "offline"]),
    ({"complexity": 0.41}, [LARGE, HAIKU, SMALL, "offline"]),
    ({"complexity": 0.4}, [SMALL, HAIKU, "offline"]),
    ({}, [LARGE, HAIKU, SMALL, "offline"]),  # nothing stated: 0.5
    # known kinds of work
    ({"task_kind": "coordination"}, [SONNET, HAIKU, SMALL, "offline"]),
    ({"task_kind": "output_review", "complexity": 0.1}, [SONNET, HAIKU, SMALL, "offline"]),
    ({"task_kind": "log_summary"}, ["phi3", SMALL, HAIKU, "offline"]),
    ({"task_kind": "error_log", "complexity": 0.95}, [SMALL, HAIKU, "offline"]),
    ({"task_kind": "unit_tests"}, ["qwen2.5:7b", SMALL, HAIKU, "offline"]),
    # images
    ({"capabilities": frozenset({"vision"})}, ["llava:13b", HAIKU, SONNET]),
    ({"capabilities": frozenset({"pdf"})}, [HAIKU, SONNET]),
    # strategies
    ({"strategy": "cost-optimized", "complexity": 0.95}, [HAIKU, LARGE, SMALL, "offline"]),
    ({"strategy": "cost-optimized", "complexity": 0.8}, [LARGE, SMALL, HAIKU, "offline"]),
    ({"strategy": "cost-optimized", "complexity": 0.2}, [SMALL, HAIKU, "offline"]),
    ({"strategy": "performance-optimized", "complexity": 0.8}, [SONNET, HAIKU, SMALL, "offline"]),
    ({"strategy": "performance-optimized", "complexity": 0.2}, [HAIKU, LARGE, SMALL, "offline"]),
]


@pytest.mark.parametrize(("hints", "expected"), ROUTES, ids=[str(hints) for hints, _ in ROUTES])
def test_a_request_is_served_as_the_users_said(as_seeded: Snapshot, hints: dict[str, Any], expected: list[str]) -> None:
    assert chain(plan(as_seeded, **hints)) == expected


@pytest.mark.parametrize("left", [0.5, 0.3])
def test_a_complex_task_takes_kimi_once_half_of_the_budget_is_spent_if_kimi_is_on(
    as_seeded: Snapshot, left: float
) -> None:
    off = plan(as_seeded, left=left, complexity=0.8)
    assert chain(off) == [HAIKU, LARGE, SMALL, "offline"]
    assert {(d.model, d.kind) for d in off.dropped} == {(KIMI, "switch")}
    on = replace(as_seeded, settings=replace(as_seeded.settings, kimi_enabled=True))
    assert chain(plan(on, left=left, complexity=0.8)) == [KIMI, HAIKU, LARGE, SMALL, "offline"]


def test_a_complex_task_goes_local_when_the_budget_ends(as_seeded: Snapshot) -> None:
    assert chain(plan(as_seeded, left=0.0, complexity=0.8)) == [LARGE, SMALL, "offline"]


def test_a_long_local_queue_overflows_to_the_cloud_but_never_for_l3(as_seeded: Snapshot) -> None:
    assert chain(plan(as_seeded, queue=11, complexity=0.5))[0] == HAIKU
    assert chain(plan(as_seeded, queue=11, agent_level="L2"))[0] == HAIKU
    assert chain(plan(as_seeded, queue=11, agent_level="L3"))[0] == TINY
    assert chain(plan(as_seeded, queue=10, complexity=0.5))[0] == LARGE


@pytest.mark.parametrize(
    "capability",
    [
        *(MOE, "state_of_art_reasoning", "complex_problem_solving"),
        *("large_context_analysis", "advanced_coding_tasks", "enterprise_architecture"),
    ],
)
def test_frontier_capabilities_go_to_kimi_then_qwen_then_mlx_once_they_have_a_price(
    seeded: Snapshot, capability: str
) -> None:
    unpriced = plan(seeded, capabilities=frozenset({capability}))
    assert chain(unpriced) == ["qwen3-coder-30b"]
    assert {d.kind for d in unpriced.dropped if d.model.endswith("cloud")} == {"unpriced"}
    for slug in ("kimi-k2:1t-cloud", "qwen3-coder:480b-cloud"):
        model = LanguageModel.objects.get(slug=slug)
        prices = {"input_usd_per_mtok": Decimal("0.15"), "output_usd_per_mtok": Decimal("2.50")}
        Price.objects.create(model=model, effective_from=NOON, **prices)
    with override_settings(PROVIDER_API_KEYS=KEYS):
        priced = snapshot.load()
    assert chain(plan(priced, capabilities=frozenset({capability}))) == [
        "kimi-k2:1t-cloud",
        "qwen3-coder:480b-cloud",
        "qwen3-coder-30b",
    ]
    assert chain(plan(priced, capabilities=frozenset({"trillion_parameters"}))) == ["kimi-k2:1t-cloud"]


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("verified_answer", "verify"),
        ("ensemble", "ensemble"),
        ("large_ensemble", "ensemble"),
        ("cascade", "cascade"),
        ("debate", "debate"),
        ("critique", "critique"),
    ],
)
def test_patterns_are_asked_for_by_task_kind(as_seeded: Snapshot, kind: str, pattern: str) -> None:
    planned = plan(as_seeded, task_kind=kind)
    assert planned.pattern == pattern
    assert chain(planned)[-1] == "offline"


def test_a_cascade_uses_a_draft_above_85_and_an_analysis_is_redone_below_70(as_seeded: Snapshot) -> None:
    cascade = plan(as_seeded, task_kind="cascade")
    assert (cascade.roles["draft"], cascade.roles["refiner"]) == ("phi3", HAIKU)
    assert cascade.options.min_confidence == 85
    analysis = plan(as_seeded, task_kind="analysis", creator_tier="low").options
    assert (analysis.min_confidence, analysis.local_tries, analysis.first_token_seconds) == (70, 3, 120)


def test_the_limits_are_the_users(as_seeded: Snapshot) -> None:
    options = plan(as_seeded, complexity=0.5).options
    assert (options.max_attempts, options.first_token_seconds, options.cache_ttl_seconds) == (3, 5, 3600)
    cloud = [model.provider for model in as_seeded.models.values() if model.source == "cloud"]
    assert {provider.max_requests_per_day for provider in cloud} == {1000}
    assert {provider.timeout_seconds for provider in cloud} == {120}
    local = [model.provider for model in as_seeded.models.values() if model.source == "local"]
    assert {provider.timeout_seconds for provider in local} == {600}
    budget, shadow = sorted(as_seeded.budgets, key=lambda each: each.slug)
    assert (shadow.slug, shadow.limit_microusd, shadow.hard, shadow.on_exhausted) == ("shadow", 500_000, True, "deny")
    assert shadow.scope == {"task_kinds": frozenset({"shadow"})}
    assert (budget.limit_microusd, budget.hard, budget.on_exhausted) == (10_000_000, True, "local")
    assert budget.alert_at_percent == (50, 80, 100)
    assert as_seeded.settings.baseline_model == SONNET


@pytest.mark.parametrize(
    ("slug", "name", "dollars", "context"),
    [
        (SONNET, SONNET, ("3.00", "15.00"), 200_000),
        (HAIKU, HAIKU, ("1.00", "5.00"), 200_000),
        ("claude-opus", "claude-3-opus-20240229", ("15.00", "75.00"), 200_000),
        (KIMI, "kimi-k2-0905-preview", ("0.15", "2.50"), 131_072),
        (SMALL, SMALL, ("0", "0"), 131_072),
        (LARGE, LARGE, ("0", "0"), 131_072),
        ("text-embedding-3-small", "text-embedding-3-small", ("0.10", "0"), 8_191),
        ("embed-english-v3.0", "embed-english-v3.0", ("0.10", "0"), 512),
    ],
)
def test_models_have_the_users_names_prices_and_contexts(
    as_seeded: Snapshot, slug: str, name: str, dollars: tuple[str, str], context: int
) -> None:
    model = as_seeded.models[slug]
    assert (model.name, model.context_window) == (name, context)
    assert model.price is not None
    assert model.price.input_usd_per_mtok == Decimal(dollars[0])
    assert model.price.output_usd_per_mtok == Decimal(dollars[1])


def test_older_tags_and_size_names_still_work(as_seeded: Snapshot) -> None:
    meant = {name: [model.slug for model in models] for name, models in as_seeded.by_name.items()}
    assert meant["claude-3-5-sonnet-20241022"] == [SONNET]
    assert meant["claude-3-5-haiku-20241022"] == [HAIKU]
    assert meant["kimi-k2-instruct"] == [KIMI]
    twins = {"local-haiku": [SMALL], "local-sonnet": ["qwen2.5:7b"], "local-opus": [LARGE]}
    assert {name: meant[name] for name in twins} == twins


def test_embedding_models_know_their_dimensions_and_editable_prices_are_not_invented(as_seeded: Snapshot) -> None:
    dimensions = {slug: model.dimensions for slug, model in as_seeded.models.items() if model.dimensions}
    assert dimensions == {"nomic-embed-text": 768, "text-embedding-3-small": 1536, "embed-english-v3.0": 1024}
    unpriced = {slug for slug, model in as_seeded.models.items() if model.price is None}
    assert unpriced == {
        *("kimi-k2:1t-cloud", "kimi-k2.5:cloud", "qwen3-coder:480b-cloud"),
        *("gpt-4o", "gemini-2.5-pro", "grok-4"),
    }


def test_the_models_that_make_embeddings_are_known_as_such(as_seeded: Snapshot) -> None:
    """The gateway goes by the same word."""
    made = {slug for slug, model in as_seeded.models.items() if model.dimensions}
    assert made == {slug for slug, model in as_seeded.models.items() if EMBEDS & model.capabilities}
    assert "nomic-embed-text" in made


def test_every_chain_ends_in_the_offline_model_and_the_whole_is_valid(seeded: Snapshot) -> None:
    assert {rule.chain[-1] for rule in seeded.policy.rules} == {"offline"}
    problems = validation.check(rows.load())
    assert validation.errors(problems) == []
    assert {problem.message.split("'")[1] for problem in problems} == {"kimi-k2:1t-cloud", "qwen3-coder:480b-cloud"}


# --- seeding again ---------------------------------------------------------------------------------


def test_seeding_again_adds_nothing(seeded: Snapshot) -> None:
    with override_settings(SEED=SEED):
        assert set(seeding.seed().values()) == {0}
    assert snapshot.load().epoch == seeded.epoch


def test_seeding_leaves_alone_what_staff_changed(seeded: Snapshot) -> None:
    Provider.objects.filter(slug="ollama").update(base_url="http://gpu:11434", enabled=False)
    Budget.objects.update(limit_microusd=1)
    RoutingRule.objects.filter(name="simple").update(chain=["offline"])
    RoutingRule.objects.filter(name="moderate").delete()
    RoutingSettings.objects.update(strategy="cost-optimized")
    LanguageModel.objects.get(slug="gpt-4o").prices.create(input_usd_per_mtok=1, output_usd_per_mtok=2)
    before = rows.load_plain()
    with override_settings(SEED={**SEED, "monthly_api_budget_usd": "99", "kimi_enabled": True}):
        assert set(seeding.seed().values()) == {0}
    assert rows.load_plain() == before


def test_seeding_brings_back_deleted_rows_but_not_a_second_live_policy(seeded: Snapshot) -> None:
    LanguageModel.objects.filter(slug="grok-4").delete()
    RoutingPolicy.objects.update(slug="ours")
    with override_settings(SEED=SEED):
        added = seeding.seed()
    assert (added["models"], added["policies"]) == (1, 1)
    assert list(RoutingPolicy.objects.filter(state="live").values_list("slug", flat=True)) == ["ours"]
    assert RoutingPolicy.objects.get(slug="default").state == "draft"


def test_seeding_takes_addresses_budget_strategy_and_kimi_from_the_settings() -> None:
    values = {**SEED, "ollama_base_url": "http://gpu:1", "monthly_api_budget_usd": "25", "strategy": "cost-optimized"}
    with override_settings(SEED={**values, "kimi_enabled": True}):
        seeding.seed()
    assert set(Provider.objects.filter(kind="ollama").values_list("base_url", flat=True)) == {"http://gpu:1"}
    assert Budget.objects.get(slug="monthly-cloud").limit_microusd == 25_000_000
    assert list(RoutingSettings.objects.values_list("strategy", "kimi_enabled")) == [("cost-optimized", True)]


@pytest.mark.parametrize("budget", ["ten", "nan", "-1", "1e400", ""])
def test_a_budget_that_is_no_amount_is_refused_by_the_name_of_its_variable(budget: str) -> None:
    values = {**SEED, "monthly_api_budget_usd": budget, "strategy": "fast"}
    with override_settings(SEED=values), pytest.raises(ConfigurationError) as refused:
        seeding.seed()
    assert {detail["place"] for detail in refused.value.details} == {"MONTHLY_API_BUDGET", "LLM_STRATEGY"}
    assert not Provider.objects.exists()


def test_an_address_that_cannot_be_called_is_refused_by_the_name_of_its_variable() -> None:
    with override_settings(SEED={**SEED, "ollama_base_url": "gpu:11434"}), pytest.raises(ConfigurationError) as refused:
        seeding.seed()
    assert refused.value.details == [
        {"place": "OLLAMA_BASE_URL", "problem": "should start with http:// or https:// and name a host"}
    ]


def test_settings_that_no_longer_fit_do_not_matter_once_the_rows_are_there(seeded: Snapshot) -> None:
    wrong = {**SEED, "monthly_api_budget_usd": "ten", "strategy": "fast", "ollama_base_url": "gpu"}
    with override_settings(SEED=wrong):
        assert set(seeding.seed().values()) == {0}


def test_a_strategy_may_be_written_with_underscores() -> None:
    with override_settings(SEED={**SEED, "strategy": "Cost_Optimized"}):
        seeding.seed()
    assert RoutingSettings.objects.get().strategy == "cost-optimized"
