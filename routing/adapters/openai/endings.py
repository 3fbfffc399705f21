"""Why an answer of OpenAI's kind ended, in the words of all that imitate its API."""

from routing.adapters.base import WireRequest
from routing.adapters.faults.errors import error_from_event, make_error
from routing.adapters.reading.wire import Json, get_text
from routing.types import ErrorKind, StopReason, Usage

_STOP_REASONS: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "max_length": "length",
    "max_output_tokens": "length",
    "max_output": "length",  # MiniMax: at the end of what the model has room for
    "repetition_truncation": "length",  # Xiaomi, and vLLM: it went round in circles, and was cut short
    "repetition": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "refusal": "content_filter",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


_GIVEN_UP: dict[str, ErrorKind] = {
    "error": "server",
    "abort": "server",
    "aborted": "server",
    "network_error": "server",
    "function_call_filter": "server",  # Google: the model wrote a call that cannot be read
    "insufficient_system_resource": "overloaded",
    "engine_overloaded": "overloaded",
}


def finish_of(choice: Json) -> str:
    """A choice's finish_reason; Poolside's is a number."""
    return get_text(choice, "finish_reason") if choice.get("finish_reason") else ""


def stop_reason_of(finish: str, *, has_calls: bool, refused: bool) -> StopReason:
    """Our name for a finish_reason. Some servers say "stop" where they call tools or refuse, and some speak of calls
    where there are none."""
    if refused:
        return "content_filter"
    reason = _STOP_REASONS.get(_plainly(finish).lower(), "stop")
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason


def stop_sequence_of(choice: Json, sent: WireRequest) -> str:
    """The stop sequence that ended an answer, which vLLM and SGLang tell; "" where it is not told."""
    told = choice.get("stop_reason") or choice.get("matched_stop")
    return told if isinstance(told, str) and told in ((sent.body or {}).get("stop") or ()) else ""


def _plainly(finish: str) -> str:
    """A finish_reason without what Google adds: "content_filter: PROHIBITED_CONTENT"."""
    return finish.partition(":")[0]


def is_silenced(finish: str) -> bool:
    """True where an answer may have no message at all: none is shown, or its length went into thinking."""
    return _STOP_REASONS.get(_plainly(finish).lower()) in ("content_filter", "length")


def refuse_given_up(choice: Json, sent: WireRequest, usage: Usage | None) -> None:
    """Raises ProviderError for a choice that says that there is no more, though there should be."""
    if choice.get("error"):  # OpenRouter's, of the provider behind it
        raise error_from_event({"error": choice["error"]}, sent, usage=usage)
    finish = finish_of(choice)
    kind = _GIVEN_UP.get(_plainly(finish))
    if kind:
        raise make_error(kind, f"the server gave up on its answer: {finish}", sent, usage=usage)
