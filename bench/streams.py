"""Streams through `manage.py gateway --workers 1` with everything on, beside the bare upstream.

    python -m bench.streams [--seconds N] [--open N]

Prints one JSON line each: streams of 20 pieces a second at 16 connections (wrk), how much later than from the
upstream the first piece comes, over a kept connection one stream after the other and one each 0.85 s, and over new
ones whose streams are left, and the gateway's resident memory while many streams are open.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench._stage import Stage, drive, missing_programs

CONNECTIONS = 16
BAR_PER_SECOND = 1_500
FIRST_PIECE_BAR_MS = 2.0
OPEN_BAR_MEGABYTES = 400
SAMPLES = 100
KEPT_SAMPLES = 25
PATH = "/v1/chat/completions"
OPENING_AT_ONCE = 500
PATIENCE_SECONDS = 60.0


def throughput(stage: Stage, seconds: int) -> dict[str, Any]:
    direct = drive(stage.upstream_url, CONNECTIONS, max(seconds // 3, 1), stage.script(stream=True))
    before = stage.cost()
    through = drive(stage.url, CONNECTIONS, seconds, stage.script(stream=True))
    return {
        "name": "streams.per_second",
        "connections": CONNECTIONS,
        "value": round(through.per_second),
        "bar": BAR_PER_SECOND,
        "direct": round(direct.per_second),
        **stage.cost().per_request(before, through.requests),
        "refused": through.refused,
        "load": round(os.getloadavg()[0], 1),
    }


def first_piece_of_kept_ms(connection: HTTPConnection, path: str, key: str, model: str) -> float:
    """From the request to the first bytes of the answer's body; then the stream is read to its end."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": True})
    sent_at = time.perf_counter()
    connection.request("POST", path, body, {"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    answer.read(1)
    began = time.perf_counter() - sent_at
    answer.read()
    return began * 1000


def added_to_first_piece_of_kept(stage: Stage, name: str, model: str, pause: str, samples: int) -> dict[str, Any]:
    direct, through = [], []
    upstream = HTTPConnection("127.0.0.1", stage.upstream_port)
    gateway = HTTPConnection("127.0.0.1", stage.port)
    for _ in range(samples):
        direct.append(first_piece_of_kept_ms(upstream, pause + PATH, stage.key, model))
        through.append(first_piece_of_kept_ms(gateway, PATH, stage.key, model))
    added = statistics.median(through) - statistics.median(direct)
    return {"name": name, "value": round(added, 2), "bar": FIRST_PIECE_BAR_MS}


async def first_piece_ms(url: str, key: str, model: str) -> float:
    """From the request's last byte to the first byte of the answer's body; then the stream is left."""
    began, writer = await opened(url, key, model)
    writer.close()
    return began * 1000


async def opened(url: str, key: str, model: str) -> tuple[float, asyncio.StreamWriter]:
    """Seconds to the first piece of a stream that stays open, and its connection."""
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    path = "/" + url.removeprefix("http://").split("/", 1)[1]
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": True})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    sent_at = time.perf_counter()
    writer.write((head + body).encode())
    await reader.readuntil(b"data: ")
    return time.perf_counter() - sent_at, writer


async def added_to_first_piece(stage: Stage) -> dict[str, Any]:
    paced = stage.upstream_url.replace("/v1/", "/pause-20/v1/")
    direct, through = [], []
    for _ in range(SAMPLES):  # in turn, so that a busy moment meets both
        direct.append(await first_piece_ms(paced, stage.key, "paced"))
        through.append(await first_piece_ms(stage.url, stage.key, "paced"))
    added = statistics.median(through) - statistics.median(direct)
    return {"name": "streams.first_piece_added_ms", "value": round(added, 2), "bar": FIRST_PIECE_BAR_MS}


async def memory(stage: Stage, count: int) -> dict[str, Any]:
    before = stage.resident_megabytes()
    at_once = asyncio.Semaphore(OPENING_AT_ONCE)

    async def one() -> asyncio.StreamWriter:
        async with at_once, asyncio.timeout(PATIENCE_SECONDS):
            return (await opened(stage.url, stage.key, "slow"))[1]

    writers = await asyncio.gather(*(one() for _ in range(count)))
    resident = stage.resident_megabytes()
    for writer in writers:
        writer.close()
    line = {"name": "streams.open_megabytes", "value": round(resident, 1), "bar": OPEN_BAR_MEGABYTES}
    return line | {"streams": len(writers), "before": round(before, 1)}


def measure(stage: Stage, seconds: int, count: int) -> Iterator[dict[str, Any]]:
    with stage.streaming_upstream(), stage.serving():
        if not missing_programs("wrk"):
            drive(stage.url, CONNECTIONS, 2, stage.script(stream=True))  # warm
            yield throughput(stage, seconds)
        yield added_to_first_piece_of_kept(stage, "streams.first_piece_added_at_once_ms", "mock", "", 2 * SAMPLES)
        yield added_to_first_piece_of_kept(
            stage, "streams.first_piece_added_kept_ms", "paced", "/pause-20", KEPT_SAMPLES
        )
        yield asyncio.run(added_to_first_piece(stage))
        yield asyncio.run(memory(stage, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--open", type=int, default=2_000)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two sockets a stream in the gateway
    with tempfile.TemporaryDirectory(prefix="ziggie-bench-") as folder:
        for line in measure(Stage.prepare(Path(folder)), options.seconds, options.open):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
