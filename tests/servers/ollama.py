"""Ollama: /api/chat, /api/generate, /api/embed, /api/embeddings, /api/tags, /api/ps, /api/version, /api/show.

Like the real one it answers 404 for models it does not have (but serves cloud models that it does not list),
reports late failures inside a 200 stream, and cuts a prompt that is longer than `num_ctx` (4096 if none is asked for,
`train_context` at most) without a word, unless it is told `truncate: false`: then it hands on its runner's refusal.
Versions before 0.12.6 do not know that word (`cuts_in_silence`).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.servers.base import ProviderServer, input_tokens, logprobs, output_tokens, tokens, vector
from tests.servers.http import Exchange
from tests.servers.script import Received, Reply

CREATED = "2026-11-21T00:19:55.175782059Z"


class OllamaServer(ProviderServer):
    """Speaks Ollama's native API."""

    content_type = "application/x-ndjson"
    models = (
        *("llama3.2:3b", "llama3.2", "llama3.1:70b", "qwen2.5:7b", "qwen2.5-coder:7b", "phi3", "mistral", "glm-4.5"),
        *("llava:13b", "all-minilm", "nomic-embed-text", "kimi-k2:1t-cloud", "qwen3-coder:480b-cloud"),
    )
    loaded: tuple[str, ...] = ()
    version = "0.40.2"
    cuts_in_silence = False
    knows_logprobs = False  # as before 0.12.11
    thinks = True  # whether its models do: others are not asked in vain
    one_system_message = False  # as the templates of Qwen 3.5 have it
    signed_in = True  # to the cloud that it passes names ending in "cloud" on to
    train_context = 131072
    default_context = 4096

    async def route(self, exchange: Exchange, received: Received) -> None:
        match received.path.split("?")[0]:
            case "/api/chat" | "/api/generate":
                await self.answer(exchange, received, streaming=received.json.get("stream", True) is not False)
            case "/api/embed" | "/api/embeddings":
                await self._embed(exchange, received)
            case "/api/tags":
                await exchange.send_json(200, {"models": [_row(name) for name in self.models]})
            case "/api/ps":
                await exchange.send_json(200, {"models": [_row(name) for name in self.loaded]})
            case "/api/version":
                await exchange.send_json(200, {"version": self.version})
            case _:
                await self.not_found(exchange)

    def authorized(self, received: Received) -> bool:
        return received.headers.get("authorization") == f"Bearer {self.api_key}"

    def refuse(self, reply: Reply, request: Any) -> tuple[int, str, str] | None:
        model = request.get("model", "")
        if model.endswith((":cloud", "-cloud")):
            return None if self.signed_in else (401, "unauthorized", "")
        if not self._has(model):
            return 404, f'model "{model}" not found, try pulling it first', ""
        for message in request.get("messages", ()):
            if not isinstance(message.get("content", ""), str):
                return 400, "json: cannot unmarshal array into Go struct field ChatRequest.messages.content", ""
        if request.get("think") and not self.thinks:
            return 400, f'"{model}" does not support thinking', ""
        if self.one_system_message and any(m["role"] == "system" for m in request.get("messages", ())[1:]):
            return 400, "Unable to generate parser for this template: System message must be at the beginning.", ""
        size, asked = self._context(request), input_tokens(reply, request)
        if request.get("truncate") is False and not self.cuts_in_silence and asked >= size:
            return 400, _runners_refusal(asked, size), ""
        return None

    def _context(self, request: Any) -> int:
        asked = (request.get("options") or {}).get("num_ctx") or self.default_context
        return min(int(asked), self.train_context)

    def _has(self, model: str) -> bool:
        return any(model in (name, name.removesuffix(":latest"), f"{name}:latest") for name in self.models)

    def error(self, status: int, message: str, kind: str) -> Any:
        signin = {} if self.signed_in else {"signin_url": "https://ollama.com/connect?name=box&key=c3NoLWVkMjU1MTk"}
        return {"error": message, **signin}

    def error_event(self, reply: Reply) -> bytes:
        return _line({"error": reply.error or "an error was encountered while running the model"})

    def complete(self, reply: Reply, request: Any) -> Any:
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            message["thinking"] = reply.reasoning
        if reply.calls:
            message["tool_calls"] = _calls(reply)
        said = {**self._base(reply, request), **_holder(request, message), **self._logprobs(reply.pieces, request)}
        return {**said, **self._end(reply, request)}

    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        base = self._base(reply, request)
        if reply.reasoning:
            thought = {"role": "assistant", "content": "", "thinking": reply.reasoning}
            yield _line({**base, "message": thought, "done": False})
        for piece in reply.pieces:
            said = {**base, **_holder(request, {"role": "assistant", "content": piece}), "done": False}
            yield _line(said | self._logprobs([piece], request))
        if reply.calls:
            message = {"role": "assistant", "content": "", "tool_calls": _calls(reply)}
            yield _line({**base, "message": message, "done": False})
        yield _line({**base, **_holder(request, {"role": "assistant", "content": ""}), **self._end(reply, request)})

    def _logprobs(self, pieces: Iterable[str], request: Any) -> dict[str, Any]:
        asked = self.knows_logprobs and request.get("logprobs")
        return {"logprobs": logprobs(pieces, request.get("top_logprobs", 0))} if asked else {}

    def _base(self, reply: Reply, request: Any) -> dict[str, Any]:
        return {"model": reply.model or request["model"], "created_at": CREATED}

    def _end(self, reply: Reply, request: Any) -> dict[str, Any]:
        end: dict[str, Any] = {"done_reason": "length" if reply.stop == "length" else "stop", "done": True}
        end |= {"total_duration": 24917275, "load_duration": 1818031}
        if reply.usage:
            counted = input_tokens(reply, request) + tokens(request.get("prompt"))
            limit = self._context(request)
            end |= {"prompt_eval_count": counted if reply.input_tokens is not None else min(counted, limit)}
            end |= {"prompt_eval_cached_count": reply.cached_tokens}
            end |= {"prompt_eval_duration": 596149, "eval_count": output_tokens(reply), "eval_duration": 21614190}
        return end

    async def _embed(self, exchange: Exchange, received: Received) -> None:
        request = received.json
        if not self._has(request.get("model", "")):
            await exchange.send_json(404, {"error": f'model "{request.get("model")}" not found, try pulling it first'})
            return
        if received.path.startswith("/api/embeddings"):
            await exchange.send_json(200, {"embedding": vector(request.get("prompt", ""), unit=False)})
            return
        texts = request.get("input", "")
        texts = [texts] if isinstance(texts, str) else texts
        if request.get("truncate") is False and any(tokens(text) > self._context(request) for text in texts):
            await exchange.send_json(400, {"error": "the input length exceeds the context length"})
            return
        answer = {"model": request["model"], "embeddings": [vector(text) for text in texts]}
        await exchange.send_json(200, {**answer, "total_duration": 1, "prompt_eval_count": tokens(texts)})


def _holder(request: Any, message: dict[str, Any]) -> dict[str, Any]:
    """/api/generate says `response` where /api/chat says `message`."""
    return {"message": message} if "messages" in request else {"response": message["content"]}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [{"function": {"name": call.name, "arguments": dict(call.arguments)}} for call in reply.calls]


def _runners_refusal(asked: int, size: int) -> str:
    """llama-server's error, which Ollama hands on as a text."""
    words = f"request ({asked} tokens) exceeds the available context size ({size} tokens), try increasing it"
    error = {
        "code": 400,
        "message": words,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": asked,
        "n_ctx": size,
    }
    return json.dumps({"error": error})


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _row(name: str) -> dict[str, Any]:
    full = name if ":" in name else f"{name}:latest"
    return {"name": full, "model": full, "modified_at": CREATED, "size": 25285575, "details": {"format": "gguf"}}


if __name__ == "__main__":
    OllamaServer.main()
