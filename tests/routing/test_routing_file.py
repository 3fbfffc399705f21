"""The routing file: read without trust, checked as a whole, loaded all or nothing."""

import contextlib
import json
import resource
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from routing.configuration import rows, snapshot
from routing.configuration.routing_file import apply, export
from routing.configuration.text import MAX_BYTES, decode, parse
from routing.models import Budget, ConfigEpoch, LanguageModel, Price, Provider, RoutingPolicy, RoutingSettings
from tests.seeding import seed
from ziggie.errors import InvalidInput, TooLarge
from ziggie.models import create_api_key

pytestmark = pytest.mark.django_db


@pytest.fixture
def seeded() -> None:
    seed()


def epoch() -> int:
    return ConfigEpoch.objects.get().epoch


def refused(text: str) -> list[str]:
    """The places and problems of a file that is refused and changes nothing."""
    before = rows.load_plain(), epoch()
    with pytest.raises(InvalidInput) as error:
        apply(text, by="test", name="routing.yaml")
    assert (rows.load_plain(), epoch()) == before
    return [f"{detail['place']}: {detail['problem']}" for detail in error.value.details]


# --- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["yaml", "json"])
def test_applying_what_was_exported_changes_nothing_and_wakes_nobody(seeded: None, file_format: Any) -> None:
    text, before = export(file_format), epoch()
    assert apply(text, by="test").written == []
    assert epoch() == before
    assert export(file_format) == text


def test_an_export_restores_what_was_changed_since(seeded: None) -> None:
    text = export()
    Provider.objects.filter(slug="ollama").update(max_concurrency=1, options={"keep_alive": "5m"}, enabled=False)
    LanguageModel.objects.filter(slug="llama3.2").update(aliases=[], notes="changed", vram_gb=None)
    Budget.objects.update(limit_microusd=1, alert_at_percent=[])
    RoutingSettings.objects.update(time_zone="Asia/Tokyo", electricity_usd_per_kwh=Decimal("0.3"))
    live = RoutingPolicy.objects.get(state="live")
    live.rules.filter(name="simple").update(chain=["offline"])
    apply(text, by="test")
    assert export() == text
    live.refresh_from_db()
    assert live.state == "retired"


def test_the_example_of_the_documentation_applies_to_a_seeded_installation(seeded: None) -> None:
    section = Path(__file__).parents[2].joinpath("docs/routing.md").read_text().split("## The routing file")[1]
    example = section.split("```yaml")[2].split("```")[0]
    changes = apply(example, by="test")
    assert "policies default version 2, live" in changes.written
    assert LanguageModel.objects.get(slug="llama3.2").aliases  # what the file leaves out stays
    assert Provider.objects.filter(slug="anthropic", enabled=True).exists()


@pytest.mark.parametrize("file_format", ["yaml", "json"])
@pytest.mark.parametrize("factor", [1, 1.75, 2.5, 34])
def test_what_a_prompt_with_documents_is_billed_at_goes_by_the_file_and_back(
    seeded: None, factor: float, file_format: Any
) -> None:
    apply(f"providers: [{{slug: llama-cpp, options: {{pdf_token_factor: {factor}}}}}]", by="test")
    assert Provider.objects.get(slug="llama-cpp").options == {"pdf_token_factor": factor}
    text = export(file_format)
    Provider.objects.filter(slug="llama-cpp").update(options={})
    apply(text, by="test")
    assert Provider.objects.get(slug="llama-cpp").options == {"pdf_token_factor": factor}
    assert export(file_format) == text


@pytest.mark.parametrize("odd", ["'34'", "'2.5'", "true", "0", "0.99", "-2", "1001", "{a: '1'}"])
def test_what_is_no_such_number_is_refused(seeded: None, odd: str) -> None:
    (problem,) = refused(f"providers: [{{slug: llama-cpp, options: {{pdf_token_factor: {odd}}}}}]")
    assert "options.pdf_token_factor: " in problem


def test_headers_of_a_provider_stand_in_the_file_and_come_back(seeded: None) -> None:
    options = "{headers: {X-Team: games, x-route: 'a, b'}, stream_usage: false}"
    assert apply(f"providers: [{{slug: llama-cpp, options: {options}}}]", by="test").written == ["providers llama-cpp"]
    assert Provider.objects.get(slug="llama-cpp").options == {
        "headers": {"X-Team": "games", "x-route": "a, b"},
        "stream_usage": False,
    }
    assert apply(export(), by="test").written == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("{headers: yes please}", "only `headers` is a mapping, and it always is one"),
        ("{keep_alive: {a: b}}", "options.keep_alive: only `headers` is a mapping"),
        ("{headers: {Host: elsewhere}}", "options.headers: host is not yours to set"),
        ("{headers: {Keep-Alive: timeout=5}}", "options.headers: keep-alive is not yours to set"),
        ("{headers: {X-A: 1st, x-a: 2nd}}", "options.headers: x-a stands there twice"),
        ("{headers: {X-A: '${SECRET_KEY}'}}", "names an environment variable that ends in _API_KEY"),
        ("{headers: {X-A: '${A_API_KEY'}}", "names an environment variable that ends in _API_KEY"),
        ("{headers: {a b: c}}", "is no valid name here"),
    ],
)
def test_what_cannot_be_a_header_is_refused(seeded: None, options: str, problem: str) -> None:
    assert any(problem in said for said in refused(f"providers: [{{slug: llama-cpp, options: {options}}}]"))


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\r", "\n\n"])
def test_no_line_end_in_a_note_is_lost_in_a_file(seeded: None, end: str) -> None:
    LanguageModel.objects.filter(slug="phi3").update(notes=f"É{end}ì")
    text = export()
    LanguageModel.objects.filter(slug="phi3").update(notes="")
    apply(text, by="test")
    assert LanguageModel.objects.get(slug="phi3").notes == f"É{end}ì"


def test_a_row_in_force_is_changed_by_its_slug_and_the_change_alone(seeded: None) -> None:
    change = """
        providers: [{slug: llama-cpp, enabled: true}]
        models: [{slug: claude-haiku-4-5, input_usd_per_mtok: "0.8"}]
        budgets: [{slug: monthly-cloud, hard: false}]
    """
    assert apply(change, by="test").written == [
        "providers llama-cpp", "models claude-haiku-4-5", "budgets monthly-cloud"
    ]  # fmt: skip
    assert Provider.objects.get(slug="llama-cpp").kind == "openai"
    assert LanguageModel.objects.get(slug="claude-haiku-4-5").provider.slug == "anthropic"
    assert refused("providers: [{slug: new, enabled: true}]") == [
        "1:13 providers[0].kind: is missing", "1:13 providers[0].location: is missing"
    ]  # fmt: skip


def test_a_local_provider_may_be_silent_for_longer_unless_that_is_said(seeded: None) -> None:
    apply(
        """
        providers:
          - {slug: attic, kind: openai, location: local, base_url: "http://attic:8000/v1"}
          - {slug: cellar, kind: openai, location: local, base_url: "http://cellar:8000/v1", timeout_seconds: 45}
          - {slug: far, kind: openai, location: cloud, base_url: "https://far.example/v1"}
        """,
        by="test",
    )
    apply('providers: [{slug: cellar, base_url: "http://cellar:8001/v1"}]', by="test")
    seconds = dict(Provider.objects.values_list("slug", "timeout_seconds"))
    assert (seconds["attic"], seconds["cellar"], seconds["far"]) == (600, 45, 120)


def test_a_changed_price_is_a_new_price_and_the_old_one_is_kept(seeded: None) -> None:
    change = """
        models:
          - {slug: claude-haiku-4-5, provider: anthropic, name: claude-haiku-4-5, context_window: 200000,
             input_usd_per_mtok: 0.8, output_usd_per_mtok: "4"}
    """
    assert apply(change, by="test").written == ["models claude-haiku-4-5"]
    prices = Price.objects.filter(model__slug="claude-haiku-4-5").order_by("id")
    assert [price.input_usd_per_mtok for price in prices] == [Decimal(1), Decimal("0.8")]
    assert prices[1].cached_input_usd_per_mtok == Decimal("0.10")
    assert prices[1].origin == ""
    assert apply(change, by="test").written == []


def test_prices_of_longer_inputs_are_loaded_exported_changed_and_taken_away(seeded: None) -> None:
    change = """
        models:
          - {{slug: claude-haiku-4-5, provider: anthropic, name: claude-haiku-4-5, context_window: 200000,
             input_tiers: {}}}
    """
    tiers = """[{above_input_tokens: 100000, input_usd_per_mtok: 2, output_usd_per_mtok: "7.5"},
        {above_input_tokens: 150000, input_usd_per_mtok: 3, output_usd_per_mtok: 8, cached_input_usd_per_mtok: 0}]"""
    assert apply(change.format(tiers), by="test").written == ["models claude-haiku-4-5"]
    assert apply(change.format(tiers), by="test").written == []
    assert apply(export("yaml"), by="test").written == []
    haiku = next(one for one in rows.load_plain()["models"] if one["slug"] == "claude-haiku-4-5")
    assert haiku["input_tiers"] == [
        {"above_input_tokens": 100_000, "input_usd_per_mtok": "2.00", "output_usd_per_mtok": "7.50"},
        {"above_input_tokens": 150_000, "input_usd_per_mtok": "3.00", "output_usd_per_mtok": "8.00",
         "cached_input_usd_per_mtok": "0"},
    ]  # fmt: skip
    price = snapshot.load().models["claude-haiku-4-5"].price
    assert price is not None
    assert [(tier.above, tier.price.input_usd_per_mtok) for tier in price.tiers] == [(100_000, 2), (150_000, 3)]
    assert price.tiers[1].price.cached_input_usd_per_mtok == 0
    assert apply(change.format("[]"), by="test").written == ["models claude-haiku-4-5"]
    assert snapshot.load().models["claude-haiku-4-5"].price.tiers == ()  # type: ignore[union-attr]


def test_a_new_policy_goes_live_at_once_and_the_old_version_is_kept(seeded: None) -> None:
    text = """
        policies:
          - slug: default
            live: true
            rules: [{name: all, chain: [offline]}]
          - {slug: idea, rules: [{name: all, chain: [llama3.2, offline]}]}
    """
    assert apply(text, by="anna").written == ["policies default version 2, live", "policies idea version 1, draft"]
    live = RoutingPolicy.objects.get(state="live")
    assert (live.version, live.published_by) == (2, "anna")
    assert RoutingPolicy.objects.get(slug="default", version=1).state == "retired"
    assert [rule.name for rule in snapshot.load().policy.rules] == ["all"]
    assert apply(text, by="anna").written == []


def test_roles_may_stand_beside_the_chain(seeded: None) -> None:
    apply("policies: [{slug: p, rules: [{name: r, pattern: verify, chain: [phi3], verifier: mistral}]}]", by="test")
    assert RoutingPolicy.objects.get(slug="p").rules.get().roles == {"verifier": "mistral"}


def test_budgets_name_keys_and_keep_their_ids(seeded: None) -> None:
    key, _ = create_api_key("nightly")
    apply("budgets: [{slug: b, limit_usd: 1, scope: {api_keys: [nightly]}}]", by="test")
    assert Budget.objects.get(slug="b").scope == {"api_keys": [str(key.pk)]}
    assert "api_keys: [nightly]" in export()
    key.delete()
    assert apply(export(), by="test").written == []
    assert refused("budgets: [{slug: b, limit_usd: 1, scope: {api_keys: [nobody]}}]") == [
        "1:54 budgets[0].scope.api_keys[0]: there is no API key named 'nobody'"
    ]


def test_keys_of_providers_are_never_exported(seeded: None) -> None:
    provider = Provider.objects.get(slug="openai")
    provider.api_key = "sk-very-secret"
    provider.save()
    text = export()
    assert "secret" not in text
    assert "sk-" not in text
    apply(text, by="test")
    assert Provider.objects.get(slug="openai").api_key == "sk-very-secret"


# --- mistakes --------------------------------------------------------------------------------------

TEN_MISTAKES = """
providers:
  - {slug: mock, kind: openai, location: cloud, base_url: "localhost:1", colour: red}
models:
  - {slug: m1, provider: nobody, name: m1, context_window: 8192, input_usd_per_mtok: -1, output_usd_per_mtok: .nan}
policies:
  - slug: default
    live: true
    rules:
      - {name: a, when: {complexity: {above: 0.9, at_most: 0.5}}, chain: [gpt-9, offline]}
      - {name: b, chain: []}
      - {name: c, chain: [offline], options: {max_attempts: "3"}}
  - {slug: other, live: true, rules: [{name: x, chain: [offline]}]}
budgets:
  - {slug: b, limit_usd: 1, period: year}
"""


def test_ten_mistakes_are_reported_at_once_each_with_its_place(seeded: None) -> None:
    assert refused(TEN_MISTAKES) == [
        "3:59 providers[0].base_url: should start with http:// or https:// and name a host",
        "3:82 providers[0].colour: unknown key; known are slug, kind, location, base_url, enabled, switch, "
        "api_key_env, max_concurrency, max_requests_per_day, timeout_seconds, power_watts, options",
        "5:26 models[0].provider: there is no provider 'nobody'",
        "5:86 models[0].input_usd_per_mtok: should be greater than or equal to 0",
        "5:111 models[0].output_usd_per_mtok: should be a plain decimal number",
        "10:38 policies[0].rules[0].when.complexity: above 0.9 and at most 0.5 can never hold together",
        "10:75 policies[0].rules[0].chain[0]: there is no model 'gpt-9'",
        "11:26 policies[0].rules[1].chain: is empty: name at least one model",
        "12:61 policies[0].rules[2].options.max_attempts: should be a whole number",
        "13:25 policies[1].live: exactly one policy is live, and 'default' is already",
        "15:37 budgets[0].period: should be 'day', 'week', 'month' or 'total'",
    ]


MODEL = (
    "models: [{{slug: phi3, provider: ollama, name: phi3, context_window: 4096,"
    " input_usd_per_mtok: 1, output_usd_per_mtok: 5, {}}}]"
)
RULE = "policies: [{{slug: default, live: true, rules: [{{name: r, {}}}]}}]"
MISTAKES = {
    "an unknown section": ("rulez: []", "rulez: unknown section"),
    "two providers of one name": (
        "providers: [{slug: a, kind: openai, location: local, base_url: 'http://a'}, "
        "{slug: a, kind: openai, location: local, base_url: 'http://b'}]",
        "providers[1].slug: 'a' is used twice",
    ),
    "a password in an address": (
        "providers: [{slug: a, kind: openai, location: local, base_url: 'http://u:p@a'}]",
        "providers[0].base_url: should hold no user name or password",
    ),
    "a provider's key": (
        "providers: [{slug: a, kind: openai, location: local, base_url: 'http://a', api_key: sk-1}]",
        "providers[0].api_key: unknown key: keys are not kept here",
    ),
    "an offline provider in the cloud": (
        "providers: [{slug: a, kind: offline, location: cloud}]",
        "providers[0].location: the kind offline has the location offline",
    ),
    "a model called auto": (
        "models: [{slug: auto, provider: ollama, name: x, context_window: 4096}]",
        'models[0].slug: "auto" means that the router chooses',
    ),
    "half a price": (
        "models: [{slug: a, provider: ollama, name: x, context_window: 4096, input_usd_per_mtok: 1}]",
        "models[0]: a price needs both",
    ),
    "a price taken away": (
        "models: [{slug: phi3, provider: ollama, name: phi3, context_window: 4096, max_output_tokens: 4096, "
        "input_usd_per_mtok: null, output_usd_per_mtok: null}]",
        "models[0].input_usd_per_mtok: a price in force can be changed, not taken away",
    ),
    "more output than context": (
        "models: [{slug: a, provider: ollama, name: x, context_window: 4096, max_output_tokens: 4097}]",
        "models[0].max_output_tokens: is more than the context window",
    ),
    "an embedding model in a chain": (RULE.format("chain: [nomic-embed-text]"), "chain[0]: 'nomic-embed-text' makes"),
    "a model named twice": (RULE.format("chain: [phi3, phi3]"), "chain: 'phi3' is listed twice"),
    "a chain without the capability": (
        RULE.format("when: {capabilities: [teleport]}, chain: [phi3]"),
        "chain: no model of the chain has the capability 'teleport'",
    ),
    "a chain too small for its context": (
        RULE.format("when: {context_tokens: {above: 4096}}, chain: ['llava:13b']"),
        "chain: no model of the chain has a context of more than 4096 tokens",
    ),
    "a chain that is switched off": (RULE.format("chain: [kimi-k2]"), "no model of the chain can serve: kimi-k2: Kimi"),
    "a role of another pattern": (
        RULE.format("chain: [phi3], verifier: mistral"),
        "the pattern single knows no verifier",
    ),
    "an ensemble of one": (RULE.format("chain: [phi3], pattern: ensemble"), "needs at least two models"),
    "an unknown shadow": (
        RULE.format("chain: [phi3], options: {shadow_model: x}"),
        "shadow_model: there is no model 'x'",
    ),
    "a range that never holds": (
        RULE.format("chain: [phi3], when: {budget_left: {above: 1}}"),
        "when.budget_left.above: can never hold",
    ),
    "a live policy without rules": ("policies: [{slug: x, live: true}]", "policies[0].rules: a live policy needs"),
    "tiers that do not rise": (
        MODEL.format(
            "input_tiers: [{above_input_tokens: 5, input_usd_per_mtok: 2, output_usd_per_mtok: 7},"
            " {above_input_tokens: 5, input_usd_per_mtok: 2, output_usd_per_mtok: 7}]"
        ),
        "input_tiers[1].above_input_tokens: must be more than that of the tier before",
    ),
    "a tier without a price": (
        MODEL.format("input_tiers: [{above_input_tokens: 5, input_usd_per_mtok: 2}]"),
        "input_tiers[0].output_usd_per_mtok: is missing",
    ),
    "an unknown baseline": ("settings: {baseline_model: x}", "settings.baseline_model: there is no model 'x'"),
    "an unknown time zone": ("settings: {time_zone: ../etc/passwd}", "settings.time_zone: is no time zone"),
    "a list for a mapping": ("settings: []", "settings: should be a mapping"),
    "true for a number": (RULE.format("chain: [phi3], options: {max_attempts: true}"), "should be a whole number"),
    "five decimals": (RULE.format("chain: [phi3], when: {complexity: {above: 0.12345}}"), "no more than 4 decimal"),
    "a control character": (
        r'{"settings": {"baseline_model": "a\u0000"}}',
        "settings.baseline_model: is no valid name",
    ),
}


@pytest.mark.parametrize(("text", "problem"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused(seeded: None, text: str, problem: str) -> None:
    found = refused(text)
    assert any(problem in line for line in found), found


def test_a_model_that_the_live_policy_needs_is_not_switched_off(seeded: None) -> None:
    apply(RULE.format("chain: [phi3]"), by="test")
    found = refused("models: [{slug: phi3, provider: ollama, name: phi3, context_window: 131072, enabled: false}]")
    assert found == [
        "database.policies.default.rules[0].chain: no model of the chain can serve: phi3: the model is disabled"
    ]


def test_what_is_unwise_is_loaded_with_a_warning(seeded: None) -> None:
    text = """
        policies:
          - slug: default
            live: true
            rules:
              - {name: all, when: {agent_levels: [L1, L2]}, chain: [offline]}
              - {name: some, when: {agent_levels: [L1], complexity: {above: 0.5}}, chain: [grok-4, offline]}
    """
    assert apply(text, by="test").warnings == [
        "7:91 policies[0].rules[1].chain: 'grok-4' has no price, so no hard budget admits it",
        "7:17 policies[0].rules[1]: is never reached: 'all' (policies[0].rules[0]) takes all of it",
        "6:15 policies[0].rules: no rule takes every request: one that fits none is refused (no_route)",
    ]


# --- hostile files ---------------------------------------------------------------------------------

HOSTILE = {
    "a bomb of aliases": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nproviders: [*b, *b, *b]\n",
    "a cycle": "providers: &p [*p]\n",
    "a tag": "providers: !!python/object/apply:os.system ['echo']\n",
    "a local tag": "providers: !env {a: b}\n",
    "a merge": "settings: {<<: {strategy: balanced}}\n",
    "deep lists": "[" * 500_000,
    "deep mappings": '{"a":' * 200_000,
    "deep blocks": "".join(f"{' ' * i}a:\n" for i in range(1_000)),
    "a million values": "providers: [" + "x," * 900_000 + "]",
    "a million values in JSON": '{"providers": [' + "1," * 900_000 + "1]}",
    "too many rules": json.dumps(
        {
            "policies": [
                {"slug": f"p{i}", "rules": [{"name": f"r{j}", "chain": ["x"]} for j in range(500)]} for i in range(20)
            ]
        }
    ),
    "many keys": json.dumps({"models": [{f"k{i}": 1 for i in range(90_000)}]}),
    "many keys deep down": json.dumps({"policies": [{"rules": [{"when": {f"k{i}": 1 for i in range(90_000)}}]}]}),
    "many bad entries": json.dumps({"models": [{f"k{j}": 1 for j in range(45)} for _ in range(1_900)]}),
    "a huge number": f"settings: {{electricity_usd_per_kwh: {'9' * 1_000_000}}}",
    "a huge exponent": "settings: {electricity_usd_per_kwh: 1e999999999}",
    "not a number": "settings: {electricity_usd_per_kwh: .nan}",
    "infinity": '{"settings": {"electricity_usd_per_kwh": Infinity}}',
    "a key that stands twice": "settings: {strategy: balanced, strategy: balanced}\n",
    "a key that stands twice in JSON": '{"settings": {}, "settings": {}}',
    "a list as a key": "? [a, b]\n: c\n",
    "two documents": "settings: {}\n---\nsettings: {}\n",
    "binary": "\x00\x01\x02",
    "a lone surrogate": '{"settings": {"strategy": "\\ud800"}}',
    "a lone surrogate as a name": '{"\\ud800": {}}',
    "nothing": "  \n",
    "null": "~",
    "a word": "hello",
    "broken YAML": "providers:\n  - {slug: x\n",
    "broken JSON": '{"providers": [}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_quickly_in_bounded_memory_and_changes_nothing(seeded: None, text: str) -> None:
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = refused(text)
    assert found
    assert "".join(found).encode()  # what is said of it can be told
    assert len(found) <= 401
    assert time.process_time() - started < 20  # a second on a machine of its own
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KB


def test_a_file_that_is_too_large_or_no_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge):
        decode(b"x" * (MAX_BYTES + 1), "f")
    with pytest.raises(InvalidInput, match="f:2: is not UTF-8"):
        decode(b"a\n\xff", "f")
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"


def test_plain_scalars_mean_what_people_mean() -> None:
    text = "{a: 010, b: 1:30, c: 0x1f, d: 2024-01-01, e: yes, f: 1.50, g: 1_000, h: 'yes', i: ~, j: =, k: 12}"
    assert parse(text).data == {
        "a": "010",
        "b": "1:30",
        "c": "0x1f",
        "d": "2024-01-01",
        "e": True,
        "f": 1.5,
        "g": "1_000",
        "h": "yes",
        "i": None,
        "j": "=",
        "k": 12,
    }


# --- whatever staff write --------------------------------------------------------------------------

FORMATS: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")
words = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
fractions = st.none() | st.decimals(0, 1, places=4).map(float)
subsets = {
    "agent_levels": ["L1", "L2", "L3"],
    "creator_tiers": ["critical", "high", "medium", "low"],
    "strategies": ["balanced", "cost-optimized"],
}


def ranges(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def ordered(pair: tuple[Any, Any]) -> dict[str, Any]:
        above, at_most = pair
        if above is not None and at_most is not None and above >= at_most:
            at_most = None
        return {"above": None if above == 1 else above, "at_most": at_most}

    return st.tuples(values, values).map(ordered)


whens = st.fixed_dictionaries(
    {},
    optional={
        "task_kinds": st.lists(words, max_size=3),
        "complexity": ranges(fractions),
        "budget_left": ranges(fractions),
        "context_tokens": ranges(st.none() | st.integers(0, 100_000)),
        **{name: st.lists(st.sampled_from(values), unique=True) for name, values in subsets.items()},
    },
)
options = st.fixed_dictionaries(
    {},
    optional={
        "min_confidence": st.none() | st.floats(0, 100, allow_nan=False),
        "first_token_seconds": st.none() | st.floats(0.001, 3600, allow_nan=False),
        "max_attempts": st.integers(1, 20),
        "rollout_percent": st.integers(0, 100),
        "batch": st.booleans(),
    },
)
policy_rules = st.lists(
    st.fixed_dictionaries(
        {
            "name": texts,
            "when": whens,
            "chain": st.lists(st.sampled_from(["phi3", "mistral"]), unique=True).map(lambda chain: [*chain, "offline"]),
            "options": options,
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda rule: rule["name"],
)
budget_entries = st.fixed_dictionaries(
    {
        "slug": words,
        "limit_usd": st.decimals(0, 10_000, places=6).map(str),
        "alert_at_percent": st.lists(st.integers(1, 1000), max_size=3),
        "scope": st.fixed_dictionaries({}, optional={"creators": st.lists(texts, max_size=3)}),
    }
)


SMALL = """
providers:
  - {slug: ollama, kind: ollama, location: local, base_url: "http://localhost:11434"}
  - {slug: offline, kind: offline, location: offline}
models:
  - {slug: phi3, provider: ollama, name: phi3, context_window: 131072, input_usd_per_mtok: 0, output_usd_per_mtok: 0}
  - {slug: mistral, provider: ollama, name: mistral, context_window: 32768}
  - {slug: offline, provider: offline, name: offline-extractive, context_window: 1000000}
policies: [{slug: default, live: true, rules: [{name: all, chain: [offline]}]}]
"""
notes = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
nonsense = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["providers", "models", "policies", "rules", "slug", "when", "live"]), inner)
    ),
    max_leaves=30,
)


# Every example goes through the database, so a failing one is shown as it is found.
quick = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


class AnyConfiguration(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        apply(SMALL, by="test")

    @given(rules=policy_rules, budget=budget_entries, notes=notes)
    @quick
    def test_applying_an_export_of_it_changes_nothing(self, rules: list[Any], budget: Any, notes: str) -> None:
        policy = {"slug": "default", "live": True, "notes": notes, "rules": rules}
        stated = json.dumps({"policies": [policy], "budgets": [budget]})
        apply(stated, by="test")
        for file_format in FORMATS:
            text, before = export(file_format), epoch()
            assert apply(text, by="test").written == []
            assert (export(file_format), epoch()) == (text, before)
        assert apply(stated, by="test").written == []

    @given(nonsense)
    @quick
    def test_no_data_whatever_breaks_the_reader(self, data: Any) -> None:
        for text in (json.dumps(data), yaml.safe_dump(data)):
            with contextlib.suppress(InvalidInput):
                apply(text, by="test")


def test_mistakes_in_json_have_lines_and_columns_as_well() -> None:
    parsed = parse('{\n  "policies": [\n    {"slug": "p", "rules": [{"name": "r", "chain": ["gpt-9"]}]}\n  ]\n}')
    assert parsed.position(("policies", 0, "rules", 0, "chain", 0)) == (3, 53)
    beyond_yaml = parse('{"settings": {"strategy": "x"},\n "a": "\\ud83d\\ude00", "b": [1]}')
    assert beyond_yaml.position(("settings", "strategy")) == (1, 27)
    assert beyond_yaml.position(("b", 0)) == (0, 0)
