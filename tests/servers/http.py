"""A small HTTP/1.1 server over asyncio streams, in a thread of its own: keep-alive, chunked bodies both ways.

It can misbehave on purpose, which is why it is no library: stop in mid-body, never answer, send what is not HTTP.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

MAX_BODY = 128 * 1024 * 1024
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class Disconnect(Exception):
    """Raised by a handler to break the connection where it stands."""


class Exchange:
    """One request and the way to answer it."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.started = False
        self._writer = writer

    async def head(self, status: int, headers: dict[str, str]) -> None:
        self.started = True
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in headers.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        await self._writer.drain()

    async def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A complete answer."""
        self.started = True
        given = {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))}
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in given.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        await self._writer.drain()

    async def send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        await self.send(status, json.dumps(value).encode(), headers)

    async def begin_chunks(self, content_type: str, headers: dict[str, str] | None = None) -> None:
        await self.head(200, {"content-type": content_type, "transfer-encoding": "chunked", **(headers or {})})

    async def chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end_chunks(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def raw(self, data: bytes) -> None:
        self.started = True
        self._writer.write(data)
        await self._writer.drain()


class _Reader(asyncio.StreamReader):
    """A reader that tells when the client has closed its side, while others read or nobody does."""

    def __init__(self) -> None:
        super().__init__(limit=2**20)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


Handler = Callable[[Exchange], Awaitable[None]]


class HTTPServer:
    """Serves `handler` from a thread. A context manager; `url` is known once it is entered."""

    def __init__(self, handler: Handler, *, port: int = 0) -> None:
        self.url = ""
        self.port = port
        self.connections = 0  # accepted so far
        self.disconnects = 0  # clients that left before their answer was complete
        self._handler = handler
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> "HTTPServer":
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def wait(self) -> None:
        """Blocks until the server stops."""
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await self._loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._connection), "127.0.0.1", self.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        # all of them: a connection accepted a moment ago has a task that has not run yet
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        self.connections += 1
        try:
            while exchange := await _read_request(reader, writer):
                await self._answer(exchange, reader)
        except (Disconnect, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, exchange: Exchange, reader: _Reader) -> None:
        """Runs the handler, and stops it when the client leaves, as a real server does."""
        answer = asyncio.ensure_future(self._handler(exchange))
        gone = asyncio.ensure_future(reader.gone.wait())
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() or isinstance(answer.exception(), ConnectionError):
                self.disconnects += 1
                raise Disconnect
            answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await _read_body(reader, headers)
    return Exchange(method, path, headers, body, writer)


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(min(int(headers.get("content-length", "0")), MAX_BODY))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return bytes(body)
