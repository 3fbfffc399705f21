"""Reading chat completions: choices, usage in all its dialects, and the stream of chunks."""

from typing import TYPE_CHECKING, Any

from routing.adapters.base import WireRequest
from routing.adapters.call_pieces import CallPieces, arguments_text
from routing.adapters.decoding import EventDecoder
from routing.adapters.error_bodies import holds_error
from routing.adapters.errors import error_from_event, make_error
from routing.adapters.plain_answers import plain_text, plain_usage
from routing.adapters.sse import SSESplitter
from routing.adapters.wire import (
    Json,
    call_id,
    get_count,
    get_dict,
    get_dicts,
    get_number,
    get_str,
    load_object,
    protocol_error,
)
from routing.types import (
    ChatResult,
    Delta,
    ErrorKind,
    Part,
    ProviderError,
    Reasoning,
    StopReason,
    Text,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from routing.adapters.base import Codec

_STOP_REASONS: dict[str, StopReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "safety": "content_filter",
}


_GIVEN_UP: dict[str, ErrorKind] = {
    "error": "server",
    "abort": "server",
    "network_error": "server",
    "function_call_filter": "server",  # Google: the model wrote a call that cannot be read
    "insufficient_system_resource": "overloaded",
}


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


def _is_silenced(finish: str) -> bool:
    """True where an answer may have no message at all: none is shown, or its length went into thinking."""
    return _STOP_REASONS.get(_plainly(finish).lower()) in ("content_filter", "length")


def _refuse_given_up(choice: Json, sent: WireRequest, usage: Usage | None) -> None:
    """Raises ProviderError for a choice that says that there is no more, though there should be."""
    if choice.get("error"):  # OpenRouter's, of the provider behind it
        raise error_from_event({"error": choice["error"]}, sent, usage=usage)
    finish = get_str(choice, "finish_reason")
    kind = _GIVEN_UP.get(_plainly(finish))
    if kind:
        raise make_error(kind, f"the server gave up on its answer: {finish}", sent, usage=usage)


_WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")

# --- usage -----------------------------------------------------------------------------------------


def read_usage(answer: Json, choice: Json) -> Usage | None:
    """Usage wherever a server puts it: at the top, in `choices[0]` (Moonshot's streams), in `x_groq`, or as
    llama.cpp's `timings`. None: not reported."""
    for holder in (answer, choice, answer.get("x_groq")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if usage and isinstance(usage, dict):
            return usage_of(usage)
    timings = answer.get("timings")
    return _usage_of_timings(timings) if isinstance(timings, dict) else None


def usage_of(usage: Json) -> Usage:
    """Normalises the token dialects of OpenAI, Moonshot, DeepSeek, xAI, OpenRouter, Alibaba and Google's imitation."""
    if (plain := plain_usage(usage)) is not None:
        return plain
    prompt = _first_count(usage, "prompt_tokens", "input_tokens")
    completion = _first_count(usage, "completion_tokens", "output_tokens")
    total = get_count(usage, "total_tokens")
    inputs = _details(usage, "prompt_tokens_details", "input_tokens_details")
    outputs = _details(usage, "completion_tokens_details", "output_tokens_details")
    cached = _first_count(inputs, "cached_tokens") if inputs else None
    if cached is None:
        cached = _first_count(usage, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = _first_count(inputs, *_WRITTEN) if inputs else None
    if written is None:
        written = _first_count(usage, "cache_creation_input_tokens")
    # proxies to Anthropic that count as it does, by its names: what it cached stands apart
    apart = (get_count(usage, "cache_read_input_tokens") or 0) + (get_count(usage, "cache_creation_input_tokens") or 0)
    if prompt is not None and apart > prompt:
        prompt += apart
    reasoning = _first_count(outputs, "reasoning_tokens") if outputs else None
    if reasoning is None:
        reasoning = _first_count(usage, "reasoning_tokens")
    if total is not None and prompt is not None and total > prompt + (completion or 0):
        # xAI and Google leave the thinking out of completion_tokens, but bill it as output
        if completion is not None:
            reasoning = reasoning or total - prompt - completion
        completion = total - prompt
    return Usage(prompt, completion, cached, written, reasoning)


def _later(told: Usage | None, before: Usage | None) -> Usage | None:
    """Usage told again in one stream: counts are totals, and what a later chunk leaves out or says 0 of still holds."""
    if told is None or before is None:
        return told or before
    return Usage(
        _known(told.input_tokens, before.input_tokens),
        _known(told.output_tokens, before.output_tokens),
        _known(told.cached_input_tokens, before.cached_input_tokens),
        _known(told.cache_write_tokens, before.cache_write_tokens),
        _known(told.reasoning_tokens, before.reasoning_tokens),
    )


def _known(told: int | None, before: int | None) -> int | None:
    return told if told or before is None else before


def _usage_of_timings(timings: Json) -> Usage | None:
    evaluated, cached = get_count(timings, "prompt_n"), get_count(timings, "cache_n")
    if evaluated is None:
        return None
    return Usage(evaluated + (cached or 0), get_count(timings, "predicted_n"), cached)


def _first_count(holder: Json, *keys: str) -> int | None:
    for key in keys:
        if key in holder and (count := get_count(holder, key)) is not None:
            return count
    return None


def _details(usage: Json, *keys: str) -> Json:
    for key in keys:
        if isinstance(details := usage.get(key), dict):
            return details
    return {}


# --- a complete choice -----------------------------------------------------------------------------


def read_result(answer: Json, sent: WireRequest) -> ChatResult:
    """Raises ProviderError."""
    choices = get_dicts(answer, "choices")
    if not choices:
        if holds_error(answer):
            raise error_from_event(answer, sent)
        raise protocol_error("the answer holds no choices")
    usage = read_usage(answer, choices[0])
    parts, stop_reason, mean_logprob = read_choice(choices[0], sent, usage)
    return ChatResult(
        parts=parts,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence_of(choices[0], sent),
        usage=usage or Usage(),
        model=get_str(answer, "model"),
        response_id=get_str(answer, "id"),
        mean_logprob=mean_logprob,
    )


def read_choice(
    choice: Json, sent: WireRequest, usage: Usage | None
) -> tuple[tuple[Part, ...], StopReason, float | None]:
    """(parts, stop reason, mean log probability) of one choice. `usage` is for an error that it may hold."""
    _refuse_given_up(choice, sent, usage)
    message, finish = get_dict(choice, "message"), get_str(choice, "finish_reason")
    if not message and not isinstance(choice.get("text"), str) and not _is_silenced(finish):
        raise protocol_error("the choice holds no message")
    text, reasoning = read_content(message or {"content": choice.get("text")})
    refusal = get_str(message, "refusal")
    calls = _calls(message, sent)
    parts: list[Part] = []
    if reasoning:
        parts.append(Reasoning(reasoning))
    if text or refusal:
        parts.append(Text(text or refusal, refuses=not text))
    stop_reason = stop_reason_of(finish, has_calls=bool(calls), refused=bool(refusal))
    return (*parts, *calls), stop_reason, _mean(_logprobs(choice))


def read_content(message: Json) -> tuple[str, str]:
    """(text, reasoning) of a message or a delta; content may be a text or a list of blocks."""
    content = message.get("content")
    reasoning = get_str(message, "reasoning_content") or _text_or_nothing(message.get("reasoning"))
    if content is None:
        return "", reasoning
    if isinstance(content, str):
        return content, reasoning
    text = ""
    for block in get_dicts(message, "content"):
        if block.get("type") == "thinking":
            thinking = block.get("thinking")
            blocks = get_dicts(block, "thinking") if isinstance(thinking, list) else [{"text": thinking}]
            reasoning += "".join(get_str(item, "text") for item in blocks)
        else:
            text += get_str(block, "text")
    return text, reasoning


def _text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _calls(message: Json, sent: WireRequest) -> list[ToolCall]:
    calls = []
    for number, call in enumerate(get_dicts(message, "tool_calls")):
        function = get_dict(call, "function")
        name = get_str(function, "name")
        if not name:
            raise protocol_error("a tool call has no name")
        calls.append(ToolCall(get_str(call, "id") or call_id(sent, number), name, arguments_text(function) or "{}"))
    legacy = get_dict(message, "function_call")
    if legacy and not calls:
        calls.append(ToolCall(call_id(sent, 0), get_str(legacy, "name"), arguments_text(legacy) or "{}"))
    return calls


def _logprobs(choice: Json) -> list[float]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    numbers = (get_number(token, "logprob") for token in content if isinstance(token, dict))
    return [number for number in numbers if number is not None]


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


# --- the stream ------------------------------------------------------------------------------------


def _failed(name: bytes, chunk: Json) -> Json | None:
    """What holds the error of a chunk that is one; None for a piece of an answer."""
    if name == b"error" or chunk.get("error") or chunk.get("object") == "error":
        return chunk
    if isinstance(groq := chunk.get("x_groq"), dict) and groq.get("error"):
        return groq
    return chunk if not chunk.get("choices") and "usage" not in chunk and holds_error(chunk) else None


class ChatDecoder(EventDecoder):
    """chat.completion.chunk events up to `[DONE]`, which some servers leave out."""

    def __init__(self, codec: "Codec", sent: WireRequest) -> None:
        super().__init__(codec, sent, SSESplitter())
        self._introduced = False
        self._stop_reason: StopReason | None = None
        self._refused = False
        self._calls = CallPieces(sent)
        self._usage_told: Usage | None = None
        self._logprobs: list[float] = []

    def on_event(self, name: bytes, data: bytes, out: list[Delta]) -> None:
        if data.startswith(b"[DONE]") or data.strip() == b"[DONE]":
            self._end(out)
            return
        try:
            chunk = load_object(data, "a chunk of the stream")
        except ProviderError:
            if name != b"error":
                raise
            chunk = {"error": data.decode("utf-8", "replace")}  # said in plain words
        if self._introduced and (text := plain_text(chunk)):
            out.append(Delta(text))
            return
        choices = get_dicts(chunk, "choices")
        choice = choices[0] if choices else {}
        self.usage = _later(read_usage(chunk, choice), self.usage)
        failed = _failed(name, chunk)
        if failed is not None:
            raise error_from_event(failed, self.sent, usage=self.usage)
        if not self._introduced and (choices or chunk.get("model")):  # Azure's first chunk tells nothing
            self._introduced = True
            out.append(Delta(model=get_str(chunk, "model"), response_id=get_str(chunk, "id")))
        if choice:
            self._choice(choice, out)
        if self._stop_reason is not None and self.usage is not self._usage_told:
            self._usage_told = self.usage
            out.append(Delta(usage=self.usage))

    def on_end(self, out: list[Delta]) -> None:
        if self._stop_reason is None:
            raise self.cut()
        self._end(out)

    def _end(self, out: list[Delta]) -> None:
        if not self._introduced:
            raise protocol_error("the stream holds no answer")
        if self._stop_reason is None:
            self._stop("", out)
        self._calls.end(out)
        if self.usage is not self._usage_told:
            out.append(Delta(usage=self.usage))
        self.done = True

    def _choice(self, choice: Json, out: list[Delta]) -> None:
        # Perplexity's chunks hold both: the piece, and as a message all that was written so far
        delta = get_dict(choice, "message" if choice.get("delta") is None else "delta")
        text, reasoning = read_content(delta)
        refusal = get_str(delta, "refusal")
        text = text or get_str(choice, "text")
        if text or reasoning:
            out.append(Delta(text=text, reasoning=reasoning))
        if refusal:
            self._refused = True
            out.append(Delta(refusal, refuses=True))
        if choice.get("logprobs"):
            self._logprobs += _logprobs(choice)
        calls = get_dicts(delta, "tool_calls")
        for call in calls:
            self._calls.add(call, out)
        if delta.get("function_call") and not calls:  # llama-cpp-python says the same call in both ways
            self._calls.add({"index": 0, "function": get_dict(delta, "function_call")}, out)
        finish = get_str(choice, "finish_reason")
        if finish or choice.get("error"):
            _refuse_given_up(choice, self.sent, self.usage)
        if finish and self._stop_reason is None and finish != "null":  # as Alibaba's servers spell it
            self._stop(finish, out, stop_sequence_of(choice, self.sent))

    def _stop(self, finish: str, out: list[Delta], stop_sequence: str = "") -> None:
        has_calls = self._calls.end(out)
        self._stop_reason = stop_reason_of(finish, has_calls=has_calls, refused=self._refused)
        mean = _mean(self._logprobs)
        out.append(Delta(stop_reason=self._stop_reason, stop_sequence=stop_sequence, mean_logprob=mean))
