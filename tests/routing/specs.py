"""Small configurations for tests of the pure parts: the users' models, and whatever a test adds."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from routing.types import (
    BudgetSpec,
    BudgetState,
    ChatRequest,
    Hints,
    ModelSpec,
    PolicySpec,
    PriceSpec,
    ProviderSpec,
    RuleOptions,
    RuleSpec,
    SettingsSpec,
    Snapshot,
    Source,
    When,
    World,
    message,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
HEALTHY = World(NOON)


def price(dollars_in: str, dollars_out: str, cached: str | None = None, written: str | None = None) -> PriceSpec:
    def optional(dollars: str | None) -> Decimal | None:
        return None if dollars is None else Decimal(dollars)

    return PriceSpec(1, Decimal(dollars_in), Decimal(dollars_out), optional(cached), optional(written))


FREE = price("0", "0")
SONNET_PRICE = price("3.00", "15.00")
HAIKU_PRICE = price("1.00", "5.00")
KIMI_PRICE = price("0.15", "2.50")

OLLAMA = ProviderSpec(1, "ollama", "ollama", Source.LOCAL, "http://127.0.0.1:11434", max_concurrency=8)
ANTHROPIC = ProviderSpec(
    2, "anthropic", "anthropic", Source.CLOUD, "https://api.anthropic.com", api_key="sk-test", needs_api_key=True
)
MOONSHOT = ProviderSpec(
    3, "moonshot", "openai", Source.CLOUD, "https://api.moonshot.ai/v1", switch="kimi", api_key="k", needs_api_key=True
)
BUILT_IN = ProviderSpec(4, "offline", "offline", Source.OFFLINE, "")


def model(slug: str, provider: ProviderSpec, its_price: PriceSpec | None = FREE, **columns: Any) -> ModelSpec:
    standard: dict[str, Any] = {
        "name": slug,
        "context_window": 131_072,
        "max_output_tokens": 8_192,
        "capabilities": frozenset({"chat", "json", "tools"}),
    }
    return ModelSpec(abs(hash(slug)) % 10_000, slug, provider=provider, price=its_price, **(standard | columns))


LLAMA = model("llama3.2", OLLAMA, aliases=("haiku",))
LARGE = model("llama3.1:70b", OLLAMA)
SONNET = model("claude-sonnet-4-5", ANTHROPIC, SONNET_PRICE, context_window=200_000)
HAIKU = model("claude-haiku-4-5", ANTHROPIC, HAIKU_PRICE, context_window=200_000)
KIMI = model("kimi-k2", MOONSHOT, KIMI_PRICE)
OFFLINE = model("offline", BUILT_IN, capabilities=frozenset({"chat", "json"}))
MODELS = (LLAMA, LARGE, SONNET, HAIKU, KIMI, OFFLINE)


def rule(name: str = "all", chain: tuple[str, ...] = ("llama3.2",), when: When | None = None, **more: Any) -> RuleSpec:
    options = more.pop("options", RuleOptions())
    return RuleSpec(1, name, when or When(), chain, options=options, **more)


def budget(limit_microusd: int, *, id: int = 1, slug: str = "monthly-cloud", **columns: Any) -> BudgetSpec:
    standard: dict[str, Any] = {
        "scope": {"locations": frozenset({"cloud"})},
        "period": "month",
        "hard": True,
        "on_exhausted": "local",
    }
    return BudgetSpec(id, slug, limit_microusd=limit_microusd, **(standard | columns))


def snapshot(
    *rules: RuleSpec,
    models: tuple[ModelSpec, ...] = MODELS,
    budgets: tuple[BudgetSpec, ...] = (),
    settings: SettingsSpec | None = None,
) -> Snapshot:
    by_name: dict[str, tuple[ModelSpec, ...]] = {}
    for m in models:
        for name in {m.name, *m.aliases}:
            by_name[name] = (*by_name.get(name, ()), m)
    policy = PolicySpec(1, "default", 7, rules or (rule(),))
    return Snapshot(1, {m.slug: m for m in models}, policy, budgets, settings or SettingsSpec(), by_name)


def left(microusd: int, limit: int, *, id: int = 1, **more: Any) -> World:
    return World(NOON, budgets={id: BudgetState(microusd, limit)}, **more)


def ask(text: str = "Hello there", **fields: Any) -> ChatRequest:
    """A request of one user message; hints may be given beside the request's own fields."""
    hint_names = set(Hints.__struct_fields__)
    hints = Hints(**{name: fields.pop(name) for name in list(fields) if name in hint_names})
    return ChatRequest((message("user", text),), hints=hints, **fields)
