"""Anthropic's messages API: /v1/messages (and count_tokens, batches), /v1/models.

As strict as the real one about what others get wrong: a key, the version header, max_tokens, alternating
roles, results of tools in the user's turn.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tests.servers.base import ProviderServer, input_tokens, output_tokens, sse
from tests.servers.http import Disconnect, Exchange
from tests.servers.script import Received, Reply

KNOW_SYSTEM_TURNS = ("claude-opus-4-8", "claude-sonnet-5")
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicServer(ProviderServer):
    """Speaks Anthropic's API."""

    models = (
        *("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-1", "claude-3-5-haiku-20241022"),
        *("claude-opus-4-8", "claude-sonnet-5"),
    )

    def __init__(self, *, port: int = 0, api_key: str = "") -> None:
        super().__init__(port=port, api_key=api_key)
        self.batches: dict[str, list[Any]] = {}  # id -> its requests
        self.batches_made: dict[str, str] = {}  # id -> when
        self.batches_end = True  # False: they stay in progress
        self.batches_cancelled: set[str] = set()
        self.batch_kinds: dict[str, str] = {}  # "expired" or "errored" by words in a request; else it succeeds

    async def route(self, exchange: Exchange, received: Received) -> None:
        if received.path.startswith("/v1/messages/batches"):
            await self._batches(exchange, received)
            return
        match received.path.split("?")[0]:
            case "/v1/messages":
                await self.answer(exchange, received, streaming=bool(received.json.get("stream")))
            case "/v1/messages/count_tokens":
                await exchange.send_json(200, {"input_tokens": input_tokens(Reply(), received.json)})
            case "/v1/models":
                rows = [{"type": "model", "id": name, "display_name": name} for name in self.models]
                await exchange.send_json(200, {"data": rows, "has_more": False, "first_id": None, "last_id": None})
            case _:
                await self.not_found(exchange)

    async def _batches(self, exchange: Exchange, received: Received) -> None:
        _, _, _, _, *rest = received.path.split("?")[0].split("/")
        if not rest and exchange.method == "GET":
            rows = [self._batch(batch_id) for batch_id in reversed(self.batches)]
            await exchange.send_json(200, {"data": rows, "has_more": False, "first_id": None, "last_id": None})
        elif not rest:
            reply = self.script.choose(received, "")
            if reply.status != 200:
                await exchange.send_json(reply.status, self.error(reply.status, reply.error, reply.error_type))
                return
            batch_id = f"msgbatch_{len(self.batches) + 1}"
            self.batches[batch_id] = received.json["requests"]
            self.batches_made[batch_id] = datetime.now(UTC).isoformat()
            if reply.fault == "reset":  # it was taken, and nobody hears of that
                raise Disconnect
            await exchange.send_json(200, self._batch(batch_id))
        elif rest[0] not in self.batches:
            await exchange.send_json(404, self.error(404, "no such batch", ""))
        elif rest[1:] == ["results"]:
            cancelled = rest[0] in self.batches_cancelled
            requests = reversed(self.batches[rest[0]])
            lines = [json.dumps(self._batch_line(request, cancelled=cancelled)) for request in requests]
            await exchange.send(200, "\n".join(lines).encode(), {"content-type": "application/x-jsonl"})
        else:
            if rest[1:] == ["cancel"] and not self.batches_end:  # one that has ended stays as it is
                self.batches_cancelled.add(rest[0])
            await exchange.send_json(200, self._batch(rest[0]))

    def _batch(self, batch_id: str) -> dict[str, Any]:
        at, count = self.batches_made.get(batch_id, "2026-01-01T00:00:00Z"), len(self.batches[batch_id])
        counts = {"processing": 0, "succeeded": count, "errored": 0, "canceled": 0, "expired": 0}
        ended = {"processing_status": "ended", "results_url": f"{self.url}/v1/messages/batches/{batch_id}/results"}
        state = (
            ended
            if self.batches_end or batch_id in self.batches_cancelled
            else {"processing_status": "in_progress", "results_url": None}
        )
        return {"id": batch_id, "type": "message_batch", "created_at": at, "expires_at": at, "request_counts": counts,
                **state}  # fmt: skip

    def _batch_line(self, request: Any, *, cancelled: bool) -> dict[str, Any]:
        words = json.dumps(request["params"])
        usual = "canceled" if cancelled else "succeeded"
        kind = next((kind for text, kind in self.batch_kinds.items() if text in words), usual)
        result: dict[str, Any] = {"type": kind}
        if kind == "succeeded":
            received = Received("POST", "/v1/messages", {}, b"", request["params"], 0.0)
            reply = self.script.choose(received, request["params"]["model"])
            result["message"] = self.complete(reply, request["params"])
        elif kind == "errored":
            result["error"] = self.error(400, "prompt is too odd", "invalid_request_error")
        return {"custom_id": request["custom_id"], "result": result}

    def is_bare(self, received: Received) -> bool:
        return received.path.endswith("/cancel") and not received.body

    def authorized(self, received: Received) -> bool:
        # the REST documentation says x-api-key, the package of 2.x sends a bearer token: both are right
        given = received.headers.get("x-api-key") or received.headers.get("authorization", "").removeprefix("Bearer ")
        return given == self.api_key and "anthropic-version" in received.headers

    def refuse(self, reply: Reply, request: Any) -> tuple[int, str, str] | None:
        if request.get("model") not in self.models:
            return 404, f"model: {request.get('model')}", "not_found_error"
        if not isinstance(request.get("max_tokens"), int):
            return 400, "max_tokens: Field required", "invalid_request_error"
        problem = _problem(request) or _problem_of_tools(request)
        return (400, problem, "invalid_request_error") if problem else None

    def error(self, status: int, message: str, kind: str) -> Any:
        kind = kind or _TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_test"}

    def error_event(self, reply: Reply) -> bytes:
        return sse(self.error(529, reply.error or "Overloaded", reply.error_type or "overloaded_error"), "error")

    def complete(self, reply: Reply, request: Any) -> Any:
        return {**_message(reply, request), "content": _blocks(reply, request), "stop_reason": _stop(reply, request),
                "usage": _usage(reply, request, output_tokens(reply))}  # fmt: skip

    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        message = {**_message(reply, request), "content": [], "usage": _usage(reply, request, 1)}
        yield sse({"type": "message_start", "message": message}, "message_start")
        yield sse({"type": "ping"}, "ping")
        for index, block in enumerate(_blocks(reply, request)):
            start, deltas = _block_events(block, reply)
            yield _event("content_block_start", index=index, content_block=start)
            for delta in deltas:
                yield _event("content_block_delta", index=index, delta=delta)
            yield _event("content_block_stop", index=index)
        usage = _usage(reply, request, output_tokens(reply))
        delta = {"stop_reason": _stop(reply, request), "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=usage)
        yield _event("message_stop")


def _problem(request: Any) -> str:
    messages = request.get("messages", [])
    if not messages or messages[0].get("role") != "user":
        return 'messages: first message must use the "user" role'
    for number, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant", "system"):
            return f"messages.{number}.role: Input should be 'user' or 'assistant'"
        if message["role"] == "system" and request["model"] not in KNOW_SYSTEM_TURNS:
            return "role 'system' is not supported on this model"
        if message["role"] == "system" and messages[number - 1]["role"] != "user":
            return f"messages.{number}: a system message must follow a user message"
        if message["role"] == "user" and number and messages[number - 1]["role"] == "system":
            return f"messages.{number}: a system message must be followed by an assistant message or be the last"
        if not message.get("content"):
            return f"messages.{number}: content must not be empty"
        if number and messages[number - 1]["role"] == message["role"] == "assistant":
            return "messages: roles must alternate"
    return ""


def _problem_of_tools(request: Any) -> str:
    tools = request.get("tools", [])
    deferred = [tool["name"] for tool in tools if tool.get("defer_loading")]
    if deferred and len(deferred) == len(tools):
        return "At least one tool must have defer_loading=false"
    if any("cache_control" in tool for tool in tools if tool.get("defer_loading")):
        return "tools: cache_control cannot be used with defer_loading"
    names = {tool["name"] for tool in tools}
    for block in _blocks_of_results(request.get("messages", [])):
        if block["type"] == "tool_reference" and block["tool_name"] not in names:
            return f"Tool reference '{block['tool_name']}' not found in available tools"
    return ""


def _blocks_of_results(messages: list[Any]) -> Iterator[Any]:
    for message in messages:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_result" and isinstance(block["content"], list):
                yield from block["content"]


def _message(reply: Reply, request: Any) -> dict[str, Any]:
    model = reply.model or request["model"]
    return {"id": "msg_test", "type": "message", "role": "assistant", "model": model, "stop_reason": None,
            "stop_sequence": None}  # fmt: skip


def _forced_tool(request: Any) -> str:
    choice = request.get("tool_choice") or {}
    return str(choice.get("name", "")) if choice.get("type") == "tool" else ""


def _blocks(reply: Reply, request: Any) -> list[dict[str, Any]]:
    """A forced tool takes the reply's text as its input, if that is a JSON object."""
    blocks: list[dict[str, Any]] = []
    if reply.reasoning:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": "c2lnbmVk"})
    forced = _forced_tool(request)
    if forced and not reply.calls:
        return [*blocks, {"type": "tool_use", "id": "toolu_0", "name": forced, "input": json.loads(reply.text)}]
    if reply.cited:
        blocks += [{"type": "text", "text": text, "citations": list(cited) or None} for text, cited in reply.cited]
    elif reply.text:
        blocks.append({"type": "text", "text": reply.text})
    for number, call in enumerate(reply.calls):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": call.name, "input": dict(call.arguments)}
        blocks.append(block)
    return blocks


def _block_events(block: dict[str, Any], reply: Reply) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "text":
            texts = [block["text"][at : at + reply.piece] for at in range(0, len(block["text"]), reply.piece)]
            citations = [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in texts] + citations
    text = json.dumps(block["input"]) if block["input"] else ""
    pieces = [text[at : at + 8] for at in range(0, len(text), 8)] or [""]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def _stop(reply: Reply, request: Any) -> str:
    if reply.stop:
        return {"length": "max_tokens", "content_filter": "refusal"}[reply.stop]
    return "tool_use" if reply.calls or _forced_tool(request) else "end_turn"


def _usage(reply: Reply, request: Any, output: int) -> dict[str, Any]:
    if not reply.usage:
        return {}
    plain = input_tokens(reply, request) - reply.cached_tokens
    return {"input_tokens": plain, "cache_read_input_tokens": reply.cached_tokens, "cache_creation_input_tokens": 0,
            "output_tokens": output}  # fmt: skip


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


if __name__ == "__main__":
    AnthropicServer.main()
