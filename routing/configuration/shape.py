"""The shape of routing configuration: what may stand in the routing file, the catalogue and a REST body."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from routing.configuration.provider_headers import mistake
from routing.models import MAX_PRICE
from routing.planning.pdfs import MOST_FACTOR, is_pdf_token_factor
from routing.redaction import MAX_PATTERNS, PatternError, compiled

Path = tuple[str | int, ...]

MAX_PROBLEMS = 200
MAX_PROVIDERS, MAX_MODELS, MAX_POLICIES, MAX_RULES, MAX_BUDGETS = 200, 2_000, 20, 500, 500
MAX_RULES_IN_ALL, MAX_KEYS, MAX_TIERS = 1_000, 50, 10
MAX_REQUEST_SECONDS = 3600
TIMEOUT_SECONDS, LOCAL_TIMEOUT_SECONDS = 120, 600  # people's own machines write slowly
BIG = 2_147_483_647  # the database's integer


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake, where it is and what it is. A warning does not stop the configuration from loading."""

    path: Path
    message: str
    warning: bool = False

    @property
    def place(self) -> str:
        """`policies[0].rules[3].when.complexity.above`"""
        return path_text(self.path)


def path_text(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the document"


def _decimal(value: Any) -> Decimal:
    if isinstance(value, str) and len(value) <= 30 and value.strip("-").replace(".", "", 1).isascii():
        digits = value.removeprefix("-").replace(".", "", 1)
        if digits.isdigit() and value[-1] != ".":
            return Decimal(value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and len(str(value)) <= 30:
        number = Decimal(str(value))
        if number.is_finite():
            return number
    raise PydanticCustomError("decimal", "should be a plain decimal number")


def _no_control_characters(text: Any) -> Any:
    if isinstance(text, str) and any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise PydanticCustomError("characters", "should hold no control characters")
    return text


def _expression(text: str) -> str:
    try:
        compiled(text)
    except PatternError as error:
        raise PydanticCustomError("expression", "{problem}", {"problem": str(error)}) from None
    return text


Number = Annotated[Decimal, BeforeValidator(_decimal)]
Usd = Annotated[Number, Field(ge=0, le=MAX_PRICE, decimal_places=6)]
Fraction = Annotated[Number, Field(ge=0, le=1, decimal_places=4)]
Count = Annotated[int, Field(ge=1, le=BIG)]
Amount = Annotated[int, Field(ge=0, le=BIG)]
SLUG = r"^[-a-zA-Z0-9_]+$"
Slug = Annotated[str, StringConstraints(pattern=SLUG, max_length=60)]
ModelSlug = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@+]*$", max_length=100)]
WireName = Annotated[str, BeforeValidator(_no_control_characters), StringConstraints(min_length=1, max_length=150)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=100)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f,]+$", max_length=60)]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)]
Expression = Annotated[str, AfterValidator(_expression)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[-!#$%&'*+.^_`|~0-9A-Za-z]+$", max_length=60)]
HeaderText = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=1_000)]
Headers = Annotated[dict[HeaderName, HeaderText], Field(max_length=MAX_KEYS)]
Words = Annotated[list[Word], Field(max_length=100)]
Chain = Annotated[list[ModelSlug], Field(max_length=20)]
Level = Literal["L1", "L2", "L3"]
Tier = Literal["critical", "high", "medium", "low"]
Strategy = Literal["cost-optimized", "performance-optimized", "balanced"]
Location = Literal["local", "cloud", "offline"]
Pattern = Literal["single", "verify", "cascade", "ensemble", "debate", "critique"]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, data: Any) -> Any:
        """`when:` with nothing behind it is an empty mapping."""
        return {} if data is None else data


class ProviderEntry(Entry):
    slug: Slug
    kind: Literal["ollama", "anthropic", "openai", "gemini", "cohere", "offline"]
    location: Location
    base_url: Annotated[str, StringConstraints(max_length=300)] = ""
    enabled: bool = True
    switch: Literal["", "kimi"] = ""
    api_key_env: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*_API_KEY$", max_length=60)] | None = None
    max_concurrency: Count | None = None
    max_requests_per_day: Amount | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=MAX_REQUEST_SECONDS)] = TIMEOUT_SECONDS
    power_watts: Annotated[int, Field(ge=0, le=100_000)] = 0
    options: dict[Word, bool | int | float | str | Headers] = {}

    @model_validator(mode="after")
    def _only_headers_are_many(self) -> Self:
        for name, value in self.options.items():
            if isinstance(value, dict) is not (name == "headers"):
                raise PydanticCustomError(
                    "option", "{what}", {"what": f"options.{name}: only `headers` is a mapping, and it always is one"}
                )
            if isinstance(value, dict) and (what := mistake(value)):
                raise PydanticCustomError("option", "{what}", {"what": f"options.headers: {what}"})
        return self

    @model_validator(mode="after")
    def _the_factor_is_one(self) -> Self:
        """Who takes it for stated, and it is passed over, has too little held."""
        if not is_pdf_token_factor(stated := self.options.get("pdf_token_factor", 1)):
            what = f"options.pdf_token_factor: should be a number from 1 to {MOST_FACTOR}, not {str(stated)[:40]!r}"
            raise PydanticCustomError("option", "{what}", {"what": what})
        return self

    @model_validator(mode="after")
    def _local_ones_have_time(self) -> Self:
        if self.location == "local" and "timeout_seconds" not in self.model_fields_set:
            self.__dict__["timeout_seconds"] = LOCAL_TIMEOUT_SECONDS  # a default: nobody has set it
        return self


class TierEntry(Entry):
    """What all tokens of a request cost whose input is longer. Cached and written ones without a price cost what
    input costs here."""

    above_input_tokens: Amount
    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None


class ModelEntry(Entry):
    slug: ModelSlug
    provider: Slug
    name: WireName
    aliases: Annotated[list[WireName], Field(max_length=50)] = []
    context_window: Annotated[int, Field(ge=256, le=100_000_000)]
    max_output_tokens: Count | None = None
    input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd | None = None
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None
    input_tiers: Annotated[list[TierEntry], Field(max_length=MAX_TIERS)] = []
    price_origin: Annotated[str, BeforeValidator(_no_control_characters), StringConstraints(max_length=200)] = ""
    capabilities: Words = []
    enabled: bool = True
    dimensions: Count | None = None
    tokens_per_second: Count | None = None
    vram_gb: Annotated[Number, Field(ge=0, lt=100_000, decimal_places=1)] | None = None
    notes: Text = ""


class FractionRange(Entry):
    above: Fraction | None = None
    at_most: Fraction | None = None


class CountRange(Entry):
    above: Amount | None = None
    at_most: Amount | None = None


class QueueRange(Entry):
    above: Amount | None = None


class WhenEntry(Entry):
    task_kinds: Words = []
    agent_levels: Annotated[list[Level], Field(max_length=3)] = []
    creator_tiers: Annotated[list[Tier], Field(max_length=4)] = []
    capabilities: Words = []
    strategies: Annotated[list[Strategy], Field(max_length=3)] = []
    complexity: FractionRange = FractionRange()
    context_tokens: CountRange = CountRange()
    budget_left: FractionRange = FractionRange()
    local_queue: QueueRange = QueueRange()


class RolesEntry(Entry):
    """Which further models a pattern needs, and how it combines them."""

    verifier: ModelSlug | None = None
    draft: ModelSlug | None = None
    refiner: ModelSlug | None = None
    members: Annotated[list[ModelSlug], Field(max_length=8)] = []
    synthesiser: ModelSlug | None = None
    vote: bool | None = None
    rounds: Annotated[int, Field(ge=1, le=5)] | None = None


class OptionsEntry(Entry):
    min_confidence: Annotated[float, Field(ge=0, le=100)] | None = None
    first_token_seconds: Annotated[float, Field(gt=0, le=MAX_REQUEST_SECONDS)] | None = 5.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    local_tries: Annotated[int, Field(ge=1, le=10)] = 1
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=31 * 86_400)] | None = None
    cache_any_temperature: bool = False
    rollout_percent: Annotated[int, Field(ge=0, le=100)] = 100
    shadow_model: ModelSlug | None = None
    shadow_percent: Annotated[int, Field(ge=0, le=100)] = 10
    shadow_judge: ModelSlug | None = None
    batch: bool = False
    batch_window: Annotated[
        str, StringConstraints(pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$", max_length=11)
    ] = "23:00-06:00"
    store_bodies: bool = False


class RuleEntry(Entry):
    name: Name
    when: WhenEntry = WhenEntry()
    pattern: Pattern = "single"
    chain: Chain = []
    roles: RolesEntry = RolesEntry()
    options: OptionsEntry = OptionsEntry()


class PolicyEntry(Entry):
    slug: Slug
    live: bool = False
    notes: Text = ""
    rules: list[RuleEntry] = []


class ScopeEntry(Entry):
    locations: Annotated[list[Location], Field(max_length=3)] = []
    providers: Annotated[list[Slug], Field(max_length=100)] = []
    models: Annotated[list[ModelSlug], Field(max_length=100)] = []
    api_keys: Annotated[list[Name], Field(max_length=100)] = []
    task_kinds: Words = []
    agent_levels: Annotated[list[Level], Field(max_length=3)] = []
    creators: Annotated[list[Name], Field(max_length=100)] = []


class BudgetEntry(Entry):
    slug: Slug
    scope: ScopeEntry = ScopeEntry()
    period: Literal["day", "week", "month", "total"] = "month"
    limit_usd: Annotated[Number, Field(ge=0, le=1_000_000_000, decimal_places=6)]
    hard: bool = True
    on_exhausted: Literal["local", "deny"] = "local"
    alert_at_percent: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=20)] = []
    enabled: bool = True


class SettingsEntry(Entry):
    strategy: Strategy = "balanced"
    baseline_model: ModelSlug | Literal[""] = ""
    electricity_usd_per_kwh: Annotated[Number, Field(ge=0, le=1000, decimal_places=4)] = Decimal("0.12")
    kimi_enabled: bool = False
    time_zone: Annotated[str, StringConstraints(max_length=60)] = "UTC"
    usage_months: Annotated[int, Field(ge=1, le=1200)] | None = 24
    body_days: Annotated[int, Field(ge=1, le=3650)] = 30
    body_kilobytes: Annotated[int, Field(ge=1, le=1024)] = 64
    redact_patterns: Annotated[list[Expression], Field(max_length=MAX_PATTERNS)] = []


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Placed(Generic[E]):
    """An entry and where it stands in its document."""

    path: Path
    entry: E


@dataclass(frozen=True, slots=True)
class Document:
    """Routing configuration, whole or in part: a section that is None is not spoken of. `settings` holds
    only the keys that were given. `slugs` are the names of entries too damaged to keep."""

    providers: list[Placed[ProviderEntry]] | None = None
    models: list[Placed[ModelEntry]] | None = None
    policies: list[Placed[PolicyEntry]] | None = None
    budgets: list[Placed[BudgetEntry]] | None = None
    settings: Placed[SettingsEntry] | None = None
    damaged: frozenset[str] = field(default_factory=frozenset)
