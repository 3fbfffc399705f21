"""Reading what nearly all answers of OpenAI's kind look like: one text, two counts. None stands for any other answer,
whose full reading (openai_answers.py) would give the same for these, in four times the time."""

from typing import Any

from routing.adapters.reading.wire import MOST_TOKENS, Json
from routing.types import ChatResult, StopReason, Text, Usage

_ENDINGS: dict[Any, StopReason] = {"stop": "stop", "length": "length"}
_TELLING = ("error", "logprobs", "stop_reason", "matched_stop")  # what else of a choice is read
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


def plain_result(answer: Json) -> ChatResult | None:
    choices, counts, model, response_id = map(answer.get, ("choices", "usage", "model", "id"))
    if type(choices) is not list or len(choices) != 1 or type(counts) is not dict:
        return None
    choice, usage = choices[0], plain_usage(counts)
    if usage is None or type(choice) is not dict or any(map(choice.get, _TELLING)):
        return None
    message, finish = choice.get("message"), choice.get("finish_reason")
    if type(message) is not dict or type(finish) is not str or finish not in _ENDINGS:
        return None
    text = message.get("content")
    if type(text) is not str or not text or type(model) is not str or type(response_id) is not str:
        return None
    if sum(map(bool, message.values())) != 1 + bool(message.get("role")):  # thoughts, calls, a refusal
        return None
    return ChatResult((Text(text),), _ENDINGS[finish], usage, model, response_id)


def plain_usage(counts: Json) -> Usage | None:
    """Two counts and their sum, as most servers tell them that people run themselves."""
    if counts.keys() != _COUNTS:
        return None
    prompt, completion, total = counts["prompt_tokens"], counts["completion_tokens"], counts["total_tokens"]
    if not type(prompt) is type(completion) is type(total) is int:
        return None
    whole = prompt >= 0 and completion >= 0 and prompt + completion == total <= MOST_TOKENS
    return Usage(prompt, completion) if whole else None


def plain_text(chunk: Json) -> str:
    """The text of a chunk that holds nothing else; "" for any other chunk."""
    choices = chunk.get("choices")
    if chunk.get("usage") or chunk.get("error") or "timings" in chunk or not isinstance(choices, list):
        return ""
    choice = choices[0] if len(choices) == 1 else None
    if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("logprobs") or "usage" in choice:
        return ""
    delta = choice.get("delta")
    if not isinstance(delta, dict) or len(delta) > 1:
        return ""
    text = delta.get("content")
    return text if isinstance(text, str) else ""
