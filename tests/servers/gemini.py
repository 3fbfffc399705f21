"""Google's generateContent, streamGenerateContent (SSE with alt=sse, else a JSON array), countTokens, embeddings."""

import json
from collections.abc import Iterator
from typing import Any

from tests.servers.base import ProviderServer, input_tokens, output_tokens, sse, vector
from tests.servers.http import Exchange
from tests.servers.script import Received, Reply

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class GeminiServer(ProviderServer):
    """Speaks Google's Gemini API below /v1beta."""

    models = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001")

    async def route(self, exchange: Exchange, received: Received) -> None:
        path = received.path.split("?")[0]
        if path == "/v1beta/models":
            rows = [{"name": f"models/{name}", "inputTokenLimit": 1048576} for name in self.models]
            await exchange.send_json(200, {"models": rows})
            return
        method = path.rpartition(":")[2]
        if method in ("generateContent", "streamGenerateContent"):
            await self.answer(exchange, received, streaming=method == "streamGenerateContent")
        elif method == "countTokens":
            request = received.json.get("generateContentRequest", received.json)
            await exchange.send_json(200, {"totalTokens": input_tokens(Reply(), request)})
        elif method == "batchEmbedContents":
            texts = [request["content"]["parts"][0]["text"] for request in received.json["requests"]]
            await exchange.send_json(200, {"embeddings": [{"values": vector(text)} for text in texts]})
        else:
            await self.not_found(exchange)

    def model_of(self, received: Received) -> str:
        return received.path.split("?")[0].rpartition("/")[2].partition(":")[0]

    def authorized(self, received: Received) -> bool:
        return received.headers.get("x-goog-api-key") == self.api_key

    def error(self, status: int, message: str, kind: str) -> Any:
        return {"error": {"code": status, "message": message, "status": _STATUS.get(status, "INTERNAL")}}

    def error_event(self, reply: Reply) -> bytes:
        return sse(self.error(503, reply.error or "The model is overloaded. Please try again later.", ""))

    def complete(self, reply: Reply, request: Any) -> Any:
        parts: list[dict[str, Any]] = [{"text": reply.reasoning, "thought": True}] if reply.reasoning else []
        parts += [{"text": reply.text}] if reply.text else []
        return self._answer(reply, request, [*parts, *_calls(reply)], _finish(reply))

    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        pieces: list[dict[str, Any]] = [{"text": reply.reasoning, "thought": True}] if reply.reasoning else []
        pieces += [*({"text": piece} for piece in reply.pieces), *_calls(reply)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            yield sse(self._answer(reply, request, [piece], _finish(reply) if last else None))

    def _answer(self, reply: Reply, request: Any, parts: list[dict[str, Any]], finish: str | None) -> Any:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        candidate |= _logprobs([part["text"] for part in parts if "text" in part], request)
        if finish:
            candidate["finishReason"] = finish
        answer = {"candidates": [candidate], "modelVersion": reply.model or "gemini-test", "responseId": "resp_test"}
        if not reply.usage:
            return answer
        prompt, output = input_tokens(reply, request), output_tokens(reply) - reply.reasoning_tokens
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": output}
        usage |= {"thoughtsTokenCount": reply.reasoning_tokens} if reply.reasoning_tokens else {}
        usage |= {"cachedContentTokenCount": reply.cached_tokens} if reply.cached_tokens else {}
        return {**answer, "usageMetadata": {**usage, "totalTokenCount": prompt + output + reply.reasoning_tokens}}


def _logprobs(texts: list[str], request: Any) -> dict[str, Any]:
    asked = request.get("generationConfig", {})
    if not asked.get("responseLogprobs") or not texts:
        return {}
    chosen = [{"token": text, "tokenId": 7, "logProbability": -0.25} for text in texts]
    likeliest = [{"candidates": [one] * asked.get("logprobs", 0)} for one in chosen]
    return {"logprobsResult": {"chosenCandidates": chosen, "topCandidates": likeliest}}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [{"functionCall": {"name": call.name, "args": json.loads(json.dumps(dict(call.arguments)))}}
            for call in reply.calls]  # fmt: skip


def _finish(reply: Reply) -> str:
    return {"": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}[reply.stop]


if __name__ == "__main__":
    GeminiServer.main()
