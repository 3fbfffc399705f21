"""What a chat completion has used, in all the dialects of OpenAI's API."""

from routing.adapters.openai.plain_answers import plain_usage
from routing.adapters.reading.wire import Json, get_count
from routing.types import Usage

_WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")


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


def later(told: Usage | None, before: Usage | None) -> Usage | None:
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
