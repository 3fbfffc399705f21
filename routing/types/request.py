"""What a caller wants: a conversation, and what is to be known of it for choosing who answers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal
from uuid import UUID

from msgspec import field

from routing.types.answers import ChatResult
from routing.types.configuration import CITES, READS_PDF
from routing.types.conversation import Cited, Image, Message, Pdf, Text, Tool
from ziggie.values import Value


class Hints(Value):
    """What the caller says about a task, for the router. None and empty mean: not stated."""

    task_kind: str = ""
    agent_level: str = ""  # L1, L2, L3
    creator_tier: str = ""  # critical, high, medium, low
    complexity: float | None = None  # 0.0-1.0
    capabilities: frozenset[str] = frozenset()
    context_tokens: int | None = None
    strategy: str = ""  # overrides the installation's
    pattern: str = ""  # overrides the rule's


class Verdict(Value):
    """What a caller's `accept` says of an answer: usable or not, why not, how sure (0-100)."""

    ok: bool
    problem: str = ""
    confidence: float | None = None


_SHOWN = (Image, Pdf, Cited)
BudgetFit = Literal["", "clamp", "refuse"]


class ChatRequest(Value):
    """One task for a language model, independent of any wire format.

    `json_schema` asks for an answer that is one JSON document of that schema (structured output
    where the model supports it, else said in the prompt). `json_object` asks for any JSON object.
    `accept` judges an answer; an answer it refuses is repaired once and then redone elsewhere.
    `deadline_seconds` bounds the whole call, fallbacks included. `extra` holds provider parameters
    passed through unchanged (top_p, presence_penalty, ...). `end_user` names for whom the caller asks; it goes
    to providers that have a field for it and changes no answer. A request with a `call_id` of its own may
    be sent again after a crash: it is paid for and answered once. `on_output` is told how many
    characters of the answer have come so far. A request with an `envelope_id` is paid from that envelope.

    `budget_fit` says what becomes of a call whose worst case is more than a budget has left: "clamp" allows a
    shorter answer, "refuse" does not; "" clamps where no `max_output_tokens` is stated and refuses where one is.

    `choices` is how many answers are wanted, each of them independent of the others, all by one model (choices.py).
    `thinking_back` is set where a server has refused a conversation without its earlier thinking.
    """

    messages: tuple[Message, ...]
    model: str = "auto"
    hints: Hints = Hints()
    max_output_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""  # "", auto, none, required, or a tool's name
    parallel_tool_calls: bool | None = None
    json_schema: Mapping[str, Any] | None = None
    json_schema_name: str = "answer"
    json_schema_strict: bool | None = None  # None: strict where the schema allows it
    json_object: bool = False
    reasoning_effort: str = ""
    logprobs: int | None = None  # how many likely tokens to name beside each that was chosen; None: ask for nothing
    end_user: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    accept: Callable[[ChatResult], Verdict] | None = None
    on_output: Callable[[int], None] | None = None
    deadline_seconds: float | None = None
    call_id: UUID | None = None
    # who pays and for what; all end up on the usage record
    api_key_id: str | None = None
    run_id: str | None = None
    creator: str = ""
    envelope_id: UUID | None = None
    budget_fit: BudgetFit = ""
    choices: int = 1
    thinking_back: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities without which a model cannot serve this request at all."""
        needed = self.hints.capabilities
        if self.tools:
            needed |= {"tools"}
        for said in self.messages:
            for part in said.parts:
                if not isinstance(part, Text) and isinstance(part, _SHOWN):  # nearly all are texts
                    needed |= _needed_for(part)
        return needed


def _needed_for(part: Image | Pdf | Cited) -> set[str]:
    if isinstance(part, Image):
        return {"vision"}
    if isinstance(part, Pdf):
        return {READS_PDF}
    return {CITES} if part.pages is None else {CITES, READS_PDF}
