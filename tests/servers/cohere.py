"""Cohere's v2 API: chat whole and streamed, embeddings by type, and the list of models.

Like the real one it counts twice (what it bills, and what its own prompt makes of that), says before a call of a tool
what it plans, ends a stream with `[DONE]`, and refuses a body with a field that it does not know, a result for a call
that nobody made, JSON mode beside tools, and more than 96 texts at once.
"""

import json
from collections.abc import Iterator
from typing import Any

from tests.servers.base import ProviderServer, input_tokens, output_tokens, sse, tokens, vector
from tests.servers.http import Exchange
from tests.servers.script import Received, Reply

OWN_PROMPT = 60  # tokens around the caller's, which are counted but not billed
MOST_TEXTS = 96
CHAT_FIELDS = frozenset(
    {
        *("model", "messages", "stream", "tools", "strict_tools", "documents", "citation_options", "response_format"),
        *("safety_mode", "max_tokens", "stop_sequences", "temperature", "seed", "frequency_penalty"),
        *("presence_penalty", "k", "p", "logprobs", "tool_choice", "thinking", "priority"),
    }
)
EMBED_FIELDS = frozenset(
    {
        *("model", "input_type", "texts", "images", "inputs", "max_tokens", "output_dimension", "embedding_types"),
        *("truncate", "priority"),
    }
)
Refusal = tuple[int, str, str]


class CohereServer(ProviderServer):
    """Speaks Cohere's API below /v2, and below /v1 what it has there alone."""

    models = ("command-a-03-2025", "command-r7b-12-2024", "embed-v4.0", "embed-english-v3.0")

    async def route(self, exchange: Exchange, received: Received) -> None:
        match received.path.split("?")[0]:
            case "/v2/chat":
                await self.answer(exchange, received, streaming=bool(received.json.get("stream")))
            case "/v2/embed":
                await self._embed(exchange, received.json)
            case "/v1/models":
                rows = [{"name": name, "endpoints": ["chat"], "context_length": 256000} for name in self.models]
                await exchange.send_json(200, {"models": rows, "next_page_token": ""})
            case _:
                await self.not_found(exchange)

    def authorized(self, received: Received) -> bool:
        return received.headers.get("authorization") == f"Bearer {self.api_key}"

    def refuse(self, reply: Reply, request: Any) -> Refusal | None:
        return self._unknown(request, CHAT_FIELDS) or _wrong_turns(request["messages"]) or _wrong_form(request)

    def _unknown(self, request: Any, fields: frozenset[str]) -> Refusal | None:
        for name in request.keys() - fields:
            return 422, f"unknown field: parameter '{name}' is not a valid field", ""
        if request.get("model") not in self.models:
            return 404, f"model '{request.get('model')}' not found, make sure the correct model ID was used", ""
        return None

    def error(self, status: int, message: str, kind: str) -> Any:
        return {"id": "0000-test", "message": message}

    def error_event(self, reply: Reply) -> bytes:
        delta = {"finish_reason": "ERROR", "error": reply.error or "the model failed"}
        return _event("message-end", delta=delta)

    def complete(self, reply: Reply, request: Any) -> Any:
        message: dict[str, Any] = {"role": "assistant"}
        blocks = [{"type": "thinking", "thinking": reply.reasoning}] if reply.reasoning and not reply.calls else []
        blocks += [{"type": "text", "text": reply.text}] if reply.text else []
        if blocks:
            message["content"] = blocks
        if reply.calls:
            message |= {"tool_plan": reply.reasoning, "tool_calls": _calls(reply)}
        answer = {"id": "c-test", "message": message, "finish_reason": _finish(reply)}
        return {**answer, "usage": _usage(reply, request)} if reply.usage else answer

    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        yield _event("message-start", id="c-test", delta={"message": empty})
        if reply.reasoning and reply.calls:
            yield _event("tool-plan-delta", delta={"message": {"tool_plan": reply.reasoning}})
        elif reply.reasoning:
            yield from _block("thinking", [reply.reasoning], 0)
        if reply.text:
            yield from _block("text", reply.pieces, int(bool(reply.reasoning and not reply.calls)))
        for index, call in enumerate(_calls(reply)):
            yield from _call_events(index, call)
        delta: dict[str, Any] = {"finish_reason": _finish(reply)}
        yield _event("message-end", delta={**delta, "usage": _usage(reply, request)} if reply.usage else delta)
        yield sse("[DONE]")

    async def _embed(self, exchange: Exchange, request: Any) -> None:
        refused = self._unknown(request, EMBED_FIELDS) or _wrong_texts(request)
        if refused:
            await exchange.send_json(refused[0], self.error(*refused))
            return
        texts, size = request["texts"], request.get("output_dimension", 1024)
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens(texts)}}
        floats = {"float": [vector(text, size) for text in texts]}
        answer = {"id": "e-test", "embeddings": floats, "texts": texts, "meta": meta}
        await exchange.send_json(200, {**answer, "response_type": "embeddings_by_type"})


def _wrong_turns(turns: Any) -> Refusal | None:
    made: set[str] = set()
    for number, turn in enumerate(turns):
        made |= {call["id"] for call in turn.get("tool_calls", ())}
        if turn["role"] == "tool" and turn["tool_call_id"] not in made:
            return (
                400,
                f"invalid request: no tool call with the id {turn['tool_call_id']} before messages[{number}]",
                "",
            )
        if turn["role"] != "tool" and not turn.get("content") and not turn.get("tool_calls"):
            return 400, "invalid request: all elements in history must have a message", ""
    return None


def _wrong_form(request: Any) -> Refusal | None:
    if request.get("response_format", {}).get("type") == "json_object" and request.get("tools"):
        return 400, "invalid request: cannot specify both response_format json_object and tools", ""
    if request.get("tool_choice") not in (None, "REQUIRED", "NONE"):
        return 422, f"tool_choice must be one of REQUIRED, NONE: {request['tool_choice']}", ""
    return None


def _wrong_texts(request: Any) -> Refusal | None:
    if len(request["texts"]) > MOST_TEXTS:
        return 400, f"invalid request: total number of texts must be at most 96 - received {len(request['texts'])}", ""
    if not request.get("input_type"):
        return 400, "invalid request: input_type is required with this model", ""
    return None


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _block(kind: str, pieces: list[str], index: int) -> Iterator[bytes]:
    yield _event("content-start", index=index, delta={"message": {"content": {"type": kind, kind: ""}}})
    for piece in pieces:
        yield _event("content-delta", index=index, delta={"message": {"content": {kind: piece}}})
    yield _event("content-end", index=index)


def _call_events(index: int, call: dict[str, Any]) -> Iterator[bytes]:
    arguments = call["function"]["arguments"]
    head = {**call, "function": {**call["function"], "arguments": ""}}
    yield _event("tool-call-start", index=index, delta={"message": {"tool_calls": head}})
    for at in range(0, len(arguments), 8):
        piece = {"function": {"arguments": arguments[at : at + 8]}}
        yield _event("tool-call-delta", index=index, delta={"message": {"tool_calls": piece}})
    yield _event("tool-call-end", index=index)


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{call.name}_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for number, call in enumerate(reply.calls)
    ]


def _finish(reply: Reply) -> str:
    ends = {"length": "MAX_TOKENS", "content_filter": "ERROR_TOXIC"}
    return ends.get(reply.stop) or ("TOOL_CALL" if reply.calls else "COMPLETE")


def _usage(reply: Reply, request: Any) -> dict[str, Any]:
    read, written = input_tokens(reply, request), output_tokens(reply)
    return {
        "billed_units": {"input_tokens": read, "output_tokens": written},
        "tokens": {"input_tokens": read + OWN_PROMPT, "output_tokens": written + 2},
        "cached_tokens": reply.cached_tokens,
    }


if __name__ == "__main__":
    CohereServer.main()
