"""Asking once more in another way, for what no table of servers foretells: those that refuse to be held to a schema
are told it in words, those that know one system message are told later ones in the user's turns, those that want a
model's earlier thinking back are sent it, those that want the model to speak after a tool are told that it did, models
that call no tool, or none of our choice, while they think do not think, those that do not think at all answer so where
the caller left it to them, those that cannot have one tool chosen are given that tool alone, those that end a stream
without a word are asked for the whole, which says what was wrong, and Ollama, which counts a prompt's tokens where we
estimate them, is asked for the context that it found missing."""

import re
from collections.abc import Callable
from typing import Any

from routing.adapters.answers.decoding import EMPTY
from routing.adapters.asking.prompting import in_words, is_left_to_model, without_thinking
from routing.adapters.asking.system_turns import as_users
from routing.types import ChatRequest, Message, ProviderError, ProviderSpec, Source, ToolResult, message
from ziggie.values import replace

Reworded = Callable[[ChatRequest, ProviderError], ChatRequest | None]

_COUNTED = re.compile(r"request \((\d{1,9}) tokens\) exceeds the available context")

_THINKING = re.compile(r"thinking|reasoning")
# "… in the thinking mode must be passed back to the API", "… is missing in assistant tool call message at index 2"
_WANTS_THINKING = re.compile(
    r"missing\W{1,3}reasoning_content|reasoning_content.{1,40}(?:missing|passed back|required)"
)

# "Thinking mode does not support this tool_choice", "tool_choice 'required' is incompatible with thinking enabled"
_THINKS_OR_CALLS = re.compile(r"thinking.{1,40}tool_choice|tool_choice.{1,100}thinking")
_ALIBABAS = "parameter does not support being set"  # whose servers have another word for it
_OF_THINKING = ("thinking", "enable_thinking", "thinking_budget")
_THINKS_WITHOUT_TOOLS = "function tools with reasoning_effort are not supported"
_UNSAID = ("", "default")
_NO_USER_AFTER_TOOL = re.compile(r"unexpected role \W?user\W? after role \W?tool")
_BETWEEN = "I have read the results."


def again(
    request: ChatRequest, error: ProviderError, provider: ProviderSpec, *, streamed: bool, began: bool = False
) -> tuple[ChatRequest, bool] | None:
    """(request, streamed) to ask next after a request failed before any piece of an answer; None where nothing else
    is to be tried, or where the answer `began`.

    Of the servers that people run themselves some lose an error that comes after the head of a stream. A server that
    charges is not asked twice for what it may have charged already.
    """
    if not began:
        for reworded in _REWORDED:
            asked = reworded(request, error)
            if asked is not None:
                return asked, streamed
    counted = _COUNTED.search(error.message)
    if counted and provider.kind == "ollama" and not began and request.hints.context_tokens != int(counted[1]):
        return replace(request, hints=replace(request.hints, context_tokens=int(counted[1]))), streamed
    own = provider.kind == "openai" and provider.location is Source.LOCAL
    if streamed and own and not began and error.message == EMPTY:
        return request, False
    return None


def _with_thinking(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request with the thinking of all earlier turns, for models that refuse a conversation that has lost it, say
    since another model or a client without a field for it had a part in it (DeepSeek's and Kimi's)."""
    if error.kind != "bad_request" or request.thinking_back or not _WANTS_THINKING.search(error.message.lower()):
        return None
    return replace(request, thinking_back=True)


def _calling_at_once(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request without thinking, for models that cannot be made to call a tool while they think, as DeepSeek's,
    Kimi's and Qwen's do unasked: it is the call that the caller insists on."""
    words = error.message.lower()
    if error.kind != "bad_request" or request.tool_choice in ("", "auto", "none") or not _THINKS_OR_CALLS.search(words):
        return None
    off: dict[str, Any] = {"enable_thinking": False} if _ALIBABAS in words else {"thinking": {"type": "disabled"}}
    if off.items() <= request.extra.items():
        return None
    others = {key: value for key, value in request.extra.items() if key not in _OF_THINKING}
    return replace(request, extra={**others, **off}, reasoning_effort="")


def _without_default_thinking(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request without the thinking that nobody asked for, for OpenAI's models that know of no tools here while they
    think, as they do unasked."""
    if error.kind != "bad_request" or not request.tools or _THINKS_WITHOUT_TOOLS not in error.message.lower():
        return None
    if not is_left_to_model(request) and (request.extra.get("thinking") or request.reasoning_effort not in _UNSAID):
        return None
    return replace(without_thinking(request), reasoning_effort="none")


def _with_words_after_tools(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request for a server that takes no user's words after a tool's (Mistral's)."""
    if not _NO_USER_AFTER_TOOL.search(error.message.lower()):
        return None
    told: list[Message] = []
    for turn in request.messages:
        results = tuple([part for part in turn.parts if isinstance(part, ToolResult)])
        others = tuple([part for part in turn.parts if not isinstance(part, ToolResult)])
        if results:
            told.append(Message("tool", results))
        if results and not others:
            continue
        if told and told[-1].role == "tool" and turn.role in ("user", "tool"):
            told.append(message("assistant", _BETWEEN))
        told.append(replace(turn, role="user", parts=others) if results else turn)
    return replace(request, messages=tuple(told)) if len(told) > len(request.messages) else None


def _without_thinking(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request for a model that does not think, where thinking was left to the model."""
    if error.kind != "bad_request" or not is_left_to_model(request) or not _THINKING.search(error.message.lower()):
        return None
    return without_thinking(request)


def _with_one_tool(request: ChatRequest, error: ProviderError) -> ChatRequest | None:
    """The request with the tool that it has called as its only one, for a server that knows no more than that one has
    to be (LM Studio)."""
    if error.kind != "bad_request" or "tool_choice" not in error.message or request.tool_choice == "required":
        return None
    chosen = tuple(tool for tool in request.tools if tool.name == request.tool_choice)
    return replace(request, tools=chosen, tool_choice="required") if chosen else None


# What lies with the model alone: its server will refuse the next such request, too. A schema that is refused may be the
# only one, and of thinking and tools others may be asked for.
LASTING: tuple[Reworded, ...] = (
    *(as_users, _with_thinking, _with_words_after_tools, _calling_at_once, _without_default_thinking),
)
_REWORDED: tuple[Reworded, ...] = (in_words, *LASTING, _without_thinking, _with_one_tool)
