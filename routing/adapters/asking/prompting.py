"""Saying in the prompt what an API cannot say in its parameters."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from routing.types import (
    ChatRequest,
    Cited,
    Image,
    Message,
    ModelSpec,
    Pdf,
    ProviderError,
    Text,
    UnsupportedByProvider,
    message,
)
from ziggie.values import replace

StructuredOutput = Literal["schema", "object", "tool", "prompt"]
_CHOICES = ("schema", "object", "tool", "prompt")

_EFFORTS = (("low", 2048), ("medium", 8192))  # and the most tokens of thinking that each stands for

# how servers say that they cannot be held to a schema, or to this one
_REFUSES_SCHEMA = re.compile(
    r"response[_ ]format|json[_ ]schema|structured[_ ]output|guided|grammar|output_(?:config|format)"
)

JSON_ONLY = "Answer with one JSON object and nothing else: no explanation, no code fence."


def structured_output(model: ModelSpec) -> StructuredOutput:
    """How this model is made to answer in a schema. `options.structured_output` of the provider row
    decides; else "schema" is for a model with the capability "json" (or with none stated)."""
    chosen = model.provider.options.get("structured_output")
    if chosen in _CHOICES:
        return chosen  # type: ignore[no-any-return]  # one of the literals
    return "schema" if "json" in model.capabilities or not model.capabilities else "prompt"


def schema_instruction(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), default=dict)
    return (
        "Answer with one JSON document and nothing else: no explanation, no code fence. "
        f"It must be valid against this JSON Schema:\n{text}"
    )


def with_instruction(request: ChatRequest, instruction: str) -> ChatRequest:
    """The request with one more instruction, in its first system message or in one of its own."""
    first, *rest = request.messages or (message("user", ""),)
    if first.role == "system":
        changed = replace(first, parts=(*first.parts, Text(instruction)))
        return replace(request, messages=(changed, *rest))
    return replace(request, messages=(message("system", instruction), *request.messages))


def in_prompt(request: ChatRequest) -> ChatRequest:
    """A structured-output request as a plain one that states the schema in words."""
    if request.json_schema is not None:
        request = with_instruction(request, schema_instruction(request.json_schema))
    elif request.json_object:
        request = with_instruction(request, JSON_ONLY)
    return replace(request, json_schema=None, json_object=False)


def in_words(request: ChatRequest, refusal: ProviderError) -> ChatRequest | None:
    """The request for a server that has just refused to be held to its schema: said in the prompt beside a plea for
    any JSON, and without that where this, too, was refused. None where that is not what the server said, or where it is
    the schema itself that is wrong."""
    if request.json_schema is None and not request.json_object:
        return None
    words = refusal.message.lower()
    if refusal.kind not in ("bad_request", "server") or "invalid schema" in words or not _REFUSES_SCHEMA.search(words):
        return None
    told = in_prompt(request)
    return told if request.json_schema is None else replace(told, json_object=True)


def thinking_effort(thinking: Any) -> str:
    """The effort that Anthropic's `thinking` parameter asks for, in the words of the other APIs; "" if it is not
    of that API's shape."""
    if not isinstance(thinking, Mapping):
        return ""
    budget = thinking.get("budget_tokens")
    match thinking.get("type"):
        case "disabled":
            return "none"
        case "adaptive":
            return "medium"
        case "enabled" if budget is None:  # as DeepSeek and Z.ai have it
            return "medium"
        case "enabled" if isinstance(budget, int):
            return next((effort for effort, most in _EFFORTS if budget <= most), "high")
    return ""


def is_left_to_model(request: ChatRequest) -> bool:
    """True where the model may think, and as much as it sees fit: one that cannot does all that was asked."""
    thinking = request.extra.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") == "adaptive"


def without_thinking(request: ChatRequest) -> ChatRequest:
    others = {key: value for key, value in request.extra.items() if key != "thinking"}
    return replace(request, extra=others, reasoning_effort="")


def effort_of(request: ChatRequest) -> str:
    """How much to think; "" where the request leaves it to the model, in so many words ("default", Groq's) or not."""
    return "" if request.reasoning_effort == "default" else request.reasoning_effort


def in_efforts(request: ChatRequest) -> ChatRequest:
    """The request with Anthropic's `thinking` as an effort, unless it names one itself for the thinking it wants."""
    effort = thinking_effort(request.extra.get("thinking"))
    if not effort:
        return request
    others = {key: value for key, value in request.extra.items() if key != "thinking"}
    if effort != "none":
        effort = effort_of(request) or effort
    return replace(request, extra=others, reasoning_effort=effort)


def refuse_logprobs(request: ChatRequest, api: str) -> None:
    """Raises UnsupportedByProvider if log probabilities are asked for."""
    if request.logprobs is not None:
        raise UnsupportedByProvider(f"logprobs: {api} tells none, or not as they are asked for")


def joined_text(turn: Message) -> str:
    """A turn's text blocks as one text; blocks were separate thoughts, so they stay apart."""
    return "\n\n".join(part.text for part in turn.parts if isinstance(part, Text))


def images(turn: Message) -> Iterator[Image]:
    """What an API shows that shows nothing but images. Raises UnsupportedByProvider for another document."""
    for part in turn.parts:
        if isinstance(part, Image):
            yield part
        elif isinstance(part, (Pdf, Cited)):
            raise UnsupportedByProvider("a PDF document, or one to be cited: this API takes none")
