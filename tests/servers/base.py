"""What all provider servers share: the script, the faults, the command line. The wire formats are theirs."""

import argparse
import asyncio
import gzip
import hashlib
import json
import math
import sys
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.servers.http import Disconnect, Exchange, HTTPServer
from tests.servers.script import Received, Reply, Rule, Script

HTML = b"<!doctype html><html><head><title>Welcome to nginx!</title></head><body>It works</body></html>"
FOREVER = 3600.0


class ProviderServer(ABC):
    """A provider. Subclasses say how its answers look; this plays the script and its faults.

    `requests` holds everything received, `most_at_once` the highest number of calls in flight,
    `connections` how many were opened, `disconnects` how many clients left early.
    """

    content_type = "text/event-stream; charset=utf-8"
    models: tuple[str, ...] = ()

    def __init__(self, *, port: int = 0, api_key: str = "") -> None:
        self.script = Script()
        self.requests: list[Received] = []
        self.most_at_once = 0
        self.api_key = api_key  # if set, calls without it get 401
        self.at_most = 0  # if set, calls beyond so many at once get 429
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = HTTPServer(self._handle, port=port)

    # --- for tests ---

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def connections(self) -> int:
        return self._server.connections

    @property
    def disconnects(self) -> int:
        return self._server.disconnects

    @property
    def default(self) -> Reply:
        return self.script.default

    @default.setter
    def default(self, reply: Reply) -> None:
        self.script.default = reply

    def queue(self, *replies: Reply) -> None:
        """Answers for the next calls, one each."""
        self.script.queued.extend(replies)

    def when(
        self, reply: Reply, *, model: str = "", contains: str = "", path: str = "", times: int | None = None
    ) -> None:
        """The answer for calls that match; earlier rules win."""
        self.script.rules.append(Rule(reply, model, contains, path, times))

    @property
    def calls(self) -> list[Received]:
        """The requests that asked for something, without status checks."""
        return [received for received in self.requests if received.method == "POST"]

    # --- for subclasses ---

    @abstractmethod
    async def route(self, exchange: Exchange, received: Received) -> None:
        """Answers a request; most go to `answer`."""

    @abstractmethod
    def complete(self, reply: Reply, request: Any) -> Any:
        """The JSON of a complete answer."""

    @abstractmethod
    def stream(self, reply: Reply, request: Any) -> Iterator[bytes]:
        """The events of a streamed answer, one piece of text each in the middle."""

    @abstractmethod
    def error(self, status: int, message: str, kind: str) -> Any:
        """An error body."""

    @abstractmethod
    def error_event(self, reply: Reply) -> bytes:
        """An error inside a stream."""

    def is_bare(self, received: Received) -> bool:
        """Whether such a POST has no body."""
        return False

    @abstractmethod
    def authorized(self, received: Received) -> bool:
        """True if the request bears the key."""

    def refuse(self, reply: Reply, request: Any) -> tuple[int, str, str] | None:
        """(status, message, kind) if this server refuses the request before looking at the script."""
        return None

    def model_of(self, received: Received) -> str:
        return str(received.json.get("model", "")) if isinstance(received.json, dict) else ""

    async def answer(self, exchange: Exchange, received: Received, *, streaming: bool) -> None:
        """Plays the script for one call."""
        if self.at_most and self._in_flight >= self.at_most:
            await exchange.send_json(429, self.error(429, "too many at once", "rate_limit_exceeded"))
            return
        reply = self.script.choose(received, self.model_of(received))
        self._in_flight += 1
        self.most_at_once = max(self.most_at_once, self._in_flight)
        try:
            await asyncio.sleep(reply.latency)
            await _happened(reply.after)
            refused = self.refuse(reply, received.json) if reply.status == 200 and not reply.fault else None
            if refused:
                status, message, kind = refused
                await exchange.send_json(status, self.error(status, message, kind), dict(reply.headers))
            elif reply.status != 200 or reply.body is not None:
                await self._fixed(exchange, reply)
            elif not await self._fault_at_start(exchange, reply, streaming):
                await (self._streamed if streaming else self._completed)(exchange, reply, received.json)
        finally:
            self._in_flight -= 1

    # --- faults ---

    async def _fixed(self, exchange: Exchange, reply: Reply) -> None:
        body = reply.body
        if body is None:
            body = self.error(reply.status, reply.error or "scripted failure", reply.error_type)
        if isinstance(body, str):
            await exchange.send(reply.status, body.encode(), dict(reply.headers))
        else:
            await exchange.send_json(reply.status, body, dict(reply.headers))

    async def _fault_at_start(self, exchange: Exchange, reply: Reply, streaming: bool) -> bool:
        match reply.fault:
            case "hang":
                await asyncio.sleep(FOREVER)
            case "reset":
                raise Disconnect
            case "not_http":
                await exchange.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                raise Disconnect
            case "empty":
                await exchange.send(200, b"")
            case "html":
                await exchange.send(200, HTML, {"content-type": "text/html"})
            case "wrong_schema":
                await exchange.send_json(200, {"choices": "none", "message": 7, "content": {"a": 1}, "candidates": 3})
            case "garbage" if not streaming:
                await exchange.send(200, b'{"choices": [{"message" \xff\xfe oops')
            case "huge":
                await exchange.begin_chunks("application/json")
                while True:
                    await exchange.chunk(b"[" * 2**20)
            case _:
                return False
        return True

    async def _completed(self, exchange: Exchange, reply: Reply, request: Any) -> None:
        await asyncio.sleep(reply.first_token + reply.per_piece * len(reply.pieces))
        body = json.dumps(self.complete(reply, request)).encode()
        if reply.fault == "error_in_stream":
            await exchange.send_json(200, self.error(500, reply.error or "scripted failure", reply.error_type))
        elif reply.fault in ("truncated", "end_early"):
            await exchange.send(200, body[: len(body) // 2], dict(reply.headers))
        elif reply.fault in ("cut", "stall"):
            await exchange.head(200, {"content-type": "application/json", "content-length": str(len(body))})
            await exchange.raw(body[: len(body) // 2])
            await asyncio.sleep(FOREVER if reply.fault == "stall" else 0)
            raise Disconnect
        elif reply.packed:
            await exchange.send(200, gzip.compress(body), {**reply.headers, "content-encoding": "gzip"})
        else:
            await exchange.send(200, body, dict(reply.headers))

    async def _streamed(self, exchange: Exchange, reply: Reply, request: Any) -> None:
        packing = {"content-encoding": "gzip"} if reply.packed else {}
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        await exchange.begin_chunks(self.content_type, {**reply.headers, **packing})
        await asyncio.sleep(reply.first_token)
        for number, event in enumerate(self.stream(reply, request)):
            if number and reply.per_piece:
                await asyncio.sleep(reply.per_piece)
            if reply.fault and number >= reply.fault_after:
                await self._fault_in_stream(exchange, reply, event)
                return
            if reply.packed:
                await exchange.chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
            else:
                await exchange.chunk(event)
        if reply.packed:
            await exchange.chunk(packer.flush())
        await exchange.end_chunks()

    async def _fault_in_stream(self, exchange: Exchange, reply: Reply, event: bytes) -> None:
        match reply.fault:
            case "stall":
                await asyncio.sleep(FOREVER)
            case "error_in_stream":
                await exchange.chunk(self.error_event(reply))
            case "garbage":
                await exchange.chunk(b"data: {\xff\xfe oops\n\n" if b"data:" in event else b"{\xff\xfe oops\n")
            case "truncated":
                await exchange.chunk(event[: len(event) // 2])
            case "cut":
                await exchange.chunk(event[: len(event) // 2])
                raise Disconnect
            case "left":
                await exchange.chunk(sse("[DONE]"))
                raise Disconnect
        await exchange.end_chunks()

    # --- requests ---

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.path.startswith("/__"):
            await self._control(exchange)
            return
        try:
            value = json.loads(exchange.body) if exchange.body else None
        except ValueError:
            value = None
        received = Received(exchange.method, exchange.path, exchange.headers, exchange.body, value, time.time())
        with self._lock:
            self.requests.append(received)
        if self.api_key and not self.authorized(received):
            await exchange.send_json(401, self.error(401, "the API key is wrong", "authentication_error"))
        elif exchange.method == "POST" and not isinstance(value, dict) and not self.is_bare(received):
            await exchange.send_json(400, self.error(400, "the body is not a JSON object", "invalid_request_error"))
        else:
            await self.route(exchange, received)

    async def not_found(self, exchange: Exchange) -> None:
        await exchange.send_json(404, self.error(404, f"no such path: {exchange.path}", "not_found_error"))

    async def _control(self, exchange: Exchange) -> None:
        if exchange.method == "PUT":
            self.load(json.loads(exchange.body))
            await exchange.send_json(200, {})
            return
        rows = [{"method": r.method, "path": r.path, "headers": dict(r.headers), "json": r.json, "at": r.at}
                for r in self.requests]  # fmt: skip
        await exchange.send_json(200, rows)

    def load(self, script: dict[str, Any]) -> None:
        """Replaces the script by its JSON form."""
        self.script.load(script)
        if "models" in script:
            self.models = tuple(script["models"])

    @classmethod
    def main(cls) -> None:
        """`python -m tests.servers.NAME [--port N] [--script FILE.json] [--api-key K]`."""
        parser = argparse.ArgumentParser(description=cls.__doc__)
        parser.add_argument("--port", type=int, default=0)
        parser.add_argument("--script", type=Path)
        parser.add_argument("--api-key", default="")
        cls.arguments(parser)
        options = parser.parse_args()
        server = cls.from_options(options)
        if options.script:
            server.load(json.loads(options.script.read_text()))
        with server:
            print(json.dumps({"url": server.url}), flush=True)
            try:
                server._server.wait()
            except KeyboardInterrupt:
                sys.exit(0)

    @classmethod  # noqa: B027  # few have any
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """More arguments of this server's command line."""

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        return cls(port=options.port, api_key=options.api_key)


async def _happened(event: threading.Event | None) -> None:
    """Returns once a test has set the event; the client may leave meanwhile."""
    while event is not None and not event.is_set():
        await asyncio.sleep(0.01)


def tokens(value: Any) -> int:
    """Characters / 4 of a text, or of all the texts in a JSON value."""
    if isinstance(value, str):
        return max(1, len(value) // 4)
    if isinstance(value, dict):
        return sum(tokens(item) for item in value.values())
    return sum(tokens(item) for item in value) if isinstance(value, list) else 0


def logprobs(pieces: Iterable[str], beside: int) -> list[dict[str, Any]]:
    """Each piece as a token with its log probability and that of the `beside` likeliest ones, as OpenAI tells it."""
    told = [{"token": piece, "logprob": -0.25, "bytes": list(piece.encode())} for piece in pieces]
    return [{**one, "top_logprobs": [one, {**one, "token": "x", "logprob": -9.5}][:beside]} for one in told]


def input_tokens(reply: Reply, request: Any) -> int:
    if reply.input_tokens is not None:
        return reply.input_tokens
    return sum(tokens(request.get(key)) for key in ("messages", "contents", "system", "systemInstruction", "tools"))


def output_tokens(reply: Reply) -> int:
    if reply.output_tokens is not None:
        return reply.output_tokens
    return tokens(reply.text + reply.reasoning + "".join(json.dumps(dict(call.arguments)) for call in reply.calls))


def vector(text: str, dimensions: int = 384, *, unit: bool = True) -> list[float]:
    """A made-up embedding: texts that share words lie near each other; the same text is always the same."""
    numbers = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        digest = hashlib.sha256(word.encode()).digest()
        for at in range(0, 32, 4):
            numbers[int.from_bytes(digest[at : at + 3], "big") % dimensions] += 1.0 if digest[at + 3] % 2 else -1.0
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers] if unit else numbers


def sse(data: Any, event: str = "") -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
