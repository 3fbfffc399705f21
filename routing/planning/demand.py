"""PURE: what a request asks of the router, measured once and without its texts.

A Demand holds all that a decision needs to know of a request, and nothing that anybody said in it. It is
kept on the receipt, so that a decision can be made again long after the texts are gone.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from routing.planning import pdfs
from routing.planning.deferral import is_any_deferred, said_by, times_found
from routing.planning.tokens import estimate_tokens
from routing.types import (
    BudgetFit,
    ChatRequest,
    Cited,
    Hints,
    Image,
    Message,
    ModelSpec,
    Part,
    Pdf,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from ziggie.errors import InvalidInput
from ziggie.values import Value

CHARACTERS_PER_TOKEN = 4
LONG_PROMPT_CHARACTERS = 10_000
BASE_COMPLEXITY = {"L1": 0.8, "L2": 0.5, "L3": 0.2}
OTHER_COMPLEXITY = 0.5
# Stems, so that "architectural" and "strategic" count as well.
STRATEGIC_STEMS = ("architect", "strateg")
_STEMS = tuple([stem.encode() for stem in STRATEGIC_STEMS])

# Upper bounds of what providers add around a text: role markers, tool preambles, tiles of an image.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_TOOL = 64
TOOLS_PREAMBLE_TOKENS = 1_024
SCHEMA_PREAMBLE_TOKENS = 512
IMAGE_TOKENS_AT_MOST = 49_152  # gpt-4o-mini counts up to 48,169
IMAGE_TOKENS_LIKELY = 1_500
# Enough of the first user message to tell conversations apart.
KEY_CHARACTERS = 4_096
BUCKETS = 10_000
MAX_CHOICES = 1_000
MOST_ANSWERS = 16  # of one request: each is a call of its own
SINGLE = "single"  # the pattern of one model that answers by itself


class Demand(Value):
    """A request as the planner sees it.

    `input_at_most` is an upper bound of its tokens, for money, its documents left out: how long these may be depends
    on the model, so that most_input() is what may be billed. `input_likely` is an estimate, for whether it fits a
    context; `context_tokens` and `complexity` are what the caller stated, else estimates too.
    `choices` is how many answers one call asks its provider for, `answers` how many calls are made for as many answers.
    `may_repair`: an answer that does not validate is sent back once. `budget_fit` is the request's.
    `sticky` is a digest that tells runs and conversations apart for rollouts.
    """

    model: str
    task_kind: str
    agent_level: str
    creator_tier: str
    complexity: float
    context_tokens: int
    strategy: str
    pattern: str
    needs: frozenset[str]
    estimated: frozenset[str]
    input_at_most: int
    input_likely: int
    max_output_tokens: int | None
    choices: int
    may_repair: bool
    sticky: str
    api_key_id: str
    creator: str
    budget_fit: BudgetFit = ""
    answers: int = 1

    @property
    def may_clamp(self) -> bool:
        """Whether a shorter answer is wanted where a budget has no room for the worst case."""
        if self.budget_fit:
            return self.budget_fit == "clamp"
        return self.max_output_tokens is None

    def most_input(self, model: ModelSpec) -> int:
        """More input tokens than this request can be billed with by the model's provider."""
        if pdfs.are_among(self.needs):
            return max(self.input_at_most, pdfs.tokens_at_most(model))
        return self.input_at_most

    def bucket(self, salt: str) -> int:
        """0..9999, always the same for the same run or conversation and the same salt."""
        digest = hashlib.blake2b(f"{salt}\0{self.sticky}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % BUCKETS


def measure(request: ChatRequest) -> Demand:
    """Raises InvalidInput for a hint that cannot be meant. Takes time in proportion to the texts."""
    hints = request.hints
    _check(hints)
    size = _Size(reads_subject=hints.complexity is None)
    for message in request.messages:
        size.add_message(message)
    if request.tools or request.json_schema is not None:
        size.add_tools_and_schema(request)
    if request.extra:
        size.add_parameters(request.extra)
    return Demand(  # by place: see ziggie/values.py
        request.model,
        hints.task_kind,
        hints.agent_level.upper(),
        hints.creator_tier.lower(),
        _complexity(hints, size) if hints.complexity is None else float(hints.complexity),
        size.characters // CHARACTERS_PER_TOKEN if hints.context_tokens is None else hints.context_tokens,
        hints.strategy,
        hints.pattern if request.choices == 1 else _one_models_pattern(request),
        request.needs,
        _ESTIMATED[hints.complexity is None, hints.context_tokens is None],
        size.at_most,
        max(size.likely, hints.context_tokens or 0),
        request.max_output_tokens,
        _choices(request.extra) if request.extra else 1,
        request.accept is not None or request.json_schema is not None or request.json_object,
        _sticky(request),
        request.api_key_id or "",
        request.creator,
        request.budget_fit,
        request.choices,
    )


_ESTIMATED = {
    (True, True): frozenset({"complexity", "context_tokens"}),
    (True, False): frozenset({"complexity"}),
    (False, True): frozenset({"context_tokens"}),
    (False, False): frozenset[str](),
}


_SETS = ("needs", "estimated")


def from_json(kept: Mapping[str, Any]) -> Demand:
    """A receipt's. What else is kept there is passed over. Raises TypeError for a receipt that lacks a field."""
    kept = kept.get("demand", kept)  # older receipts have its fields beside the circumstances
    known: dict[str, Any] = {name: kept[name] for name in Demand.__struct_fields__ if name in kept}
    sets: dict[str, Any] = {name: frozenset(known[name]) for name in _SETS if name in known}
    return Demand(**(known | sets))


def _check(hints: Hints) -> None:
    if hints.complexity is not None and not 0 <= hints.complexity <= 1:  # not true of NaN either
        raise InvalidInput(f"complexity must be between 0 and 1, not {hints.complexity}")
    if hints.context_tokens is not None and hints.context_tokens < 0:
        raise InvalidInput(f"context_tokens must not be negative, and it is {hints.context_tokens}")


def _one_models_pattern(request: ChatRequest) -> str:
    """Several answers are those of one model, whatever pattern the rule has."""
    if not 1 <= request.choices <= MOST_ANSWERS:
        raise InvalidInput(f"choices must be a whole number from 1 to {MOST_ANSWERS}, not {request.choices}")
    if request.hints.pattern not in ("", SINGLE):
        raise InvalidInput(f"several answers and the pattern {request.hints.pattern!r} do not go together")
    return SINGLE


def _complexity(hints: Hints, size: "_Size") -> float:
    """By the agent's level, the length and the subject. Counted in tenths, so that sums are exact."""
    tenths = round(BASE_COMPLEXITY.get(hints.agent_level.upper(), OTHER_COMPLEXITY) * 10)
    tenths += 1 if size.characters > LONG_PROMPT_CHARACTERS else 0
    tenths += 2 if size.speaks_of_strategy else 0
    return min(tenths, 10) / 10


class _Size(Struct):
    """A running sum over the parts of a request."""

    reads_subject: bool
    characters: int = 0
    at_most: int = 0
    likely: int = 0
    speaks_of_strategy: bool = False

    def add_message(self, message: Message) -> None:
        self.at_most += TOKENS_PER_MESSAGE
        if message.name:
            self.add_prompt(message.name)
        for part in message.parts:
            if isinstance(part, Text):  # nearly all of them
                self.add_prompt(part.text)
                if part.citations:  # which go back to who made them
                    self.at_most += len(json.dumps(part.citations, default=str))
                if self.reads_subject and not self.speaks_of_strategy:
                    lowered = part.text.encode(errors="surrogatepass").lower()  # of ASCII alone, and so fast
                    for stem in _STEMS:
                        self.speaks_of_strategy |= stem in lowered
                continue
            self.add_part(part)

    def add_part(self, part: Part) -> None:
        match part:
            case Image():
                self.at_most += IMAGE_TOKENS_AT_MOST
                self.likely += IMAGE_TOKENS_LIKELY
            case Pdf(_, _, title, context):
                self.add_prompt(title + context)
                self.add_pages(pdfs.tokens_likely(part.pages))
            case Cited(_, text, pages):
                self.add_prompt(text)
                self.add_pages(0 if pages is None else pdfs.tokens_likely(pages))
            case ToolCall(_, name, arguments):
                self.at_most += TOKENS_PER_TOOL
                self.add_prompt(name + arguments)
            case ToolResult():
                self.at_most += TOKENS_PER_TOOL
                self.add_prompt(said_by(part))
            case Reasoning(text, signature):
                self.add_prompt(text + signature)

    def add_prompt(self, text: str) -> None:
        self.characters += len(text)
        self.add_text(text)

    def add_pages(self, likely: int) -> None:
        """As long as their text in the prompt would be; at most: see Demand."""
        self.characters += likely * CHARACTERS_PER_TOKEN
        self.likely += likely

    def add_text(self, text: str, times: int = 1) -> None:
        self.at_most += times * (len(text) if text.isascii() else len(text.encode(errors="surrogatepass")))
        self.likely += times * estimate_tokens(text)

    def add_parameters(self, extra: Mapping[str, Any]) -> None:
        """Whatever text they hold, a provider may read it as a part of the prompt."""
        for said in extra.values():
            if isinstance(said, str | list | tuple | Mapping):
                self.at_most += len(json.dumps(said, default=str))

    def add_tools_and_schema(self, request: ChatRequest) -> None:
        found = times_found(request) if is_any_deferred(request.tools) else {}
        for tool in request.tools:
            times = max(found.get(tool.name, 0), not tool.deferred)
            if times:
                self.add_text(f"{tool.name}{tool.description}{json.dumps(tool.parameters)}", times)
                self.at_most += times * TOKENS_PER_TOOL
        self.at_most += TOOLS_PREAMBLE_TOKENS if request.tools else 0
        if request.json_schema is not None:
            self.at_most += SCHEMA_PREAMBLE_TOKENS
            self.add_text(request.json_schema_name + json.dumps(request.json_schema))


def _choices(extra: Mapping[str, Any]) -> int:
    """How many answers a pass-through parameter asks for; each one is paid."""
    asked = [extra[name] for name in ("n", "best_of") if extra.get(name) is not None]
    try:
        return max(1, *(int(value) for value in asked)) if asked else 1
    except (TypeError, ValueError, OverflowError):
        return MAX_CHOICES  # not a number: whatever the provider makes of it, it is not held too low


def _sticky(request: ChatRequest) -> str:
    """The same for all calls of a run, else for all turns of a conversation of one key."""
    if request.run_id:
        told_apart = f"run\0{request.run_id}"
    else:
        first = ""
        for message in request.messages:
            if message.role == "user":
                first = message.text
                break
        told_apart = f"conversation\0{request.api_key_id}\0{first[:KEY_CHARACTERS]}"
    return hashlib.blake2b(told_apart.encode(errors="surrogatepass"), digest_size=16).hexdigest()
