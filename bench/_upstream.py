"""A provider that answers at once, for the benchmarks: OpenAI's chat completions, whole and streamed.

    python -m bench._upstream PORT

`"stream": true` gives CHUNKS pieces, each in a write of its own, then the usage. A path that begins with
/pause-N/ waits N milliseconds before each piece. Nothing is checked, so that little is measured but the other side.
"""

import asyncio
import json
import re
import sys
from typing import Any, cast

import uvloop

CHUNKS = 20
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "mock",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
}
_PAUSE = re.compile(rb"POST /pause-(\d+)/")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream": ?true')


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": choices}
    return b"data: " + json.dumps(event | more).encode() + b"\n\n"


def _piece(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": finish}])


def _sized(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_BODY = json.dumps(ANSWER).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = (
    *(_sized(_piece({"content": f"word {number} "})) for number in range(CHUNKS)),
    _sized(_piece({}, "stop")) + _sized(_event([], usage=ANSWER["usage"])) + _sized(b"data: [DONE]\n\n") + b"0\r\n\r\n",
)


class Upstream(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is not one by inheritance

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        pause = _PAUSE.match(head)
        if _STREAMS.search(body):
            self._transport.write(HEAD)
            self._go_on(0, int(pause[1]) / 1000 if pause else 0.0)
        else:
            self._transport.write(WHOLE)

    def _go_on(self, place: int, pause: float) -> None:
        if self._transport.is_closing():
            return
        if place:
            self._transport.write(PIECES[place - 1])
        if place == len(PIECES):
            return
        if pause:
            self._loop.call_later(pause, self._go_on, place + 1, pause)
        else:
            self._loop.call_soon(self._go_on, place + 1, pause)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
