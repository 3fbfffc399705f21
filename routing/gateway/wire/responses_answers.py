"""PURE: whole answers as OpenAI's responses API tells them, and the objects that its streams are made of, too."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from routing.gateway.wire.reading import Incoming, Json
from routing.gateway.wire.responses_thinking import sealed
from routing.types import ChatResult, Part, Reasoning, StopReason, Text, ToolCall, Usage

_INCOMPLETE: dict[StopReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Answer:
    """What every object of one answer bears: its ids, and what it repeats of the request."""

    def __init__(self, *, call_id: str, model: str, incoming: Incoming) -> None:
        self._call_id = call_id
        self._head = {"id": f"resp_{call_id}", "object": "response", "created_at": int(time.time()), "model": model}
        self._echo = orjson.dumps(incoming.echo or {})[1:]
        self._namespaces = incoming.namespaces or {}

    def id(self, kind: str, place: int) -> str:
        """Of an item, which stands at `place` in the output."""
        return f"{kind}_{self._call_id}_{place}"

    def response(
        self, status: str, output: Sequence[Any], *, reason: str = "", usage: Usage | None = None, error: Any = None
    ) -> orjson.Fragment:
        said = {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": error,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": output,
            "usage": _usage(usage) if usage is not None else None,
        }
        return orjson.Fragment(orjson.dumps(said)[:-1] + b"," + self._echo)

    def message(self, place: int, status: str, content: Sequence[Json]) -> Json:
        told = {"type": "message", "id": self.id("msg", place), "status": status, "role": "assistant"}
        return {**told, "content": content}

    def call(self, place: int, status: str, call: ToolCall) -> Json:
        namespace, name = self._namespaces.get(call.name, ("", call.name))
        told = {"type": "function_call", "id": self.id("fc", place), "status": status, "call_id": call.id}
        told |= {"name": name, "arguments": call.arguments}
        return {**told, "namespace": namespace} if namespace else told

    def thinking(self, place: int, status: str, thinking: Reasoning) -> Json:
        told = {"type": "reasoning", "id": self.id("rs", place), "status": status, "summary": summary(thinking)}
        return {**told, "encrypted_content": None if status == "in_progress" else sealed(thinking)}


def summary(thinking: Reasoning) -> list[Json]:
    """What a client may show of it."""
    return [{"type": "summary_text", "text": thinking.text}] if thinking.text and not thinking.redacted else []


def said(text: str, *, refuses: bool, logprobs: Sequence[Mapping[str, Any]] = ()) -> Json:
    """A part of a message."""
    if refuses:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": with_bytes(logprobs)}


def with_bytes(logprobs: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Each token with its bytes, which this API never leaves out."""
    return [
        {**_bytes(entry), "top_logprobs": [_bytes(other) for other in entry.get("top_logprobs", ())]}
        for entry in logprobs
    ]


def _bytes(entry: Mapping[str, Any]) -> Json:
    if entry.get("bytes") is not None:
        return dict(entry)
    return {**entry, "bytes": list(entry["token"].encode("utf-8", "replace"))}


def ending(stop_reason: StopReason, *, refused: bool) -> tuple[str, str]:
    """The answer's status, and why it is not complete. A refusal that is told as one is."""
    reason = "" if refused and stop_reason == "content_filter" else _INCOMPLETE.get(stop_reason, "")
    return ("incomplete" if reason else "completed"), reason


def encode_result(result: ChatResult, *, call_id: str, model: str, incoming: Incoming) -> bytes:
    answer = Answer(call_id=call_id, model=model, incoming=incoming)
    refused = any(isinstance(part, Text) and part.refuses for part in result.parts)
    status, reason = ending(result.stop_reason, refused=refused)
    groups = _groups(result.parts) or [[Text("")]]
    output = []
    logprobs = result.logprobs
    for place, group in enumerate(groups):
        its = status if place == len(groups) - 1 else "completed"
        output.append(_item(answer, place, its, group, logprobs))
        if isinstance(group[0], Text):
            logprobs = ()
    return orjson.dumps(answer.response(status, output, reason=reason, usage=result.usage))


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts of each item: texts that follow each other are one message."""
    groups: list[list[Part]] = []
    for part in filter(_says, parts):
        if isinstance(part, Text) and groups and isinstance(groups[-1][0], Text):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _says(part: Part) -> bool:
    match part:
        case Text():
            return bool(part.text)
        case Reasoning():
            return bool(part.text or part.signature)
    return True


def _item(
    answer: Answer, place: int, status: str, parts: Sequence[Part], logprobs: Sequence[Mapping[str, Any]]
) -> Json:
    first = parts[0]
    if isinstance(first, ToolCall):
        return answer.call(place, status, first)
    if isinstance(first, Reasoning):  # what signs it ends it
        return answer.thinking(place, "completed" if first.signature or first.redacted else status, first)
    content = []
    for part in parts:
        if isinstance(part, Text):
            content.append(said(part.text, refuses=part.refuses, logprobs=logprobs))
            logprobs = logprobs if part.refuses else ()
    return answer.message(place, status, content)


def _usage(usage: Usage) -> Json:
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    read, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": inputs + outputs,
    }


def encode_count(tokens: int) -> bytes:
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens})
