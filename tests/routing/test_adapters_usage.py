"""Token counts as houses tell them, read into one meaning: reported, or not."""
# ruff: noqa: E501 - answers are written as they come

import json
from typing import Any

import pytest

from routing.types import ProviderError, Usage
from tests.routing.test_adapters_dialects import START, STOPPED, chunk, completion, events, gemini, read, sse

NONE = (None, None, None, None, None)
# kind, usage as it is told in an answer, and input, output, cached, cache-written, reasoning as they are read
COUNTS: dict[str, tuple[str, Any, tuple[int | None, ...]]] = {
    "openai": ("openai", {"prompt_tokens": 90, "completion_tokens": 50, "total_tokens": 140,
               "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 0},
               "completion_tokens_details": {"reasoning_tokens": 20}}, (90, 50, 40, None, 20)),
    "zeros are told": ("openai", {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details":
                       {"cached_tokens": 0}}, (0, 0, 0, None, None)),
    "null": ("openai", None, NONE),
    "nulls": ("openai", {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, NONE),
    "words": ("openai", "none", NONE),
    "negative": ("openai", {"prompt_tokens": -9, "completion_tokens": -1}, NONE),
    "more than any model reads": ("openai", {"prompt_tokens": 10**15, "completion_tokens": 2**31}, NONE),
    "halves and truth": ("openai", {"prompt_tokens": 9.5, "completion_tokens": True}, NONE),
    "floats": ("openai", {"prompt_tokens": 9.0, "completion_tokens": 5e0}, (9, 5, None, None, None)),
    "digits in a text": ("openai", {"prompt_tokens": "9", "completion_tokens": "5"}, (9, 5, None, None, None)),
    "other texts": ("openai", {"prompt_tokens": "9.0", "completion_tokens": "\u0665"}, NONE),
    "moonshot": ("openai", {"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4}, (9, 5, 4, None, None)),
    "deepseek": ("openai", {"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 4,
                 "prompt_cache_miss_tokens": 5}, (9, 5, 4, None, None)),
    "alibaba's cache": ("openai", {"prompt_tokens": 90, "completion_tokens": 5, "prompt_tokens_details":
                        {"cached_tokens": 0, "cache_creation_input_tokens": 80, "cache_creation":
                         {"ephemeral_5m_input_tokens": 80}}}, (90, 5, 0, 80, None)),
    "a proxy's cache": ("openai", {"prompt_tokens": 90, "completion_tokens": 5, "cache_read_input_tokens": 40,
                        "cache_creation_input_tokens": 30}, (90, 5, 40, 30, None)),
    "anthropic": ("anthropic", {"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 40,
                  "cache_creation_input_tokens": 30, "cache_creation": {"ephemeral_5m_input_tokens": 10,
                  "ephemeral_1h_input_tokens": 20}}, (79, 5, 40, 30, None)),
    "anthropic, lifetimes alone": ("anthropic", {"input_tokens": 9, "output_tokens": 5, "cache_creation":
                                   {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}},
                                   (39, 5, None, 30, None)),
    "anthropic, no cache": ("anthropic", {"input_tokens": 0, "output_tokens": 0, "cache_creation": None},
                            (0, 0, None, None, None)),
    "anthropic, null": ("anthropic", None, NONE),
    "ollama": ("ollama", {"prompt_eval_count": 9, "eval_count": 5}, (9, 5, None, None, None)),
    "ollama, prompt in its cache": ("ollama", {"eval_count": 5}, (None, 5, None, None, None)),
    "gemini": ("gemini", {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 7,
               "cachedContentTokenCount": 4, "totalTokenCount": 21}, (9, 12, 4, None, 7)),
}  # fmt: skip


def told(kind: str, usage: Any) -> bytes:
    """An answer with this usage."""
    match kind:
        case "openai":
            return completion({"content": "Hi"}, usage=usage)
        case "anthropic":
            return json.dumps({"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}).encode()
        case "ollama":
            return json.dumps({"message": {"content": "Hi"}, "done": True, "done_reason": "stop", **usage}).encode()
    return json.dumps(gemini({"text": "Hi"}, usageMetadata=usage)).encode()


def counts(usage: Usage) -> tuple[int | None, ...]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )


@pytest.mark.parametrize(("kind", "usage", "expected"), COUNTS.values(), ids=COUNTS)
def test_tokens_are_counted_as_they_are_told_and_nonsense_is_not_believed(
    kind: str, usage: Any, expected: tuple[int | None, ...]
) -> None:
    result, error = read(kind, told(kind, usage))
    assert error is None
    assert counts(result.usage) == expected
    assert not result.usage.estimated


@pytest.mark.parametrize(
    "last",
    [{}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {"prompt_tokens": None}, {"queue_time": 0.1}],
)
def test_what_a_stream_has_told_is_not_untold_by_its_last_chunk(last: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    body = sse(chunk(role="assistant", content="Hi"), {**chunk("stop"), "usage": usage}, {"choices": [], "usage": last})
    result, error = read("openai", body)
    assert error is None
    assert counts(result.usage) == (9, 5, 4, None, None)


def test_usage_within_the_choice_counts_where_the_top_has_an_empty_one() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    last = chunk("stop") | {"usage": {}}
    last["choices"][0]["usage"] = usage
    result, error = read("openai", sse(chunk(role="assistant", content="Hi"), last))
    assert error is None
    assert counts(result.usage) == (9, 5, None, None, None)


PROMPT = {"promptTokenCount": 9}
TOOLS = {**PROMPT, "toolUsePromptTokenCount": 20}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (({"candidatesTokenCount": 1, "thoughtsTokenCount": 70}, {"candidatesTokenCount": 30}), (None, 100, 70)),
        (({"candidatesTokenCount": 30}, {"thoughtsTokenCount": 7}), (None, 37, 7)),
        ((TOOLS, {**PROMPT, "candidatesTokenCount": 3}), (29, 3, None)),
        (({"toolUsePromptTokenCount": 20}, PROMPT), (29, None, None)),
        ((TOOLS, {**TOOLS, "thoughtsTokenCount": 4}, {**TOOLS, "thoughtsTokenCount": 5}), (29, 5, 5)),
    ],
)
def test_counts_of_gemini_that_come_apart_are_added_up(
    told: tuple[dict[str, int], ...], expected: tuple[int | None, ...]
) -> None:
    chunks = [gemini({"text": "Hi"}, finish=None, usageMetadata=usage) for usage in told]
    result, error = read("gemini", sse(*chunks, gemini(), done=False))
    assert error is None
    usage = result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == expected


def test_a_message_whose_counts_grow_from_event_to_event_is_counted_once() -> None:
    start = {"type": "message_start", "message": {**START["message"], "usage": {
        "input_tokens": 9, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 30, "output_tokens": 1}}}  # fmt: skip
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    grown = [{"type": "message_delta", "delta": delta, "usage": told} for told in (
        {"output_tokens": 3},
        {"input_tokens": 9, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 30, "output_tokens": 7},
        {"input_tokens": 0, "output_tokens": 7})]  # fmt: skip
    result, error = read("anthropic", events(start, *grown, STOPPED))
    assert error is None
    assert counts(result.usage) == (79, 7, 40, 30, None)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("openai", {"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}),
        ("openai", {"id": "c", "choices": [{"index": 0}], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}),
        ("gemini", {"modelVersion": "m", "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 0}}),
    ],
)
def test_an_answer_that_is_none_tells_what_it_has_used(kind: str, answer: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        read(kind, json.dumps(answer).encode())
    assert (caught.value.kind, caught.value.retryable) == ("protocol", True)
    assert caught.value.usage == Usage(9, 0)
